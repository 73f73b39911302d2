"""Where the literals of a text end, as PostgreSQL's scanner (scan.l) sees it.

Each function takes a text, complete or cut off anywhere, and a place in it; what is open ends
where the text does. Every pattern is linear: a quantifier over one character set is possessive,
and each group that repeats is followed by something that cannot fail. Possessive *groups* are
avoided on purpose: Python before 3.11.5 (Debian 12 ships 3.11.2) matches them wrongly (gh-106052).
"""

import re
from typing import Final

from pg_collector.privacy.segments import NO_START, NO_WORD

NAME_LENGTH: Final = 63  # NAMEDATALEN - 1: a longer "identifier" is more likely a pasted value
TURN: Final = 64  # repetitions: bounds the memory of the regular expressions' own stack
# Places that may be read otherwise. Few statements have so many, such as an INSERT of hundreds of
# rows of prose: what follows them is not read at all.
MOST_DOUBTS: Final = 1024

CURLY: Final = "\u2018-\u201f"
CURLY_SINGLE: Final = "\u2018-\u201b"
CURLY_DOUBLE: Final = "\u201c-\u201f"
NO_TAG: Final = f"${NO_WORD}"  # a dollar ends the tag of a dollar quote

# A number may be glued to one of these before PostgreSQL 15 (`1FROM`); other letters glued to
# a number are part of what was typed, and are masked with it.
_AFTER_NUMBERS: Final = frozenset(
    """
    and as asc between collate cross desc else end except fetch filter for from full group having
    ilike in inner intersect into is isnull join left like limit loop natural not notnull offset
    on operator or order over returning right row rows similar then to union using when where
    window with
    """.split()  # noqa: SIM905 - a list of words reads best as words
)
# What valid SQL glues to the end of a string (`'a'and`); any other word makes its quote doubtful.
_AFTER_STRINGS: Final = _AFTER_NUMBERS | frozenset(
    """
    at csv day delimiter encoding escape force header hour immutable language minute month null
    nulls only publication quote returns second stable strict uescape valid volatile year
    """.split()  # noqa: SIM905
)

HEX: Final = "[0-9a-fA-F]"
UUID_START: Final = 8  # its digits before the first dash
UUID_REST: Final = (
    rf"{HEX}{{4}}-"
    rf"(?:{HEX}{{0,4}}\Z|{HEX}{{4}}-{HEX}{{0,4}}\Z|{HEX}{{4}}-{HEX}{{4}}-{HEX}{{0,12}}+)"
)
FRACTION: Final = r"(?:\.(?!\.)[\d_]*+|)"
EXPONENT: Final = r"(?:[eE][+-]?\d[\d_]*+|)"
_NUMBER = re.compile(
    rf"({HEX}{{{UUID_START}}}-{UUID_REST})|(?:\d[\d_]*+{FRACTION}|\.\d[\d_]*+){EXPONENT}", re.ASCII
)
_GLUED = re.compile(f"[^{NO_START}][^{NO_WORD}]*+")
_CURLY = re.compile(f"[{CURLY}]")
_WORD = re.compile(f"[^{NO_WORD}]++")

# A doubled quote may also be read as one string that ends and one that begins.
_PLAIN = re.compile(f"'[^']*+(?:''[^']*+){{0,{TURN}}}'?")
_TYPOGRAPHIC = re.compile(
    "|".join(
        f"[{quote}][^{quote}]*+(?:[{quote}](?=[A-Za-z0-9_])[^{quote}]*+)*[{quote}]?"
        for quote in (CURLY_SINGLE, CURLY_DOUBLE)
    )
)
ESCAPED: Final = rf"[^'\\]*+(?:(?:\\.|'')[^'\\]*+){{0,{TURN}}}"  # up to its quote, if not too long
_ESCAPED = re.compile(ESCAPED, re.DOTALL)
_COMMENT_EDGE = re.compile(r"/\*|\*/")
# Between two pieces of one string there is a newline; line comments may stand there too.
NEW_LINE: Final = r"[ \t\f\v]*+(?:--[^\n\r]*+|)[\n\r]"
_NEW_LINE = re.compile(rf"{NEW_LINE}[ \t\n\r\f\v]*+")
_COMMENT_LINE = re.compile(r"--[^\n\r]*+[ \t\n\r\f\v]*+")


def comment_end(text: str, start: int) -> int:
    """Return where the block comment whose body begins at `start` ends; they nest."""
    depth = 1
    for edge in _COMMENT_EDGE.finditer(text, start):
        depth += 1 if edge[0] == "/*" else -1
        if not depth:
            return edge.end()
    return len(text)


def dollar_end(text: str, start: int, delimiter: str) -> int:
    """Return where the body that begins at `start` ends, its delimiter included."""
    end = text.find(delimiter, start)
    return len(text) if end < 0 else end + len(delimiter)


def name_end(text: str, at: int) -> int:
    """Return where the quoted identifier whose first part ends at `at` ends."""
    while text.startswith('"', at):
        close = text.find('"', at + 1)
        at = len(text) if close < 0 else close + 1
    return at


def is_name(text: str, start: int, end: int) -> bool:
    """Return whether the quoted identifier at `start` is complete, short and free of quotes."""
    complete = end - start > 1 and text.count('"', start, end) % 2 == 0
    return complete and end - start - 2 <= NAME_LENGTH and "'" not in text[start:end]


def number_end(text: str, end: int, *, curly: bool) -> int:
    """Return where the number ends whose digits end at `end`, with the letters glued to it.

    curly: typographic quotes are no letters.
    """
    glued = _GLUED.match(text, end)
    stop = glued.end() if glued else end
    if curly and (quote := _CURLY.search(text, end, stop)):
        stop = quote.start()
    word = text[end:stop]
    return end if word.lower() in _AFTER_NUMBERS and word.isascii() else stop


def dotted_number(text: str, digit: int, after: int, *, curly: bool) -> tuple[int, int]:
    """Return where the number with a point before its first digit begins and ends.

    Of the points in a row behind `after` each two are no part of it (`1..2`).
    """
    points = digit - after - len(text[after:digit].rstrip("."))
    start = digit - points % 2
    number = _NUMBER.match(text, start)
    if number is None:
        raise AssertionError("a digit begins no number")
    end = number.end()
    return start, end if number[1] else number_end(text, end, curly=curly)


def _continuation(text: str, end: int) -> int:
    """Return where the body of the string's next piece begins, or -1 if there is none.

    `'a'` newline `'b'` is one string: the second piece is read in the mode of the first.
    """
    blank = _NEW_LINE.match(text, end)
    while blank:
        end = blank.end()
        if text.startswith("'", end):
            return end + 1
        blank = _COMMENT_LINE.match(text, end)
    return -1


def continues(text: str, end: int) -> bool:
    """Return whether the string that ends at `end` has another piece where backslashes escape."""
    return _continuation(text, end) >= 0


def _closing(text: str, start: int) -> int:
    """Return the place after the quote that closes the string with escapes begun before `start`."""
    at, length = start, len(text)
    while part := _ESCAPED.match(text, at):
        at = part.end()
        if at >= length - 1:  # nothing, a quote, or a backslash that is cut off
            return length
        if text[at] == "'" and text[at + 1] != "'":
            return at + 1
    return length


def escaped_end(text: str, start: int) -> int:
    """Return where the string with escapes whose body begins at `start` ends, all its pieces."""
    while True:
        end = _closing(text, start)
        start = _continuation(text, end)
        if start < 0:
            return end


def plain_end(text: str, quote: int, *, pieces: bool) -> int:
    """Return where the string without escapes ends whose first quote stands at `quote`.

    pieces: with all of them. They matter only where backslashes escape in other strings; elsewhere
    a new string reads the same.
    """
    first = (_PLAIN if text[quote] == "'" else _TYPOGRAPHIC).match(text, quote)
    end = first.end() if first else len(text)
    while pieces and (start := _continuation(text, end)) >= 0:
        close = text.find("'", start)
        end = len(text) if close < 0 else close + 1
    return end


def touches(text: str, end: int) -> bool:
    """Return whether a word touches the end of a string; one that valid SQL has there does not."""
    first = text[end : end + 1]
    if not first.isascii():
        return True
    if not (first.isalnum() or first == "_"):
        return False
    word = _WORD.match(text, end)
    return word is None or not (word[0].lower() in _AFTER_STRINGS and word[0].isascii())


def past_apostrophes(text: str, end: int, *, escapes: bool) -> int:
    """Return where the string that seems to end at `end` ends if a quote before a word does not.

    That is the next quote with no word behind it, or the end of the text. A doubled quote is
    part of the string, and with `escapes` so is one behind a backslash.
    """
    doubts = 0
    while touches(text, end):
        doubts += 1
        if doubts > MOST_DOUBTS:
            return len(text)
        if escapes:
            end = escaped_end(text, end)
            continue
        close = text.find("'", end)
        while close >= 0 and text.startswith("'", close + 1):
            close = text.find("'", close + 2)
        if close < 0:
            return len(text)
        end = close + 1
    return end
