"""Level none: a text as it is, but for its credentials, which no level lets out."""

import re
from collections.abc import Iterable

from pg_collector.privacy import clauses, lexer
from pg_collector.privacy.clauses import apart
from pg_collector.privacy.scanner import STRING, Span
from pg_collector.privacy.scrub import without_credentials


def without_secrets(text: str) -> str | None:
    """Return a text without passwords and the like; None where it can be read in several ways.

    What such a text holds nobody can say: it is to be masked as at level basic.
    """
    found, agreed = lexer.readings(text)
    if not agreed:
        return None
    masked = lexer.render(text, found)
    raw = _Raw(found)
    secret = [(raw.start_of(start), raw.end_of(end)) for start, end in clauses.secrets(masked)]
    # A body, or a statement in a string, may hold any of these clauses, its quotes doubled.
    secret += [
        (start, end)
        for start, end, kind in found
        if kind is STRING and _LABEL.search(text, start, end)
    ]
    parts: list[str] = []
    at = 0
    for first, last in apart(secret):
        parts += (text[at:first], " " if text[first - 1 : first].isalnum() else "", STRING)
        at = last
    return without_credentials("".join((*parts, text[at:])))


_LABEL = re.compile(
    r"pass(?:word|wd|phrase)|pwd|identified|secret|token|api[_-]?key|credential|conninfo"
    r"|connection|encryption[_-]?key|private[_-]?key",
    re.IGNORECASE,
)


class _Raw:
    """Where places of a masked text stand in the raw one; asked for in their order."""

    def __init__(self, found: Iterable[Span]) -> None:
        self._left = list(reversed(list(found)))
        self._shift = 0  # what to add to a place before the next span

    def start_of(self, place: int) -> int:
        """Return the raw place; that of a span's start where it is inside of one."""
        span = self._span_at(place)
        return place + self._shift if span is None else span[0]

    def end_of(self, place: int) -> int:
        """Return the raw place of an end (exclusive); that of a span's end inside of one."""
        span = self._span_at(place - 1) if place else None
        return place + self._shift if span is None else span[1]

    def _span_at(self, place: int) -> Span | None:
        while self._left:
            start, end, kind = self._left[-1]
            if place + self._shift < start:
                return None
            if place + self._shift < start + len(kind):
                return self._left[-1]
            self._shift += (end - start) - len(kind)
            self._left.pop()
        return None
