"""How much WAL is written, where it stands, what is on disk, and how archiving fares.

pg_stat_wal, pg_stat_io and pg_stat_archiver:
https://www.postgresql.org/docs/current/monitoring-stats.html
pg_ls_waldir() and its like: https://www.postgresql.org/docs/current/functions-admin.html
"""

from pg_collector.errors import Reason
from pg_collector.sample import Keep, Row
from pg_collector.samplers import _settings
from pg_collector.samplers._kinds import (
    Bytes,
    Counter,
    CounterBytes,
    CounterMs,
    Lsn,
    Seconds,
    Time,
)
from pg_collector.samplers._sampler import Group, LaneName, Query, Sampler, Scope


class WalRow(Row, frozen=True):
    """Counters of WAL (14 and newer). Times are 0 where `track_wal_io_timing` is off."""

    wal_records: Counter
    wal_fpi: Counter
    wal_bytes: CounterBytes
    wal_buffers_full: Counter
    wal_write: Counter | None
    wal_sync: Counter | None
    wal_write_time: CounterMs | None
    wal_sync_time: CounterMs | None
    track_wal_io_timing: bool
    stats_reset: Time | None
    wal_fpi_bytes: CounterBytes | None = None  # 19


class PositionRow(Row, frozen=True):
    """Where WAL stands: written on a primary, replayed on a standby.

    `wal_position_bytes` is the position as a number of bytes: its difference is the WAL written, on
    every version.
    """

    in_recovery: bool
    wal_lsn: Lsn | None
    wal_position_bytes: CounterBytes | None
    wal_insert_lsn: Lsn | None
    wal_flush_lsn: Lsn | None
    wal_file: str | None
    wal_segment_size_bytes: Bytes


class DirectoryRow(Row, frozen=True):
    """The segments in pg_wal; those that wait to be used again count, too."""

    wal_files: int
    wal_size_bytes: Bytes
    recycled_files: int | None  # named ahead of the one in use; null on a standby
    oldest_wal_modification: Time | None
    oldest_wal_age_seconds: Seconds | None


class ArchiverRow(Row, frozen=True):
    """Archiving. `failing`: the newest attempt failed; `failed_count` grows with each retry."""

    archived_count: Counter
    last_archived_wal: str | None
    last_archived_time: Time | None
    last_archived_age_seconds: Seconds | None
    failed_count: Counter
    last_failed_wal: str | None
    last_failed_time: Time | None
    last_failed_age_seconds: Seconds | None
    failing: bool
    archive_mode: str
    stats_reset: Time | None


class ReadyRow(Row, frozen=True):
    """Segments that are complete and wait to be archived."""

    ready_files: int
    oldest_ready_age_seconds: Seconds | None


class SummarizerRow(Row, frozen=True):
    """The WAL summarizer, which incremental backups need; null without one."""

    summarized_tli: int | None
    summarized_lsn: Lsn | None
    pending_lsn: Lsn | None
    summarizer_pid: int | None


_TIMING = "current_setting('track_wal_io_timing')::bool"
_OF_WAL = "FROM pg_stat_io AS i WHERE i.object = 'wal' AND i.context = 'normal'"

_WAL_UNTIL_17 = Query(
    set="wal",
    row=WalRow,
    relations={"w": "pg_stat_wal"},
    required=("wal_write",),
    columns={"track_wal_io_timing": _TIMING},
    source="FROM pg_stat_wal AS w",
    epoch="stats_reset",
    epoch_for=("wal",),
)

# Writes moved to pg_stat_io in 18. Of its contexts `normal` is what the view counted before;
# `init` makes new segments. The later of both resets is when all of this counts from.
_WAL = Query(
    set="wal",
    row=WalRow,
    relations={"w": "pg_stat_wal", "i": "pg_stat_io"},
    columns={
        "wal_write": f"(SELECT sum(i.writes)::int8 {_OF_WAL})",
        "wal_sync": f"(SELECT sum(i.fsyncs)::int8 {_OF_WAL})",
        "wal_write_time": f"(SELECT sum(i.write_time) {_OF_WAL})",
        "wal_sync_time": f"(SELECT sum(i.fsync_time) {_OF_WAL})",
        "track_wal_io_timing": _TIMING,
        "stats_reset": f"greatest(w.stats_reset, (SELECT max(i.stats_reset) {_OF_WAL}))",
    },
    source="FROM pg_stat_wal AS w",
    epoch="stats_reset",
    epoch_for=("wal",),
)

_LSN = "CASE WHEN r.standby THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END"

_POSITION = Query(
    set="wal.position",
    row=PositionRow,
    relations={"k": "pg_control_checkpoint"},
    columns={
        "in_recovery": "r.standby",
        "wal_lsn": _LSN,
        "wal_position_bytes": f"pg_wal_lsn_diff({_LSN}, '0/0')::int8",
        "wal_insert_lsn": "CASE WHEN NOT r.standby THEN pg_current_wal_insert_lsn() END",
        "wal_flush_lsn": "CASE WHEN NOT r.standby THEN pg_current_wal_flush_lsn() END",
        "wal_file": "CASE WHEN NOT r.standby THEN pg_walfile_name(pg_current_wal_lsn()) END",
        "wal_segment_size_bytes": _settings.size("wal_segment_size"),
    },
    source="FROM (SELECT pg_is_in_recovery() AS standby) AS r",
    keep=Keep.EVENT,  # a position knows no epochs
)

# Both directories are read file by file: a set each, for their rights, and not too often.
_DIRECTORY = Query(
    set="wal.directory",
    row=DirectoryRow,
    relations={"k": "pg_control_checkpoint"},
    columns={
        "wal_files": "count(*)",
        "wal_size_bytes": "coalesce(sum(f.size), 0)::int8",
        "recycled_files": "CASE WHEN max(r.wal_file) IS NOT NULL THEN"
        ' count(*) FILTER (WHERE f.name COLLATE "C" > r.wal_file) END',
        "oldest_wal_modification": "min(f.modification)",
        "oldest_wal_age_seconds": "extract(epoch FROM clock_timestamp()"
        " - min(f.modification))::float8",
    },
    source=(
        "FROM pg_ls_waldir() AS f CROSS JOIN (SELECT CASE WHEN NOT pg_is_in_recovery()"
        " THEN pg_walfile_name(pg_current_wal_lsn()) END AS wal_file) AS r"
        " WHERE f.name ~ '^[0-9A-F]{24}$'"
    ),
    every=60.0,
    keep=Keep.EVENT,
)

_ARCHIVER = Query(
    set="wal.archiver",
    row=ArchiverRow,
    relations={"a": "pg_stat_archiver"},
    columns={
        "last_archived_age_seconds": "extract(epoch FROM clock_timestamp()"
        " - a.last_archived_time)::float8",
        "last_failed_age_seconds": "extract(epoch FROM clock_timestamp()"
        " - a.last_failed_time)::float8",
        "failing": "(a.last_failed_time IS NOT NULL"
        " AND a.last_failed_time > coalesce(a.last_archived_time, '-infinity'))",
        "archive_mode": "current_setting('archive_mode')",
    },
    source="FROM pg_stat_archiver AS a",
    epoch="stats_reset",
    epoch_for=("wal.archiver",),
)

_READY = Query(
    set="wal.archive_ready",
    row=ReadyRow,
    relations={"k": "pg_stat_archiver"},
    columns={
        "ready_files": "count(*)",
        "oldest_ready_age_seconds": "extract(epoch FROM clock_timestamp()"
        " - min(f.modification))::float8",
    },
    source="FROM pg_ls_archive_statusdir() AS f WHERE f.name ~ '^[0-9A-F]{24}[.]ready$'",
    every=60.0,
    keep=Keep.EVENT,
)

_SUMMARIZER = Query(
    set="wal.summarizer",
    row=SummarizerRow,
    relations={"s": "pg_get_wal_summarizer_state"},
    source="FROM pg_get_wal_summarizer_state() AS s",
    every=60.0,
    optional=True,
    keep=Keep.EVENT,
)

SAMPLER = Sampler(
    name="wal",
    learns="WAL written, where it stands, the files that hold it, and how archiving fares",
    group=Group.CORE,
    scope=Scope.INSTANCE,
    lane=LaneName.FAST,
    every=30.0,
    queries=(
        _WAL_UNTIL_17,
        _WAL,
        _POSITION,
        _DIRECTORY,
        _ARCHIVER,
        _READY,
        _SUMMARIZER,
    ),
    remedy={Reason.PRIVILEGE: "GRANT pg_monitor TO {role};"},
)
