"""What vacuum does, who waits for it and why, who holds it back, and how old everything is.

Progress and table statistics: https://www.postgresql.org/docs/current/progress-reporting.html and
https://www.postgresql.org/docs/current/monitoring-stats.html
Thresholds, wraparound: https://www.postgresql.org/docs/current/routine-vacuuming.html
"""

from pg_collector.errors import Reason
from pg_collector.sample import Keep, Row
from pg_collector.samplers import _settings
from pg_collector.samplers._kinds import (
    Blocks,
    Bytes,
    Counter,
    CounterMs,
    Id,
    Ms,
    Multis,
    Name,
    NameInSql,
    Seconds,
    Time,
    Xids,
)
from pg_collector.samplers._sampler import (
    DATABASE_RESET,
    PASS_EVERY,
    Choice,
    Group,
    LaneName,
    Query,
    Sampler,
    Scope,
)


class QueueRow(Row, frozen=True):
    """How many tables of this database need which kind of vacuum, by autovacuum's own rules.

    Tables count since `stats_reset`, or since the crash or restart in the line's epoch: a table
    without a last vacuum was not vacuumed since then, which is not "never". A standby does not know
    of dead rows: there what needs a vacuum is null.
    """

    tables: int
    needs_vacuum: int | None
    needs_insert_vacuum: int | None
    needs_analyze: int | None
    needs_wraparound_vacuum: int
    autovacuum_disabled: int
    n_live_tup: int | None
    n_dead_tup: int | None
    oldest_xid_age: Xids | None
    oldest_mxid_age: Multis | None
    stats_reset: Time | None


class TableRow(Row, frozen=True):
    """One of the worst tables: by dead rows (50), by age (25 and 25), and by size (100).

    `relfrozenxid` stands here instead of its age, which moves with every transaction: rows that did
    not change stay the same. `reltuples` is null where the table was never analyzed. Thresholds are
    autovacuum's, per-table options counted in; null where that kind is switched off or unknown to
    the version. `why` says what autovacuum would come for: `wraparound`, `dead_tuples`, `inserts`,
    `analyze`; `disabled` where it would, but the table's options forbid it.

    `dead_not_removable`: all dead rows, where a transaction of this database is open since before
    the table's last vacuum, which therefore left them; 0 where nothing holds vacuum back; null
    where that cannot be told, as with standbys and slots, which do not say since when they hold.
    """

    relid: Id
    schemaname: Name
    relname: Name
    relkind: str
    toast_of: NameInSql | None
    relpages: Blocks
    size_bytes: Bytes
    reltuples: float | None
    relallvisible: Blocks
    relfrozenxid: str
    relminmxid: str
    n_live_tup: int
    n_dead_tup: int
    dead_not_removable: int | None
    n_mod_since_analyze: int
    n_tup_ins: Counter
    n_tup_upd: Counter
    n_tup_del: Counter
    n_tup_hot_upd: Counter
    seq_scan: Counter
    seq_tup_read: Counter
    last_vacuum: Time | None
    last_autovacuum: Time | None
    last_analyze: Time | None
    last_autoanalyze: Time | None
    vacuum_count: Counter
    autovacuum_count: Counter
    analyze_count: Counter
    autoanalyze_count: Counter
    vacuum_threshold: float
    vacuum_insert_threshold: float | None
    analyze_threshold: float | None
    freeze_max_age: Xids
    autovacuum_enabled: bool
    needs_vacuum: bool | None
    needs_insert_vacuum: bool | None
    needs_analyze: bool | None
    needs_wraparound_vacuum: bool
    why: str | None
    n_ins_since_vacuum: int | None = None  # 13
    n_tup_newpage_upd: Counter | None = None  # 16
    last_seq_scan: Time | None = None
    relallfrozen: Blocks | None = None  # 18
    total_vacuum_time: CounterMs | None = None
    total_autovacuum_time: CounterMs | None = None
    total_analyze_time: CounterMs | None = None
    total_autoanalyze_time: CounterMs | None = None


class OldestRow(Row, frozen=True):
    """One of the tables of this database that were not frozen for longest."""

    relid: Id
    schemaname: Name
    relname: Name
    relkind: str
    toast_of: NameInSql | None
    xid_age: Xids
    mxid_age: Multis
    relpages: Blocks


class WraparoundRow(Row, frozen=True):
    """How far a database is from the end of its transaction ids, and what happens before.

    At `autovacuum_freeze_max_age` autovacuum comes even where it is off, at `vacuum_failsafe_age`
    (14) it skips all else, and when `xids_left` is 0 the server takes no more writes.
    """

    datid: Id
    datname: Name
    frozen_xid: str
    min_mxid: str
    xid_age: Xids
    mxid_age: Multis
    xids_left: Xids
    multixacts_left: Multis
    autovacuum_freeze_max_age: Xids
    autovacuum_multixact_freeze_max_age: Multis
    vacuum_failsafe_age: Xids | None
    vacuum_multixact_failsafe_age: Multis | None


class WorkersRow(Row, frozen=True):
    """Autovacuum's workers at work, how many there may be, and who shows a progress.

    Only while one of the last six is above 0, the set that tells that progress is sent.
    """

    autovacuum: bool
    workers: int | None
    wraparound_workers: int | None
    autovacuum_max_workers: int
    autovacuum_worker_slots: int | None
    autovacuum_naptime_seconds: Seconds
    vacuum_running: int
    create_index_running: int
    cluster_running: int
    analyze_running: int | None = None  # 13
    basebackup_running: int | None = None
    copy_running: int | None = None  # 14


class HorizonRow(Row, frozen=True):
    """Who keeps vacuum from removing what is dead in this database: the oldest of each kind.

    Of sessions the oldest elsewhere is told, too, though it holds back its own database only.
    `kind` is session, standby, slot, slot_catalog (holds back the catalogs only) or
    prepared_transaction; `is_oldest` marks the one that holds the horizon. `name` is the standby's,
    the slot's, or the prepared transaction's.
    """

    kind: str
    age_xids: Xids
    is_oldest: bool
    held_xid: str | None
    since: Time | None
    held_seconds: Seconds | None
    pid: Id | None
    name: Name | None
    datname: Name | None
    usename: Name | None
    application_name: Name | None
    state: str | None
    query: str | None


class VacuumProgressRow(Row, frozen=True):
    """A vacuum under way. A table has its name only in the database of this session.

    Until 16 the memory for dead rows is counted in rows, since 17 in bytes.
    """

    pid: Id
    datname: Name | None
    relid: Id | None
    schemaname: Name | None
    relname: Name | None
    toast_of: NameInSql | None
    phase: str | None
    heap_blks_total: Blocks | None
    heap_blks_scanned: Blocks | None
    heap_blks_vacuumed: Blocks | None
    index_vacuum_count: int | None
    started_at: Time | None
    running_seconds: Seconds | None
    is_autovacuum: bool | None
    to_prevent_wraparound: bool | None
    wait_event_type: str | None
    wait_event: str | None
    max_dead_tuples: int | None = None  # until 16
    num_dead_tuples: int | None = None
    max_dead_tuple_bytes: Bytes | None = None  # 17
    dead_tuple_bytes: Bytes | None = None
    num_dead_item_ids: int | None = None
    indexes_total: int | None = None
    indexes_processed: int | None = None
    delay_time: Ms | None = None  # 18, with track_cost_delay_timing
    mode: str | None = None  # 19
    started_by: str | None = None


class AnalyzeProgressRow(Row, frozen=True):
    """An analyze under way (13 and newer)."""

    pid: Id
    datname: Name | None
    relid: Id | None
    schemaname: Name | None
    relname: Name | None
    phase: str | None
    sample_blks_total: Blocks | None
    sample_blks_scanned: Blocks | None
    ext_stats_total: int | None
    ext_stats_computed: int | None
    child_tables_total: int | None
    child_tables_done: int | None
    delay_time: Ms | None = None  # 18
    started_by: str | None = None  # 19


class CreateIndexProgressRow(Row, frozen=True):
    """An index that is being built."""

    pid: Id
    datname: Name | None
    relid: Id | None
    schemaname: Name | None
    relname: Name | None
    index_relid: Id | None
    command: str | None
    phase: str | None
    lockers_total: int | None
    lockers_done: int | None
    current_locker_pid: Id | None
    blocks_total: Blocks | None
    blocks_done: Blocks | None
    tuples_total: int | None
    tuples_done: int | None
    partitions_total: int | None
    partitions_done: int | None


class ClusterProgressRow(Row, frozen=True):
    """A table that CLUSTER or VACUUM FULL writes anew."""

    pid: Id
    datname: Name | None
    relid: Id | None
    schemaname: Name | None
    relname: Name | None
    command: str | None
    phase: str | None
    cluster_index_relid: Id | None
    heap_tuples_scanned: int | None
    heap_tuples_written: int | None
    heap_blks_total: Blocks | None
    heap_blks_scanned: Blocks | None
    index_rebuild_count: int | None


class BasebackupProgressRow(Row, frozen=True):
    """A base backup that is being sent (13 and newer)."""

    pid: Id
    phase: str | None
    backup_total: Bytes | None
    backup_streamed: Bytes | None
    tablespaces_total: int | None
    tablespaces_streamed: int | None
    backup_type: str | None = None  # 19


class CopyProgressRow(Row, frozen=True):
    """A COPY under way (14 and newer)."""

    pid: Id
    datname: Name | None
    relid: Id | None
    schemaname: Name | None
    relname: Name | None
    command: str | None
    type: str | None
    bytes_processed: Bytes | None
    bytes_total: Bytes | None
    tuples_processed: int | None
    tuples_excluded: int | None
    tuples_skipped: int | None = None  # 17


_KINDS = "c.relkind IN ('r', 'm', 't') AND c.relpersistence <> 't' AND c.relfrozenxid <> '0'"

# A TOAST table without options of its own follows those of its table, whose oid is in its name.
# There is no index on reltoastrelid: to look for that alone reads all of pg_class.
_PARENT = (
    " LEFT JOIN pg_class AS parent ON c.relkind = 't' AND parent.reltoastrelid = c.oid"
    " AND parent.oid = CASE WHEN c.relkind = 't'"
    " THEN substring(c.relname FROM '^pg_toast_([0-9]+)$')::oid END"
)
_TOAST_OF = (
    "CASE WHEN c.relkind = 't' THEN (SELECT m.oid::regclass::text FROM pg_class AS m"
    " WHERE m.reltoastrelid = c.oid) END"
)

_NUMBERS = (
    "autovacuum_vacuum_threshold",
    "autovacuum_vacuum_scale_factor",
    "autovacuum_vacuum_max_threshold",
    "autovacuum_vacuum_insert_threshold",
    "autovacuum_vacuum_insert_scale_factor",
    "autovacuum_analyze_threshold",
    "autovacuum_analyze_scale_factor",
    "autovacuum_freeze_max_age",
    "autovacuum_multixact_freeze_max_age",
)
# A setting that the version does not have is null, and so is everything made of it.
_SETTINGS = (
    " CROSS JOIN (SELECT "
    + ", ".join(f"current_setting('{name}', true)::float8 AS {name}" for name in _NUMBERS)
    + " OFFSET 0) AS g"
)
_OPTIONS = (
    " LEFT JOIN LATERAL (SELECT "
    + ", ".join(
        f"max(o.option_value::float8) FILTER (WHERE o.option_name = '{name}') AS {name}"
        for name in _NUMBERS
    )
    + ", bool_and(o.option_value::bool) FILTER (WHERE o.option_name = 'autovacuum_enabled')"
    " AS autovacuum_enabled FROM pg_options_to_table(opt.ions) AS o"
    " WHERE opt.ions IS NOT NULL AND o.option_name ^@ 'autovacuum') AS o ON true"
)


def _number(name: str) -> str:
    return f"coalesce(o.{name}, g.{name})"


_TUPLES = "greatest(c.reltuples, 0)"
_BARE_THRESHOLD = (
    f"({_number('autovacuum_vacuum_threshold')}"
    f" + {_number('autovacuum_vacuum_scale_factor')} * {_TUPLES})"
)
# least() passes over null: no cap where 18's setting does not exist or is -1.
_THRESHOLD = (
    f"least({_BARE_THRESHOLD}, CASE WHEN {_number('autovacuum_vacuum_max_threshold')} >= 0"
    f" THEN {_number('autovacuum_vacuum_max_threshold')} END)"
)
# 18 counts only the part of the table that is not frozen.
_UNFROZEN = (
    "(CASE WHEN c.relpages > 0 AND c.relallfrozen > 0"
    " THEN 1 - least(c.relallfrozen, c.relpages)::float8 / c.relpages ELSE 1 END)"
)


def _insert_threshold(share: str) -> str:
    base = _number("autovacuum_vacuum_insert_threshold")
    scale = _number("autovacuum_vacuum_insert_scale_factor")
    return f"(CASE WHEN {base} >= 0 THEN {base} + {scale} * {_TUPLES} * {share} END)"


_INSERT_THRESHOLDS = (_insert_threshold(_UNFROZEN), _insert_threshold("1"))
_ANALYZE_THRESHOLD = (
    f"({_number('autovacuum_analyze_threshold')}"
    f" + {_number('autovacuum_analyze_scale_factor')} * {_TUPLES})"
)
_FREEZE_MAX_AGE = "least(o.autovacuum_freeze_max_age, g.autovacuum_freeze_max_age)"
_MXID_FREEZE_MAX_AGE = (
    "least(o.autovacuum_multixact_freeze_max_age, g.autovacuum_multixact_freeze_max_age)"
)

_DEAD = "pg_stat_get_dead_tuples(c.oid)"
# The function came with the view's column.
_INSERTED = "pg_stat_get_ins_since_vacuum(c.oid) /* v.n_ins_since_vacuum */"
_ENABLED = "coalesce(o.autovacuum_enabled, true)"
# A standby does not know of dead rows: what nobody can tell is null.
_HERE = "NOT pg_is_in_recovery()"
_NEEDS_VACUUM = f"({_DEAD} > {_THRESHOLD})"
_NEEDS_INSERTS = tuple(f"({_INSERTED} > {threshold})" for threshold in _INSERT_THRESHOLDS)
# Nobody analyzes pg_statistic.
_NEEDS_ANALYZE = (
    "(c.relkind <> 't' AND c.oid <> 'pg_statistic'::regclass"
    f" AND pg_stat_get_mod_since_analyze(c.oid) > {_ANALYZE_THRESHOLD})"
)
_NEEDS_WRAPAROUND = (
    f"(age(c.relfrozenxid) > {_FREEZE_MAX_AGE} OR mxid_age(c.relminmxid) > {_MXID_FREEZE_MAX_AGE})"
)


def _why(needs_insert: str) -> str:
    return (
        f"CASE WHEN NOT {_HERE} THEN NULL WHEN {_NEEDS_WRAPAROUND} THEN 'wraparound'"
        f" WHEN NOT {_ENABLED} AND ({_NEEDS_VACUUM} OR {_NEEDS_ANALYZE} OR {needs_insert})"
        f" THEN 'disabled' WHEN {_NEEDS_VACUUM} THEN 'dead_tuples'"
        f" WHEN {needs_insert} THEN 'inserts' WHEN {_NEEDS_ANALYZE} THEN 'analyze' END"
    )


_QUEUE = Query(
    set="vacuum.queue",
    row=QueueRow,
    relations={"c": "pg_class", "v": "pg_stat_all_tables"},
    columns={
        "tables": "count(*)",
        "needs_vacuum": f"CASE WHEN {_HERE} THEN count(*) FILTER (WHERE {_NEEDS_VACUUM}) END",
        "needs_insert_vacuum": (
            *(
                f"CASE WHEN {_HERE} THEN count(*) FILTER (WHERE {needs}) END"
                for needs in _NEEDS_INSERTS
            ),
            "NULL::int8",
        ),
        "needs_analyze": f"CASE WHEN {_HERE} THEN count(*) FILTER (WHERE {_NEEDS_ANALYZE}) END",
        "needs_wraparound_vacuum": f"count(*) FILTER (WHERE {_NEEDS_WRAPAROUND})",
        "autovacuum_disabled": f"count(*) FILTER (WHERE NOT {_ENABLED})",
        "n_live_tup": "sum(pg_stat_get_live_tuples(c.oid))::int8",
        "n_dead_tup": f"sum({_DEAD})::int8",
        "oldest_xid_age": "max(age(c.relfrozenxid))",
        "oldest_mxid_age": "max(mxid_age(c.relminmxid))",
        "stats_reset": DATABASE_RESET,
    },
    # The options of the few tables that have some; looking for the parents of all TOAST tables
    # would cost more than it tells in a sum.
    source=(
        f"FROM pg_class AS c{_SETTINGS} CROSS JOIN LATERAL (SELECT c.reloptions AS ions) AS opt"
        f"{_OPTIONS} WHERE {_KINDS}"
    ),
    every=PASS_EVERY,
    epoch="stats_reset",
    epoch_for=("vacuum.queue",),
)

# What is open in this database holds back its tables; standbys and slots do, and tell no time.
_HOLDERS = (
    " CROSS JOIN (SELECT pg_has_role('pg_read_all_stats', 'USAGE') AS seen,"
    " least((SELECT min(CASE WHEN a.backend_xid IS NULL AND a.state = 'active'"
    " THEN a.query_start ELSE a.xact_start END) FROM pg_stat_activity AS a"
    " WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()"
    " AND (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL)"
    " AND NOT EXISTS (SELECT FROM pg_stat_replication AS r WHERE r.pid = a.pid)"
    " AND NOT EXISTS (SELECT FROM pg_stat_progress_vacuum AS w WHERE w.pid = a.pid)),"
    " (SELECT min(x.prepared) FROM pg_prepared_xacts AS x"
    " WHERE x.database = current_database())) AS since,"
    " EXISTS (SELECT FROM pg_replication_slots AS s WHERE s.xmin IS NOT NULL)"
    " OR EXISTS (SELECT FROM pg_stat_replication AS r WHERE r.backend_xmin IS NOT NULL) AS others"
    " OFFSET 0) AS h"
)
_LAST = "greatest(pg_stat_get_last_vacuum_time(c.oid), pg_stat_get_last_autovacuum_time(c.oid))"


def _worst(**most: int) -> str:
    """Return SQL that finds the oids of so many tables by each measure, in one pass over all."""
    measures = {
        "dead": _DEAD,
        "xid_age": "age(c.relfrozenxid)",
        "mxid_age": "mxid_age(c.relminmxid)",
    }
    taken = "".join(f", {sql} AS {name}" for name, sql in measures.items() if name in most)
    first = " UNION ".join(
        f"(SELECT e.oid FROM every AS e ORDER BY e.{name} DESC, e.relpages DESC, e.oid"
        f" LIMIT {count})"
        for name, count in most.items()
    )
    every = f"SELECT c.oid, c.relpages{taken} FROM pg_class AS c WHERE {_KINDS}"
    return f"WITH every AS MATERIALIZED ({every}) {first}"


_TABLES = Query(
    set="vacuum.tables",
    row=TableRow,
    relations={"c": "pg_class", "n": "pg_namespace", "v": "pg_stat_all_tables"},
    columns={
        "relid": "c.oid",
        "schemaname": "n.nspname",
        "relkind": "c.relkind::text",
        "toast_of": "parent.oid::regclass::text",
        "size_bytes": "c.relpages * current_setting('block_size')::int8",
        "reltuples": "nullif(c.reltuples, -1)",
        "relfrozenxid": "c.relfrozenxid::text",
        "relminmxid": "c.relminmxid::text",
        "n_live_tup": "pg_stat_get_live_tuples(c.oid)",
        "n_dead_tup": _DEAD,
        "dead_not_removable": f"CASE WHEN NOT h.seen THEN NULL WHEN {_DEAD} = 0 THEN 0"
        f" WHEN h.since < {_LAST} THEN {_DEAD} WHEN h.since IS NULL AND NOT h.others THEN 0 END",
        "n_mod_since_analyze": "pg_stat_get_mod_since_analyze(c.oid)",
        "n_tup_ins": "pg_stat_get_tuples_inserted(c.oid)",
        "n_tup_upd": "pg_stat_get_tuples_updated(c.oid)",
        "n_tup_del": "pg_stat_get_tuples_deleted(c.oid)",
        "n_tup_hot_upd": "pg_stat_get_tuples_hot_updated(c.oid)",
        "seq_scan": "pg_stat_get_numscans(c.oid)",
        "seq_tup_read": "pg_stat_get_tuples_returned(c.oid)",
        **{
            f"last_{action}": f"pg_stat_get_last_{action}_time(c.oid)"
            for action in ("vacuum", "autovacuum", "analyze", "autoanalyze")
        },
        **{
            f"{action}_count": f"pg_stat_get_{action}_count(c.oid)"
            for action in ("vacuum", "autovacuum", "analyze", "autoanalyze")
        },
        **{
            f"total_{action}_time": f"pg_stat_get_total_{action}_time(c.oid)"
            f" /* v.total_{action}_time */"
            for action in ("vacuum", "autovacuum", "analyze", "autoanalyze")
        },
        "vacuum_threshold": _THRESHOLD,
        "vacuum_insert_threshold": _INSERT_THRESHOLDS,
        "analyze_threshold": f"CASE WHEN c.relkind <> 't' THEN {_ANALYZE_THRESHOLD} END",
        "freeze_max_age": f"{_FREEZE_MAX_AGE}::int8",
        "autovacuum_enabled": _ENABLED,
        "needs_vacuum": f"CASE WHEN {_HERE} THEN {_NEEDS_VACUUM} END",
        "needs_insert_vacuum": (
            *(f"CASE WHEN {_HERE} THEN {needs} END" for needs in _NEEDS_INSERTS),
            "NULL::bool",
        ),
        "needs_analyze": f"CASE WHEN {_HERE} THEN {_NEEDS_ANALYZE} END",
        "needs_wraparound_vacuum": _NEEDS_WRAPAROUND,
        "why": (*(_why(needs) for needs in _NEEDS_INSERTS), _why("false")),
        "n_ins_since_vacuum": _INSERTED,
        "n_tup_newpage_upd": "pg_stat_get_tuples_newpage_updated(c.oid) /* v.n_tup_newpage_upd */",
        "last_seq_scan": "pg_stat_get_lastscan(c.oid) /* v.last_seq_scan */",
    },
    source=(
        f"FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace{_PARENT}{_SETTINGS}"
        f"{_HOLDERS} CROSS JOIN LATERAL (SELECT coalesce(c.reloptions, parent.reloptions) AS ions)"
        f" AS opt{_OPTIONS} WHERE c.oid = ANY ((%(ids)s::int8[])::oid[]) ORDER BY c.oid"
    ),
    choice=Choice(sql=_worst(dead=50, xid_age=25, mxid_age=25, relpages=100)),
    key=("relid",),
    began=DATABASE_RESET,
    hidden=("dead_not_removable",),
)

_OLDEST = Query(
    set="vacuum.oldest",
    row=OldestRow,
    relations={"c": "pg_class", "n": "pg_namespace"},
    columns={
        "relid": "c.oid",
        "schemaname": "n.nspname",
        "relkind": "c.relkind::text",
        "toast_of": "parent.oid::regclass::text",
        "xid_age": "age(c.relfrozenxid)",
        "mxid_age": "mxid_age(c.relminmxid)",
    },
    source=(
        f"FROM ({_worst(xid_age=25, mxid_age=25)}) AS worst JOIN pg_class AS c ON c.oid = worst.oid"
        f" JOIN pg_namespace AS n ON n.oid = c.relnamespace{_PARENT}"
        " ORDER BY age(c.relfrozenxid) DESC, c.oid"
    ),
    every=300.0,
    keep=Keep.EVENT,
)

# The server stops to give out ids that many before the end (varsup.c, multixact.c).
_SINCE_14 = "current_setting('server_version_num')::int >= 140000"
_END = 2_147_483_647

_WRAPAROUND = Query(
    set="vacuum.wraparound",
    row=WraparoundRow,
    relations={"d": "pg_database"},
    columns={
        "datid": "d.oid",
        "frozen_xid": "d.datfrozenxid::text",
        "min_mxid": "d.datminmxid::text",
        "xid_age": "age(d.datfrozenxid)",
        "mxid_age": "mxid_age(d.datminmxid)",
        "xids_left": f"{_END} - CASE WHEN {_SINCE_14} THEN 3000000 ELSE 1000000 END"
        " - age(d.datfrozenxid)",
        "multixacts_left": f"{_END} - CASE WHEN {_SINCE_14} THEN 3000000 ELSE 100 END"
        " - mxid_age(d.datminmxid)",
        **{
            name: f"current_setting('{name}', true)::int"
            for name in (
                "autovacuum_freeze_max_age",
                "autovacuum_multixact_freeze_max_age",
                "vacuum_failsafe_age",
                "vacuum_multixact_failsafe_age",
            )
        },
    },
    source="FROM pg_database AS d ORDER BY age(d.datfrozenxid) DESC, d.oid",
    cap=200,
    scope=Scope.INSTANCE,
    keep=Keep.EVENT,
)

_SEES = "pg_has_role('pg_read_all_stats', 'USAGE')"

_COMMANDS = ("vacuum", "create_index", "cluster", "analyze", "basebackup", "copy")

_WORKERS = Query(
    set="vacuum.workers",
    row=WorkersRow,
    relations={
        "a": "pg_stat_activity",
        **{f"p_{command}": f"pg_stat_progress_{command}" for command in _COMMANDS},
    },
    columns={
        "autovacuum": "current_setting('autovacuum')::bool",
        "workers": f"CASE WHEN {_SEES} THEN"
        " count(*) FILTER (WHERE a.backend_type = 'autovacuum worker') END",
        "wraparound_workers": f"CASE WHEN {_SEES} THEN count(*) FILTER (WHERE a.backend_type"
        " = 'autovacuum worker' AND a.query LIKE '%(to prevent wraparound)') END",
        "autovacuum_max_workers": "current_setting('autovacuum_max_workers')::int",
        "autovacuum_worker_slots": "current_setting('autovacuum_worker_slots', true)::int",
        "autovacuum_naptime_seconds": _settings.seconds("autovacuum_naptime"),
        **{
            f"{command}_running": f"(SELECT count(p_{command}.pid)"
            f" FROM pg_stat_progress_{command} AS p_{command})"
            for command in _COMMANDS
        },
    },
    source="FROM pg_stat_activity AS a",
    hidden=("workers", "wraparound_workers"),
    scope=Scope.INSTANCE,
    keep=Keep.EVENT,
)

_HELD = "greatest(age(a.backend_xmin), age(a.backend_xid))"
_HOLDER_COLUMNS = (
    "kind, age_xids, held_xid, since, pid, name, datname, usename, application_name, state, query"
)


def _slot(kind: str, column: str) -> str:
    return (
        f"(SELECT '{kind}', age(s.{column}), s.{column}::text, NULL::timestamptz, s.active_pid,"
        " s.slot_name::text, s.database::text, NULL::text, NULL::text,"
        " CASE WHEN s.active THEN 'active' ELSE 'inactive' END, NULL::text"
        f" FROM pg_replication_slots AS s WHERE s.{column} IS NOT NULL ORDER BY 2 DESC LIMIT 1)"
    )


# The tables of this database: not from a session elsewhere, nor by what protects catalogs only.
_HOLDS = (
    "(kind <> 'slot_catalog' AND (datname IS NULL OR datname = current_database()"
    " OR kind IN ('slot', 'standby')))"
)
_NO_WALSENDER = "NOT EXISTS (SELECT FROM pg_stat_replication AS r WHERE r.pid = a.pid)"


def _session(here: str) -> str:
    """Return SQL for the oldest of the sessions here, or elsewhere; a vacuum holds nobody back."""
    return (
        f"(SELECT 'session', {_HELD}, CASE WHEN age(a.backend_xid) >= {_HELD}"
        " THEN a.backend_xid ELSE a.backend_xmin END::text, a.xact_start, a.pid, NULL::text,"
        " a.datname::text, a.usename::text, a.application_name, a.state,"
        " CASE WHEN octet_length(a.query) > 65536 THEN left(a.query, 65536) ELSE a.query END"
        " FROM pg_stat_activity AS a WHERE a.pid <> pg_backend_pid()"
        " AND (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL)"
        f" AND a.datname {here} current_database() AND {_NO_WALSENDER}"
        " AND NOT EXISTS (SELECT FROM pg_stat_progress_vacuum AS w WHERE w.pid = a.pid)"
        " ORDER BY 2 DESC, a.xact_start LIMIT 1)"
    )


_HORIZON = Query(
    set="vacuum.horizon",
    row=HorizonRow,
    relations={
        "a": "pg_stat_activity",
        "r": "pg_stat_replication",
        "s": "pg_replication_slots",
        "x": "pg_prepared_xacts",
        "w": "pg_stat_progress_vacuum",
    },
    columns={
        **{name: name for name in HorizonRow.__struct_fields__},
        "is_oldest": f"age_xids = coalesce(max(age_xids) FILTER (WHERE {_HOLDS}) OVER (),"
        f" max(age_xids) OVER ()) AND ({_HOLDS} OR bool_and(NOT ({_HOLDS})) OVER ())",
        "held_seconds": "extract(epoch FROM clock_timestamp() - since)::float8",
    },
    source=(
        f"FROM ({_session('=')} UNION ALL {_session('<>')}"
        " UNION ALL (SELECT 'standby', age(r.backend_xmin), r.backend_xmin::text,"
        " NULL::timestamptz, r.pid, r.application_name, NULL::text, r.usename::text,"
        " r.application_name, r.state, NULL::text FROM pg_stat_replication AS r"
        " WHERE r.backend_xmin IS NOT NULL ORDER BY 2 DESC LIMIT 1)"
        f" UNION ALL {_slot('slot', 'xmin')} UNION ALL {_slot('slot_catalog', 'catalog_xmin')}"
        " UNION ALL (SELECT 'prepared_transaction', age(x.transaction), x.transaction::text,"
        " x.prepared, NULL::int, x.gid, x.database::text, x.owner::text, NULL::text, NULL::text,"
        " NULL::text FROM pg_prepared_xacts AS x ORDER BY 2 DESC LIMIT 1)"
        f") AS held ({_HOLDER_COLUMNS}) ORDER BY age_xids DESC, kind"
    ),
    hidden=("application_name", "state", "query"),
    sql_text={"query": "activity"},
    free_text=("application_name", "name"),
    keep=Keep.EVENT,
)


def _progress(command: str, row: type[Row]) -> Query:
    """Return the set of one command's progress; tables have names in this database only."""
    view = f"pg_stat_progress_{command}"
    fields = row.__struct_fields__
    names = {"schemaname": "n.nspname", "relname": "c.relname"}
    here = ""
    if "relid" in fields:
        here = (
            " LEFT JOIN pg_class AS c ON c.oid = p.relid AND p.datname = current_database()"
            " LEFT JOIN pg_namespace AS n ON n.oid = c.relnamespace"
        )
    return Query(
        set=f"vacuum.progress_{command}",
        row=row,
        relations={"p": view, "c": "pg_class", "n": "pg_namespace"},
        columns={name: sql for name, sql in names.items() if name in fields},
        source=f"FROM {view} AS p{here} ORDER BY p.pid",
        hidden=tuple(name for name in ("phase", "type") if name in fields),
        gate=("vacuum.workers", f"{command}_running"),
        optional=True,
        scope=Scope.INSTANCE,
        keep=Keep.EVENT,
    )


_PROGRESS = Query(
    set="vacuum.progress",
    row=VacuumProgressRow,
    relations={
        "p": "pg_stat_progress_vacuum",
        "a": "pg_stat_activity",
        "c": "pg_class",
        "n": "pg_namespace",
    },
    columns={
        "schemaname": "n.nspname",
        "relname": "c.relname",
        "toast_of": _TOAST_OF,
        "started_at": "a.query_start",
        "running_seconds": "extract(epoch FROM clock_timestamp() - a.query_start)::float8",
        "is_autovacuum": "a.backend_type = 'autovacuum worker'",
        "to_prevent_wraparound": "a.query LIKE 'autovacuum:%(to prevent wraparound)'",
        "wait_event_type": "a.wait_event_type",
        "wait_event": "a.wait_event",
    },
    source=(
        "FROM pg_stat_progress_vacuum AS p LEFT JOIN pg_stat_activity AS a ON a.pid = p.pid"
        " LEFT JOIN pg_class AS c ON c.oid = p.relid AND p.datname = current_database()"
        " LEFT JOIN pg_namespace AS n ON n.oid = c.relnamespace ORDER BY p.pid"
    ),
    hidden=("phase", "wait_event"),
    gate=("vacuum.workers", "vacuum_running"),
    scope=Scope.INSTANCE,
    keep=Keep.EVENT,
)

SAMPLER = Sampler(
    name="vacuum",
    learns="What vacuum does, who waits for it and why, who holds back its horizon, all ages",
    group=Group.CORE,
    scope=Scope.DATABASE,
    lane=LaneName.SLOW,
    every=60.0,
    queries=(
        _QUEUE,
        _TABLES,
        _OLDEST,
        _HORIZON,
        _WRAPAROUND,
        _WORKERS,
        _PROGRESS,
        _progress("analyze", AnalyzeProgressRow),
        _progress("create_index", CreateIndexProgressRow),
        _progress("cluster", ClusterProgressRow),
        _progress("basebackup", BasebackupProgressRow),
        _progress("copy", CopyProgressRow),
    ),
    remedy={Reason.PRIVILEGE: "GRANT pg_monitor TO {role};"},
)
