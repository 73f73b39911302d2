"""Who follows this server and how far behind, and what this server follows itself.

pg_stat_replication, pg_stat_subscription and pg_stat_subscription_stats:
https://www.postgresql.org/docs/current/monitoring-stats.html
Recovery functions: https://www.postgresql.org/docs/current/functions-admin.html
"""

from pg_collector.errors import Reason
from pg_collector.sample import Keep, Row
from pg_collector.samplers._kinds import (
    Bytes,
    Counter,
    Id,
    Lsn,
    Name,
    NameInSql,
    Seconds,
    Time,
    Xids,
)
from pg_collector.samplers._sampler import Group, LaneName, Query, Sampler, Scope


class StandbyRow(Row, frozen=True):
    """A standby, or another receiver of WAL, that is connected here.

    `*_lag_bytes` is the WAL between this server's position (on a standby: what it has received
    itself) and what the receiver reports. `*_lag_seconds` is null where there is nothing to
    measure: soon after the last write all is confirmed, and PostgreSQL tells no time any more.
    """

    pid: Id
    usename: Name | None
    application_name: Name | None
    client_addr: str | None
    client_port: Id | None
    backend_start: Time | None
    slot_name: Name | None
    state: str | None
    sync_state: str | None
    sync_priority: int | None
    reply_time: Time | None
    sent_lsn: Lsn | None
    write_lsn: Lsn | None
    flush_lsn: Lsn | None
    replay_lsn: Lsn | None
    sent_lag_bytes: Bytes | None
    write_lag_bytes: Bytes | None
    flush_lag_bytes: Bytes | None
    replay_lag_bytes: Bytes | None
    write_lag_seconds: Seconds | None
    flush_lag_seconds: Seconds | None
    replay_lag_seconds: Seconds | None
    backend_xmin_age: Xids | None  # where feedback comes without a slot
    slot_xmin_age: Xids | None  # where it comes with one


class ServerRow(Row, frozen=True):
    """What the server itself is: its position, its recovery, and its receivers by state.

    `synchronous_satisfied` is null where no synchronous standby is asked for; false means that a
    commit that waits for one would wait. What only a standby has is null on a primary.
    """

    in_recovery: bool
    current_wal_lsn: Lsn | None
    receive_lsn: Lsn | None
    replay_lsn: Lsn | None
    replay_lag_bytes: Bytes | None
    last_xact_replay_timestamp: Time | None
    last_xact_replay_age_seconds: Seconds | None
    replay_paused: bool | None
    receivers: int
    streaming: int | None
    catchup: int | None
    backup: int | None
    sync: int | None
    potential: int | None
    quorum: int | None
    synchronous_standby_names: NameInSql | None
    synchronous_commit: str
    synchronous_required: int | None
    synchronous_satisfied: bool | None
    subscriptions: int  # above 0 their workers and errors are sent, too
    max_wal_senders: int
    replay_pause_state: str | None = None  # 14


class SubscriptionRow(Row, frozen=True):
    """A worker that applies or copies for a subscription; `relid` is the table being copied."""

    subid: Id
    subname: Name
    pid: Id | None
    relid: Id | None
    received_lsn: Lsn | None
    last_msg_send_time: Time | None
    last_msg_receipt_time: Time | None
    last_msg_receipt_age_seconds: Seconds | None
    latest_end_lsn: Lsn | None
    latest_end_time: Time | None
    latest_end_age_seconds: Seconds | None
    leader_pid: Id | None = None  # 16
    worker_type: str | None = None  # 17


class SubscriptionStatsRow(Row, frozen=True):
    """Errors and conflicts of a subscription (15 and newer)."""

    subid: Id
    subname: Name
    apply_error_count: Counter
    sync_error_count: Counter
    stats_reset: Time | None
    confl_insert_exists: Counter | None = None  # 18, as those below
    confl_update_origin_differs: Counter | None = None
    confl_update_exists: Counter | None = None
    confl_update_missing: Counter | None = None
    confl_delete_origin_differs: Counter | None = None
    confl_delete_missing: Counter | None = None
    confl_multiple_unique_conflicts: Counter | None = None


class TableSyncRow(Row, frozen=True):
    """Tables of a subscription of this database, by how far their first copy is.

    i initialise, d data is copied, f finished copy, s synchronised, r ready.
    """

    subid: Id
    state: str
    tables: int


# A standby sends what it received, whether it has replayed it or not.
_HERE = (
    "CASE WHEN pg_is_in_recovery() THEN greatest(pg_last_wal_receive_lsn(),"
    " pg_last_wal_replay_lsn()) ELSE pg_current_wal_lsn() END"
)
_SEES = "pg_has_role('pg_read_all_stats', 'USAGE')"

_STANDBYS = Query(
    set="replication",
    row=StandbyRow,
    relations={"r": "pg_stat_replication", "s": "pg_replication_slots"},
    columns={
        "client_addr": "host(r.client_addr)",
        "slot_name": "s.slot_name",
        **{
            f"{stage}_lag_bytes": f"pg_wal_lsn_diff(here.lsn, r.{stage}_lsn)::int8"
            for stage in ("sent", "write", "flush", "replay")
        },
        **{
            f"{stage}_lag_seconds": f"extract(epoch FROM r.{stage}_lag)::float8"
            for stage in ("write", "flush", "replay")
        },
        "backend_xmin_age": "age(r.backend_xmin)",
        "slot_xmin_age": "age(s.xmin)",
    },
    source=(
        f"FROM pg_stat_replication AS r CROSS JOIN (SELECT {_HERE} AS lsn) AS here"
        " LEFT JOIN pg_replication_slots AS s ON s.active_pid = r.pid ORDER BY r.pid"
    ),
    hidden=("application_name", "state", "sync_state", "sent_lsn", "replay_lsn"),
    free_text=("application_name",),
    keep=Keep.EVENT,
)

_NAMES = "nullif(current_setting('synchronous_standby_names'), '')"
# `FIRST 2 (a, b, c)`, `ANY 2 (a, b, c)`, `2 (a, b, c)`; a bare list wants one.
_REQUIRED = (
    f"CASE WHEN {_NAMES} IS NOT NULL AND NOT here.standby THEN"
    f" coalesce(substring({_NAMES} FROM '(?i)^\\s*(?:first|any)?\\s*(\\d+)\\s*\\(')::int, 1) END"
)
_IN_STEP = "count(*) FILTER (WHERE r.state = 'streaming' AND r.sync_state IN ('sync', 'quorum'))"


def _on_standby(sql: str) -> str:
    return f"CASE WHEN here.standby THEN {sql} END"


_SERVER = Query(
    set="replication.server",
    row=ServerRow,
    # pg_stat_wal came with the pause state.
    relations={
        "r": "pg_stat_replication", "u": "pg_stat_subscription", "since14": "pg_stat_wal"
    },
    columns={
        "in_recovery": "here.standby",
        "current_wal_lsn": "CASE WHEN NOT here.standby THEN pg_current_wal_lsn() END",
        "receive_lsn": _on_standby("pg_last_wal_receive_lsn()"),
        "replay_lsn": _on_standby("pg_last_wal_replay_lsn()"),
        "replay_lag_bytes": _on_standby(
            "pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())::int8"
        ),
        "last_xact_replay_timestamp": _on_standby("pg_last_xact_replay_timestamp()"),
        "last_xact_replay_age_seconds": _on_standby(
            "extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8"
        ),
        "replay_paused": _on_standby("pg_is_wal_replay_paused()"),
        "replay_pause_state": _on_standby(
            "pg_get_wal_replay_pause_state() /* since14.wal_bytes */"
        ),
        "receivers": "count(r.pid)",
        "subscriptions": "(SELECT count(DISTINCT u.subid) FROM pg_stat_subscription AS u)",
        **{
            state: f"CASE WHEN {_SEES} THEN count(*) FILTER (WHERE r.state = '{state}') END"
            for state in ("streaming", "catchup", "backup")
        },
        **{
            state: f"CASE WHEN {_SEES} THEN count(*) FILTER (WHERE r.sync_state = '{state}') END"
            for state in ("sync", "potential", "quorum")
        },
        "synchronous_standby_names": _NAMES,
        "synchronous_commit": "current_setting('synchronous_commit')",
        "synchronous_required": _REQUIRED,
        "synchronous_satisfied": f"CASE WHEN {_SEES} THEN {_IN_STEP} >= {_REQUIRED} END",
        "max_wal_senders": "current_setting('max_wal_senders')::int",
    },
    source=(
        "FROM (SELECT pg_is_in_recovery() AS standby) AS here"
        " LEFT JOIN pg_stat_replication AS r ON true GROUP BY here.standby"
    ),
    hidden=("streaming", "catchup", "backup", "sync", "potential", "quorum",
            "synchronous_satisfied"),
    keep=Keep.EVENT,
)  # fmt: skip

_SUBSCRIPTIONS = Query(
    set="replication.subscriptions",
    row=SubscriptionRow,
    relations={"u": "pg_stat_subscription"},
    columns={
        "last_msg_receipt_age_seconds": "extract(epoch FROM clock_timestamp()"
        " - u.last_msg_receipt_time)::float8",
        "latest_end_age_seconds": "extract(epoch FROM clock_timestamp()"
        " - u.latest_end_time)::float8",
    },
    source="FROM pg_stat_subscription AS u ORDER BY u.subid, u.relid NULLS FIRST",
    cap=500,
    gate=("replication.server", "subscriptions"),
    keep=Keep.EVENT,
)

_SUBSCRIPTION_STATS = Query(
    set="replication.subscription_stats",
    row=SubscriptionStatsRow,
    relations={"u": "pg_stat_subscription_stats"},
    columns={"sync_error_count": ("u.sync_error_count", "u.sync_table_error_count")},
    source="FROM pg_stat_subscription_stats AS u ORDER BY u.subid",
    resets=("subid", "stats_reset"),
    gate=("replication.server", "subscriptions"),
    optional=True,
)

_TABLE_SYNC = Query(
    set="replication.table_sync",
    row=TableSyncRow,
    relations={"t": "pg_subscription_rel"},
    columns={"subid": "t.srsubid", "state": "t.srsubstate::text", "tables": "count(*)"},
    source=(
        "FROM pg_subscription_rel AS t GROUP BY t.srsubid, t.srsubstate"
        " ORDER BY t.srsubid, t.srsubstate"
    ),
    scope=Scope.DATABASE,
    every=60.0,
    keep=Keep.EVENT,
)

SAMPLER = Sampler(
    name="replication",
    learns="Standbys and how far each is behind, in bytes and time; subscriptions; own recovery",
    group=Group.CORE,
    scope=Scope.INSTANCE,
    lane=LaneName.FAST,
    every=15.0,
    queries=(_STANDBYS, _SERVER, _SUBSCRIPTIONS, _SUBSCRIPTION_STATS, _TABLE_SYNC),
    remedy={Reason.PRIVILEGE: "GRANT pg_monitor TO {role};"},
)
