"""Replication slots that nobody reads, that hold WAL back, that lost it, that decode."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.support.lab.server import Database
from tests.support.until import until


@dataclass(frozen=True)
class RetainedSlots:
    """Two inactive slots and a lower bound of the WAL bytes that each holds back."""

    physical: str
    logical: str
    at_least: int


@contextmanager
def retained_slots(database: Database) -> Iterator[RetainedSlots]:
    """Keep an inactive physical and an inactive logical (pgoutput) slot behind the server."""
    physical, logical = "idle_physical", "idle_logical"
    with _slot(database, f"pg_create_physical_replication_slot('{physical}', true)", physical):
        create = f"pg_create_logical_replication_slot('{logical}', 'pgoutput')"
        with _slot(database, create, logical):
            for _ in range(2):  # the first may be nearly full already
                _write_segment(database)
            distance = """
                select min(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn))::int8
                from pg_replication_slots where slot_name = any(%s)
            """
            yield RetainedSlots(
                physical, logical, int(database.value(distance, [[physical, logical]]))
            )


@dataclass(frozen=True)
class InvalidatedSlot:
    """A slot whose WAL the server removed (13 and later)."""

    name: str


@contextmanager
def invalidated_slot(database: Database) -> Iterator[InvalidatedSlot]:
    """Keep a physical slot with wal_status `lost`. Other slots that lag are lost as well."""
    server, name = database.server, "lost_physical"
    limit = "max_slot_wal_keep_size"
    assert server.major >= 13, "PostgreSQL 12 never invalidates a slot"
    before = server.settings.get(limit, "-1")
    create = f"pg_create_physical_replication_slot('{name}', true)"
    with _slot(database, create, name):
        server.reconfigure({limit: "20MB"})
        try:
            for _ in range(4):
                _write_segment(database)
            server.query("checkpoint")
            lost = "select 1 from pg_replication_slots where slot_name = %s and wal_status = 'lost'"
            until(lambda: server.query(lost, [name]), what="the slot is lost")
            yield InvalidatedSlot(name)
        finally:
            server.reconfigure({limit: before})


@dataclass(frozen=True)
class DecodedSlot:
    """A logical slot that decoded something, as pg_stat_replication_slots (14 and later) counts."""

    name: str
    transactions: int


@contextmanager
def decoded_slot(database: Database) -> Iterator[DecodedSlot]:
    """Decode one transaction through a test_decoding slot and wait until it is counted."""
    name = "decoded"
    create = f"pg_create_logical_replication_slot('{name}', 'test_decoding')"
    database.query("create table decoded (i int)")
    with _slot(database, create, name):
        database.query("insert into decoded values (1)")
        database.query("select count(*) from pg_logical_slot_get_changes(%s, null, null)", [name])
        if database.server.major >= 14:
            count = "select total_txns from pg_stat_replication_slots where slot_name = %s"
            seen = until(
                lambda: [row for row in database.query(count, [name]) if row[0] > 0],
                what="the decoding is counted",
            )
            yield DecodedSlot(name, seen[0][0])
        else:
            yield DecodedSlot(name, 0)
    database.query("drop table decoded")


@contextmanager
def _slot(database: Database, create: str, name: str) -> Iterator[None]:
    database.query(f"select {create}")
    try:
        yield
    finally:
        database.query("select pg_drop_replication_slot(%s)", [name])


def _write_segment(database: Database) -> None:
    """Write something and go on to the next WAL file (16 MB each)."""
    database.query("create table if not exists wal_writer (i int)")
    database.query("insert into wal_writer select generate_series(1, 1000)")
    database.query("select pg_switch_wal()")
