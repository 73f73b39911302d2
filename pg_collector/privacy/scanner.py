"""Finds the literals and comments of a text, read in one way.

One pattern skips what may be shown and reads what can be read alone: numbers, and strings in plain
quotes that are complete, touch nothing, and have no prefix. At any other literal it stops, and
`endings` says where that ends.
"""

import functools
import re
from collections.abc import Container
from typing import Final, NamedTuple, TypeAlias

from pg_collector.privacy import endings
from pg_collector.privacy.endings import (
    CURLY,
    CURLY_DOUBLE,
    CURLY_SINGLE,
    ESCAPED,
    EXPONENT,
    FRACTION,
    HEX,
    NAME_LENGTH,
    NEW_LINE,
    NO_TAG,
    TURN,
    UUID_REST,
    UUID_START,
)
from pg_collector.privacy.segments import NO_START, NO_WORD

# What a span holds: what stands in its place.
STRING: Final = "'?'"
NUMBER: Final = "?"
COMMENT: Final = " "

# Code points start to end (exclusive) of a text, and what they hold. Plain tuples of plain things:
# there are thousands in a large text, and a named one takes five times as long to make.
Span: TypeAlias = tuple[int, int, str]


class Way(NamedTuple):
    """One way to read a text.

    escapes: a backslash escapes in a plain string (standard_conforming_strings = off).
    curly: typographic quotes are quotes (what the author meant), not letters (what a server sees).
    loose: no string ends where a word touches its end (what the author meant, again).
    """

    escapes: bool = False
    curly: bool = False
    loose: bool = False


@functools.cache
def _pattern(*, escapes: bool, curly: bool) -> re.Pattern[str]:
    """Return the pattern that skips what may be shown (group 1), up to what may not.

    The last group says what that is, and how far it was read. To its end: number, digits (more
    than a parameter has), uuid, string, single and double (typographic quotes), touching (a string,
    before a word), escaped (a string, if its prefix is one), line (comment). Its
    beginning only: glued (a number, before a letter), dotted (a number, behind a point), quote (of
    any other string), name (in double quotes, its first part), dollar (quote), block (comment). No
    literal, but a word may begin behind it that seems to go on: dash (of a UUID, if a word began
    with its first digits), parameter.

    Sets say what is no letter: others take a hundred times as long to compile.
    """
    others = CURLY if curly else ""
    letter, word = f"[^{NO_START}{others}]", f"[^{NO_WORD}{others}]"
    tag = f"(?:{letter}[^{NO_TAG}{others}]*+|)"
    skip = (
        # Words, space, points; a digit or dollar behind a letter belongs to its word.
        rf"[^'\"$\-/0-9{others}]++(?:[0-9$](?<={letter}.){word}*+|)",
        f'"[^"\']{{0,{NAME_LENGTH}}}+"(?!")',
        rf"-(?!-|(?<={HEX}{{{UUID_START}}}-){UUID_REST})",
        r"/(?!\*)",
        rf"\$(?:\d{{1,5}}(?!\d|{letter})|(?!\d|\$|{letter}))",
    )
    # Where backslashes escape a string may go on behind a newline.
    no_prefix, touching = r"(?<![eEbBxX&].)", f"[^{NO_WORD}]"
    escaped = rf"{ESCAPED}'(?!'|{touching}|{NEW_LINE})"
    literal = (
        rf"'{no_prefix}{escaped}(?P<string>)"
        if escapes
        else rf"'{no_prefix}[^']*+'(?!')(?:(?={word})(?P<touching>)|(?P<string>))",
        rf"'(?<=[eE].){escaped}(?P<escaped>)",
        *(
            rf"[{quote}]{no_prefix}[^{quote}]*+[{quote}](?!{touching}|{NEW_LINE})(?P<{name}>)"
            for name, quote in (("single", CURLY_SINGLE), ("double", CURLY_DOUBLE))
            if curly
        ),
        rf"\d(?:(?<=\.\d)(?P<dotted>)|{HEX}{{{UUID_START - 1}}}-{UUID_REST}(?P<uuid>)"
        rf"|[\d_]*+{FRACTION}{EXPONENT}(?:(?={letter})(?P<glued>)|(?P<number>)))",
        f"['{others}](?P<quote>)",
        '"[^"]*+"?(?P<name>)',
        r"-(?:-[^\n\r]*+(?P<line>)|(?P<dash>))",
        r"/\*(?P<block>)",
        rf"\$(?:{tag}\$(?P<dollar>)|\d{{6,}}+(?P<digits>)|\d{{0,5}}(?P<parameter>))",
    )
    # A turn is often one piece up to a string or number: repeating takes longer, even once.
    text = (
        f"((?:{skip[0]}|)(?:(?!['0-9])(?:{'|'.join(skip)}){{0,{TURN}}}|))(?:{'|'.join(literal)}|)"
    )
    return re.compile(text, re.ASCII | re.DOTALL)


_UUID_REST = re.compile(UUID_REST)
_FIRST_CURLY, _LAST_CURLY = CURLY[0], CURLY[-1]


def is_curly(character: str) -> bool:
    """Return whether a character, if any, is a typographic quote."""
    return _FIRST_CURLY <= character <= _LAST_CURLY


def _begins(text: str, at: int, after: int, *, curly: bool) -> bool:
    """Return whether the word at `at` begins there. Behind a literal, at `after`, any does."""
    if at <= after:
        return at == after
    before = text[at - 1]
    if before.isascii():
        return not (before.isalnum() or before in "_$")
    return curly and is_curly(before)


def _prefixed(text: str, quote: int, after: int, *, curly: bool) -> int:
    """Return where the literal whose quote stands at `quote` begins: its prefix goes with it.

    Else what stands in its place would be a string of another kind.
    """
    at, letters = quote - 1, "eEbBxX"
    if at >= after and text[at] == "&":
        at, letters = quote - 2, "uU"
    if at >= after and text[at] in letters and _begins(text, at, after, curly=curly):
        return at
    return quote


def _string(
    text: str, part: re.Match[str], after: int, way: Way, touched: list[int]
) -> Span | None:
    """Return the string that `part` ends with, as far as it was read; None if it is a name.

    Adds its end to `touched` where a word touches it.
    """
    start, end, group = part.end(1), part.end(), part.lastgroup
    escapes, plain = way.escapes, False
    if group == "dollar":
        end = endings.dollar_end(text, end, text[start:end])
    elif group == "name":
        quote, end = start, endings.name_end(text, end)
        if endings.is_name(text, quote, end):
            return None
        start = _prefixed(text, quote, after, curly=way.curly)
    else:
        if group != "touching":
            quote, start = start, _prefixed(text, start, after, curly=way.curly)
            if group == "escaped" and (start < quote or escapes):
                return start, end, STRING
            end, escapes = _quoted_end(text, start, quote, escapes=escapes)
        plain = not escapes
    if endings.touches(text, end) and not (plain and way.curly and is_curly(text[end])):
        touched.append(end)
        if len(touched) > endings.MOST_DOUBTS:
            return start, len(text), STRING
        if way.loose:
            end = endings.past_apostrophes(text, end, escapes=escapes)
    return start, end, STRING


def _quoted_end(text: str, start: int, quote: int, *, escapes: bool) -> tuple[int, bool]:
    """Return where the string at `start` ends, and whether backslashes escape in what follows it.

    They do in the string itself, unless its kind has none.
    """
    prefix = text[start]
    if text[quote] == "'" and (prefix in "eE" or (escapes and prefix not in "bBxX")):
        return endings.escaped_end(text, quote + 1), True
    return endings.plain_end(text, quote, pieces=escapes), escapes


def _other(text: str, part: re.Match[str], after: int, *, curly: bool) -> Span | None:
    """Return the number or comment that `part` ends with, as far as it was read; None if none."""
    start, end, kind = part.end(1), part.end(), NUMBER
    match part.lastgroup:
        case "block":
            end, kind = endings.comment_end(text, end), COMMENT
        case "glued":
            end = endings.number_end(text, end, curly=curly)
        case "dotted":
            start, end = endings.dotted_number(text, start, after, curly=curly)
        case "dash":
            rest = _UUID_REST.match(text, end)
            start -= UUID_START
            if rest is None or not _begins(text, start, after, curly=curly):
                return None
            end = rest.end()
        case "parameter":
            return None
    return start, end, kind


_COMPLETE: Final = {
    "number": NUMBER,
    "digits": NUMBER,
    "uuid": NUMBER,
    "string": STRING,
    "single": STRING,
    "double": STRING,
    "line": COMMENT,
}
_STRINGS: Final = frozenset({"touching", "escaped", "quote", "name", "dollar"})
_NOWHERE: Final[frozenset[int]] = frozenset()


class Reading(NamedTuple):
    """What stands in a text, in order; and where strings end that a word touches."""

    spans: list[Span]
    touched: list[int]


def scan(
    text: str, way: Way, found: Reading, at: int = 0, stops: Container[int] = _NOWHERE
) -> None:
    """Add to `found` what stands in `text` from `at` on, where a literal ends or the text begins.

    stops: where to stop, behind a literal.
    """
    match = _pattern(escapes=way.escapes, curly=way.curly).match
    add, complete = found.spans.append, _COMPLETE.get
    after, length = at, len(text)
    while at < length:
        part = match(text, at)
        if part is None:
            raise AssertionError("nothing is in the pattern")
        group, end = part.lastgroup, part.end()
        if group is None:
            if end == at:
                raise AssertionError("the scanner stands still")
            at = end
            continue
        span: Span | None
        if kind := complete(group):
            span = (part.end(1), end, kind)
        elif group in _STRINGS:
            span = _string(text, part, after, way, found.touched)
        else:
            span = _other(text, part, after, curly=way.curly)
        if span is not None:
            end = span[1]
            add(span)
        at = after = end
        if end in stops:
            break
