"""A database full of secrets: in its rows, its catalogs, its statements, its sessions."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import psycopg

from tests.support.canary import Canary
from tests.support.conditions.session import Session, sessions
from tests.support.lab.server import Database
from tests.support.planted import KINDS, SETUP
from tests.support.until import until

SETTINGS: Mapping[str, str] = {"max_connections": "200", "max_prepared_transactions": "4"}
"""What the server needs for it."""

_ELSEWHERE = len(KINDS)  # places of secrets that are no kind's
_LATIN1 = "create database latin1 template template0 encoding 'LATIN1' lc_collate 'C' lc_ctype 'C'"


@dataclass(frozen=True)
class Planted:
    """What raw rows must show: by place for statements, by pid for sessions, as bytes."""

    statements: Mapping[int, bytes]
    sessions: Mapping[int, bytes]


@contextmanager
def planted(database: Database, canary: Canary) -> Iterator[Planted]:
    """Run every kind of statement, each in a session of its own that keeps its transaction open.

    Others wait for one another, sleep, speak another encoding, or receive WAL.
    """
    kinds = {n: one for n, one in enumerate(KINDS) if one.since <= database.server.major}
    with ExitStack() as stack:
        with database.connect() as lab:
            for sql in canary.fill(SETUP, _ELSEWHERE).strip().split(";\n"):
                lab.execute(sql)
            for place, kind in kinds.items():
                if kind.alone:
                    for sql in (*kind.before, kind.sql, *kind.after):
                        _run(lab, canary.fill(sql, place))
        held: dict[int, bytes] = {}
        opened = stack.enter_context(sessions(database, *(f"kind {n}" for n in kinds)))
        for (place, kind), session in zip(kinds.items(), opened, strict=True):
            if kind.held:
                for sql in ("begin", *kind.before, kind.sql):
                    _run(session.connection, canary.fill(sql, place))
                held[session.pid] = canary.sign(kind.sql, place)
        for session in (
            *stack.enter_context(_in_each_others_way(database, canary)),
            *stack.enter_context(_elsewhere(database, canary)),
        ):
            held[session.pid] = canary.word(_ELSEWHERE).encode()
        statements = {
            place: canary.sign(kind.sql, place)
            for place, kind in kinds.items()
            if kind.shown >= database.server.major
        }
        yield Planted(statements, held)


@contextmanager
def _in_each_others_way(database: Database, canary: Canary) -> Iterator[list[Session]]:
    """Keep one who holds a row, one who waits for it, and a queue for the table behind both."""
    texts = (
        "update locked set a = 'CANARY' where id = 1",
        "update locked set a = a || 'CANARY' where id = 1",
        "alter table locked alter a set default 'CANARY'",
        "select 'CANARY' from locked",
    )
    # What people put there: an address, a card.
    name = canary.fill("ADDRESS paid with CARD", _ELSEWHERE)
    waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
    with sessions(database, *(name for _ in texts)) as opened:
        head, *rest = opened
        for sql in ("begin", canary.fill(texts[0], _ELSEWHERE)):
            head.do(sql)
        for number, session in enumerate(rest, 1):
            session.send(canary.fill(texts[number], _ELSEWHERE))
            until(lambda n=number: database.value(waiting) == n, what="it waits")  # type: ignore[misc]
        yield opened


@contextmanager
def _elsewhere(database: Database, canary: Canary) -> Iterator[list[Session]]:
    """Keep sessions that are at work, one of a database in LATIN1 and one that receives WAL."""
    server = database.server
    server.query(_LATIN1)
    active = "select count(*) from pg_stat_activity where pid = any(%s) and state = 'active'"
    with (
        sessions(database, "asleep") as asleep,
        sessions(server.database("latin1"), "latin1", client_encoding="LATIN1") as latin1,
        sessions(database, "receiver", replication="database") as receiver,
    ):
        sleep = canary.fill("select 'CANARY', 'é CANARY', pg_sleep(600)", _ELSEWHERE)
        asleep[0].send(sleep)
        latin1[0].send(sleep.encode("latin-1"))
        follow = "START_REPLICATION SLOT decoder LOGICAL 0/0 (proto_version '1',"
        receiver[0].send(canary.fill(f"{follow} publication_names 'CANARY')", _ELSEWHERE))
        opened = [*asleep, *latin1, *receiver]
        pids = [one.pid for one in opened]
        until(lambda: database.value(active, [pids]) == len(pids), what="they are at work")
        yield opened


def _run(session: "psycopg.Connection[object]", sql: str) -> None:
    """Run something that may fail."""
    session.pgconn.exec_(sql.encode())
