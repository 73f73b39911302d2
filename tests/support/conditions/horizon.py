"""The five who can hold back vacuum's horizon, one at a time."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.conditions.session import sessions
from tests.support.lab.replication import Pair
from tests.support.lab.server import Database, Server
from tests.support.until import until


@contextmanager
def held_by_session(database: Database, name: str = "holder") -> Iterator[int]:
    """Keep a snapshot open in a session of this name; yields its pid."""
    with sessions(database, name) as (session,):
        session.do("begin isolation level repeatable read")
        session.do("select 1")
        yield session.pid


@contextmanager
def held_by_prepared_transaction(database: Database, gid: str = "forgotten") -> Iterator[str]:
    """Leave a transaction prepared; yields its gid. The server must allow some."""
    database.query("create table if not exists prepared (i int)")
    with database.connect() as session:
        session.execute("begin")
        session.execute("insert into prepared values (1)")
        session.execute(f"prepare transaction '{gid}'")
    try:
        yield gid
    finally:
        database.query(f"rollback prepared '{gid}'")


@contextmanager
def held_by_logical_slot(database: Database, name: str = "decoder") -> Iterator[str]:
    """Keep a logical slot, which holds back the catalogs; yields its name."""
    create = "select pg_create_logical_replication_slot(%s, 'test_decoding')"
    database.query(create, [name])
    try:
        yield name
    finally:
        database.query("select pg_drop_replication_slot(%s)", [name])


@contextmanager
def held_by_standby(pair: Pair, *, slot: bool) -> Iterator[int]:
    """Let a query on the standby hold the primary back through feedback; yields its pid there.

    With a slot the slot holds it, without one the walsender does.
    """
    standby = pair.standby
    name = standby.settings["primary_slot_name"]
    standby.restart({"hot_standby_feedback": "on", "primary_slot_name": name if slot else ""})
    try:
        pair.streaming()
        with held_by_session(standby.database()) as pid:
            view, column = _SHOWN[slot]
            held = f"select 1 from {view} where {column} is not null"
            until(lambda: pair.primary.query(held), 20.0, "the standby holds the horizon")
            yield pid
    finally:
        standby.restart({"hot_standby_feedback": "off", "primary_slot_name": name})
        pair.streaming()
        free = "select 1 from pg_replication_slots where xmin is not null"
        until(lambda: not pair.primary.query(free), 20.0, "the standby let go")


_SHOWN = {True: ("pg_replication_slots", "xmin"), False: ("pg_stat_replication", "backend_xmin")}


def burn_xids(server: Server, count: int, dbname: str = "postgres") -> None:
    """Use that many transaction ids."""
    server.query("create table if not exists burnt (i int)", dbname=dbname)
    with server.connect(dbname=dbname) as session:
        for _ in range(count):
            session.execute("insert into burnt values (1)")
