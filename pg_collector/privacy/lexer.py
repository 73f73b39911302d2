"""Finds every literal and comment of a text as PostgreSQL's scanner (scan.l) would.

In: any `str`, complete or cut off anywhere. Out: spans, in code points, that must not be shown.
Three things about a text are unknown, and each doubles the readings: whether a backslash escapes
in a plain string (`standard_conforming_strings`), whether typographic quotes were meant as
quotes (for PostgreSQL they are letters), and whether a quote that touches a word (`'don't tell'`)
ends its string, as PostgreSQL says, or is an apostrophe that was not escaped. A text that could
be read both ways is read both ways, and the union of the spans is masked.

Most of such a text reads the same in every way. So only the first reading is a whole one; another
begins at each place in doubt, and goes on until a literal ends in both at the same place.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from pg_collector.privacy.endings import CURLY, MOST_DOUBTS, continues
from pg_collector.privacy.scanner import COMMENT, STRING, Reading, Span, Way, is_curly, scan
from pg_collector.privacy.segments import BEGINS

_MOST_ROUNDS: Final = 8  # two or three suffice; a text that needs more is not masked but refused
_STRICT: Final = Way()  # as a server reads
_CURLY = re.compile(f"[{CURLY}]")
# Typographic quotes of another database, as bytes that are no UTF-8 are read, or as a LATIN1 or a
# WIN1252 database shows those of UTF-8. Behind a point stands a name.
_LOST = re.compile(
    rf'"[^"]*+"|{BEGINS}(?<!\.)(\ufffd|\xe2?[\x80-\x9f]|\xe2\u20ac[\u02dc\u2122\u0153\u009d])',
    re.ASCII,
)
_DOUBTFUL = re.compile(rf"\\'|[{CURLY}]")
# What begins with these reads the same whether backslashes escape in plain strings or not.
_NOT_PLAIN: Final = frozenset('eE$"-/.0123456789')


def read(text: str, *, escapes: bool, curly: bool) -> Reading:
    """Return one reading alone; escapes and curly are those of `Way`."""
    found = Reading([], [])
    scan(text, Way(escapes=escapes, curly=curly), found)
    return found


def _again(text: str, base: Reading, way: Way, doubts: Iterable[int]) -> Reading:
    """Return another reading of `text`, which differs from `base` only where that is in doubt.

    doubts: which spans of `base`, each with what stands before it; one more than there are is what
    stands behind the last.
    """
    doubtful = set(doubts)
    if not doubtful:
        return base
    ends = [0, *(span[1] for span in base.spans)]  # of so many spans
    stops = {end: done for done, end in enumerate(ends) if done not in doubtful}
    found = Reading([], [])
    done = 0  # so many spans of `base` are in `found`, or replaced

    def keep(first: int, last: int) -> None:
        found.spans.extend(base.spans[first:last])
        if base.touched:
            low, high = (bisect_right(base.touched, ends[place]) for place in (first, last))
            found.touched.extend(base.touched[low:high])

    for doubt in sorted(doubtful):
        if doubt < done:
            continue
        keep(done, doubt)
        scan(text, way, found, ends[doubt], stops)
        done = stops.get(found.spans[-1][1], 0) if found.spans else 0
        if not done:  # they never met again
            return found
    keep(done, len(base.spans))
    return found


def _plain(text: str, spans: list[Span]) -> Iterator[int]:
    """Yield which strings of a reading may end elsewhere where backslashes escape."""
    for place, (start, end, kind) in enumerate(spans):
        if kind is STRING and text[start] not in _NOT_PLAIN:
            backslash = text.find("\\", start, end) >= 0
            if backslash or continues(text, end) or is_curly(text[end : end + 1]):
                yield place


def _curly(text: str, spans: list[Span]) -> Iterator[int]:
    """Yield which spans of a reading have typographic quotes in them or before them."""
    quotes = [found.start() for found in _CURLY.finditer(text)]
    quotes.append(len(text) + 1)
    seen = 0
    for place, span in enumerate(spans):
        end = span[1]
        if quotes[seen] < end:
            yield place
            while quotes[seen] < end:
                seen += 1
    if quotes[seen] < len(text):
        yield len(spans)


def _ways(text: str, strict: Reading, *, escapes: bool, curly: bool) -> Iterator[Reading]:
    """Yield the readings of `text` beside that of a server, `strict`, that may be others."""
    ways = {_STRICT: strict}
    if escapes:
        way = Way(escapes=True)
        ways[way] = _again(text, strict, way, _plain(text, strict.spans))
    if curly:
        way = Way(curly=True)
        ways[way] = _again(text, strict, way, _curly(text, strict.spans))
        if escapes:
            base, way = ways[way], Way(escapes=True, curly=True)
            ways[way] = _again(text, base, way, _plain(text, base.spans))
    for way, base in ways.items():
        yield base
        if base.touched:
            ends = frozenset(base.touched)
            doubts = (place for place, span in enumerate(base.spans) if span[1] in ends)
            yield _again(text, base, way._replace(loose=True), doubts)


def _merged(found: Iterable[Span]) -> list[Span]:
    """Return the spans of one reading, those of one kind that touch as one."""
    merged: list[Span] = []
    last_end, last_kind = -1, None
    for span in found:
        start, end, kind = span
        if start == last_end and kind is last_kind:
            merged[-1] = (merged[-1][0], end, kind)
        else:
            merged.append(span)
        last_end, last_kind = end, kind
    return merged


def _union(found: list[Span]) -> list[Span]:
    """Return the spans of several readings as one list, in order, none overlapping another.

    Where they overlap the kind is that of the first: what stands before it was read with it.
    """
    merged: list[Span] = []
    last_start, last_end, last_kind = -1, -1, COMMENT
    for start, end, kind in sorted(found):
        if start < last_end or (start == last_end and kind is last_kind):
            last_end = max(last_end, end)
        else:
            merged.append((last_start, last_end, last_kind))
            last_start, last_end, last_kind = start, end, kind
    merged.append((last_start, last_end, last_kind))
    return merged[1:]


def readings(text: str) -> tuple[list[Span], bool]:
    """Return the union of the spans of all readings of `text`, and whether they agree.

    What follows too many places in doubt is one string: it takes long to read, and is no statement.
    """
    if (end := _surveyed(text)) < len(text):
        found, _ = _readings(text[:end])
        return _union([*found, (end, len(text), STRING)]), False
    return _readings(text)


def _surveyed(text: str) -> int:
    """Return where the last place in doubt stands that is looked at, or the end of the text."""
    if text.isascii() and "\\'" not in text:
        return len(text)
    last = next(islice(_DOUBTFUL.finditer(text), MOST_DOUBTS, None), None)
    return last.start() if last else len(text)


def _readings(text: str) -> tuple[list[Span], bool]:
    strict = read(text, escapes=False, curly=False)
    first = _merged(strict.spans)
    escapes = "\\'" in text  # elsewhere a backslash cannot change where a string ends
    curly = not text.isascii() and _CURLY.search(text) is not None
    if not (escapes or curly or strict.touched):
        return first, True
    seen = [strict.spans]
    for way in _ways(text, strict, escapes=escapes, curly=curly):
        if way.spans not in seen:
            seen.append(way.spans)
    different = [spans for spans in map(_merged, seen[1:]) if spans != first]
    if not different:
        return first, True
    return _union([span for spans in (first, *different) for span in spans]), False


def spans(text: str) -> list[Span]:
    """Return everything in `text` that must not be shown, in order, none overlapping.

    Source: docs/specs/masking.md.
    """
    return readings(text)[0]


def render(text: str, found: list[Span]) -> str:
    """Return `text` with every span of `found` replaced by what stands for its kind."""
    parts: list[str] = []
    at = 0
    for start, end, kind in found:
        parts += (text[at:start], kind)
        at = end
    parts.append(text[at:])
    return "".join(parts)


def _without_lost_quotes(hidden: str) -> str:
    """Return a text without literals up to where a word begins with what another encoding made.

    That may have been a typographic quote, and where what it quotes ends cannot be told.
    """
    if hidden.isascii():
        return hidden
    lost = next((found for found in _LOST.finditer(hidden) if found[1]), None)
    return f"{hidden[: lost.start()]}{STRING}" if lost else hidden


def hide(text: str) -> str:
    """Return `text` with every literal and comment replaced.

    Readings that disagree can leave halves of quoted identifiers, so their union is read again
    until nothing changes; all that follows may then trust every quote that is left.
    """
    for _ in range(_MOST_ROUNDS):
        found, agreed = readings(text)
        hidden = render(text, found)
        if agreed or hidden == text:
            return _without_lost_quotes(hidden)
        text = hidden
    raise ValueError("the readings do not settle")
