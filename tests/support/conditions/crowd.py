"""Many tables, many sessions, a session in another encoding."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.support.conditions.session import sessions
from tests.support.lab.server import Database, Server
from tests.support.until import until


@dataclass(frozen=True)
class ManyTables:
    """Tables t1 ... t<count> in a schema, each with a primary key and another index."""

    schema: str
    count: int


@contextmanager
def many_tables(database: Database, count: int = 10_000) -> Iterator[ManyTables]:
    """Make empty tables: about 2 ms and 60 kB each. Drop the database to be rid of them."""
    database.query("create schema crowd")
    # Commits between: one transaction may not hold that many locks.
    database.query("""
        create procedure crowd.fill(tables int) language plpgsql as $$ begin
            for i in 1..tables loop
                execute format('create table crowd.t%s (id int primary key, a int, b text)', i);
                execute format('create index on crowd.t%s (a)', i);
                if i % 500 = 0 then commit; end if;
            end loop;
        end $$
    """)
    database.query("call crowd.fill(%s)", [count])
    yield ManyTables("crowd", count)


@dataclass(frozen=True)
class ManySessions:
    """Idle sessions, named crowd_<number>, by process id."""

    pids: tuple[int, ...]


@contextmanager
def many_sessions(server: Server, count: int = 200) -> Iterator[ManySessions]:
    """Restart with room for them and connect: about 5 ms and 1 MB each; then restart as before."""
    name = "max_connections"
    before = server.settings[name]
    server.restart({name: str(count + 20)})
    try:
        names = (f"crowd_{number}" for number in range(count))
        with sessions(server.database(), *names) as crowd:
            yield ManySessions(tuple(one.pid for one in crowd))
    finally:
        server.restart({name: before})


@dataclass(frozen=True)
class Latin1Session:
    """A session whose query text is not UTF-8: `text` is what it runs, as bytes."""

    database: Database
    pid: int
    text: bytes


@contextmanager
def latin1_session(server: Server, name: str = "latin1") -> Iterator[Latin1Session]:
    """Keep a LATIN1 database with a session that runs a query with an é in it."""
    server.query(
        f"create database {name} template template0 encoding 'LATIN1' lc_collate 'C' lc_ctype 'C'"
    )
    database = server.database(name)
    text = "select 'café', pg_sleep(600)".encode("latin-1")
    try:
        database.query("create extension pg_stat_statements")
        with sessions(database, "latin1", client_encoding="LATIN1") as (session,):
            session.send(text)
            seen = "select 1 from pg_stat_activity where pid = %s and wait_event = 'PgSleep'"
            until(lambda: database.query(seen, [session.pid]), what="the session sleeps")
            yield Latin1Session(database, session.pid, text)
    finally:
        database.drop()
