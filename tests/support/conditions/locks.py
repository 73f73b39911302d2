"""Sessions that wait for one another, or keep a transaction open."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.support.conditions.session import sessions
from tests.support.lab.server import Database
from tests.support.until import until


@dataclass(frozen=True)
class BlockedChain:
    """`head` blocks `middle` (first), which blocks `tail`. Process ids; sessions are named so."""

    head: int
    middle: int
    tail: int
    table: str


@contextmanager
def blocked_chain(database: Database, table: str = "blocked") -> Iterator[BlockedChain]:
    """Keep three sessions in a chain of row locks: the head idle in a transaction."""
    _two_rows(database, table)
    with sessions(database, "head", "middle", "tail") as (head, middle, tail):
        for session in (head, middle, tail):
            session.do("begin")
        head.do(f"update {table} set v = 1 where id = 1")
        middle.do(f"update {table} set v = 1 where id = 2")
        middle.send(f"update {table} set v = 2 where id = 1")
        _blocked_by(database, middle.pid, head.pid)
        tail.send(f"update {table} set v = 3 where id = 2")
        _blocked_by(database, tail.pid, middle.pid)
        yield BlockedChain(head.pid, middle.pid, tail.pid, table)
    database.query(f"drop table {table}")


@dataclass(frozen=True)
class IdleInTransaction:
    """A session that began a transaction and does nothing."""

    pid: int
    application_name: str
    state: str


@contextmanager
def idle_in_transaction(
    database: Database, *, aborted: bool = False
) -> Iterator[IdleInTransaction]:
    """Keep a session `idle in transaction`, or with `aborted` after an error in it."""
    name = "idle_aborted" if aborted else "idle_open"
    with sessions(database, name) as (session,):
        session.do("begin")
        session.send("select 1/0" if aborted else "select 1")
        session.outcome()
        state = "idle in transaction" + (" (aborted)" if aborted else "")
        seen = "select 1 from pg_stat_activity where pid = %s and state = %s"
        until(lambda: database.query(seen, [session.pid, state]), what=state)
        yield IdleInTransaction(session.pid, name, state)


@dataclass(frozen=True)
class Deadlock:
    """One deadlock that PostgreSQL resolved, as pg_stat_database counts it."""

    before: int
    after: int
    victim: int  # process id; either of the two


@contextmanager
def deadlock(database: Database, table: str = "deadlocked") -> Iterator[Deadlock]:
    """Make one deadlock and wait until it is counted."""
    count = "select deadlocks from pg_stat_database where datname = current_database()"
    before = int(database.value(count))
    _two_rows(database, table)
    with sessions(database, "one", "two") as (one, two):
        for session, row in ((one, 1), (two, 2)):
            session.do("begin")
            session.do(f"update {table} set v = 1 where id = {row}")
        one.send(f"update {table} set v = 2 where id = 2")
        _blocked_by(database, one.pid, two.pid)
        two.send(f"update {table} set v = 2 where id = 1")
        victims = [session.pid for session in (one, two) if session.outcome() == "40P01"]
        assert len(victims) == 1, f"deadlock victims: {victims}"
    # From 15 on a session may keep its counts for 10 s; its end reports them.
    until(lambda: database.value(count) == before + 1, what="the deadlock is counted")
    yield Deadlock(before, before + 1, victims[0])
    database.query(f"drop table {table}")


def _two_rows(database: Database, table: str) -> None:
    database.query(f"create table {table} (id int primary key, v int)")
    database.query(f"insert into {table} values (1, 0), (2, 0)")


def _blocked_by(database: Database, waiting: int, holding: int) -> None:
    seen = """
        select 1 from pg_stat_activity
        where pid = %s and wait_event_type = 'Lock' and %s = any(pg_blocking_pids(pid))
    """
    until(lambda: database.query(seen, [waiting, holding]), what=f"{waiting} waits for {holding}")


@dataclass(frozen=True)
class DdlQueue:
    """A reader in a transaction, an ALTER TABLE that waits for it, readers that wait behind."""

    reader: int
    alter: int
    behind: tuple[int, ...]
    table: str


@contextmanager
def ddl_queue(database: Database, table: str = "queued", readers: int = 2) -> Iterator[DdlQueue]:
    """Keep sessions in a queue: all behind the ALTER could go on with the one before it."""
    _two_rows(database, table)
    names = [f"behind_{number}" for number in range(readers)]
    with sessions(database, "reader", "alter", *names) as (reader, alter, *behind):
        reader.do("begin")
        reader.do(f"select count(*) from {table}")
        alter.send(f"alter table {table} add column w int")
        _blocked_by(database, alter.pid, reader.pid)
        for one in behind:
            one.send(f"select count(*) from {table}")
            _blocked_by(database, one.pid, alter.pid)
        yield DdlQueue(reader.pid, alter.pid, tuple(one.pid for one in behind), table)
    database.query(f"drop table {table}")
