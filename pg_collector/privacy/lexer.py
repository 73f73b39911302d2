"""Finds every literal and comment of a text as PostgreSQL's scanner (scan.l) would.

In: any `str`, complete or cut off anywhere. Out: spans, in code points, that must not be shown.
Three things about a text are unknown, and each doubles the readings: whether a backslash escapes
in a plain string (`standard_conforming_strings`), whether typographic quotes were meant as
quotes (for PostgreSQL they are letters), and whether a quote that touches a word (`'don't tell'`)
ends its string, as PostgreSQL says, or is an apostrophe that was not escaped. A text that could
be read both ways is read both ways, and the union of the spans is masked.

Every pattern is linear: a quantifier over one character set is possessive, and each group that
repeats is followed by something that cannot fail. Possessive *groups* are avoided on purpose:
Python before 3.11.5 (Debian 12 ships 3.11.2) matches them wrongly (gh-106052).
"""

import enum
import functools
import re
from typing import Final, TypeAlias


class Kind(enum.StrEnum):
    """What a span holds; the value is what stands in its place."""

    STRING = "'?'"
    NUMBER = "?"
    COMMENT = " "


# Code points start to end (exclusive) of a text, and what they hold. A plain tuple: there are
# thousands in a large text, and a named one takes five times as long to make.
Span: TypeAlias = tuple[int, int, Kind]


NAME_LENGTH: Final = 63  # NAMEDATALEN - 1: a longer "identifier" is more likely a pasted value

CURLY_SINGLE: Final = "\u2018-\u201b"
CURLY_DOUBLE: Final = "\u201c-\u201f"
_NOT_ASCII = "\x80-\U0010ffff"
_NOT_ASCII_NOR_CURLY = "\x80-\u2017\u2020-\U0010ffff"
# Everything of ASCII that neither starts a word, a number, a literal nor a comment.
_PUNCTUATION = r"[\x00-!#%&(-,:-@\[-^`{-\x7f]"

# A number may be glued to one of these before PostgreSQL 15 (`1FROM`); other letters glued to
# a number are part of what was typed, and are masked with it.
_GLUED_KEYWORDS = (
    "and|as|asc|between|collate|cross|desc|else|end|except|fetch|filter|for|from|full|group"
    "|having|ilike|in|inner|intersect|into|is|isnull|join|left|like|limit|loop|natural|not|notnull"
    "|offset|on|operator|or|order|over|returning|right|row|rows|similar|then|to|union|using|when"
    "|where|window|with"
)
# What valid SQL glues to the end of a string (`'a'and`); any other word makes its quote doubtful.
_AFTER_STRINGS = (
    f"{_GLUED_KEYWORDS}|at|csv|day|delimiter|encoding|escape|force|header|hour|immutable|language"
    "|minute|month|null|nulls|only|publication|quote|returns|second|stable|strict|uescape|valid"
    "|volatile|year"
)
_HEX = "[0-9a-fA-F]"
_UUID = (
    rf"{_HEX}{{8}}-{_HEX}{{4}}-"
    rf"(?:{_HEX}{{0,4}}\Z|{_HEX}{{4}}-{_HEX}{{0,4}}\Z|{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{0,12}}+)"
)

_ESCAPED_PART = re.compile(r"[^'\\]*+(?:(?:\\.|'')[^'\\]*+){0,64}", re.DOTALL)
_COMMENT_EDGE = re.compile(r"/\*|\*/")
# Between two pieces of one string there is a newline; line comments may stand there too.
_BLANK = re.compile(r"[ \t\n\r\f\v]*+")
_LINE_COMMENT = re.compile(r"--[^\n\r]*+")

_TOUCHING = re.compile(
    rf"(?=[A-Za-z0-9_{_NOT_ASCII}])(?!(?i:{_AFTER_STRINGS})(?![A-Za-z0-9_${_NOT_ASCII}]))",
    re.ASCII,
)

_MOST_ROUNDS = 8  # two or three suffice; a text that needs more is not masked but refused
_SPANS_PER_TURN = 64  # bounds the memory of the regular expression's own stack
_CURLY = re.compile("[\u2018-\u201f]")
_DASHES_OF_A_UUID = 2


@functools.cache
def _pattern(*, escapes: bool, curly: bool, uuid: bool) -> re.Pattern[str]:
    """Return the pattern that skips what may be shown, up to and with what may not.

    Groups: n a number, s a string that is complete, t nothing, before a letter or digit that
    touches the end of such a string, e the start of a string with backslash
    escapes, c a line comment, b the start of a block comment, d the start of a dollar quote,
    q a quoted identifier that may be none; a letter before its quote goes with it if it is masked,
    so that what stands in its place is no string of another kind.
    """
    beyond = _NOT_ASCII_NOR_CURLY if curly else _NOT_ASCII
    word = f"[A-Za-z0-9_${beyond}]*+"
    tag = f"(?:[A-Za-z_{beyond}][A-Za-z0-9_{beyond}]*+)?"
    quotes = f"'{CURLY_SINGLE}{CURLY_DOUBLE}" if curly else "'"
    no_uuid = f"(?!{_UUID})" if uuid else ""
    skip = (
        f"{no_uuid}[ac-df-tv-wyzAC-DF-TV-WYZ_{beyond}]{word}{_PUNCTUATION}*+",
        f"{_PUNCTUATION}++",
        f'{no_uuid}[eEbBxX](?!["{quotes}]){word}{_PUNCTUATION}*+',
        f'[uU](?!&["{quotes}]){word}',
        r"\.(?:\.|(?!\d))",
        r"\$\d{1,5}(?!\d)",
        f'"[^"\']{{0,{NAME_LENGTH}}}+"(?!")',
        "-(?!-)",
        r"/(?!\*)",
        rf"\$(?!\d|{tag}\$)",
    )
    # A doubled quote may also be read as one string that ends and one that begins.
    prefix = "[bBxX]" if escapes else "(?:[bBxX]|[uU]&)?"
    plain = f"{prefix}'[^']*+(?:''[^']*+){{0,{_SPANS_PER_TURN}}}'?"
    if curly:
        plain += "".join(
            f"|(?:[eEbBxX]|[uU]&)?[{c}][^{c}]*+(?:[{c}](?=[A-Za-z0-9_])[^{c}]*+)*[{c}]?"
            for c in (CURLY_SINGLE, CURLY_DOUBLE)
        )
    junk = f"(?:(?!(?i:{_GLUED_KEYWORDS})(?![A-Za-z0-9_${beyond}]))[A-Za-z_{beyond}]{word})?"
    digits = r"\d[\d_]*+"
    number = rf"(?:{digits}(?:\.(?!\.)[\d_]*+)?|\.{digits})(?:[eE][+-]?{digits})?{junk}|\$\d{{6,}}+"
    literal = (
        f"(?P<n>{_UUID + '|' if uuid else ''}{number})",
        f"(?P<s>{plain})(?:(?P<t>(?=[A-Za-z0-9_{beyond}]))|)",
        f"(?P<e>{'(?:[eE]|[uU]&)?' if escapes else '[eE]'}')",
        r"(?P<c>--[^\n\r]*+)",
        r"(?P<b>/\*)",
        rf"(?P<d>\${tag}\$)",
        r'(?P<q>(?:[eEbBxX]|[uU]&)?"[^"]*+"?)',
    )
    text = f"(?:{'|'.join(skip)}){{0,{_SPANS_PER_TURN}}}(?:{'|'.join(literal)})?"
    return re.compile(text, re.ASCII | re.DOTALL)


def _comment_end(text: str, start: int) -> int:
    """Return where the block comment whose body begins at `start` ends; they nest."""
    depth = 1
    for edge in _COMMENT_EDGE.finditer(text, start):
        depth += 1 if edge[0] == "/*" else -1
        if not depth:
            return edge.end()
    return len(text)


def _dollar_end(text: str, start: int, delimiter: str) -> int:
    """Return where the body that begins at `start` ends, its delimiter included."""
    end = text.find(delimiter, start)
    return len(text) if end < 0 else end + len(delimiter)


def _continuation(text: str, end: int) -> int:
    """Return where the body of the string's next piece begins, or -1 if there is none.

    `'a'` newline `'b'` is one string: the second piece is read in the mode of the first.
    """
    newline, at = False, end
    while at < len(text):
        blank = _BLANK.match(text, at)
        if blank is None:
            return -1
        newline = newline or "\n" in blank[0] or "\r" in blank[0]
        at = blank.end()
        if comment := _LINE_COMMENT.match(text, at):
            at = comment.end()
            continue
        break
    return at + 1 if newline and text.startswith("'", at) else -1


def _closing(text: str, start: int) -> int:
    """Return the place after the quote that closes the string with escapes begun before `start`."""
    at, length = start, len(text)
    while part := _ESCAPED_PART.match(text, at):
        at = part.end()
        if at >= length - 1:  # nothing, a quote, or a backslash that is cut off
            return length
        if text[at] == "'" and text[at + 1] != "'":
            return at + 1
    return length


def _escaped_end(text: str, start: int) -> int:
    """Return where the string with escapes whose body begins at `start` ends, all its pieces."""
    while True:
        end = _closing(text, start)
        start = _continuation(text, end)
        if start < 0:
            return end


def _past_apostrophes(text: str, end: int, *, escapes: bool) -> int:
    """Return where the string that seems to end at `end` ends if a quote before a word does not.

    That is the next quote with no word behind it, or the end of the text. A doubled quote is
    part of the string, and with `escapes` so is one behind a backslash.
    """
    while _TOUCHING.match(text, end):
        if escapes:
            end = _escaped_end(text, end)
            continue
        close = text.find("'", end)
        while close >= 0 and text.startswith("'", close + 1):
            close = text.find("'", close + 2)
        if close < 0:
            return len(text)
        end = close + 1
    return end


def _name_end(text: str, at: int) -> int:
    """Return where the quoted identifier whose first part ends at `at` ends."""
    while text.startswith('"', at):
        close = text.find('"', at + 1)
        at = len(text) if close < 0 else close + 1
    return at


def _plain_end(text: str, end: int) -> int:
    """Return where the plain string whose first piece ends at `end` ends, all its pieces."""
    while (start := _continuation(text, end)) >= 0:
        close = text.find("'", start)
        end = len(text) if close < 0 else close + 1
    return end


def _is_name(text: str, start: int, end: int) -> bool:
    """Return whether the quoted identifier at `start` is complete, short and free of quotes."""
    complete = end - start > 1 and text.count('"', start, end) % 2 == 0
    return complete and end - start - 2 <= NAME_LENGTH and "'" not in text[start:end]


def _literal(text: str, found: re.Match[str], group: str) -> Span | None:
    """Return the whole literal that `found` begins with; None for a good quoted identifier."""
    start, at, kind = found.start(group), found.end(), Kind.STRING
    if group == "q":
        at = _name_end(text, at)
        if _is_name(text, text.index('"', start), at):
            return None
    match group:
        case "c":
            kind = Kind.COMMENT
        case "b":
            at, kind = _comment_end(text, at), Kind.COMMENT
        case "e":
            at = _escaped_end(text, at)
        case "d":
            at = _dollar_end(text, at, found["d"])
        case "s":
            # Pieces matter only where backslashes escape; elsewhere a new string reads the same.
            at = _plain_end(text, found.end(group))
    return start, at, kind


def read(text: str, *, escapes: bool, curly: bool, loose: bool = False) -> tuple[list[Span], bool]:
    """Return the spans of one reading, and whether a word touches the end of a string.

    The spans are in order, none touching another of its kind.

    escapes: a backslash escapes in a plain string (standard_conforming_strings = off).
    curly: typographic quotes are quotes (what the author meant), not letters (what a server sees).
    loose: no string ends where a word touches its end (what the author meant, again).
    """
    match = _pattern(escapes=escapes, curly=curly, uuid=text.count("-") >= _DASHES_OF_A_UUID).match
    spans: list[Span] = []
    at, length, touched = 0, len(text), False
    while at < length:
        found = match(text, at)
        group = found and found.lastgroup
        if not found or not group:
            if not found or found.end() == at:  # every character is in the pattern
                raise AssertionError("the lexer stands still")
            at = found.end()
            continue
        if group == "n":
            (start, at), kind = found.span(group), Kind.NUMBER
        elif group == "s" and not escapes:
            (start, at), kind = found.span(group), Kind.STRING
        else:
            literal = _literal(text, found, "s" if group == "t" else group)
            if literal is None:
                at = found.end()
                continue
            start, at, kind = literal
            if kind is Kind.STRING and _TOUCHING.match(text, at):
                touched = True
                if loose:
                    at = _past_apostrophes(text, at, escapes=escapes or group == "e")
        if spans and spans[-1][1] == start and spans[-1][2] is kind:
            start = spans.pop()[0]
        spans.append((start, at, kind))
    return spans, touched


def _union(found: list[Span]) -> list[Span]:
    """Return the spans of several readings as one list, in order, none overlapping another.

    Where they overlap the kind is that of the first: what stands before it was read with it.
    """
    merged: list[Span] = []
    last_start, last_end, last_kind = -1, -1, Kind.COMMENT
    for start, end, kind in sorted(found):
        if start < last_end or (start == last_end and kind is last_kind):
            last_end = max(last_end, end)
        else:
            merged.append((last_start, last_end, last_kind))
            last_start, last_end, last_kind = start, end, kind
    merged.append((last_start, last_end, last_kind))
    return merged[1:]


def _doubts(text: str) -> tuple[bool, bool]:
    r"""Return whether backslashes, and whether typographic quotes, make `text` ambiguous.

    A backslash can only change where a string ends when `\'` occurs.
    """
    return "\\'" in text, not text.isascii() and _CURLY.search(text) is not None


def _ways(text: str, *, escapes: bool, curly: bool) -> list[list[Span]]:
    """Return the spans as a server reads them, and if a quote is doubtful those without it."""
    strict, touched = read(text, escapes=escapes, curly=curly)
    if not touched:
        return [strict]
    return [strict, read(text, escapes=escapes, curly=curly, loose=True)[0]]


def readings(text: str) -> tuple[list[Span], bool]:
    """Return the union of the spans of all readings of `text`, and whether they agree."""
    escapes, curly = _doubts(text)
    ways = _ways(text, escapes=False, curly=False)
    both = escapes and curly
    for also in ((escapes, False), (False, curly), (both, both)):
        if any(also):
            ways += _ways(text, escapes=also[0], curly=also[1])
    different = [way for way in ways[1:] if way != ways[0]]
    if not different:
        return ways[0], True
    return _union([span for way in (ways[0], *different) for span in way]), False


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


def hide(text: str) -> str:
    """Return `text` with every literal and comment replaced.

    Readings that disagree can leave halves of quoted identifiers, so their union is read again
    until nothing changes; all that follows may then trust every quote that is left.
    """
    for _ in range(_MOST_ROUNDS):
        found, agreed = readings(text)
        hidden = render(text, found)
        if agreed or hidden == text:
            return hidden
        text = hidden
    raise ValueError("the readings do not settle")
