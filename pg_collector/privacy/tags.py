"""Tags that applications write into a comment of their SQL, in the form of sqlcommenter.

`select .. /*action='run+this',route='%2Fpolls%201000'*/`: keys and values are URL-encoded, values
stand in single quotes, pairs are separated by commas. Only what the configuration names is taken,
and only from a comment that is complete and well formed, at the start or the end of a text. What
comes out is raw: the masker says what of a value may leave.

https://google.github.io/sqlcommenter/spec/
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple
from urllib.parse import unquote

from pg_collector.privacy import lexer
from pg_collector.privacy.scanner import COMMENT

LONGEST: Final = 256  # characters of a value that are kept

_MOST_QUOTES: Final = 64  # within a key or a value
_KEY = rf"[^\s=,'\\]*+(?:\\'[^\s=,'\\]*+){{0,{_MOST_QUOTES}}}"
_VALUE = rf"[^'\\]*+(?:\\'[^'\\]*+){{0,{_MOST_QUOTES}}}"
_PAIR = re.compile(rf"\s*+({_KEY})='({_VALUE})'\s*+(,|\Z)")
_EDGE = re.compile(r"/\*|\*/")
_AROUND: Final = " \t\n\r\f\v;"
# Drivers whose parameters are written %s double what they are to leave alone: %%2F.
_DOUBLED: Final = "%%"
_NO_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
# https://www.w3.org/TR/trace-context/#traceparent-header
_TRACEPARENT = re.compile("[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class _Comment(NamedTuple):
    """A comment with tags, and the code points where it stands."""

    start: int
    end: int
    pairs: list[tuple[str, str]]


class Tags:
    """Takes the tags of some keys out of texts. Linear, and never raises."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        """`keys` are those to keep, decoded."""
        self.keys = tuple(dict.fromkeys(keys))

    def of(self, text: str) -> dict[str, str]:
        """Return the tags of a raw text, decoded, in the order of the keys.

        A key that stands there twice gives none, and so does a value that is empty or holds what
        cannot be printed.
        """
        pairs = [pair for comment in _comments(text) for pair in comment.pairs] if self.keys else []
        often = Counter(key for key, _ in pairs)
        found = {key: value for key, value in pairs if often[key] == 1}
        return {
            key: found[key]
            for key in self.keys
            if key in found and found[key] and found[key].isprintable()
        }

    def without(self, text: str) -> str:
        """Return a text without its comments with tags, as it is where no key is to be kept."""
        if self.keys:
            for comment in reversed(_comments(text)):
                text = f"{text[: comment.start].rstrip()} {text[comment.end :].lstrip()}".strip()
        return text


def is_trace(value: str) -> bool:
    """Whether a value is made of a trace's numbers, as W3C writes them, and of nothing else."""
    return _TRACEPARENT.fullmatch(value) is not None


def _comments(text: str) -> list[_Comment]:
    """Return the comments with tags at the start and the end of a text, in their order."""
    end = len(text.rstrip(_AROUND))
    start = len(text) - len(text.lstrip(_AROUND))
    if "='" not in text or not (text.endswith("*/", 0, end) or text.startswith("/*", start)):
        return []
    spans, agreed = lexer.readings(text)
    if not agreed or not spans:  # what is a comment, and what a string, cannot be known
        return []
    runs = [(first, last) for first, last, kind in (spans[0], spans[-1]) if kind is COMMENT]
    found = {}
    for first, last in runs:
        blocks = list(_blocks(text, first, last))
        for block in (blocks[:1] if first == start else []) + (blocks[-1:] if last == end else []):
            pairs = _pairs(text[block[0] + 2 : block[1] - 2])
            if pairs and (block[0] == start or block[1] == end):
                found[block] = _Comment(*block, pairs)
    return [found[block] for block in sorted(found)]


def _blocks(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the complete block comments of which a run of comments consists."""
    depth, at = 0, start
    for edge in _EDGE.finditer(text, start, end):
        if not depth and not text.startswith("/*", at):
            return  # from here on it is a line comment
        depth += 1 if edge[0] == "/*" else -1
        if not depth:
            yield at, edge.end()
            at = edge.end()


def _pairs(body: str) -> list[tuple[str, str]]:
    """Return keys and values of a comment's body, decoded; none where one of them is malformed."""
    if _EDGE.search(body):
        return []
    pairs: list[tuple[str, str]] = []
    at, goes_on = 0, True
    while goes_on:
        found = _PAIR.match(body, at)
        key, value = (_decoded(found[1]), _decoded(found[2])) if found else (None, None)
        if found is None or not key or value is None:
            return []
        pairs.append((key, value))
        at, goes_on = found.end(), found[3] == ","
    return pairs


def _decoded(written: str) -> str | None:
    """Return what was encoded; None where it is not well encoded."""
    text = written.replace("\\'", "'").replace(_DOUBLED, "%")
    if _NO_ESCAPE.search(text):
        return None
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        return None
