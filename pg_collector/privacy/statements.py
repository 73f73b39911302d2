"""What masking literals is not enough for: statements whose secrets are not literals.

Everything here reads text that the lexer has masked: strings are `'?'`, comments are gone, and
quoted identifiers are complete and hold no `'`. So plain, linear patterns are exact enough.
"""

import re
from typing import Final

from pg_collector.privacy.clauses import (
    mask_connection,
    mask_options,
    mask_role_password,
    mask_settings,
)
from pg_collector.privacy.copy_data import INLINE_COPY_DATA, drop_copy_data
from pg_collector.privacy.scanner import STRING
from pg_collector.privacy.segments import FLAGS, NO_START, WORD, segments

UNRECOGNIZED: Final = "<unrecognized statement>"

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

_FIRST_WORD = re.compile(rf"[\s(]*+({WORD})", FLAGS)
# What a server writes itself in place of a statement.
_SERVER_TEXT = re.compile(
    "<insufficient privilege>|<backend information not available>|<command string not enabled>"
    "|<FASTPATH> |autovacuum: (?:VACUUM|ANALYZE|BRIN summarize) "
    f"|{UNRECOGNIZED}|{INLINE_COPY_DATA}"
)


def leading_command(text: str) -> str:
    """Return the first word of `text` in upper case if it is a command, else an empty string.

    Safe on raw text as well: the answer is one of `COMMANDS`, never a word of the text's own.
    """
    found = _FIRST_WORD.match(text)
    if found is None or found[1].lower() not in COMMANDS:
        return ""
    return found[1].upper()


def _known(text: str, start: int, end: int) -> bool:
    """Return whether a statement begins with a command or is a text of the server."""
    word = _FIRST_WORD.match(text, start, end)
    if word is not None and word[1].lower() in COMMANDS:
        return True
    return _SERVER_TEXT.match(text, start, end) is not None


def drop_unrecognized(text: str) -> str:
    """Return `text` up to the first statement that begins with no known command.

    Prose, shell lines, rows and passwords typed at a prompt reach pg_stat_activity as they are.
    """
    for start, end in segments(text):
        if not _known(text, start, end):
            return text[:start] + UNRECOGNIZED
    return text


_PLACE = r"(?:'\?'|\?|-\?|\+\?)"
_STRINGS = re.compile(r"'\?'(?:\s*+'\?')+", re.ASCII)
# From its first `?` on: a sign or a quote may stand before that.
_LIST = re.compile(
    rf"\?(?:'|)\s*+,\s*+{_PLACE}(?:\s*+,\s*+{_PLACE})*"
    rf"(?=\s*+(?:[)\],;]|\Z)|\s++[^{NO_START}])",
    re.ASCII,
)
_NEXT_ROW = re.compile(r"\)\s*+,\s*+\(", re.ASCII)
_ROWS = re.compile(r"(\([^()?]*+\?[^()]*+\))(?:\s*+,\s*+\1)+", re.ASCII)


def _first_of_list(found: re.Match[str]) -> str:
    """Return the first place of a list, or all of it if it begins amid an expression (`a + ?`)."""
    text, at = found.string, found.start()
    quoted = text.startswith("'", at + 1)
    signed = text[at - 1 : at] in {"-", "+"}
    first = "?'" if quoted else "?"
    at -= 2 if quoted or signed else 1
    while at >= 0 and text[at].isspace():
        at -= 1
    before = text[at] if at >= 0 else ""
    if before in {"(", "[", ","}:
        return first
    # After a word a sign is an operator: `a -?`.
    word = before.isalpha() or before == "_"
    return first if word and not signed else found[0]


def collapse(text: str) -> str:
    """Return `text` with lists of placeholders, and lists of rows, shown by their first."""
    text = _LIST.sub(_first_of_list, text)
    return _ROWS.sub(r"\1", text) if _NEXT_ROW.search(text) else text


# What a statement begins with where SET is followed by a setting.
_SETTERS: Final = ("set", "alter", "create")


def apply_rules(masked: str, *, activity: bool) -> str:
    """Return `masked` (the lexer's output) after every rule of level basic.

    activity: the text comes from pg_stat_activity, where anything a person typed may stand;
    other sources also hold expressions, which begin with no command.
    """
    masked = _STRINGS.sub(STRING, masked)
    hidden = _without_secrets(masked)
    if hidden != masked:
        masked = _STRINGS.sub(STRING, hidden)
    if activity:  # after the others: they may mask a parenthesis, and so move where statements end
        masked = drop_unrecognized(masked)
    return collapse(masked)


def _without_secrets(masked: str) -> str:
    """Return `masked` after the rules for statements whose secrets are not literals."""
    low = masked.lower()
    if "stdin" in low or "stdout" in low:
        masked = drop_copy_data(masked)
    if "password" in low or "identified" in low:
        masked = mask_role_password(masked)
    if "subscription" in low:
        masked = mask_connection(masked)
    if "options" in low:
        masked = mask_options(masked)
    if "set" in low and (";" in low or low.lstrip().startswith(_SETTERS)):
        masked = mask_settings(masked)
    return masked
