"""Where the statements of a text begin and end, and the patterns of SQL's words.

Like all rules beyond literals this reads text that the lexer has masked: strings are `'?'`,
comments are gone, and quoted identifiers are complete and hold no `'`.
"""

import re
from collections.abc import Iterator
from typing import Final

FLAGS: Final = re.ASCII | re.IGNORECASE
# Sets of what does NOT belong to a word: ranges up to U+10FFFF take 0.1 s to compile when case
# is ignored.
NO_START: Final = r"\x00-@\[-^`{-\x7f"
NO_WORD: Final = r"\x00-#%-/:-@\[-^`{-\x7f"
WORD: Final = f"[^{NO_START}][^{NO_WORD}]*+"
ENDS: Final = f"(?![^{NO_WORD}])"
BEGINS: Final = f"(?<![^{NO_WORD}])"

TOKEN: Final = re.compile(r"i_[0-9a-f]{8}", re.ASCII)  # what level full makes of a name

_EMPTY = re.compile(r"[;\s]*+", re.ASCII)
_SEMICOLON = re.compile(r"\"[^\"]*+\"|;")
_MARK = re.compile(rf"\"[^\"]*+\"|[;()]|{BEGINS}(?:begin\s++atomic|case|end){ENDS}", FLAGS)
_CREATE = re.compile(rf"\s*+create{ENDS}", FLAGS)


def segment_end(text: str, start: int) -> int:
    """Return the place of the `;` that ends the statement at `start`, or the text's length.

    Only CREATE has inner semicolons: actions of a rule in parentheses, BEGIN ATOMIC bodies.
    """
    nests = _CREATE.match(text, start) is not None
    parentheses = blocks = 0
    for mark in (_MARK if nests else _SEMICOLON).finditer(text, start):
        word = mark[0].lower()
        if word == ";":
            if parentheses <= 0 and not blocks:
                return mark.start()
        elif word == "(":
            parentheses += 1
        elif word == ")":
            parentheses -= 1
        elif word == "end":
            blocks = max(0, blocks - 1)
        elif word.startswith("begin") or (word == "case" and blocks):
            blocks += 1
    return len(text)


def _skip_empty(text: str, at: int) -> int:
    """Return the place of the first character from `at` on that is no `;` and no space."""
    empty = _EMPTY.match(text, at)
    return empty.end() if empty else at


def segments(text: str) -> Iterator[tuple[int, int]]:
    """Yield where each statement of `text` begins and ends, without the `;` around it."""
    at, length = _skip_empty(text, 0), len(text)
    if ";" not in text:
        if at < length:
            yield at, length
        return
    while at < length:
        end = segment_end(text, at)
        yield at, end
        at = _skip_empty(text, end)


def is_cut_word(text: str, at: int, words: frozenset[str]) -> bool:
    """Return whether from `at` on nothing stands but the beginning of one of `words`.

    Or what level full made of it.
    """
    rest = text[at : at + 24].strip().lower()
    if at + 24 < len(text):
        return False
    return any(word.startswith(rest) for word in words) or TOKEN.fullmatch(rest) is not None
