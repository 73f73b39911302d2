"""Masking of query and error texts: `Masker`, the one object that sees them raw."""

import hashlib
import logging
import os
import re
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from pg_collector.errors import ConfigurationError
from pg_collector.privacy import lexer, scrub, statements

log = logging.getLogger(__name__)

Source: TypeAlias = Literal["activity", "statements", "error"]

LEVELS: Final = ("none", "basic", "full", "custom")
TEXT_LIMIT: Final = 65_536  # code points read of one text; a prefix is lexed as the whole would be
CACHE_BYTES: Final = 1024 * 1024
BUDGET_SECONDS: Final = 0.5  # CPU time of one text; the worst ones read once need a tenth of it
_ENTRY_BYTES: Final = 256  # a cache entry's key, slot and objects, beside its text
_SPACE = re.compile(r"\s+")


class _OverBudget(Exception):
    """One text took more CPU time than it may."""


class Masker:
    """Masks texts; raw ones are neither kept nor logged. Safe to share between threads.

    level: "basic"; others raise ConfigurationError, as does an unknown word.
    cache_bytes: memory for masked texts, keyed by a keyed hash of the raw ones; 0 for none.
    budget_seconds: CPU seconds that one text may take.
    on_failure: called with the reason ("exception", "budget") when a text could not be masked.

    Source: docs/specs/masking.md.
    """

    def __init__(
        self,
        level: str = "basic",
        *,
        cache_bytes: int = CACHE_BYTES,
        budget_seconds: float = BUDGET_SECONDS,
        on_failure: Callable[[str], None] | None = None,
    ) -> None:
        _check(level)
        self.level = level
        self._budget = budget_seconds
        self._on_failure = on_failure
        self._cache_bytes = cache_bytes
        self._secret = os.urandom(16)  # without it, hashes of short texts could be guessed
        self._lock = threading.Lock()
        self._cache: OrderedDict[bytes, str] = OrderedDict()
        self._cached_bytes = 0
        self._failures: Counter[str] = Counter()

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

    @staticmethod
    def fingerprint(masked: str) -> str:
        """Return 16 hex digits that are equal for masked texts of one shape."""
        squeezed = _SPACE.sub(" ", masked.strip().lower())
        return _hash(squeezed, 8).hexdigest()

    def _masked(self, text: str, source: Source) -> str:
        started = time.thread_time()
        if source == "error":
            masked = scrub.scrub_error(None, text)
        else:
            masked = lexer.hide(text)
            self._check_budget(started)
            masked = statements.apply_rules(masked, activity=source == "activity")
        self._check_budget(started)
        return masked

    def _check_budget(self, started: float) -> None:
        if time.thread_time() - started >= self._budget:
            raise _OverBudget

    def _failed(self, text: str, reason: str) -> str:
        """Count the failure; return the text's command with a hash that only we could make."""
        with self._lock:
            self._failures[reason] += 1
        if self._on_failure:
            self._on_failure(reason)
        command = statements.leading_command(text) or statements.UNRECOGNIZED
        return f"{command} <not masked: {_hash(text, 8, self._secret).hexdigest()}>"

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


def _check(level: str) -> None:
    """Raise ConfigurationError unless `level` exists in this version."""
    if level not in LEVELS:
        raise ConfigurationError(
            f"unknown masking level {level!r}", remedy=f"Use one of: {', '.join(LEVELS)}."
        )
    if level != "basic":
        raise ConfigurationError(
            f"masking level {level!r} is not available in this version", remedy="Use basic."
        )


def _hash(text: str, size: int, key: bytes = b"") -> "hashlib.blake2b":
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size, key=key)


def _cost(masked: str) -> int:
    """Return the bytes of one cache entry: Python keeps 1, 2 or 4 bytes per character."""
    return masked.__sizeof__() + _ENTRY_BYTES
