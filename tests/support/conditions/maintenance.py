"""Checkpoints, dead rows, and commands that stay in progress."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.support.conditions.session import Session, sessions
from tests.support.lab.server import Database, Server
from tests.support.until import until


@dataclass(frozen=True)
class Checkpoint:
    """Requested checkpoints as the server counts them."""

    before: int
    after: int


@contextmanager
def forced_checkpoint(server: Server) -> Iterator[Checkpoint]:
    """Request one checkpoint and wait until it is counted."""
    count = (
        "select num_requested from pg_stat_checkpointer"
        if server.major >= 17
        else "select checkpoints_req from pg_stat_bgwriter"
    )
    before = int(server.value(count))
    server.query("checkpoint")
    until(lambda: server.value(count) > before, what="the checkpoint is counted")
    yield Checkpoint(before, int(server.value(count)))


@dataclass(frozen=True)
class DeadRows:
    """A table with `live` rows and `dead` ones that no vacuum removed."""

    table: str
    relid: int
    live: int
    dead: int


@contextmanager
def dead_rows(database: Database, rows: int = 20_000, table: str = "dead") -> Iterator[DeadRows]:
    """Fill a table of about 5 MB with an index and delete every other row."""
    database.query(f"create table {table} (id int, pad text) with (autovacuum_enabled = off)")
    database.query(f"insert into {table} select g, repeat('x', 200) from generate_series(1, %s) g",
                   [rows])  # fmt: skip
    database.query(f"create index on {table} (id)")
    database.query(f"delete from {table} where id %% 2 = 0", [])
    count = "select relid::int8, n_dead_tup from pg_stat_user_tables where relname = %s"
    seen = until(
        lambda: [row for row in database.query(count, [table]) if row[1] == rows // 2],
        what="the dead rows are counted",
    )
    yield DeadRows(table, seen[0][0], rows - rows // 2, rows // 2)
    database.query(f"drop table {table}")


@dataclass(frozen=True)
class Vacuum:
    """A vacuum that scans the heap until the with block ends."""

    pid: int
    table: str
    relid: int


@contextmanager
def vacuum_in_progress(database: Database) -> Iterator[Vacuum]:
    """Keep a VACUUM in the phase `scanning heap`, slowed by its cost limits."""
    with (
        dead_rows(database, table="vacuumed") as rows,
        sessions(database, "vacuum") as (session,),
    ):
        session.do("set vacuum_cost_delay = '100ms'")
        session.do("set vacuum_cost_limit = 10")
        session.send(f"vacuum {rows.table}")
        seen = "select 1 from pg_stat_progress_vacuum where pid = %s and phase = 'scanning heap'"
        until(lambda: database.query(seen, [session.pid]), what="the vacuum scans")
        yield Vacuum(session.pid, rows.table, rows.relid)


_SINCE = {"create_index": 12, "cluster": 12, "analyze": 13, "basebackup": 13, "copy": 14}


@contextmanager
def commands_in_progress(database: Database) -> Iterator[Mapping[str, int]]:
    """Keep every other command at work that shows its progress; yields process ids by command.

    An expression in an index waits for a lock, COPY for rows, a base backup for its reader.
    """
    major = database.server.major
    database.query("""
        create function patient(i int) returns int immutable language plpgsql as $$ begin
            perform pg_advisory_xact_lock_shared(4711);
            return i;
        end $$
    """)
    for table in ("indexed", "clustered", "analyzed", "copied"):
        database.query(f"create table {table} as select generate_series(1, 1000) as i")
    for table in ("clustered", "analyzed"):
        database.query(f"create index on {table} (patient(i))")
    backup = "(CHECKPOINT 'fast')" if major >= 15 else "FAST"
    commands = {
        "create_index": "create index on indexed (patient(i))",
        "cluster": "vacuum full clustered",
        "analyze": "analyze analyzed",
        "basebackup": f"BASE_BACKUP {backup}",
        "copy": "copy copied from stdin",
    }
    with ExitStack() as stack:
        (holder,) = stack.enter_context(sessions(database, "holder"))
        holder.do("select pg_advisory_lock(4711)")
        pids = {}
        for command in (name for name, since in _SINCE.items() if since <= major):
            more = {"replication": "database"} if command == "basebackup" else {}
            (session,) = stack.enter_context(sessions(database, command, **more))
            session.send(commands[command])
            _shows_progress(database, command, session)
            pids[command] = session.pid
        yield pids


def _shows_progress(database: Database, command: str, session: Session) -> None:
    seen = f"select 1 from pg_stat_progress_{command} where pid = %s"
    until(lambda: database.query(seen, [session.pid]), what=f"{command} is in progress")
