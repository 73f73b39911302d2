"""Statements that one session asks again and again, as the server and psycopg keep them ready.

Planning costs the server more than most of our statements themselves: docs/decisions/0034. The
first time a statement is only run, the second time it is prepared. What the server then remembers
may be outdated by ALTER EXTENSION and the like; it says so, and the statement is prepared anew.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import psycopg
from psycopg import abc, pq
from psycopg.adapt import Transformer

Value: TypeAlias = int | str | Sequence[int | str] | None
Params: TypeAlias = Mapping[str, Value]

MOST: Final = 200  # statements that a session keeps ready; others are planned each time
# The plan no longer gives the columns it was made for; the server does not know the statement.
OUTDATED: Final = frozenset({"0A000", "26000"})


class Statement:
    """One statement of a session: its text for the wire, and how its answer is read."""

    def __init__(self, sql: str, params: Params | None) -> None:
        """Parameters stand in `sql` as `%(name)s`; with any, a percent sign is doubled."""
        self._names: list[str] = []
        self.text = sql.encode() if params is None else self._numbered(sql)
        self.kept = False  # whether it is worth preparing: it was asked before
        self.name: bytes | None = None  # by which the server has it prepared
        self.columns: tuple[str, ...] = ()
        self._transformer: abc.Transformer | None = None

    def values(self, params: Params | None) -> list[bytes | None]:
        """Return the parameters in their order, in PostgreSQL's text format."""
        return [_text((params or {})[name]) for name in self._names]

    def rows(
        self, result: pq.abc.PGresult, connection: psycopg.Connection[Any]
    ) -> list[tuple[Any, ...]]:
        """Return the rows of a result. How they are read is found out once, of the first one."""
        if self._transformer is None:
            self._transformer = Transformer(connection)
            self._transformer.set_pgresult(result)
            names = (result.fname(number) or b"" for number in range(result.nfields))
            self.columns = tuple(name.decode("utf-8", "replace") for name in names)
        else:
            self._transformer.set_pgresult(result, set_loaders=False)
        found = self._transformer.load_rows(0, result.ntuples, tuple)
        self._transformer.set_pgresult(None, set_loaders=False)  # let go of the memory
        return found

    def _numbered(self, sql: str) -> bytes:
        def number(found: re.Match[str]) -> str:
            name = found[1]
            if name is None:
                return "%"
            if name not in self._names:
                self._names.append(name)
            return f"${self._names.index(name) + 1}"

        return _PLACE.sub(number, sql).encode()


class Prepared:
    """The statements of one session."""

    def __init__(self) -> None:
        self._seen: dict[str, Statement | None] = {}
        self._count = 0

    def get(self, sql: str, params: Params | None) -> Statement:
        """Return a statement: always the same one from the second time on."""
        known = self._seen.get(sql)
        if known is not None:
            return known
        found = Statement(sql, params)
        if sql in self._seen:
            self._seen[sql] = found
            found.kept = True
        elif len(self._seen) < MOST:
            self._seen[sql] = None
        return found

    def new_name(self) -> bytes:
        """Return a name that this session has not used before."""
        self._count += 1
        return b"pgc_%d" % self._count

    def forget(self, sql: str) -> None:
        """Have a statement prepared anew the next time."""
        self._seen[sql] = None


def _text(value: Value) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, str | int):
        return str(value).encode()
    return b"{" + b",".join(_element(one) for one in value) + b"}"


def _element(value: int | str) -> bytes:
    """Return an element of an array (https://www.postgresql.org/docs/current/arrays.html)."""
    if isinstance(value, int):
        return b"%d" % value
    return b'"' + value.encode().replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


_PLACE: Final = re.compile(r"%(?:\((\w+)\)s|%)")
