"""Somebody holds a table locked, or queues up to: every sampler answers at once all the same."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pg_collector.pg.role import column_statistics_script
from tests.support.conditions.session import sessions
from tests.support.lab.server import Database
from tests.support.sampling import SAMPLERS, sampling, told
from tests.support.until import until

BOUND = 1.0  # seconds
LOCKED = ("locked_table", "locked_view", "locked_sequence")


@pytest.fixture
def furnished(database: Database) -> Database:
    database.query("\n".join(column_statistics_script("pgcollector")))
    for name in ("locked_table", "free_table"):
        database.query(f"create table {name} (id serial primary key, t text)")
        database.query(
            f"insert into {name} (t) select repeat(md5(g::text), 40)"
            " from generate_series(1, 3000) as g"
        )
        database.query(f"create index on {name} (t)")
    database.query("create materialized view locked_view as select * from free_table")
    database.query("create sequence locked_sequence")
    database.query("create sequence free_sequence")
    database.query("grant select on all sequences in schema public to pgcollector")
    database.query("vacuum analyze")
    return database


@contextmanager
def held(database: Database) -> Iterator[None]:
    """Lock everything exclusively, as TRUNCATE, ALTER TABLE and REINDEX do."""
    with sessions(database, "holder") as (holder,):
        holder.do("begin")
        holder.do("lock table locked_table in access exclusive mode")
        holder.do("reindex table locked_table")
        holder.do("refresh materialized view locked_view")
        holder.do("alter sequence locked_sequence owned by none")
        holder.do("alter sequence locked_sequence increment by 2")
        yield


@contextmanager
def queued(database: Database) -> Iterator[None]:
    """Read in a transaction, and let somebody wait for the exclusive lock behind it."""
    with sessions(database, "reader", *LOCKED) as (reader, *waiting):
        reader.do("begin")
        for name in LOCKED:
            reader.do(f"select count(*) from {name}")
        waiting[0].send("alter table locked_table add column more int")
        waiting[1].send("refresh materialized view locked_view")
        waiting[2].send("alter sequence locked_sequence rename to other_sequence")
        sql = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
        until(lambda: database.value(sql) == len(LOCKED), what="all wait")
        yield


@pytest.mark.parametrize("condition", [held, queued])
def test_every_sampler_answers_within_a_second_and_loses_no_set(furnished, condition):
    with sampling(furnished.dsn()) as there:
        for name in SAMPLERS:
            there.take(name)
        with condition(furnished):
            there.clock.ahead += 7200  # every set is due
            for name in SAMPLERS:
                started = time.monotonic()
                lines = there.take(name)
                assert time.monotonic() - started < BOUND, name
                states = told(lines).values()
                assert not [one for one in states if one["state"] == "error"], (name, states)
                if name == "bloat":
                    found = {row["relname"]: row for row in lines["bloat.tables"][0].rows}
                    assert {"locked_table", "free_table"} <= set(found)
                if name == "statio":
                    rows = {r["sequencename"]: r for r in lines["statio.sequences"][0].rows}
                    assert rows["locked_sequence"]["locked"] is True
                    assert rows["locked_sequence"]["used_ratio"] is None
                    assert rows["free_sequence"]["locked"] is False
                    assert rows["free_table_id_seq"]["last_value"] == 3000
                if name == "vacuum":
                    names = {row["relname"] for row in lines["vacuum.tables"][0].rows}
                    assert {"locked_table", "free_table"} <= names
