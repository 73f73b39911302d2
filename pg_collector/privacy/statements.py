"""What masking literals is not enough for: statements whose secrets are not literals.

Everything here reads text that the lexer has masked: strings are `'?'`, comments are gone, and
quoted identifiers are complete and hold no `'`. So plain, linear patterns are exact enough.
"""

import re
from collections.abc import Iterator
from typing import Final

UNRECOGNIZED: Final = "<unrecognized statement>"
INLINE_COPY_DATA: Final = "<inline copy data>"

# Commands of PostgreSQL 12 to 19 with the words of the replication protocol.
COMMANDS: Final = frozenset(
    """
    abort alter analyse analyze begin call checkpoint close cluster comment commit copy create
    deallocate declare delete discard do drop end execute explain fetch grant import insert
    listen load lock merge move notify prepare reassign refresh reindex release repack reset
    revoke rollback savepoint security select set show start table truncate unlisten update
    vacuum values wait with
    alter_replication_slot base_backup create_replication_slot drop_replication_slot
    identify_system read_replication_slot start_replication timeline_history upload_manifest
    """.split()  # noqa: SIM905 - a list of words reads best as words
)

_FLAGS: Final = re.ASCII | re.IGNORECASE
# Sets of what does NOT belong to a word: ranges up to U+10FFFF take 0.1 s to compile when case
# is ignored.
_NO_START = r"\x00-@\[-^`{-\x7f"
_NO_WORD = r"\x00-#%-/:-@\[-^`{-\x7f"
_WORD = f"[^{_NO_START}][^{_NO_WORD}]*+"
_ENDS = f"(?![^{_NO_WORD}])"
_BEGINS = f"(?<![^{_NO_WORD}])"
_NAME = rf"(?:\"[^\"]*+\"|@*+{_WORD})(?:\s*+\.\s*+(?:\"[^\"]*+\"|{_WORD}))*"

_FIRST_WORD = re.compile(rf"[\s(]*+({_WORD})", _FLAGS)
# What a server writes itself in place of a statement.
_SERVER_TEXT = re.compile(
    "<insufficient privilege>|<backend information not available>|<command string not enabled>"
    "|<FASTPATH> |autovacuum: (?:VACUUM|ANALYZE|BRIN summarize) "
    f"|{UNRECOGNIZED}|{INLINE_COPY_DATA}"
)
_EMPTY = re.compile(r"[;\s]*+", re.ASCII)
_SEMICOLON = re.compile(r"\"[^\"]*+\"|;")
_MARK = re.compile(
    rf"\"[^\"]*+\"|[;()]|{_BEGINS}(?:begin\s++atomic|case|end){_ENDS}",
    _FLAGS,
)
_CREATE = re.compile(rf"\s*+create{_ENDS}", _FLAGS)


def leading_command(text: str) -> str:
    """Return the first word of `text` in upper case if it is a command, else an empty string.

    Safe on raw text as well: the answer is one of `COMMANDS`, never a word of the text's own.
    """
    found = _FIRST_WORD.match(text)
    if found is None or found[1].lower() not in COMMANDS:
        return ""
    return found[1].upper()


def _known(segment: str) -> bool:
    """Return whether `segment` begins with a command or is a text of the server."""
    return bool(leading_command(segment) or _SERVER_TEXT.match(segment))


def _segment_end(text: str, start: int) -> int:
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


def _segments(text: str) -> Iterator[tuple[int, int]]:
    """Yield where each statement of `text` begins and ends, without the `;` around it."""
    at, length = _skip_empty(text, 0), len(text)
    while at < length:
        end = _segment_end(text, at) if ";" in text else length
        yield at, end
        at = _skip_empty(text, end)


def drop_unrecognized(text: str) -> str:
    """Return `text` up to the first statement that begins with no known command.

    Prose, shell lines, rows and passwords typed at a prompt reach pg_stat_activity as they are.
    """
    for start, end in _segments(text):
        if not _known(text[start:end]):
            return text[:start] + UNRECOGNIZED
    return text


_COPY = re.compile(rf"{_BEGINS}copy{_ENDS}", _FLAGS)
_FROM_STDIN = re.compile(rf"{_BEGINS}from\s++stdin{_ENDS}", _FLAGS)
# What may follow STDIN and is no data: options (old and new syntax), WHERE, the end.
_COPY_OPTIONS = re.compile(
    rf"\s*+(?:(?:with|where|binary|csv|delimiters?|null|header|quote|escape|force|using|freeze"
    rf"|encoding|oids){_ENDS}|\(|'\?'|;|\Z)",
    _FLAGS,
)


def drop_copy_data(text: str) -> str:
    """Return `text` without the rows that follow COPY .. FROM STDIN."""
    copy = _COPY.search(text)
    found = copy and _FROM_STDIN.search(text, copy.end())
    if not found:
        return text
    end = found.end()
    if _COPY_OPTIONS.match(text, end):
        end = _segment_end(text, end)
    if not text[end:].strip("; \t\r\n\f\v"):
        return text
    return f"{text[:end]};{INLINE_COPY_DATA}"


_RUN = r"[^\s;\"]*+(?:\"[^\"]*+\"[^\s;\"]*+)*"
_ROLE = re.compile(rf"{_BEGINS}(?:create|alter)\s++(?:role|user|group){_ENDS}", _FLAGS)
_PASSWORD = re.compile(
    rf"{_BEGINS}(password|identified\s++by){_ENDS}(?:\s*+=)?\s*+"
    rf"(?!null{_ENDS}|'\?'(?:[\s;,)]|\Z))(?=[^\s;]){_RUN}(?:\s*+'\?'{_RUN})*",
    _FLAGS,
)


def mask_role_password(text: str) -> str:
    """Return `text` with the token after PASSWORD masked, however it is (or is not) quoted."""
    found = _ROLE.search(text)
    if found is None:
        return text
    at = found.end()
    return text[:at] + _PASSWORD.sub(r"\1 '?'", text[at:])


_ASSIGNS = rf"(?:password\s++for\s++[^\s;=]++|{_NAME})\s*+(?::?=|to{_ENDS})\s*+"
_SET = rf"set\s++(?:(?:session|local|global)\s++)?{_ASSIGNS}"
_ALTER_SET = rf"alter{_ENDS}(?:[^;\"]|\"[^\"]*+\")*?{_BEGINS}{_SET}"
_SETTING = re.compile(rf"\s*+(?:{_SET}|{_ALTER_SET})", _FLAGS)
_PLAIN_VALUES: Final = frozenset({"", "default", "on", "off", "true", "false", "?", "'?'"})

_ROUTINE = re.compile(rf"\s*+create\s++(?:or\s++replace\s++)?(?:function|procedure){_ENDS}", _FLAGS)
_ITEM = r"[^\s;,\"]*+(?:\"[^\"]*+\"[^\s;,\"]*+)*"
_CLAUSE = re.compile(
    rf"{_BEGINS}(begin\s++atomic){_ENDS}|{_BEGINS}set\s++{_ASSIGNS}({_ITEM}(?:\s*+,\s*+{_ITEM})*)",
    _FLAGS,
)


def _masked_value(value: str) -> str:
    """Return `value` if it says nothing, else a placeholder with the same space after it."""
    bare = value.rstrip()
    return value if bare.lower() in _PLAIN_VALUES else f"'?'{value[len(bare) :]}"


def _mask_clauses(text: str, start: int, end: int) -> str:
    """Return the part of `text`, a CREATE FUNCTION, with its SET clauses masked."""
    parts: list[str] = []
    at = start
    for clause in _CLAUSE.finditer(text, start, end):
        if clause[1]:  # SET inside the body is UPDATE's
            break
        parts += (text[at : clause.start(2)], _masked_value(clause[2]))
        at = clause.end()
    return "".join((*parts, text[at:end]))


def mask_settings(text: str) -> str:
    """Return `text` with the values of SET and ALTER .. SET masked, bare words included."""
    parts: list[str] = []
    at = 0
    for start, end in _segments(text):
        parts.append(text[at:start])
        if found := _SETTING.match(text, start, end):
            parts += (text[start : found.end()], _masked_value(text[found.end() : end]))
        elif _ROUTINE.match(text, start, end):
            parts.append(_mask_clauses(text, start, end))
        else:
            parts.append(text[start:end])
        at = end
    return "".join((*parts, text[at:]))


_PLACE = r"(?:'\?'|\?|-\?|\+\?)"
_STRINGS = re.compile(r"'\?'(?:\s*+'\?')+", re.ASCII)
_LIST = re.compile(
    rf"({_PLACE})(?:\s*+,\s*+{_PLACE})+(?=\s*+(?:[)\],;]|\Z)|\s++[^{_NO_START}])", re.ASCII
)
_ROWS = re.compile(r"(\([^()?]*+\?[^()]*+\))(?:\s*+,\s*+\1)+", re.ASCII)


def _first_of_list(found: re.Match[str]) -> str:
    """Return the first place of a list, or all of it if it begins amid an expression (`a + ?`)."""
    text, at = found.string, found.start() - 1
    while at >= 0 and text[at].isspace():
        at -= 1
    before = text[at] if at >= 0 else ""
    if before in {"(", "[", ","}:
        return found[1]
    # After a word a sign is an operator: `a -?`.
    word = before.isalpha() or before == "_"
    return found[1] if word and found[1][0] in "'?" else found[0]


def collapse(text: str) -> str:
    """Return `text` with lists of placeholders, and lists of rows, shown by their first."""
    if text.count("?") > 1:
        text = _STRINGS.sub("'?'", text)
        text = _LIST.sub(_first_of_list, text)
        text = _ROWS.sub(r"\1", text)
    return text


def apply_rules(masked: str, *, activity: bool) -> str:
    """Return `masked` (the lexer's output) after every rule of level basic.

    activity: the text comes from pg_stat_activity, where anything a person typed may stand;
    other sources also hold expressions, which begin with no command.
    """
    masked = _STRINGS.sub("'?'", masked)
    low = masked.lower()
    if "stdin" in low:
        masked = drop_copy_data(masked)
    if "password" in low or "identified" in low:
        masked = mask_role_password(masked)
    if "set" in low:
        masked = mask_settings(masked)
    if activity:  # after the others: they may mask a parenthesis, and so move where statements end
        masked = drop_unrecognized(masked)
    return collapse(masked)
