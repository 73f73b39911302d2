"""Which statements cost what: every counter of pg_stat_statements, texts only once.

https://www.postgresql.org/docs/current/pgstatstatements.html. The columns follow the version of
the installed extension, not that of the server.
"""

from pg_collector.errors import Reason
from pg_collector.sample import Keep, Row
from pg_collector.samplers._kinds import (
    Counter,
    CounterBlocks,
    CounterBytes,
    CounterMs,
    Id,
    Ms,
    Time,
)
from pg_collector.samplers._sampler import (
    Group,
    LaneName,
    Lookup,
    Probe,
    Query,
    Sampler,
    Scope,
)


class StatementRow(Row, frozen=True):
    """One entry. Times are milliseconds, blocks are pages, as the extension counts them."""

    userid: Id
    dbid: Id
    queryid: str | None
    calls: Counter
    rows: Counter
    total_exec_time: CounterMs  # until 1.7: total_time, planning not included
    min_exec_time: Ms
    max_exec_time: Ms
    mean_exec_time: Ms
    stddev_exec_time: Ms
    shared_blks_hit: CounterBlocks
    shared_blks_read: CounterBlocks
    shared_blks_dirtied: CounterBlocks
    shared_blks_written: CounterBlocks
    local_blks_hit: CounterBlocks
    local_blks_read: CounterBlocks
    local_blks_dirtied: CounterBlocks
    local_blks_written: CounterBlocks
    temp_blks_read: CounterBlocks
    temp_blks_written: CounterBlocks
    shared_blk_read_time: CounterMs  # until 1.10: blk_read_time, local blocks included
    shared_blk_write_time: CounterMs
    plans: Counter | None = None  # 1.8
    total_plan_time: CounterMs | None = None
    min_plan_time: Ms | None = None
    max_plan_time: Ms | None = None
    mean_plan_time: Ms | None = None
    stddev_plan_time: Ms | None = None
    wal_records: Counter | None = None
    wal_fpi: Counter | None = None
    wal_bytes: CounterBytes | None = None
    toplevel: bool | None = None  # 1.9
    temp_blk_read_time: CounterMs | None = None  # 1.10
    temp_blk_write_time: CounterMs | None = None
    jit_functions: Counter | None = None
    jit_generation_time: CounterMs | None = None
    jit_inlining_count: Counter | None = None
    jit_inlining_time: CounterMs | None = None
    jit_optimization_count: Counter | None = None
    jit_optimization_time: CounterMs | None = None
    jit_emission_count: Counter | None = None
    jit_emission_time: CounterMs | None = None
    local_blk_read_time: CounterMs | None = None  # 1.11
    local_blk_write_time: CounterMs | None = None
    jit_deform_count: Counter | None = None
    jit_deform_time: CounterMs | None = None
    stats_since: Time | None = None
    minmax_stats_since: Time | None = None
    wal_buffers_full: Counter | None = None  # 1.12
    parallel_workers_to_launch: Counter | None = None
    parallel_workers_launched: Counter | None = None
    generic_plan_calls: Counter | None = None  # 1.13
    custom_plan_calls: Counter | None = None


class InfoRow(Row, frozen=True):
    """The extension itself: `dealloc` grows when entries are evicted for want of room."""

    max_entries: int
    dealloc: Counter | None = None  # 1.9
    stats_reset: Time | None = None


class TextRow(Row, frozen=True):
    """The masked text of an entry."""

    userid: Id
    dbid: Id
    queryid: str
    query: str | None
    query_truncated: bool


_EXTENSION = "pg_stat_statements"
_MAX_ENTRIES = f"current_setting('{_EXTENSION}.max')::int"

_COUNTERS = Query(
    set="statements",
    row=StatementRow,
    relations={"s": _EXTENSION},
    extension=_EXTENSION,
    columns={
        "queryid": "s.queryid::text",
        **{
            f"{name}_exec_time": (f"s.{name}_exec_time", f"s.{name}_time")
            for name in ("total", "min", "max", "mean", "stddev")
        },
        **{
            f"shared_blk_{name}_time": (f"s.shared_blk_{name}_time", f"s.blk_{name}_time")
            for name in ("read", "write")
        },
    },
    source=f"FROM {{schema}}.{_EXTENSION}(false) AS s",
    key=("userid", "dbid", "queryid", "toplevel"),
    required=("userid", "dbid", "queryid", "calls"),
    counter="calls",
    hidden=("queryid",),
    # Whatever changes in an entry, one of these does. Half of the server's work for the other
    # columns, and nearly all of ours, is saved where few entries move.
    probe=Probe(
        id="s.queryid",
        moves=(
            *("s.calls", "s.plans", "s.total_exec_time", "s.total_time"),
            "date_part('epoch', s.minmax_stats_since)",
        ),
        where="s.queryid = ANY (%(ids)s::int8[])",
    ),
)

_INFO = Query(
    set="statements.info",
    row=InfoRow,
    relations={"i": f"{_EXTENSION}_info"},
    extension=_EXTENSION,
    columns={"max_entries": _MAX_ENTRIES},
    source=f"FROM {{schema}}.{_EXTENSION}_info AS i",
    epoch="stats_reset",
    epoch_for=("statements", "statements.info"),
)

# Until 1.8 the extension says nothing of itself.
_INFO_UNTIL_18 = Query(
    set="statements.info",
    row=InfoRow,
    relations={"s": _EXTENSION},
    extension=_EXTENSION,
    columns={"max_entries": _MAX_ENTRIES},
    source="",
)

# Any text costs the whole file of texts, however few are asked for: hence once per entry.
_TEXTS = Lookup(
    query=Query(
        set="query_text",
        row=TextRow,
        relations={"s": _EXTENSION},
        extension=_EXTENSION,
        columns={
            "queryid": "s.queryid::text",
            # left() may stumble over the bytes of another encoding, so only where it is needed.
            "query": "CASE WHEN octet_length(s.query) > 65536 THEN left(s.query, 65536)"
            " ELSE s.query END",
            "query_truncated": "octet_length(s.query) > 65536",
        },
        required=("userid", "dbid", "queryid", "query"),
        source=f"FROM {{schema}}.{_EXTENSION}(true) AS s WHERE s.queryid = ANY (%(ids)s::int8[])",
        sql_text={"query": "statements"},
        keep=Keep.FACT,
    ),
    of="statements",
    by="queryid",
    key=("userid", "dbid", "queryid"),
    own_tag_in="query",
)

SAMPLER = Sampler(
    name="statements",
    learns="Calls, time, rows, blocks, WAL and plans of every statement, and its masked text",
    group=Group.CORE,
    scope=Scope.INSTANCE,
    lane=LaneName.SLOW,
    every=60.0,
    queries=(_INFO, _INFO_UNTIL_18, _COUNTERS),
    lookups=(_TEXTS,),
    remedy={
        Reason.VERSION: 'In the database "{database}": CREATE EXTENSION pg_stat_statements; it '
        "must also stand in shared_preload_libraries, which needs a restart.",
        Reason.SETTING: "Put pg_stat_statements into shared_preload_libraries and restart "
        "PostgreSQL.",
        Reason.PRIVILEGE: "GRANT pg_monitor TO {role};",
    },
)
