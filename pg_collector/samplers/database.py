"""What each database does: transactions, blocks, rows, conflicts, deadlocks, age and size.

pg_stat_database and pg_stat_database_conflicts:
https://www.postgresql.org/docs/current/monitoring-stats.html
"""

from pg_collector.errors import Reason
from pg_collector.sample import Row
from pg_collector.samplers._sampler import Group, LaneName, Query, Sampler, Scope


class DatabaseRow(Row, frozen=True):
    """One database; the row with `datid` 0 is of the objects that all databases share.

    Times are milliseconds, as PostgreSQL counts them. `frozen_xid` and `min_mxid` move only when
    something was frozen; the ages beside them move with every transaction.
    """

    datid: int
    datname: str | None
    datallowconn: bool | None
    datistemplate: bool | None
    datconnlimit: int | None
    frozen_xid: str | None
    min_mxid: str | None
    frozen_xid_age: int | None
    min_mxid_age: int | None
    numbackends: int | None
    xact_commit: int
    xact_rollback: int
    blks_read: int
    blks_hit: int
    tup_returned: int
    tup_fetched: int
    tup_inserted: int
    tup_updated: int
    tup_deleted: int
    conflicts: int | None
    temp_files: int
    temp_bytes: int
    deadlocks: int
    checksum_failures: int | None
    checksum_last_failure: str | None
    blk_read_time: float
    blk_write_time: float
    stats_reset: str | None
    confl_tablespace: int | None
    confl_lock: int | None
    confl_snapshot: int | None
    confl_bufferpin: int | None
    confl_deadlock: int | None
    confl_active_logicalslot: int | None = None  # 16
    session_time: float | None = None  # 14, as the six below
    active_time: float | None = None
    idle_in_transaction_time: float | None = None
    sessions: int | None = None
    sessions_abandoned: int | None = None
    sessions_fatal: int | None = None
    sessions_killed: int | None = None
    parallel_workers_to_launch: int | None = None  # 18
    parallel_workers_launched: int | None = None  # 18


class SizeRow(Row, frozen=True):
    """How much a database takes on disk."""

    datid: int
    datname: str
    size_bytes: int


class TempFilesRow(Row, frozen=True):
    """Temporary files that exist right now, per tablespace."""

    spcname: str
    temp_files: int
    temp_bytes: int


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
