"""The floor: what reading everything costs with nothing around it. A program of its own.

floor.py DSN CADENCE, where CADENCE is `every` (all of it each cycle of 15 seconds) or `defaults`
(cycles of 10 seconds: sessions each time, databases each third, tables and statements each sixth).

It reads every session, database, lock, table and statement by the cheapest SQL known, keeps the
rows that changed since the cycle before, and packs them: no masking, no scheduling, no buffer,
nothing sent. The packages that the agent cannot do without are imported. Each cycle is a line of
JSON.
"""

import json
import sys
import threading
import time
import zlib
from typing import Any

import apscheduler.schedulers.background  # noqa: F401  # what every agent of ours has loaded
import diskcache  # noqa: F401
import msgspec  # noqa: F401
import prometheus_client  # noqa: F401
import psycopg
import pybreaker  # noqa: F401
import requests  # noqa: F401
import typer  # noqa: F401
import yaml  # noqa: F401

FULL_EVERY = 60  # cycles: then every row is kept, changed or not
TEXTS_AT_ONCE = 500

_TABLE_COUNTERS = (
    "numscans", "tuples_returned", "tuples_fetched", "tuples_inserted", "tuples_updated",
    "tuples_deleted", "tuples_hot_updated", "live_tuples", "dead_tuples", "mod_since_analyze",
    "last_vacuum_time", "last_autovacuum_time", "last_analyze_time", "last_autoanalyze_time",
    "blocks_fetched", "blocks_hit",
)  # fmt: skip
QUERIES = {
    "activity": "select pid, datid, usesysid, application_name, client_addr, backend_start,"
    " xact_start, query_start, state_change, wait_event_type, wait_event, state, backend_xid,"
    " backend_xmin, query_id, left(query, 1024), backend_type from pg_stat_activity",
    "blocking": "select pid, pg_blocking_pids(pid) from pg_stat_activity"
    " where wait_event_type = 'Lock'",
    "locks": "select locktype, database, relation, mode, granted, count(*), min(waitstart)"
    " from pg_locks group by 1, 2, 3, 4, 5",
    "database": "select d.*, b.datfrozenxid from pg_stat_database d"
    " join pg_database b on b.oid = d.datid",
    "replication": "select * from pg_stat_replication",
    "slots": "select slot_name, active, xmin, catalog_xmin, restart_lsn, wal_status"
    " from pg_replication_slots",
    "wal": "select w.*, pg_current_wal_lsn() from pg_stat_wal w",
    "bgwriter": "select b.*, a.* from pg_stat_bgwriter b, pg_stat_archiver a",
    "tables": "select c.oid, "
    + ", ".join(f"pg_stat_get_{name}(c.oid)" for name in _TABLE_COUNTERS)
    + ", c.relpages, c.reltuples, c.relallvisible, c.relfrozenxid from pg_class c"
    " where c.relkind in ('r', 'm') and c.oid >= 16384",
    "statements": "select userid, dbid, queryid, toplevel, calls, total_exec_time, min_exec_time,"
    " max_exec_time, rows, shared_blks_hit, shared_blks_read, shared_blks_dirtied,"
    " shared_blks_written, temp_blks_read, temp_blks_written, wal_records, wal_bytes"
    " from pg_stat_statements(false)",
}
_TEXTS = "select queryid, left(query, 4096) from pg_stat_statements where queryid = any(%s)"
SELDOM = {"database": 3, "slots": 3, "wal": 3, "bgwriter": 6, "tables": 6, "statements": 6}


class Floor:
    """Reads, compares, packs, and counts."""

    def __init__(self, dsn: str) -> None:
        self._connection: psycopg.Connection[Any] = psycopg.connect(dsn, autocommit=True)
        self._before: dict[str, set[int]] = {}
        self._known: set[int] = set()
        self._turns = dict.fromkeys(QUERIES, 0)
        self.rows = self.sent = self.packed = 0

    def read(self, name: str) -> None:
        """Take one set."""
        full = self._turns[name] % FULL_EVERY == 0
        self._turns[name] += 1
        before = self._before.get(name, set())
        now: set[int] = set()
        changed: list[bytes] = []
        with self._connection.cursor().copy(f"copy ({QUERIES[name]}) to stdout") as rows:
            for chunk in rows:
                row = bytes(chunk)
                hashed = hash(row)
                now.add(hashed)
                if full or hashed not in before:
                    changed.append(row)
        self._before[name] = now
        self.rows += len(now)
        self.sent += len(changed)
        self._pack(b"".join(changed))
        if name == "statements":
            self._texts(int(row.split(b"\t", 3)[2]) for row in changed)

    def _texts(self, ids: Any) -> None:
        new = [one for one in ids if one not in self._known]
        for first in range(0, len(new), TEXTS_AT_ONCE):
            asked = new[first : first + TEXTS_AT_ONCE]
            found = self._connection.execute(_TEXTS, (asked,)).fetchall()
            self._pack(repr(found).encode())
        self._known.update(new)

    def _pack(self, content: bytes) -> None:
        self.packed += len(zlib.compress(content, 6)) if content else 0


def main(dsn: str, cadence: str) -> None:
    """Go on until the process is ended."""
    pause, seldom = (15.0, {}) if cadence == "every" else (10.0, SELDOM)
    floor = Floor(dsn)
    due = time.monotonic()
    cycle = 0
    never = threading.Event()
    while True:
        for name in QUERIES:
            if cycle % seldom.get(name, 1) == 0:
                floor.read(name)
        cycle += 1
        told = {"cycle": cycle, "rows": floor.rows, "sent": floor.sent, "bytes": floor.packed}
        print(json.dumps(told), flush=True)
        due += pause
        never.wait(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
