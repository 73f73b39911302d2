"""What replication slots hold back, when they will be invalidated, and what decoding costs.

pg_replication_slots: https://www.postgresql.org/docs/current/view-pg-replication-slots.html
pg_stat_replication_slots: https://www.postgresql.org/docs/current/monitoring-stats.html
"""

from pg_collector.sample import Keep, Row
from pg_collector.samplers import _settings
from pg_collector.samplers._kinds import (
    Bytes,
    Counter,
    CounterBytes,
    Id,
    Lsn,
    Name,
    Seconds,
    Time,
    Xids,
)
from pg_collector.samplers._sampler import Group, LaneName, Query, Sampler, Scope


class SlotRow(Row, frozen=True):
    """A slot. One that was never used has no `restart_lsn`: what it retains is null, not 0.

    A slot is invalidated when `safe_wal_size` more bytes of WAL are written (null: never, or it is
    too late), or, from 18 on, when `inactive_seconds` reaches `slots.limits`' idle timeout.
    """

    slot_name: Name
    plugin: str | None
    slot_type: str
    database: Name | None
    temporary: bool
    active: bool
    active_pid: Id | None
    xmin: str | None
    catalog_xmin: str | None
    xmin_age: Xids | None
    catalog_xmin_age: Xids | None
    restart_lsn: Lsn | None
    confirmed_flush_lsn: Lsn | None
    retained_wal_bytes: Bytes | None
    confirmed_flush_lag_bytes: Bytes | None
    wal_status: str | None = None  # 13
    safe_wal_size: Bytes | None = None
    two_phase: bool | None = None  # 14
    conflicting: bool | None = None  # 16
    invalidation_reason: str | None = None  # 17
    inactive_since: Time | None = None
    inactive_seconds: Seconds | None = None
    failover: bool | None = None
    synced: bool | None = None
    two_phase_at: Lsn | None = None  # 18
    slotsync_skip_reason: str | None = None  # 19


class LimitsRow(Row, frozen=True):
    """How many slots there are and may be, and the settings that end a slot's patience.

    `max_slot_wal_keep_size_bytes` is null where a slot may retain any amount, the idle timeout
    where a slot may idle for ever.
    """

    slots: int
    active_slots: int
    max_replication_slots: int
    most_retained_wal_bytes: Bytes | None
    max_slot_wal_keep_size_bytes: Bytes | None
    wal_keep_size_bytes: Bytes | None
    idle_replication_slot_timeout_seconds: Seconds | None


class StatisticsRow(Row, frozen=True):
    """What decoding for a logical slot did: transactions, and those too large for memory."""

    slot_name: Name
    spill_txns: Counter
    spill_count: Counter
    spill_bytes: CounterBytes
    stream_txns: Counter
    stream_count: Counter
    stream_bytes: CounterBytes
    total_txns: Counter
    total_bytes: CounterBytes
    stats_reset: Time | None
    mem_exceeded_count: Counter | None = None  # 19
    slotsync_skip_count: Counter | None = None


_HERE = "CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END"

_SLOTS = Query(
    set="slots",
    row=SlotRow,
    relations={"s": "pg_replication_slots"},
    columns={
        "xmin": "s.xmin::text",
        "catalog_xmin": "s.catalog_xmin::text",
        "xmin_age": "age(s.xmin)",
        "catalog_xmin_age": "age(s.catalog_xmin)",
        "retained_wal_bytes": "pg_wal_lsn_diff(here.lsn, s.restart_lsn)::int8",
        "confirmed_flush_lag_bytes": "pg_wal_lsn_diff(here.lsn, s.confirmed_flush_lsn)::int8",
        "inactive_seconds": "extract(epoch FROM clock_timestamp() - s.inactive_since)::float8",
    },
    source=(
        f"FROM pg_replication_slots AS s CROSS JOIN (SELECT {_HERE} AS lsn) AS here"
        " ORDER BY s.restart_lsn NULLS LAST, s.slot_name"
    ),
    cap=500,
    keep=Keep.EVENT,
)


def _limit(sql: str) -> str:
    """Return SQL for a setting of which a negative value says unlimited: that is null."""
    return f"(SELECT CASE WHEN g.value >= 0 THEN g.value END FROM (SELECT {sql} AS value) AS g)"


# Until 12 the WAL kept for standbys was set in segments.
_KEPT_SEGMENTS = (
    f"current_setting('wal_keep_segments', true)::int8 * {_settings.size('wal_segment_size')}"
)

_LIMITS = Query(
    set="slots.limits",
    row=LimitsRow,
    relations={"s": "pg_replication_slots"},
    columns={
        "slots": "count(*)",
        "active_slots": "count(*) FILTER (WHERE s.active)",
        "max_replication_slots": "current_setting('max_replication_slots')::int",
        "most_retained_wal_bytes": f"max(pg_wal_lsn_diff({_HERE}, s.restart_lsn))::int8",
        "max_slot_wal_keep_size_bytes": _limit(_settings.size("max_slot_wal_keep_size")),
        "wal_keep_size_bytes": f"coalesce({_settings.size('wal_keep_size')}, {_KEPT_SEGMENTS})",
        "idle_replication_slot_timeout_seconds": "nullif("
        f"{_settings.seconds('idle_replication_slot_timeout')}, 0)",
    },
    source="FROM pg_replication_slots AS s",
    keep=Keep.EVENT,
)

_STATISTICS = Query(
    set="slots.statistics",
    row=StatisticsRow,
    relations={"t": "pg_stat_replication_slots"},
    source="FROM pg_stat_replication_slots AS t ORDER BY t.slot_name",
    key=("slot_name",),
    counter="total_txns",
    resets=("slot_name", "stats_reset"),
    optional=True,
)

SAMPLER = Sampler(
    name="slots",
    learns="Replication slots, the WAL they hold back, and how near they are to invalidation",
    group=Group.CORE,
    scope=Scope.INSTANCE,
    lane=LaneName.FAST,
    every=30.0,
    queries=(_SLOTS, _LIMITS, _STATISTICS),
)
