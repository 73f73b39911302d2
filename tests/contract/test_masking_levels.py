"""What each masking level lets out of a real server, by way of all twelve samplers."""

import contextlib
import re

import psycopg
import pytest

from pg_collector.privacy.mask import Masker
from pg_collector.privacy.pii import Detector
from tests.support.sampling import SAMPLERS, sampling
from tests.support.until import until

# Stands in every name that we give; no word of PostgreSQL's, and nobody else's.
MARK = "qzx"
LITERAL = "lit-qjx-4711"
PASSWORD = "pass-qjx-0815"  # noqa: S105  # what must not be seen
ADDRESS = "zoe@qjx.example"
BLOCKS = "select coalesce(sum(heap_blks_hit + heap_blks_read), 0) from pg_statio_user_tables"
SECRET = bytes(range(32))


@pytest.fixture
def populated(server):
    """A database whose every name has the mark, and sessions at work in it."""
    name, role, monitor = f"{MARK}_base", f"{MARK}_role", f"{MARK}_monitor"
    server.query(f"drop database if exists {name}")
    server.query(f"drop role if exists {role}, {monitor}")
    server.query(f"create role {monitor} login in role pg_monitor")
    server.query(f"create role {role} login superuser")
    server.query(f"create database {name} owner {role}")
    dsn = server.dsn(role, name, application_name=f"{MARK} app of {ADDRESS}")
    with contextlib.ExitStack() as stack:
        first, second, waiter = (
            stack.enter_context(contextlib.closing(psycopg.connect(dsn, autocommit=True)))
            for _ in range(3)
        )
        first.execute("create extension pg_stat_statements")
        first.execute(f"create schema {MARK}_schema")
        first.execute(f'create table {MARK}_schema."{MARK} Table" (id serial primary key, a text)')
        first.execute(f'create index {MARK}_index on {MARK}_schema."{MARK} Table" (a)')
        first.execute(
            f"insert into {MARK}_schema.\"{MARK} Table\" (a) select '{LITERAL}' || n"
            " from generate_series(1, 3000) n"
        )
        first.execute("analyze")
        first.execute(f"select pg_create_physical_replication_slot('{MARK}_slot', true)")
        first.execute("select pg_stat_statements_reset()")
        first.execute(
            f"select a as {MARK}_column from {MARK}_schema.\"{MARK} Table\" where a = '{LITERAL}'"
        )
        until(
            lambda: first.execute(BLOCKS).fetchall() != [(0,)], what="its statistics have arrived"
        )
        second.execute("begin")
        second.execute(f"update {MARK}_schema.\"{MARK} Table\" set a = '{LITERAL}' where id = 1")
        waiter.pgconn.send_query(
            f"update {MARK}_schema.\"{MARK} Table\" set a = '{LITERAL}' where id = 1".encode()
        )
        waits = "select count(*) from pg_locks where not granted"
        until(lambda: server.query(waits)[0][0], what="somebody waits")
        with contextlib.suppress(psycopg.Error):  # stands raw in pg_stat_activity
            first.execute(f"create role {MARK}_other password '{PASSWORD}' sysid oops")
        yield server.dsn(monitor, name)
        second.execute("rollback")
        first.execute(f"select pg_drop_replication_slot('{MARK}_slot')")
    server.query(f"drop database {name} with (force)" if server.major >= 13 else
                 f"drop database {name}")  # fmt: skip
    server.query(f"drop role {role}, {monitor}")


def taken(dsn: str, masker: Masker) -> dict[str, bytes]:
    """Return the lines of two turns of every sampler, by set."""
    found: dict[str, bytes] = {}
    with sampling(dsn, masker=masker) as there:
        for name in (*SAMPLERS, *SAMPLERS):
            for set_name, lines in there.take(name).items():
                found[set_name] = found.get(set_name, b"") + b"\n".join(one.raw for one in lines)
    return found


def showing(found: dict[str, bytes], text: str) -> set[str]:
    return {name for name, raw in found.items() if re.search(text.encode(), raw, re.IGNORECASE)}


def test_what_the_levels_show(populated):
    detector = Detector("full")
    basic = taken(populated, Masker(detector=detector))
    named = showing(basic, MARK)
    # The names are there to be seen, and in these sets at least.
    assert named >= {
        "activity.sessions", "activity.counts", "locks.counts", "locks.blocking", "query_text",
        "database", "database.size", "vacuum.tables", "statio.tables", "statio.indexes", "slots",
        "statio.sequences", "sampler_state", "bloat.tables", "bloat.indexes", "vacuum.horizon",
    }  # fmt: skip
    full = taken(populated, Masker("full", secret=SECRET, detector=detector))
    assert showing(full, MARK) == set()
    assert named <= full.keys()
    custom = taken(populated, Masker("custom", patterns=[MARK], detector=detector))
    assert showing(custom, MARK) == set()
    none = taken(populated, Masker("none", detector=detector))
    assert {"activity.sessions", "locks.blocking"} <= showing(none, LITERAL)
    for found in (basic, full, custom):
        assert showing(found, "qjx") == set()
    assert showing(none, PASSWORD) == set()
    assert showing(none, ADDRESS) == set()


def test_a_name_has_the_same_token_in_every_set(populated):
    masker = Masker("full", secret=SECRET)
    found = taken(populated, masker)
    table, base = masker.name(f"{MARK} Table"), masker.name(f"{MARK}_base")
    assert showing(found, table) >= {
        "vacuum.tables", "statio.tables", "bloat.tables", "locks.blocking", "activity.sessions",
        "query_text",
    }  # fmt: skip
    assert showing(found, f'"database":"{base}"') >= {"vacuum.tables", "statio.tables"}
    assert showing(found, f'"{base}"') >= {"database", "activity.sessions"}
