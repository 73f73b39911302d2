"""COPY .. FROM STDIN: rows that stand behind the statement in its own text are dropped.

Options tell nothing: their words are known, and their values are strings, which are masked. So
whatever follows them and is none is taken for data, on the same line as well.
"""

import re
from typing import Final

from pg_collector.privacy.segments import BEGINS, ENDS, FLAGS, WORD, is_cut_word, segment_end

INLINE_COPY_DATA: Final = "<inline copy data>"

_OPTION_WORDS: Final = frozenset(
    """
    as binary csv default delimiter delimiters encoding escape false force force_not_null
    force_null force_quote format freeze header ignore log_verbosity match not null off oids on
    on_error quote reject_limit set_null silent stop text true using verbose with
    """.split()  # noqa: SIM905 - a list of words reads best as words
)
_CUT_WORDS: Final = _OPTION_WORDS | {"where"}

_COPY = re.compile(rf"{BEGINS}copy{ENDS}", FLAGS)
_FROM_STDIN = re.compile(rf"{BEGINS}from\s++std(?:in|out){ENDS}", FLAGS)  # the grammar takes both
_NAME = rf"(?:\"[^\"]*+\"|{WORD})"
_NAMES = rf"{_NAME}(?:\s*+,\s*+{_NAME})*"
_OPTION = re.compile(
    rf"\s*+(?:force_(?:quote|null|not_null)\s*+\(\s*+{_NAMES}\s*+(?:\)|,?+\s*+\Z)"
    rf"|force\s++(?:not\s++)?(?:quote|null)[ \t]++{_NAMES}"
    rf"|(?:format|encoding)[ \t]++{WORD}"
    rf"|(?:header|reject_limit)[ \t]++\?"
    rf"|(?:{'|'.join(sorted(_OPTION_WORDS, key=len, reverse=True))}){ENDS}"
    r"|'\?'|[(),*])",
    FLAGS,
)
_NEXT = re.compile(rf"\s*+(where{ENDS}|;|\Z)", FLAGS)
_LINE = re.compile(r"\"[^\"]*+\"|\n")
# Where a condition goes on in the next line.
_OPEN_END = re.compile(rf"(?:{BEGINS}(?:where|and|or|not|is|in|like|between)|[-=<>(,+*/%|&!~:])\Z")
_GOES_ON = re.compile(rf"\s*+(?:(?:and|or|not|is|in|like|between){ENDS}|[-=<>(),+*/%|&!~:;]|\Z)")
_WINDOW = 40  # characters looked at before the end of a line


def _options_end(text: str, at: int) -> int:
    """Return where the options that begin at `at` end."""
    while option := _OPTION.match(text, at):
        at = option.end()
    return at


def _condition_end(text: str, at: int) -> int:
    """Return where the condition that begins at `at` ends: at a `;` or before a new line."""
    end = segment_end(text, at)
    for found in _LINE.finditer(text, at, end):
        line = found.start()
        before = text[max(at, line - _WINDOW) : line].rstrip().lower()
        if (
            found[0] == "\n"
            and not _OPEN_END.search(before)
            and not _GOES_ON.match(text[line : line + _WINDOW].lower())
        ):
            return line
    return end


def drop_copy_data(text: str) -> str:
    """Return `text` without the rows that follow COPY .. FROM STDIN."""
    copy = _COPY.search(text)
    found = copy and _FROM_STDIN.search(text, copy.end())
    if not found:
        return text
    end = _options_end(text, found.end())
    if (after := _NEXT.match(text, end)) is None:
        if is_cut_word(text, end, _CUT_WORDS):
            return text
    elif after[1].lower() == "where":
        end = _condition_end(text, after.end())
    if not text[end:].strip("; \t\r\n\f\v"):
        return text
    return f"{text[:end]};{INLINE_COPY_DATA}"
