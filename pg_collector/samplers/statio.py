"""What is read and from where: tables, indexes, kinds of processes; and what runs out or idles.

pg_statio_*, pg_stat_io and pg_stat_slru:
https://www.postgresql.org/docs/current/monitoring-stats.html
pg_sequence: https://www.postgresql.org/docs/current/catalog-pg-sequence.html
"""

from pg_collector.errors import Reason
from pg_collector.sample import Keep, Row
from pg_collector.samplers._kinds import (
    Blocks,
    Bytes,
    Counter,
    CounterBlocks,
    CounterBytes,
    CounterMs,
    Id,
    Name,
    NameInSql,
    Ratio,
    Time,
)
from pg_collector.samplers._sampler import (
    DATABASE_RESET,
    PASS_EVERY,
    Group,
    LaneName,
    Query,
    Ranking,
    Sampler,
    Scope,
)


class DatabaseRow(Row, frozen=True):
    """How much there is in this database, and since when its tables and indexes count."""

    tables: int
    indexes: int
    sequences: int
    track_io_timing: bool
    stats_reset: Time | None


class TableRow(Row, frozen=True):
    """A table whose heap or TOAST table was read since the turn before; `read` is not from cache.

    The sums over its indexes are right on every version (the view of 12 multiplies them).
    """

    relid: Id
    schemaname: Name
    relname: Name
    heap_blks_read: CounterBlocks
    heap_blks_hit: CounterBlocks
    idx_blks_read: CounterBlocks | None
    idx_blks_hit: CounterBlocks | None
    toast_blks_read: CounterBlocks | None
    toast_blks_hit: CounterBlocks | None
    tidx_blks_read: CounterBlocks | None
    tidx_blks_hit: CounterBlocks | None


class IndexRow(Row, frozen=True):
    """An index that was read since the turn before; its size is that of the last vacuum."""

    indexrelid: Id
    relid: Id
    schemaname: Name
    relname: Name
    indexrelname: Name
    idx_scan: Counter
    idx_tup_read: Counter
    idx_tup_fetch: Counter
    idx_blks_read: CounterBlocks
    idx_blks_hit: CounterBlocks
    relpages: Blocks
    size_bytes: Bytes
    indisunique: bool
    indisprimary: bool
    indisvalid: bool
    last_idx_scan: Time | None = None  # 16


class IdleIndexRow(Row, frozen=True):
    """An index of 1 MB or more that no scan used since counting began, or one that is not valid.

    Unique ones are left out of the unused: they guard something. `being_built` tells an index that
    is invalid only for now.
    """

    indexrelid: Id
    relid: Id
    schemaname: Name
    relname: Name
    indexrelname: Name
    why: str
    being_built: bool
    idx_scan: Counter
    relpages: Blocks
    size_bytes: Bytes


class IoRow(Row, frozen=True):
    """I/O by kind of process, object and context (16 and newer); a combination at rest is absent.

    Null where a combination cannot have an operation. Bytes before 18 are operations times block
    size. Times are 0 where track_io_timing (for WAL: track_wal_io_timing) is off.
    """

    backend_type: str
    object: str
    context: str
    reads: Counter | None
    read_bytes: CounterBytes | None
    read_time: CounterMs | None
    writes: Counter | None
    write_bytes: CounterBytes | None
    write_time: CounterMs | None
    writebacks: Counter | None
    writeback_time: CounterMs | None
    extends: Counter | None
    extend_bytes: CounterBytes | None
    extend_time: CounterMs | None
    hits: Counter | None
    evictions: Counter | None
    reuses: Counter | None
    fsyncs: Counter | None
    fsync_time: CounterMs | None
    stats_reset: Time | None


class SlruRow(Row, frozen=True):
    """A small cache inside the server (13 and newer), by the name that it has since 17."""

    name: str
    blks_zeroed: CounterBlocks
    blks_hit: CounterBlocks
    blks_read: CounterBlocks
    blks_written: CounterBlocks
    blks_exists: CounterBlocks
    flushes: Counter
    truncates: Counter
    stats_reset: Time | None


class SequenceRow(Row, frozen=True):
    """A sequence, those nearest to their end first.

    `last_value` is null where it was never used (`used_ratio` is 0 then), where the role may not
    see it (`hidden`), and where somebody has the sequence locked just now (`locked`): in the last
    two cases `used_ratio` is null as well.
    """

    relid: Id
    schemaname: Name
    sequencename: Name
    data_type: str
    last_value: int | None
    min_value: int
    max_value: int
    increment_by: int
    cycle: bool
    used_ratio: Ratio | None
    values_left: int | None
    owned_by: NameInSql | None
    hidden: bool
    locked: bool


_NOT_SYSTEM = (
    "{0}.relpersistence <> 't'"
    " AND {0}.relnamespace <> ALL (ARRAY['pg_catalog', 'information_schema', 'pg_toast']"
    "::regnamespace[])"
)


def _fetched(oid: str) -> str:
    return f"pg_stat_get_blocks_fetched({oid})"


def _hit(oid: str) -> str:
    return f"pg_stat_get_blocks_hit({oid})"


def _read(oid: str) -> str:
    return f"{_fetched(oid)} - {_hit(oid)}"


_DATABASE = Query(
    set="statio.database",
    row=DatabaseRow,
    relations={"c": "pg_class"},
    columns={
        "tables": "count(*) FILTER (WHERE c.relkind IN ('r', 'm'))",
        "indexes": "count(*) FILTER (WHERE c.relkind = 'i')",
        "sequences": "count(*) FILTER (WHERE c.relkind = 'S')",
        "track_io_timing": "current_setting('track_io_timing')::bool",
        "stats_reset": DATABASE_RESET,
    },
    source=f"FROM pg_class AS c WHERE {_NOT_SYSTEM.format('c')}",
    every=PASS_EVERY,
    epoch="stats_reset",
    epoch_for=("statio.database",),
)


def _of_indexes(table: str, name: str) -> str:
    return (
        f" LEFT JOIN LATERAL (SELECT sum({_read('x.indexrelid')})::int8 AS blks_read,"
        f" sum({_hit('x.indexrelid')})::int8 AS blks_hit"
        f" FROM pg_index AS x WHERE x.indrelid = {table}) AS {name} ON true"
    )


_TABLES = Query(
    set="statio.tables",
    row=TableRow,
    relations={"c": "pg_class", "n": "pg_namespace", "x": "pg_index"},
    columns={
        "relid": "c.oid",
        "schemaname": "n.nspname",
        "heap_blks_read": _read("c.oid"),
        "heap_blks_hit": _hit("c.oid"),
        "idx_blks_read": "idx.blks_read",
        "idx_blks_hit": "idx.blks_hit",
        "toast_blks_read": f"CASE WHEN c.reltoastrelid <> 0 THEN {_read('c.reltoastrelid')} END",
        "toast_blks_hit": f"CASE WHEN c.reltoastrelid <> 0 THEN {_hit('c.reltoastrelid')} END",
        "tidx_blks_read": "tidx.blks_read",
        "tidx_blks_hit": "tidx.blks_hit",
    },
    source=(
        "FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
        f"{_of_indexes('c.oid', 'idx')}{_of_indexes('c.reltoastrelid', 'tidx')}"
        " WHERE c.oid = ANY ((%(ids)s::int8[])::oid[]) ORDER BY c.oid"
    ),
    ranking=Ranking(
        key="c.oid",
        measure=f"{_fetched('c.oid')} + CASE WHEN c.reltoastrelid <> 0"
        f" THEN {_fetched('c.reltoastrelid')} ELSE 0 END",
        source=f"FROM pg_class AS c WHERE c.relkind IN ('r', 'm') AND {_NOT_SYSTEM.format('c')}"
        f" AND ({_fetched('c.oid')} <> 0 OR c.reltoastrelid <> 0"
        f" AND {_fetched('c.reltoastrelid')} <> 0)",
        top=300,
    ),
    began=DATABASE_RESET,
)

_BLOCK = "current_setting('block_size')::int8"
_INDEX = {
    "relid": "x.indrelid",
    "schemaname": "n.nspname",
    "relname": "t.relname",
    "indexrelname": "i.relname",
    "idx_scan": "pg_stat_get_numscans(x.indexrelid)",
    "relpages": "i.relpages",
    "size_bytes": f"i.relpages * {_BLOCK}",
}
_FROM_INDEX = (
    "FROM pg_index AS x JOIN pg_class AS i ON i.oid = x.indexrelid"
    " JOIN pg_class AS t ON t.oid = x.indrelid JOIN pg_namespace AS n ON n.oid = t.relnamespace"
)

_INDEXES = Query(
    set="statio.indexes",
    row=IndexRow,
    relations={
        "x": "pg_index",
        "i": "pg_class",
        "t": "pg_class",
        "n": "pg_namespace",
        "v": "pg_stat_all_indexes",
    },
    columns={
        **_INDEX,
        "idx_tup_read": "pg_stat_get_tuples_returned(x.indexrelid)",
        "idx_tup_fetch": "pg_stat_get_tuples_fetched(x.indexrelid)",
        "idx_blks_read": _read("x.indexrelid"),
        "idx_blks_hit": _hit("x.indexrelid"),
        # The function came with the view's column.
        "last_idx_scan": "pg_stat_get_lastscan(x.indexrelid) /* v.last_idx_scan */",
    },
    source=(
        f"{_FROM_INDEX} WHERE x.indexrelid = ANY ((%(ids)s::int8[])::oid[]) ORDER BY x.indexrelid"
    ),
    ranking=Ranking(
        key="i.oid",
        measure=_fetched("i.oid"),
        source=f"FROM pg_class AS i WHERE i.relkind = 'i' AND {_NOT_SYSTEM.format('i')}"
        f" AND {_fetched('i.oid')} <> 0",
        top=300,
    ),
    began=DATABASE_RESET,
)

_IDLE_INDEXES = Query(
    set="statio.idle_indexes",
    row=IdleIndexRow,
    relations={
        "x": "pg_index",
        "i": "pg_class",
        "t": "pg_class",
        "n": "pg_namespace",
        "p": "pg_stat_progress_create_index",
    },
    columns={
        **_INDEX,
        "why": "CASE WHEN x.indisvalid THEN 'unused' ELSE 'invalid' END",
        "being_built": "NOT x.indisvalid AND EXISTS (SELECT FROM pg_stat_progress_create_index"
        " AS p WHERE p.relid = x.indrelid AND p.datname = current_database())",
    },
    source=(
        f"{_FROM_INDEX} WHERE {_NOT_SYSTEM.format('i')} AND i.relkind = 'i'"
        f" AND (NOT x.indisvalid OR (NOT x.indisunique AND NOT x.indisexclusion"
        f" AND i.relpages * {_BLOCK} >= 1048576"
        " AND pg_stat_get_numscans(x.indexrelid) = 0))"
        " ORDER BY x.indisvalid, i.relpages DESC, x.indexrelid"
    ),
    cap=200,
    every=3600.0,
    began=DATABASE_RESET,
)

_IO = Query(
    set="statio.io",
    row=IoRow,
    relations={"i": "pg_stat_io"},
    columns={
        name: (f"i.{name}::int8", f"(i.{operations} * i.op_bytes)::int8")
        for name, operations in (
            ("read_bytes", "reads"),
            ("write_bytes", "writes"),
            ("extend_bytes", "extends"),
        )
    },
    source=(
        "FROM pg_stat_io AS i WHERE coalesce(i.reads, 0) + coalesce(i.writes, 0)"
        " + coalesce(i.extends, 0) + coalesce(i.hits, 0) + coalesce(i.fsyncs, 0)"
        " + coalesce(i.writebacks, 0) > 0"
    ),
    key=("backend_type", "object", "context"),
    epoch="stats_reset",
    epoch_for=("statio.io",),
    scope=Scope.INSTANCE,
)

_OLD_NAMES = {
    "CommitTs": "commit_timestamp",
    "MultiXactMember": "multixact_member",
    "MultiXactOffset": "multixact_offset",
    "Notify": "notify",
    "Serial": "serializable",
    "Subtrans": "subtransaction",
    "Xact": "transaction",
}

_SLRU = Query(
    set="statio.slru",
    row=SlruRow,
    relations={"s": "pg_stat_slru"},
    columns={
        "name": "CASE s.name "
        + " ".join(f"WHEN '{old}' THEN '{new}'" for old, new in _OLD_NAMES.items())
        + " ELSE s.name END"
    },
    source="FROM pg_stat_slru AS s ORDER BY s.name",
    resets=("name", "stats_reset"),
    scope=Scope.INSTANCE,
)

# Reading its last value opens a sequence, which waits behind these locks, held or only asked for.
_LOCKED = (
    "SELECT l.relation FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database"
    " WHERE l.locktype = 'relation' AND d.datname = current_database() AND l.mode IN"
    " ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')"
)
_SPAN = "(s.seqmax::numeric - s.seqmin)"
_DONE = (
    "(CASE WHEN s.seqincrement > 0 THEN v.last_value::numeric - s.seqmin"
    " ELSE s.seqmax - v.last_value::numeric END)"
)

_SEQUENCES = Query(
    set="statio.sequences",
    row=SequenceRow,
    relations={
        "s": "pg_sequence",
        "c": "pg_class",
        "n": "pg_namespace",
        "l": "pg_locks",
        "o": "pg_depend",
        "a": "pg_attribute",
    },
    columns={
        "relid": "c.oid",
        "schemaname": "n.nspname",
        "sequencename": "c.relname",
        "data_type": "format_type(s.seqtypid, NULL)",
        "last_value": "v.last_value",
        "min_value": "s.seqmin",
        "max_value": "s.seqmax",
        "increment_by": "s.seqincrement",
        "cycle": "s.seqcycle",
        "used_ratio": f"CASE WHEN f.hidden OR f.locked THEN NULL WHEN v.last_value IS NULL THEN 0"
        f" ELSE coalesce({_DONE} / nullif({_SPAN}, 0), 1) END::float8",
        "values_left": f"CASE WHEN NOT (f.hidden OR f.locked) THEN"
        # One that was never used gives its first value as well.
        f" least(trunc(({_SPAN} - coalesce({_DONE}, -abs(s.seqincrement::numeric)))"
        " / abs(s.seqincrement::numeric)),"
        " 9223372036854775807)::int8 END",
        "owned_by": "(SELECT o.refobjid::regclass::text || '.' || a.attname FROM pg_depend AS o"
        " JOIN pg_attribute AS a ON a.attrelid = o.refobjid AND a.attnum = o.refobjsubid"
        " WHERE o.classid = 'pg_class'::regclass AND o.objid = c.oid"
        " AND o.refclassid = 'pg_class'::regclass AND o.deptype IN ('a', 'i') LIMIT 1)",
        "hidden": "f.hidden",
        "locked": "f.locked",
    },
    # Unlogged ones cannot be read on a standby, temporary ones by nobody but their session.
    source=(
        "FROM pg_sequence AS s JOIN pg_class AS c ON c.oid = s.seqrelid"
        " JOIN pg_namespace AS n ON n.oid = c.relnamespace"
        f" CROSS JOIN LATERAL (SELECT c.oid IN ({_LOCKED}) AS locked,"
        " NOT has_sequence_privilege(c.oid, 'USAGE, SELECT') AS hidden OFFSET 0) AS f"
        " CROSS JOIN LATERAL (SELECT CASE WHEN NOT f.hidden AND NOT f.locked"
        " THEN pg_sequence_last_value(c.oid) END AS last_value OFFSET 0) AS v"
        " WHERE c.relpersistence = 'p' OR (c.relpersistence = 'u' AND NOT pg_is_in_recovery())"
        " ORDER BY used_ratio DESC NULLS LAST, s.seqrelid"
    ),
    blind="hidden",
    cap=500,
    every=3600.0,
    keep=Keep.EVENT,
)

SAMPLER = Sampler(
    name="statio",
    learns="Tables and indexes by blocks read, I/O by kind of process, sequences near their end",
    group=Group.CORE,
    scope=Scope.DATABASE,
    lane=LaneName.SLOW,
    every=60.0,
    queries=(_DATABASE, _TABLES, _INDEXES, _IDLE_INDEXES, _IO, _SLRU, _SEQUENCES),
    remedy={
        Reason.PRIVILEGE: "GRANT pg_monitor TO {role}; and for the values of sequences, in each "
        "schema: GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO {role};"
    },
)
