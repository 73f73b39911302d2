"""What pg_stat_statements holds: many statements, evicted ones, none."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.support.lab.server import Database, Server

_OPERATORS = "+-*/%&|"  # constants and aliases make no new query id, operators do
MARK = "select $1 "


@dataclass(frozen=True)
class Statements:
    """How many distinct normalised statements were run, and how many are held."""

    run: int
    held: int


def distinct_statement(number: int) -> str:
    """Return the statement with this number, below 117,649; all differ after normalisation."""
    chosen = []
    for _ in range(6):
        number, operator = divmod(number, len(_OPERATORS))
        chosen.append(_OPERATORS[operator])
    return "select 8" + "".join(f" {operator} 3" for operator in chosen)


@contextmanager
def statements(database: Database, distinct: int = 10_000) -> Iterator[Statements]:
    """Empty pg_stat_statements, then run that many distinct statements, once each."""
    reset_statements(database)
    run_distinct(database, distinct)
    yield Statements(distinct, _held(database))
    reset_statements(database)


@contextmanager
def evicted_statements(server: Server, distinct: int = 400) -> Iterator[Statements]:
    """Restart the server with room for 100 statements and run more; then restart as before."""
    name = "pg_stat_statements.max"
    before = server.settings[name]
    server.restart({name: "100"})
    try:
        with statements(server.database(), distinct) as held:
            yield held
    finally:
        server.restart({name: before})


def run_distinct(database: Database, distinct: int, first: int = 0) -> None:
    """Run the statements first ... first + distinct - 1."""
    with database.connect() as session, session.pipeline():
        for number in range(first, first + distinct):
            session.execute(distinct_statement(number), prepare=False)


def reset_statements(database: Database) -> None:
    """Forget all statements, as a user may at any time."""
    database.query("create extension if not exists pg_stat_statements")
    database.query("select pg_stat_statements_reset()")


def _held(database: Database) -> int:
    counted = "select count(*) from pg_stat_statements where left(query, %s) = %s"
    return int(database.value(counted, [len(MARK), MARK]))
