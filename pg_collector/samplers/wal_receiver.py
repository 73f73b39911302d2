"""A standby: what it receives, what it replays, and how late.

pg_stat_wal_receiver and pg_stat_recovery_prefetch:
https://www.postgresql.org/docs/current/monitoring-stats.html
Recovery functions: https://www.postgresql.org/docs/current/functions-admin.html
"""

from pg_collector.errors import Reason
from pg_collector.sample import Keep, Row
from pg_collector.samplers import _settings
from pg_collector.samplers._kinds import (
    Bytes,
    Counter,
    Id,
    Lsn,
    Name,
    Seconds,
    Time,
)
from pg_collector.samplers._sampler import Group, LaneName, Query, Sampler, Scope, ServerRole


class ReceiverRow(Row, frozen=True):
    """The process that receives; no row where WAL comes from an archive, or does not come.

    How it connects (`conninfo`) is left out: it names people's hosts and users.
    """

    pid: Id
    status: str | None
    receive_start_lsn: Lsn | None
    receive_start_tli: int | None
    flushed_lsn: Lsn | None
    received_tli: int | None
    last_msg_send_time: Time | None
    last_msg_receipt_time: Time | None
    last_msg_receipt_age_seconds: Seconds | None
    latest_end_lsn: Lsn | None
    latest_end_time: Time | None
    slot_name: Name | None
    sender_host: str | None
    sender_port: Id | None
    written_lsn: Lsn | None = None  # 13


class ReplayRow(Row, frozen=True):
    """What is replayed. `caught_up` is unknown (null) unless a receiver streams.

    The age of the last replayed transaction grows while the primary is idle: it is a lag only while
    `caught_up` is not true.
    """

    receive_lsn: Lsn | None
    replay_lsn: Lsn | None
    replay_lag_bytes: Bytes | None
    last_xact_replay_timestamp: Time | None
    last_xact_replay_age_seconds: Seconds | None
    caught_up: bool | None
    replay_paused: bool | None
    recovery_min_apply_delay_seconds: Seconds
    timeline_id: int | None
    min_recovery_end_lsn: Lsn | None
    hot_standby_feedback: bool
    replay_pause_state: str | None = None  # 14


class PrefetchRow(Row, frozen=True):
    """Prefetching of blocks that WAL refers to (15 and newer)."""

    prefetch: Counter
    hit: Counter
    skip_init: Counter
    skip_new: Counter
    skip_fpw: Counter
    skip_rep: Counter
    wal_distance: Bytes
    block_distance: int
    io_depth: int
    stats_reset: Time | None


class ConflictRow(Row, frozen=True):
    """Queries that replay cancelled here, of all databases; `database` has them one by one."""

    confl_tablespace: Counter
    confl_lock: Counter
    confl_snapshot: Counter
    confl_bufferpin: Counter
    confl_deadlock: Counter
    confl_active_logicalslot: Counter | None = None  # 16


_RECEIVER = Query(
    set="wal_receiver",
    row=ReceiverRow,
    relations={"w": "pg_stat_wal_receiver"},
    columns={
        "flushed_lsn": ("w.flushed_lsn", "w.received_lsn"),
        "last_msg_receipt_age_seconds": "extract(epoch FROM clock_timestamp()"
        " - w.last_msg_receipt_time)::float8",
    },
    source="FROM pg_stat_wal_receiver AS w",
    hidden=("status", "flushed_lsn", "latest_end_lsn", "slot_name", "sender_host"),
    keep=Keep.EVENT,
)


def _on_standby(sql: str) -> str:
    # A promotion between two statements must not make an error.
    return f"CASE WHEN here.standby THEN {sql} END"


_REPLAY = Query(
    set="wal_receiver.replay",
    row=ReplayRow,
    # pg_stat_wal came with the pause state.
    relations={"w": "pg_stat_wal_receiver", "since14": "pg_stat_wal"},
    columns={
        "receive_lsn": _on_standby("pg_last_wal_receive_lsn()"),
        "replay_lsn": _on_standby("pg_last_wal_replay_lsn()"),
        "replay_lag_bytes": _on_standby(
            "pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())::int8"
        ),
        "last_xact_replay_timestamp": _on_standby("pg_last_xact_replay_timestamp()"),
        "last_xact_replay_age_seconds": _on_standby(
            "extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8"
        ),
        "caught_up": "CASE WHEN here.standby AND w.status = 'streaming'"
        " THEN pg_last_wal_receive_lsn() <= pg_last_wal_replay_lsn() END",
        "replay_paused": _on_standby("pg_is_wal_replay_paused()"),
        "replay_pause_state": _on_standby(
            "pg_get_wal_replay_pause_state() /* since14.wal_bytes */"
        ),
        "recovery_min_apply_delay_seconds": _settings.seconds("recovery_min_apply_delay"),
        "timeline_id": _on_standby(
            "greatest(k.min_recovery_end_timeline,"
            " (SELECT t.timeline_id FROM pg_control_checkpoint() AS t))"
        ),
        "min_recovery_end_lsn": _on_standby("k.min_recovery_end_lsn"),
        "hot_standby_feedback": "current_setting('hot_standby_feedback')::bool",
    },
    source=(
        "FROM (SELECT pg_is_in_recovery() AS standby) AS here"
        " CROSS JOIN pg_control_recovery() AS k"
        " LEFT JOIN pg_stat_wal_receiver AS w ON true"
    ),
    hidden=("caught_up",),
    keep=Keep.EVENT,
)

_PREFETCH = Query(
    set="wal_receiver.prefetch",
    row=PrefetchRow,
    relations={"p": "pg_stat_recovery_prefetch"},
    source="FROM pg_stat_recovery_prefetch AS p",
    epoch="stats_reset",
    epoch_for=("wal_receiver.prefetch",),
    optional=True,
)

_CONFLICTS = Query(
    set="wal_receiver.conflicts",
    row=ConflictRow,
    relations={"c": "pg_stat_database_conflicts"},
    columns={name: f"coalesce(sum(c.{name}), 0)::int8" for name in ConflictRow.__struct_fields__},
    source="FROM pg_stat_database_conflicts AS c",
)

SAMPLER = Sampler(
    name="wal_receiver",
    learns="On a standby: what it receives and replays, how late, and what replay cancels",
    group=Group.CORE,
    scope=Scope.INSTANCE,
    lane=LaneName.FAST,
    every=15.0,
    queries=(_RECEIVER, _REPLAY, _PREFETCH, _CONFLICTS),
    only_on=ServerRole.STANDBY,
    remedy={Reason.PRIVILEGE: "GRANT pg_monitor TO {role};"},
)
