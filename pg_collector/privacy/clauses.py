"""Clauses whose values are secrets, in quotes or not: passwords, connections, settings.

A failed statement stands raw in pg_stat_activity, so a value may be anything: a bare word, a name
in double quotes, a string with an apostrophe inside. Reads what the lexer has masked.
"""

import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Final

from pg_collector.privacy.segments import (
    BEGINS,
    ENDS,
    FLAGS,
    WORD,
    is_cut_word,
    segment_end,
    segments,
)

_PLACE: Final = "'?'"
_QUOTED: Final = r"\"[^\"]*+\""

_ROLE = re.compile(
    rf"{BEGINS}(?:create|alter)\s++(?:role|user(?!\s++mapping{ENDS})|group){ENDS}", FLAGS
)
_PASSWORD = re.compile(
    rf"{_QUOTED}|{BEGINS}(password|identified\s++by){ENDS}(?=(?:\s*+=)?\s*+[^\s;=])"
    rf"(?!\s++null{ENDS})(?:\s*+=)?\s*+",
    FLAGS,
)
_ROLE_OPTION = re.compile(
    rf"\s*+(?:;|\Z|(?:valid|(?:no)?(?:login|superuser|createdb|createrole|createuser|inherit"
    rf"|replication|bypassrls)|connection|in\s++(?:role|group)|role|user|admin|sysid"
    rf"|(?:un)?encrypted|password|with){ENDS})",
    FLAGS,
)
_ROLE_WORDS: Final = frozenset(
    """
    admin bypassrls connection createdb createrole createuser encrypted in inherit login
    nobypassrls nocreatedb nocreaterole nocreateuser noinherit nologin noreplication nosuperuser
    password replication role superuser sysid unencrypted user valid with
    """.split()  # noqa: SIM905 - a list of words reads best as words
)

_SUBSCRIPTION = re.compile(
    rf"{BEGINS}(?:create|alter)\s++subscription\s++(?:\"[^\"]*+\"|[^\s;\"])[^\s;\"]*+", FLAGS
)
_CONNECTION = re.compile(rf"{_QUOTED}|{BEGINS}(connection){ENDS}\s*+(?=[^\s;])", FLAGS)
_PUBLICATION = re.compile(rf"\s*+(?:;|\Z|publication{ENDS})", FLAGS)
_PUBLICATION_WORDS: Final = frozenset({"publication"})

_FOREIGN = re.compile(
    rf"{BEGINS}(?:create|alter|import)\s++(?:foreign|server|user\s++mapping){ENDS}", FLAGS
)
_OPTIONS = re.compile(rf"{_QUOTED}|{BEGINS}(options)\s*+(?=\()", FLAGS)
_CLOSING = re.compile(rf"{_QUOTED}|(\))")
_SECRET_OPTION = re.compile(
    rf"{_QUOTED}|([(,])\s*+(?:(?:add|set|drop)\s++)?\"?+"
    rf"[a-z_]*(?:password|passwd|pwd|secret|token|key|credentials?){ENDS}\"?+"
    r"(?:\s*+=)?\s*+(?=[^\s,;=])",
    FLAGS,
)
_NEXT_OPTION = re.compile(r"\s*+(?:[,);]|\Z)")


def _next(
    pattern: re.Pattern[str], text: str, at: int, end: int | None = None
) -> re.Match[str] | None:
    """Return the next match that has a first group: those without one are quoted names."""
    marks = pattern.finditer(text, at, len(text) if end is None else end)
    return next((mark for mark in marks if mark[1]), None)


def _placed(text: str, at: int) -> tuple[str, ...]:
    """Return what stands for a value that begins at `at`: a place, behind a space."""
    return (_PLACE,) if text[at - 1].isspace() else (" ", _PLACE)


def _values(
    text: str,
    statement: re.Pattern[str],
    label: re.Pattern[str],
    following: re.Pattern[str],
    words: frozenset[str],
) -> Iterator[tuple[int, int]]:
    """Yield where what follows each `label` in each `statement` begins and ends.

    It is a string, where `following`, or the beginning of one of `words`, comes after. Anything
    else is no valid statement: where its value ends is unknown, and it is all up to the `;`.
    """
    at = 0
    while found := statement.search(text, at):
        at, end = found.end(), segment_end(text, found.end())
        while clause := _next(label, text, at, end):
            at = clause.end()
            after = at + len(_PLACE)
            if text.startswith(_PLACE, at) and (
                following.match(text, after) or is_cut_word(text, after, words)
            ):
                yield at, after
                continue
            yield at, end
            at = end
        at = end


def _hidden(text: str, values: Iterable[tuple[int, int]]) -> str:
    """Return `text` with a placeholder for each value that is not one already."""
    parts: list[str] = []
    done = 0
    for start, end in values:
        if text[start:end] != _PLACE:
            parts += (text[done:start], *_placed(text, start))
            done = end
    return "".join((*parts, text[done:]))


def _role_passwords(text: str) -> Iterator[tuple[int, int]]:
    return _values(text, _ROLE, _PASSWORD, _ROLE_OPTION, _ROLE_WORDS)


def _connections(text: str) -> Iterator[tuple[int, int]]:
    return _values(text, _SUBSCRIPTION, _CONNECTION, _PUBLICATION, _PUBLICATION_WORDS)


def _secret_options(text: str) -> Iterator[tuple[int, int]]:
    found = _FOREIGN.search(text)
    at = found.end() if found else len(text)
    while options := _next(_OPTIONS, text, at):
        at = options.end()
        closing = _next(_CLOSING, text, at)
        close = closing.start() if closing else len(text)
        while option := _next(_SECRET_OPTION, text, at, close):
            at = option.end()
            if text.startswith(_PLACE, at) and _NEXT_OPTION.match(text, at + len(_PLACE)):
                yield at, at + len(_PLACE)
                continue
            end = segment_end(text, at)
            if text[at:end].rstrip().endswith(")"):
                end = text.rindex(")", at, end)
            yield at, end
            at = end
        at = max(at, close)


def mask_role_password(text: str) -> str:
    """Return `text` with what follows a role's PASSWORD masked, however it is (not) quoted."""
    return _hidden(text, _role_passwords(text))


def mask_connection(text: str) -> str:
    """Return `text` with what follows a subscription's CONNECTION masked."""
    return _hidden(text, _connections(text))


def mask_options(text: str) -> str:
    """Return `text` with passwords and the like masked in OPTIONS of foreign objects.

    A value that is no string is masked up to the parenthesis that ends the statement.
    """
    return _hidden(text, _secret_options(text))


_NAME = rf"(?:\"[^\"]*+\"|@*+{WORD})(?:\s*+\.\s*+(?:\"[^\"]*+\"|{WORD}))*"
_ASSIGNS = rf"(?:password\s++for\s++[^\s;=]++|{_NAME})\s*+(?::?=|to{ENDS})\s*+"
_SET = rf"set\s++(?:(?:session|local|global)\s++)?{_ASSIGNS}"
_ALTER_SET = re.compile(
    rf"\s*+alter(?!\s++(?:server|foreign|user\s++mapping){ENDS}){ENDS}"
    rf"(?:[^;\"]|\"[^\"]*+\")*?{BEGINS}{_SET}",
    FLAGS,
)
# Statements in which SET can be nothing but a setting, so that any name will do.
_SETS = re.compile(
    rf"\s*+(?:set(?!\s++(?:(?:session|local)\s++)?time\s++zone{ENDS}){ENDS}|(alter)\s++(?:role"
    rf"|user(?!\s++mapping{ENDS})|group|database|system|function|procedure|routine){ENDS})",
    FLAGS,
)
_SET_WORD = re.compile(rf"{_QUOTED}|{BEGINS}(set){ENDS}", FLAGS)
_EQUALS = re.compile(rf"{_QUOTED}|(=|{BEGINS}to{ENDS})\s*+", FLAGS)
_PLAIN_VALUES: Final = frozenset({"", "default", "on", "off", "true", "false", "?", "'?'"})

_ROUTINE = re.compile(rf"\s*+create\s++(?:or\s++replace\s++)?(?:function|procedure){ENDS}", FLAGS)
_RUN = r"[^\s;,\"]*+(?:\"[^\"]*+\"[^\s;,\"]*+)*"
_ITEM = rf"{_RUN}(?:\s*+'\?'{_RUN})*"
_ANY_NAME = rf"(?:{_ASSIGNS}|[^\s;=,()\"]++\s*+(?:=|to{ENDS})\s*+)"
_CLAUSE = re.compile(
    rf"{BEGINS}(begin\s++atomic){ENDS}|{BEGINS}set\s++{_ANY_NAME}({_ITEM}(?:\s*+,\s*+{_ITEM})*)",
    FLAGS,
)


def _value_start(text: str, start: int, end: int) -> int:
    """Return where the value of the setting in the statement at `start` begins, or -1."""
    sets = _SETS.match(text, start, end)
    if sets is None:
        other = _ALTER_SET.match(text, start, end)
        return other.end() if other else -1
    start = sets.end()
    if sets[1]:
        word = _next(_SET_WORD, text, start, end)
        start = word.end() if word else end
    equals = _next(_EQUALS, text, start, end)
    return equals.end() if equals else -1


def _masked_value(value: str) -> str:
    """Return `value` if it says nothing, else a placeholder with the same space after it."""
    bare = value.rstrip(" \t\n\r\f\v")  # any other space is a letter for PostgreSQL
    return value if bare.lower() in _PLAIN_VALUES else f"{_PLACE}{value[len(bare) :]}"


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
    for start, end in segments(text):
        parts.append(text[at:start])
        value = _value_start(text, start, end)
        if value >= 0:
            parts += (text[start:value], _masked_value(text[value:end]))
        elif _ROUTINE.match(text, start, end):
            parts.append(_mask_clauses(text, start, end))
        else:
            parts.append(text[start:end])
        at = end
    return "".join((*parts, text[at:]))


_SECRET_SETTING = re.compile(
    rf"{BEGINS}[a-z_.]*(?:password|passwd|pwd|secret|token|key|credentials?|conninfo){ENDS}", FLAGS
)


def secrets(text: str) -> list[tuple[int, int]]:
    """Return where credentials stand in `text`, placeholders among them; none overlaps another."""
    low = text.lower()
    found: list[tuple[int, int]] = []
    if "password" in low or "identified" in low:
        found += _role_passwords(text)
    if "subscription" in low:
        found += _connections(text)
    if "options" in low:
        found += _secret_options(text)
    if "set" in low:
        for start, end in segments(text):
            found += _secret_settings(text, start, end)
    return apart(found)


def _secret_settings(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield where the values of settings that are secret stand in one statement."""
    value = _value_start(text, start, end)
    if value >= 0 and _SECRET_SETTING.search(text, start, value):
        yield value, end
    if _ROUTINE.match(text, start, end):
        clauses = _CLAUSE.finditer(text, start, end)
        for clause in itertools.takewhile(lambda clause: not clause[1], clauses):
            if _SECRET_SETTING.search(clause[0]):
                yield clause.span(2)
    # Which setting it is stands in a string.
    while call := _CALL.search(text, start, end):
        start = _call_end(text, call.end(), end)
        yield call.end(), start


def apart(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return spans in order, those that overlap as one."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if found and start < found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


_CALL = re.compile(rf"{BEGINS}set_config\"?+\s*+\(", FLAGS)
_PARENTHESIS = re.compile(rf"{_QUOTED}|([()])")


def _call_end(text: str, start: int, end: int) -> int:
    """Return where the arguments that begin at `start` end: calls may stand among them."""
    depth = 1
    for found in _PARENTHESIS.finditer(text, start, end):
        if found[1]:
            depth += 1 if found[1] == "(" else -1
            if not depth:
                return found.start()
    return end
