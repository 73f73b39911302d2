"""What checkpoints and the background writer do, and how near the next checkpoint is.

pg_stat_bgwriter, pg_stat_checkpointer and pg_stat_io:
https://www.postgresql.org/docs/current/monitoring-stats.html
pg_control_checkpoint(): https://www.postgresql.org/docs/current/functions-info.html
"""

from pg_collector.sample import Keep, Row
from pg_collector.samplers import _settings
from pg_collector.samplers._kinds import (
    Bytes,
    Counter,
    CounterBlocks,
    CounterMs,
    Lsn,
    Seconds,
    Time,
)
from pg_collector.samplers._sampler import Group, LaneName, Query, Sampler, Scope


class WriterRow(Row, frozen=True):
    """The background writer, and until 16 what backends had to write themselves.

    From 17 on only `bgwriter.io` tells what backends write, and it counts differently.
    """

    buffers_clean: CounterBlocks
    maxwritten_clean: Counter
    buffers_alloc: CounterBlocks
    stats_reset: Time | None
    buffers_backend: CounterBlocks | None = None  # until 16
    buffers_backend_fsync: Counter | None = None  # until 16


class CheckpointerRow(Row, frozen=True):
    """Checkpoints, and a standby's restartpoints, under one schema for all versions.

    `checkpoints_timed` and `checkpoints_req` count attempts, also those that found nothing to do;
    `checkpoints_done` (18) those that did.
    """

    checkpoints_timed: Counter
    checkpoints_req: Counter
    checkpoint_write_time: CounterMs
    checkpoint_sync_time: CounterMs
    buffers_checkpoint: CounterBlocks
    stats_reset: Time | None
    restartpoints_timed: Counter | None = None  # 17
    restartpoints_req: Counter | None = None
    restartpoints_done: Counter | None = None
    checkpoints_done: Counter | None = None  # 18
    slru_written: CounterBlocks | None = None


class BackendIoRow(Row, frozen=True):
    """Writes and fsyncs of tables and indexes by all but checkpointer and background writer.

    Not the same as `buffers_backend`: vacuum's ring of buffers counts here, too.
    """

    backend_writes: Counter | None
    backend_fsyncs: Counter | None
    stats_reset: Time | None


class CheckpointRow(Row, frozen=True):
    """The last checkpoint (on a standby: restartpoint), and the limits that start the next.

    `redo_distance_bytes` is the WAL written, or on a standby replayed, since its redo point.
    """

    checkpoint_lsn: Lsn
    redo_lsn: Lsn
    redo_wal_file: str
    timeline_id: int
    full_page_writes: bool
    next_xid: str
    next_multixact_id: str
    oldest_xid: str
    oldest_multi_xid: str
    checkpoint_time: Time
    checkpoint_age_seconds: Seconds
    redo_distance_bytes: Bytes | None
    max_wal_size_bytes: Bytes
    checkpoint_timeout_seconds: int


_WRITER = Query(
    set="bgwriter",
    row=WriterRow,
    relations={"b": "pg_stat_bgwriter"},
    source="FROM pg_stat_bgwriter AS b",
    epoch="stats_reset",
    epoch_for=("bgwriter",),
)

# Since 17 the checkpointer has a view, and a reset, of its own.
_CHECKPOINTER = Query(
    set="bgwriter.checkpointer",
    row=CheckpointerRow,
    relations={"c": "pg_stat_checkpointer"},
    columns={
        "checkpoints_timed": "c.num_timed",
        "checkpoints_req": "c.num_requested",
        "checkpoints_done": "c.num_done",
        "checkpoint_write_time": "c.write_time",
        "checkpoint_sync_time": "c.sync_time",
        "buffers_checkpoint": "c.buffers_written",
    },
    source="FROM pg_stat_checkpointer AS c",
    epoch="stats_reset",
    epoch_for=("bgwriter.checkpointer",),
)

_CHECKPOINTER_UNTIL_16 = Query(
    set="bgwriter.checkpointer",
    row=CheckpointerRow,
    relations={"b": "pg_stat_bgwriter"},
    required=("checkpoints_timed",),
    source="FROM pg_stat_bgwriter AS b",
    epoch="stats_reset",
    epoch_for=("bgwriter.checkpointer",),
)

_BACKEND_IO = Query(
    set="bgwriter.io",
    row=BackendIoRow,
    relations={"i": "pg_stat_io"},
    columns={
        "backend_writes": "sum(i.writes)::int8",
        "backend_fsyncs": "sum(i.fsyncs)::int8",
        "stats_reset": "max(i.stats_reset)",
    },
    source=(
        "FROM pg_stat_io AS i WHERE i.object = 'relation'"
        " AND i.backend_type NOT IN ('checkpointer', 'background writer')"
    ),
    epoch="stats_reset",
    epoch_for=("bgwriter.io",),
    optional=True,
)

_POSITION = (
    "CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END"
)

_CHECKPOINT = Query(
    set="bgwriter.checkpoint",
    row=CheckpointRow,
    relations={"c": "pg_control_checkpoint"},
    columns={
        "next_xid": "c.next_xid::text",
        "next_multixact_id": "c.next_multixact_id::text",
        "oldest_xid": "c.oldest_xid::text",
        "oldest_multi_xid": "c.oldest_multi_xid::text",
        "checkpoint_age_seconds": "extract(epoch FROM clock_timestamp()"
        " - c.checkpoint_time)::float8",
        "redo_distance_bytes": f"pg_wal_lsn_diff({_POSITION}, c.redo_lsn)::int8",
        "max_wal_size_bytes": _settings.size("max_wal_size"),
        "checkpoint_timeout_seconds": f"{_settings.seconds('checkpoint_timeout')}::int",
    },
    source="FROM pg_control_checkpoint() AS c",
    keep=Keep.EVENT,
)

SAMPLER = Sampler(
    name="bgwriter",
    learns="Checkpoints, what they write and how near the next is, and the background writer",
    group=Group.CORE,
    scope=Scope.INSTANCE,
    lane=LaneName.FAST,
    every=60.0,
    queries=(_WRITER, _CHECKPOINTER, _CHECKPOINTER_UNTIL_16, _BACKEND_IO, _CHECKPOINT),
)
