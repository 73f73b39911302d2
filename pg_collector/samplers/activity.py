"""Who is connected, what they run, what they wait for, and who holds them up.

pg_stat_activity: https://www.postgresql.org/docs/current/monitoring-stats.html
"""

from pg_collector.errors import Reason
from pg_collector.sample import Keep, Row
from pg_collector.samplers import _settings
from pg_collector.samplers._kinds import (
    Id,
    Name,
    Seconds,
    Time,
    Xids,
)
from pg_collector.samplers._sampler import Group, LaneName, Query, Sampler, Scope


class SessionRow(Row, frozen=True):
    """A session that works, waits, or holds a snapshot or a transaction open."""

    pid: Id
    session_id: str  # start in microseconds and pid: survives a pid that is used again
    datname: Name | None
    usename: Name | None
    application_name: Name | None
    client_addr: str | None
    client_port: Id | None
    backend_type: str | None
    state: str | None
    wait_event_type: str | None
    wait_event: str | None
    backend_start: Time | None
    xact_start: Time | None
    query_start: Time | None
    state_change: Time | None
    xact_age_seconds: Seconds | None
    query_age_seconds: Seconds | None
    state_age_seconds: Seconds | None
    backend_xid_age: Xids | None
    backend_xmin_age: Xids | None
    blocking_pids: list[int] | None  # of a session that waits for a lock; 0: a prepared transaction
    query: str | None
    query_truncated: bool | None
    leader_pid: Id | None = None  # 13
    query_id: str | None = None  # 14


class CountRow(Row, frozen=True):
    """How many sessions are alike."""

    datname: Name | None
    usename: Name | None
    application_name: Name | None
    backend_type: str | None
    state: str | None
    wait_event_type: str | None
    wait_event: str | None
    sessions: int
    max_xact_age_seconds: Seconds | None
    max_state_age_seconds: Seconds | None


class LimitRow(Row, frozen=True):
    """How near a limit on connections is, of a database or a role that has one."""

    scope: str
    name: Name | None
    connection_limit: int
    connections: int


class ServerRow(Row, frozen=True):
    """What concerns all sessions together."""

    client_sessions: int
    parallel_workers: int
    hidden_sessions: int  # their state and query are not shown to this role
    blocked_sessions: int
    max_connections: int
    superuser_reserved_connections: int
    prepared_transactions: int
    oldest_prepared_age_seconds: Seconds | None
    oldest_prepared_xid_age: Xids | None
    reserved_connections: int | None = None  # 16


# Of other roles' sessions one may not see the type: then they count as what most sessions are.
_CLIENT = "coalesce(a.backend_type, 'client backend') = 'client backend'"
_AGE = "extract(epoch FROM clock_timestamp() - {})::float8"

_SESSIONS = Query(
    set="activity.sessions",
    row=SessionRow,
    relations={"a": "pg_stat_activity"},
    required=("pid",),
    columns={
        "session_id": "(extract(epoch FROM a.backend_start) * 1000000)::int8::text"
        " || '-' || a.pid::text",
        "client_addr": "host(a.client_addr)",
        "xact_age_seconds": _AGE.format("a.xact_start"),
        "query_age_seconds": "CASE WHEN a.state = 'active' THEN "
        f"{_AGE.format('a.query_start')} END",
        "state_age_seconds": _AGE.format("a.state_change"),
        "backend_xid_age": "age(a.backend_xid)",
        "backend_xmin_age": "age(a.backend_xmin)",
        "blocking_pids": "CASE WHEN a.wait_event_type = 'Lock' THEN pg_blocking_pids(a.pid) END",
        # left() may stumble over the bytes of another encoding, so only where it is needed.
        "query": "CASE WHEN octet_length(a.query) > 65536 THEN left(a.query, 65536)"
        " ELSE a.query END",
        "query_truncated": "octet_length(a.query)"
        f" >= least({_settings.size('track_activity_query_size')} - 1, 65537)",
        "query_id": "a.query_id::text",
    },
    # Servers' own background processes are counted, not listed: they never end.
    source=(
        "FROM pg_stat_activity AS a"
        " WHERE a.pid <> pg_backend_pid()"
        " AND (a.state IS DISTINCT FROM 'idle' OR a.backend_xmin IS NOT NULL)"
        " AND (a.state IS NOT NULL OR a.xact_start IS NOT NULL OR a.wait_event_type = 'Lock')"
        " ORDER BY (a.wait_event_type = 'Lock') IS TRUE DESC, a.xact_start NULLS LAST, a.pid"
    ),
    cap=500,
    hidden=("state", "wait_event", "query"),
    sql_text={"query": "activity"},
    free_text=("application_name",),
    keep=Keep.EVENT,
)

_COUNTS = Query(
    set="activity.counts",
    row=CountRow,
    relations={"a": "pg_stat_activity"},
    columns={
        "sessions": "count(*)",
        "max_xact_age_seconds": f"max({_AGE.format('a.xact_start')})",
        "max_state_age_seconds": f"max({_AGE.format('a.state_change')})",
    },
    source=(
        "FROM pg_stat_activity AS a WHERE a.pid <> pg_backend_pid()"
        " GROUP BY a.datname, a.usename, a.application_name, a.backend_type, a.state,"
        " a.wait_event_type, a.wait_event ORDER BY count(*) DESC"
    ),
    cap=1000,
    hidden=("backend_type", "state", "wait_event"),
    free_text=("application_name",),
    keep=Keep.EVENT,
)

_LIMITS = Query(
    set="activity.limits",
    row=LimitRow,
    relations={"d": "pg_database", "r": "pg_roles", "a": "pg_stat_activity"},
    columns={name: name for name in LimitRow.__struct_fields__},
    source=(
        "FROM (SELECT 'database' AS scope, d.datname::text AS name,"
        " d.datconnlimit AS connection_limit, count(a.pid) AS connections"
        " FROM pg_database AS d LEFT JOIN pg_stat_activity AS a"
        f" ON a.datid = d.oid AND {_CLIENT}"
        " WHERE d.datconnlimit >= 0 GROUP BY d.datname, d.datconnlimit"
        " UNION ALL SELECT 'role', r.rolname::text, r.rolconnlimit, count(a.pid)"
        " FROM pg_roles AS r LEFT JOIN pg_stat_activity AS a"
        f" ON a.usesysid = r.oid AND {_CLIENT}"
        " WHERE r.rolconnlimit >= 0 GROUP BY r.rolname, r.rolconnlimit) AS limits"
        " ORDER BY connections DESC"
    ),
    cap=500,
    every=60.0,
    keep=Keep.EVENT,
)

_SERVER = Query(
    set="activity.server",
    row=ServerRow,
    relations={"a": "pg_stat_activity", "p": "pg_prepared_xacts"},
    columns={
        "client_sessions": f"count(*) FILTER (WHERE a.usesysid IS NOT NULL AND {_CLIENT})",
        "parallel_workers": "count(*) FILTER (WHERE a.backend_type = 'parallel worker')",
        "hidden_sessions": "count(*) FILTER (WHERE a.query = '<insufficient privilege>')",
        "blocked_sessions": "count(*) FILTER (WHERE a.wait_event_type = 'Lock')",
        "max_connections": "current_setting('max_connections')::int",
        "superuser_reserved_connections": "current_setting('superuser_reserved_connections')::int",
        "prepared_transactions": "(SELECT count(*) FROM pg_prepared_xacts AS p)",
        "oldest_prepared_age_seconds": "(SELECT max(extract(epoch FROM"
        " clock_timestamp() - p.prepared))::float8 FROM pg_prepared_xacts AS p)",
        "oldest_prepared_xid_age": "(SELECT max(age(p.transaction)) FROM pg_prepared_xacts AS p)",
        "reserved_connections": "current_setting('reserved_connections', true)::int",
    },
    source="FROM pg_stat_activity AS a WHERE a.pid <> pg_backend_pid()",
    hidden=("parallel_workers", "blocked_sessions"),
    keep=Keep.EVENT,
)

SAMPLER = Sampler(
    name="activity",
    learns="Sessions at work, what they wait for, who blocks whom, how near the limits are",
    group=Group.CORE,
    scope=Scope.INSTANCE,
    lane=LaneName.FAST,
    every=10.0,
    queries=(_SESSIONS, _COUNTS, _SERVER, _LIMITS),
    remedy={Reason.PRIVILEGE: "GRANT pg_monitor TO {role};"},
)
