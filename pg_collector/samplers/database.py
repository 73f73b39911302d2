"""What each database does: transactions, blocks, rows, conflicts, deadlocks, age and size.

pg_stat_database and pg_stat_database_conflicts:
https://www.postgresql.org/docs/current/monitoring-stats.html
"""

from pg_collector.errors import Reason
from pg_collector.sample import Row
from pg_collector.samplers._kinds import (
    Bytes,
    Counter,
    CounterBlocks,
    CounterBytes,
    CounterMs,
    Id,
    Multis,
    Name,
    Time,
    Xids,
)
from pg_collector.samplers._sampler import Group, LaneName, Query, Sampler, Scope


class DatabaseRow(Row, frozen=True):
    """One database; the row with `datid` 0 is of the objects that all databases share.

    Times are milliseconds, as PostgreSQL counts them. `frozen_xid` and `min_mxid` move only when
    something was frozen; the ages beside them move with every transaction.
    """

    datid: Id
    datname: Name | None
    datallowconn: bool | None
    datistemplate: bool | None
    datconnlimit: int | None
    frozen_xid: str | None
    min_mxid: str | None
    frozen_xid_age: Xids | None
    min_mxid_age: Multis | None
    numbackends: int | None
    xact_commit: Counter
    xact_rollback: Counter
    blks_read: CounterBlocks
    blks_hit: CounterBlocks
    tup_returned: Counter
    tup_fetched: Counter
    tup_inserted: Counter
    tup_updated: Counter
    tup_deleted: Counter
    conflicts: Counter | None
    temp_files: Counter
    temp_bytes: CounterBytes
    deadlocks: Counter
    checksum_failures: Counter | None
    checksum_last_failure: Time | None
    blk_read_time: CounterMs
    blk_write_time: CounterMs
    stats_reset: Time | None
    confl_tablespace: Counter | None
    confl_lock: Counter | None
    confl_snapshot: Counter | None
    confl_bufferpin: Counter | None
    confl_deadlock: Counter | None
    confl_active_logicalslot: Counter | None = None  # 16
    session_time: CounterMs | None = None  # 14, as the six below
    active_time: CounterMs | None = None
    idle_in_transaction_time: CounterMs | None = None
    sessions: Counter | None = None
    sessions_abandoned: Counter | None = None
    sessions_fatal: Counter | None = None
    sessions_killed: Counter | None = None
    parallel_workers_to_launch: Counter | None = None  # 18
    parallel_workers_launched: Counter | None = None  # 18


class SizeRow(Row, frozen=True):
    """How much a database takes on disk."""

    datid: Id
    datname: Name
    size_bytes: Bytes


class TempFilesRow(Row, frozen=True):
    """Temporary files that exist right now, per tablespace."""

    spcname: Name
    temp_files: int
    temp_bytes: Bytes


_DATABASES = Query(
    set="database",
    row=DatabaseRow,
    relations={"s": "pg_stat_database", "d": "pg_database", "c": "pg_stat_database_conflicts"},
    columns={
        **{name: f"d.{name}" for name in ("datallowconn", "datistemplate", "datconnlimit")},
        **{name: f"c.{name}" for name in DatabaseRow.__struct_fields__ if name[:6] == "confl_"},
        "frozen_xid": "d.datfrozenxid::text",
        "min_mxid": "d.datminmxid::text",
        "frozen_xid_age": "age(d.datfrozenxid)",
        "min_mxid_age": "mxid_age(d.datminmxid)",
    },
    source=(
        "FROM pg_stat_database AS s LEFT JOIN pg_database AS d ON d.oid = s.datid"
        " LEFT JOIN pg_stat_database_conflicts AS c ON c.datid = s.datid ORDER BY s.datid"
    ),
    required=("datid",),
    resets=("datid", "stats_reset"),
)

# Measuring stats every file of a database: each of them once in five turns.
_SIZES = Query(
    set="database.size",
    row=SizeRow,
    relations={"d": "pg_database"},
    columns={"datid": "d.oid", "size_bytes": "pg_database_size(d.oid)"},
    source=(
        "FROM pg_database AS d"
        " WHERE d.datallowconn AND (has_database_privilege(d.oid, 'CONNECT')"
        " OR pg_has_role('pg_read_all_stats', 'USAGE'))"
        " AND (%(part)s::int IS NULL OR d.oid::int8 %% 5 = %(part)s::int) ORDER BY d.oid"
    ),
    every=60.0,
    rotate=5,
)

_TEMP_FILES = Query(
    set="database.temp_files",
    row=TempFilesRow,
    relations={"t": "pg_tablespace"},
    columns={"temp_files": "count(f.name)", "temp_bytes": "coalesce(sum(f.size), 0)::int8"},
    source=(
        "FROM pg_tablespace AS t LEFT JOIN LATERAL pg_ls_tmpdir(t.oid) AS f ON true"
        " WHERE t.spcname <> 'pg_global' GROUP BY t.spcname ORDER BY t.spcname"
    ),
    every=60.0,
)

SAMPLER = Sampler(
    name="database",
    learns="Transactions, cache hits, rows, deadlocks, conflicts, age and size of every database",
    group=Group.CORE,
    scope=Scope.INSTANCE,
    lane=LaneName.FAST,
    every=30.0,
    queries=(_DATABASES, _SIZES, _TEMP_FILES),
    remedy={Reason.PRIVILEGE: "GRANT pg_monitor TO {role};"},
)
