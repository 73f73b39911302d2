"""Databases to measure on: small, medium and large, made once and copied for each run.

Tables in ten schemas, each with a primary key and an index; a twentieth of them have rows, dead
ones among them. Statements are distinct after normalisation, a few hundred to a few thousand
characters long. `load` keeps sessions open while something is measured.
"""

import contextlib
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from tests.support.lab import home
from tests.support.lab.postmaster import Postmaster, Stop
from tests.support.lab.server import Server, binaries, copy, made_once
from tests.support.scratch import new_directory
from tests.support.until import until


class Size(NamedTuple):
    """How much there is of everything."""

    name: str
    tables: int
    statements: int
    sessions: int
    blocked: int  # of the sessions


SIZES: Final = {
    size.name: size
    for size in (
        Size("small", 50, 200, 10, 1),
        Size("medium", 1_000, 5_000, 100, 4),
        Size("large", 10_000, 10_000, 500, 50),
        # Small ones of which one thing is many.
        Size("tables", 10_000, 200, 10, 1),
        Size("statements", 50, 10_000, 10, 1),
        Size("sessions", 50, 200, 500, 50),
    )
}
SETTINGS: Final = {
    "max_connections": "700",
    "max_locks_per_transaction": "512",
    "shared_buffers": "256MB",
    "track_wal_io_timing": "on",
    "max_wal_size": "4GB",
    "log_connections": "on",
    "deadlock_timeout": "10s",
}
DATABASE: Final = "app"
OWNER: Final = "app"
SCHEMAS: Final = 10
_BATCH: Final = 500  # tables made in one transaction
_LEAST_FILLED: Final = 20
_FORMAT: Final = 3  # of what is made here: another number makes it anew


def server(size: Size, major: int) -> Server:
    """Return a server, not started, with a copy of the database of a size."""
    found = Server(major, settings=SETTINGS)
    shutil.rmtree(found.data)
    copy(_template(size, major), found.data)
    return found


@contextlib.contextmanager
def load(server: Server, size: Size) -> Iterator[None]:
    """Keep the sessions of a size open, and twenty short statements a second under way."""
    program = Path(__file__).with_name("sessions.py")
    command = [
        sys.executable, str(program), server.dsn(OWNER, DATABASE), str(size.sessions),
        str(size.blocked), str(min(size.tables, _filled(size))),
    ]  # fmt: skip
    with subprocess.Popen(command) as process:
        try:
            count = "select count(*) from pg_stat_activity where usename = %s"
            until(
                lambda: server.query(count, [OWNER])[0][0] >= size.sessions,
                deadline=60,
                what="the sessions are open",
            )
            yield
        finally:
            process.terminate()


def _filled(size: Size) -> int:
    return max(_LEAST_FILLED, size.tables // 20)


def _template(size: Size, major: int) -> Path:
    """Return a stopped data directory, made the first time."""
    made = hashlib.sha256(repr((size, sorted(SETTINGS.items()), _FORMAT)).encode()).hexdigest()[:8]
    target = home.own() / "bench" / f"pg{major}-{size.name}-{made}"
    return made_once(target, size.name, partial(_make, size, major))


def _make(size: Size, major: int, target: Path) -> None:
    binaries(major)
    with Server(major, settings=SETTINGS) as maker:
        maker.query(f"create role {OWNER} login")
        maker.query(f"create database {DATABASE} owner {OWNER}")
        _fill(maker, size)
        maker.stop(Stop.FAST)
        new = Path(new_directory("bench")) / "data"
        copy(maker.data, new)
        for file in ("postmaster.pid", "postmaster.opts"):
            (new / file).unlink(missing_ok=True)
        shutil.move(new, target)


def _fill(server: Postmaster, size: Size) -> None:
    with server.connect(DATABASE) as session:
        session.execute("create extension pg_stat_statements")
        session.execute("set client_min_messages = warning")
        session.execute(f"set role {OWNER}")
        for number in range(SCHEMAS):
            session.execute(f"create schema s{number}")
        for first in range(0, size.tables, _BATCH):
            last = min(first + _BATCH, size.tables) - 1
            session.execute(_TABLES.format(first=first, last=last))
        session.execute(_ROWS.format(last=min(size.tables, _filled(size)) - 1))
        session.execute(_CONTENDED)
        session.execute("reset role")
        session.execute("analyze")
        session.execute("select pg_stat_statements_reset()")
        session.execute(f"set role {OWNER}")
        with session.pipeline():
            for number in range(size.statements):
                session.execute(_statement(number), prepare=False)
    server.query("select pg_create_physical_replication_slot('standby_slot', true)")


_TABLES: Final = """
do $$ begin for i in {first}..{last} loop
  execute format('create table s%s.orders_%s(id int primary key, customer text, amount numeric,'
                 ' note text)', i % 10, i);
  execute format('create index on s%s.orders_%s(customer)', i % 10, i);
end loop; end $$"""
_ROWS: Final = """
do $$ begin for i in 0..{last} loop
  execute format('insert into s%s.orders_%s select g, ''cust''||g %% 97, g * 1.5, repeat(''x'', 40)'
                 ' from generate_series(1, 300) g', i % 10, i);
  execute format('update s%s.orders_%s set amount = amount + 1 where id %% 3 = 0', i % 10, i);
  execute format('delete from s%s.orders_%s where id %% 10 = 1', i % 10, i);
end loop; end $$"""
_CONTENDED: Final = """
create table public.contended(id int primary key, v text);
insert into public.contended select g, md5(g::text) from generate_series(1, 100000) g;
update public.contended set v = v || 'x' where id % 4 = 0;
create index on public.contended(v)"""
_COLUMNS: Final = ("id", "customer", "amount", "note")


def _statement(number: int) -> str:
    """Return a statement like no other: its columns spell the number, its length varies."""
    width = 7 if number % 4 else (14 if number % 40 else 60)
    chosen = ", ".join(
        f"coalesce(t.{_COLUMNS[(number >> (2 * at)) % 4]}::text, 'c') AS attribute_{at}"
        for at in range(width)
    )
    return (
        f"select {chosen}, count(*) over (partition by t.customer) from s0.orders_0 t"
        f" where t.customer = 'cust{number}' and t.id between {number} and {number + 50} limit 10"
    )
