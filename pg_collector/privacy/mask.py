"""Masking of query texts, names and free texts: `Masker`, the one object that sees them raw."""

import functools
import hashlib
import logging
import os
import re
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal, TypeAlias

from pg_collector.errors import ConfigurationError
from pg_collector.privacy import lexer, scrub, statements
from pg_collector.privacy.floor import without_secrets
from pg_collector.privacy.names import Names, Patterns, Plain, Tokens
from pg_collector.privacy.pii import Detector
from pg_collector.privacy.tags import LONGEST, Tags, is_trace

log = logging.getLogger(__name__)

Source: TypeAlias = Literal["activity", "statements", "error"]

LEVELS: Final = ("none", "basic", "full", "custom")
NOT_SHOWN: Final = "<not shown at level full>"
TEXT_LIMIT: Final = 65_536  # code points read of one text; a prefix is lexed as the whole would be
CACHE_BYTES: Final = 1024 * 1024
BUDGET_SECONDS: Final = 0.5  # CPU time of one text; the worst ones read once need a tenth of it
_ENTRY_BYTES: Final = 256  # a cache entry's key, slot and objects, beside its text
_CACHED_NAMES: Final = 4096  # and as many free texts
_REMEMBERED: Final = 64  # characters of a tag's value
_SPACE = re.compile(r"\s+")


class _OverBudget(Exception):
    """One text took more CPU time than it may."""


class Masker:
    """Masks texts; raw ones are neither kept nor logged. Safe to share between threads.

    level: "none", "basic", "full" or "custom"; any other word raises ConfigurationError.
    patterns: what level "custom" hides beside what "basic" does; ConfigurationError for a bad one.
    secret: what level "full" makes its tokens with, SECRET_BYTES at least.
    detector: looks for personal data in what is left; None looks for nothing.
    keep_tags: keys of sqlcommenter comments that `tags` gives.
    cache_bytes: memory for masked texts, keyed by a keyed hash of the raw ones; 0 for none.
    budget_seconds: CPU seconds that one text may take.
    on_failure: called with the reason ("exception", "budget") when a text could not be masked.

    Source: docs/specs/masking.md.
    """

    def __init__(
        self,
        level: str = "basic",
        *,
        patterns: Sequence[str] = (),
        secret: bytes = b"",
        detector: Detector | None = None,
        keep_tags: Sequence[str] = (),
        cache_bytes: int = CACHE_BYTES,
        budget_seconds: float = BUDGET_SECONDS,
        on_failure: Callable[[str], None] | None = None,
    ) -> None:
        self.level = level
        self._names = _names(level, patterns, secret)
        self._personal = detector.scrub if detector is not None else str
        self._tags = Tags(keep_tags)
        self._budget = budget_seconds
        self._on_failure = on_failure
        self._cache_bytes = cache_bytes
        self._secret = os.urandom(16)  # without it, hashes of short texts could be guessed
        self._lock = threading.Lock()
        self._cache: OrderedDict[bytes, str] = OrderedDict()
        self._cached_bytes = 0
        self._failures: Counter[str] = Counter()
        remembered = functools.lru_cache(_CACHED_NAMES)
        self.name = remembered(self._name)
        self.label = remembered(self._label)
        self.free = remembered(self._free)

    @property
    def failures(self) -> dict[str, int]:
        """How many texts could not be masked, by reason."""
        with self._lock:
            return dict(self._failures)

    @property
    def cached_bytes(self) -> int:
        """Memory that the cache holds, estimated, never above `cache_bytes`."""
        with self._lock:
            return self._cached_bytes

    def mask(self, text: str, source: Source) -> str:
        """Return `text` without its secrets. Never raises, whatever the text is.

        source: where the text was read; "activity" also drops what is no SQL statement,
        "error" is for messages. A text that cannot be masked is replaced by its command.
        """
        try:
            text = text[:TEXT_LIMIT]
            if source == "statements":  # asked for once a day: there is nothing to remember
                return self._masked(text, source)
            key = self._key(text, source)
            if (known := self._recall(key)) is not None:
                return known
            masked = self._masked(text, source)
        except _OverBudget:
            return self._failed(text, "budget")
        except Exception as error:  # noqa: BLE001 - whatever is wrong, the text must not pass
            # The error's own text may quote the statement: only its type is told.
            log.error("a text could not be masked: %s", type(error).__name__)
            return self._failed(text, "exception")
        self._remember(key, masked)
        return masked

    def _name(self, name: str) -> str:
        """Return what stands for a name as a catalog has it: of a table, a role, a slot."""
        return self._personal(self._names.of(name))

    def _label(self, text: str) -> str:
        """Return what stands for names as SQL has them, in quotes where needed: `s."My table"`."""
        return self._personal(self._names.in_sql(text))

    def _free(self, text: str) -> str:
        """Return what stands for what a person typed, such as an application_name."""
        return self._name(scrub.scrub(text))

    @property
    def keeps_tags(self) -> bool:
        """Whether there are tags to keep."""
        return bool(self._tags.keys)

    def tags(self, text: str) -> dict[str, str] | None:
        """Return the kept tags of a raw text, as they may leave. Never raises.

        Each value is shown as what people type, and at level full as a token: it is the user's
        word. Only a trace's numbers are nobody's.
        """
        try:
            found = self._tags.of(text[:TEXT_LIMIT])
            return {key: self._tag(value) for key, value in found.items()} or None
        except Exception as error:  # noqa: BLE001 - as for texts: without tags is safe
            log.error("tags could not be read: %s", type(error).__name__)
            self._count("exception")
            return None

    def _tag(self, value: str) -> str:
        if is_trace(value):  # each is another one: not worth remembering
            return value if self.level == "full" else self._free(value)
        return self.free(value) if len(value) <= _REMEMBERED else self._free(value)[:LONGEST]

    def message(self, scrubbed: str) -> str:
        """Return what stands for a message of a server that `scrub_error` has seen.

        At level full nobody can say which of its words are names.
        """
        if self.level == "full":
            return NOT_SHOWN
        return self._personal(self._names.in_sql(scrubbed) if self.level == "custom" else scrubbed)

    def mentioned(self, text: str, names: Iterable[str]) -> str:
        """Return a text of ours with what stands for each of the names that it mentions."""
        for name in names:
            shown = self.name(name)
            if shown == name:
                continue
            # As it is, as SQL quotes it, as Python shows it.
            for written in {name, name.replace('"', '""'), repr(name)[1:-1]}:
                text = re.sub(rf"(?<!\w){re.escape(written)}(?!\w)", shown, text)
        return text

    def basic(self, text: str) -> str:
        """Return a text of pg_stat_statements as the level basic shows it, at every level."""
        if self.level != "none":
            raise ValueError("what was masked already shows it")
        return _BASIC.mask(text, "statements")

    @staticmethod
    def fingerprint(masked: str) -> str:
        """Return 16 hex digits that are equal for masked texts of one shape."""
        squeezed = _SPACE.sub(" ", masked.strip().lower())
        return _hash(squeezed, 8).hexdigest()

    def _masked(self, text: str, source: Source) -> str:
        started = time.thread_time()
        if source == "error":
            return self.message(scrub.scrub_error(None, text))
        if self.level == "none" and (kept := without_secrets(self._tags.without(text))) is not None:
            self._check_budget(started)
            return self._personal(kept)
        masked = lexer.hide(text)
        self._check_budget(started)
        masked = statements.apply_rules(masked, activity=source == "activity")
        self._check_budget(started)
        masked = self._personal(self._names.in_sql(masked))
        self._check_budget(started)
        return masked

    def _check_budget(self, started: float) -> None:
        if time.thread_time() - started >= self._budget:
            raise _OverBudget

    def _failed(self, text: str, reason: str) -> str:
        """Count the failure; return the text's command with a hash that only we could make."""
        self._count(reason)
        command = statements.leading_command(text) or statements.UNRECOGNIZED
        return f"{command} <not masked: {_hash(text, 8, self._secret).hexdigest()}>"

    def _count(self, reason: str) -> None:
        with self._lock:
            self._failures[reason] += 1
        if self._on_failure:
            self._on_failure(reason)

    def _key(self, text: str, source: Source) -> bytes:
        return _hash(source + text, 16, self._secret).digest()

    def _recall(self, key: bytes) -> str | None:
        with self._lock:
            masked = self._cache.get(key)
            if masked is not None:
                self._cache.move_to_end(key)
            return masked

    def _remember(self, key: bytes, masked: str) -> None:
        with self._lock:
            if key in self._cache:
                return
            self._cache[key] = masked
            self._cached_bytes += _cost(masked)
            while self._cached_bytes > self._cache_bytes:
                _, oldest = self._cache.popitem(last=False)
                self._cached_bytes -= _cost(oldest)


def _names(level: str, patterns: Sequence[str], secret: bytes) -> Names:
    """Return what a level makes of names. Raises ConfigurationError for one that is none."""
    match level:
        case "none" | "basic":
            return Plain()
        case "full":
            return Tokens(secret)
        case "custom":
            return Patterns(patterns)
    raise ConfigurationError(
        f"unknown masking level {level!r}", remedy=f"Use one of: {', '.join(LEVELS)}."
    )


def _hash(text: str, size: int, key: bytes = b"") -> "hashlib.blake2b":
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size, key=key)


def _cost(masked: str) -> int:
    """Return the bytes of one cache entry: Python keeps 1, 2 or 4 bytes per character."""
    return masked.__sizeof__() + _ENTRY_BYTES


_BASIC: Final = Masker(cache_bytes=0)
