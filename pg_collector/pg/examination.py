"""What a session shows of its server, of its role, and of what is hidden from it.

Asked for `pgc check`, by the running agent on one of its lanes, or on a session of the command's
own. Nothing here writes, and no part waits for another: what is refused is left unknown. So is all
that is left once a statement ran into its time limit, or `WITHIN` is over: the lane has other work.
"""

import datetime as dt
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec

from pg_collector.errors import (
    LoginRefused,
    Reason,
    SamplerError,
    SamplerTimeout,
    TargetDown,
    TargetError,
)
from pg_collector.meet import meet
from pg_collector.pg.session import Session

T = TypeVar("T")

WITHIN: Final = 10.0  # seconds for all statements together
STATEMENTS: Final = "pg_stat_statements"
SETTINGS: Final = (
    "compute_query_id", "max_connections", "pg_stat_statements.max", "pg_stat_statements.track",
    "reserved_connections", "shared_preload_libraries", "superuser_reserved_connections",
    "track_activities", "track_activity_query_size", "track_counts", "track_io_timing",
)  # fmt: skip
# Roles of PostgreSQL's own that let their members do more than look at statistics.
POWERS: Final = (
    "pg_checkpoint", "pg_create_subscription", "pg_execute_server_program", "pg_maintain",
    "pg_read_all_data", "pg_read_server_files", "pg_signal_backend", "pg_write_all_data",
    "pg_write_server_files",
)  # fmt: skip


class Role(msgspec.Struct, frozen=True, kw_only=True):
    """The role of the session; days are those left of its password."""

    bootstrap: bool  # the superuser that initdb made, which has to stay one
    rolcreaterole: bool
    rolcreatedb: bool
    rolreplication: bool
    rolbypassrls: bool
    connection_limit: int  # -1: none
    valid_days: float | None
    monitor: bool  # has what pg_monitor has
    monitor_member: bool  # is a member, though perhaps without inheriting
    reads_settings: bool
    powers: list[str]  # of POWERS, those that were granted to it


class Sessions(msgspec.Struct, frozen=True, kw_only=True):
    """pg_stat_activity as this role sees it."""

    own: int  # sessions of this role, with the one that asks
    elsewhere: int | None = None  # of these, those of another application
    others: int  # sessions and processes, but for the one that asks
    hidden: int  # of these
    cut: int  # whose query is longer than track_activity_query_size
    clients: int
    in_database: int
    database_limit: int  # -1: none


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """A setting, where it is from, and whether a changed one waits for a restart."""

    name: str
    setting: str
    source: str
    pending_restart: bool


class Statements(msgspec.Struct, frozen=True, kw_only=True):
    """The entries of pg_stat_statements; `hidden` are those whose text is not shown."""

    entries: int
    hidden: int


class Evictions(msgspec.Struct, frozen=True, kw_only=True):
    """How often entries were evicted for want of room, and since how many seconds."""

    dealloc: int
    seconds: float


class Examination(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. `skew_s` is how far the server's clock is ahead of this host's.

    `late`: there was no time for all; what is missing is not known.
    """

    version: int
    database: str
    role: str
    in_recovery: bool
    superuser: bool
    reads_all_stats: bool
    round_trip_ms: float
    skew_s: float
    release: str = ""
    tls: str | None = None
    standing: Role | None = None
    sessions: Sessions | None = None
    settings: dict[str, Setting] = {}
    installed: str | None = None  # the version of pg_stat_statements in this database
    available: str | None = None  # the version that this server would install
    statements: Statements | None = None
    evictions: Evictions | None = None
    late: bool = False
    closed: list[str] = []  # other databases that this role may not connect to

    @property
    def major(self) -> int:
        """The major version."""
        return self.version // 10_000


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """Why there is no session: a `TargetError`, as it travels."""

    message: str
    remedy: str
    sqlstate: str | None
    kind: str  # down, refused, login


def trouble(error: TargetError, scrub: Callable[[str | None, str], str]) -> Trouble:
    """Return an error as it travels; `scrub` cleans a message with an SQLSTATE."""
    kind = "down" if isinstance(error, TargetDown) else "refused"
    kind = "login" if isinstance(error, LoginRefused) else kind
    # Without an SQLSTATE it is a message of ours, or of libpq as `trouble.py` lets it pass.
    message = str(error) if error.sqlstate is None else scrub(error.sqlstate, str(error))
    return Trouble(message=message, remedy=error.remedy, sqlstate=error.sqlstate, kind=kind)


def read(session: Session) -> Examination:
    """Examine the server of a session. Raises TargetDown where it is lost."""
    facts = session.facts
    asking = _Asking(session)
    began, before = time.monotonic(), dt.datetime.now(dt.UTC)
    (at,) = session.fetch("SELECT /* pgc:check */ clock_timestamp()").rows[0]
    passed = time.monotonic() - began
    skew = dt.datetime.fromisoformat(at) - before - dt.timedelta(seconds=passed / 2)
    # What costs the server most comes last.
    settings = asking.rows(_SETTINGS, Setting, {"names": list(SETTINGS)})
    tls = asking.first(_TLS, _Tls)
    standing = asking.first(_ROLE, Role, {"powers": list(POWERS)})
    closed = asking.rows(_CLOSED, _Closed)
    sessions = asking.first(_SESSIONS, Sessions)
    available = asking.first(_AVAILABLE, _Available)
    extension = facts.extensions.get(STATEMENTS)
    statements: Statements | None = None
    evictions: Evictions | None = None
    if extension is not None:
        schema = _quoted(extension.schema)
        statements = asking.first(_STATEMENTS.format(schema=schema), Statements)
        if facts.columns.get(f"{STATEMENTS}_info"):
            evictions = asking.first(_EVICTIONS.format(schema=schema), Evictions)
    return Examination(
        version=facts.version,
        release=facts.settings.get("server_version", "").partition(" ")[0],
        database=facts.database,
        role=facts.role,
        in_recovery=facts.in_recovery,
        superuser=facts.superuser,
        reads_all_stats=facts.reads_all_stats,
        round_trip_ms=round(passed * 1000, 1),
        skew_s=round(skew.total_seconds(), 1),
        tls=tls.version if tls is not None else None,
        standing=standing,
        sessions=sessions,
        settings={one.name: one for one in settings},
        installed=extension.version if extension is not None else None,
        available=available.default_version if available is not None else None,
        statements=statements,
        evictions=evictions,
        late=asking.late,
        closed=[one.datname for one in closed],
    )


class _Available(msgspec.Struct, frozen=True):
    default_version: str


class _Closed(msgspec.Struct, frozen=True):
    datname: str


class _Tls(msgspec.Struct, frozen=True):
    version: str | None


class _Asking:
    """One examination: its session, and the time that it has left."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._ends = time.monotonic() + WITHIN
        self.late = False  # whether something was not asked, or took too long

    def rows(self, sql: str, kind: type[T], params: Mapping[str, Any] | None = None) -> list[T]:
        """Return the rows of a statement as values; none where it is refused or time is up."""
        left = self._ends - time.monotonic()
        if left <= 0:
            self.late = True
            return []
        try:
            answer = self._session.fetch(sql, params, timeout=left)
        except SamplerError as error:
            if isinstance(error, SamplerTimeout) and error.reason is Reason.TIMEOUT:
                self.late = True
                self._ends = 0.0  # a server that cannot keep up is not asked for more
            return []
        return [_value(answer.columns, row, kind) for row in answer.rows]

    def first(self, sql: str, kind: type[T], params: Mapping[str, Any] | None = None) -> T | None:
        """Return the only row of a statement as a value; None as `rows` gives none."""
        return next(iter(self.rows(sql, kind, params)), None)


def _value(columns: Sequence[str], row: Sequence[Any], kind: type[T]) -> T:
    return msgspec.convert(dict(zip(columns, row, strict=True)), kind, strict=False)


def _quoted(identifier: str) -> str:
    return identifier if _PLAIN.fullmatch(identifier) else '"' + identifier.replace('"', '""') + '"'


_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")

_ROLE = """SELECT /* pgc:check */ r.oid = 10 AS bootstrap,
 r.rolcreaterole, r.rolcreatedb, r.rolreplication, r.rolbypassrls,
 r.rolconnlimit AS connection_limit,
 CASE WHEN isfinite(r.rolvaliduntil)
  THEN (extract(epoch FROM r.rolvaliduntil - now()) / 86400)::float8 END AS valid_days,
 pg_has_role('pg_monitor', 'USAGE') AS monitor,
 pg_has_role('pg_monitor', 'MEMBER') AS monitor_member,
 pg_has_role('pg_read_all_settings', 'USAGE') AS reads_settings,
 coalesce((SELECT json_agg(p.rolname::text ORDER BY p.rolname)
  FROM pg_roles AS p JOIN pg_auth_members AS m ON m.roleid = p.oid AND m.member = r.oid
  WHERE p.rolname = ANY (%(powers)s)), '[]') AS powers
FROM pg_roles AS r WHERE r.rolname = current_user"""

# Of other roles' sessions the type is hidden: what has a role is a client's, or sends WAL.
_SESSIONS = """SELECT /* pgc:check */
 count(*) FILTER (WHERE a.usename = current_user AND a.backend_type = 'client backend') AS own,
 count(*) FILTER (WHERE a.usename = current_user AND a.application_name
  <> current_setting('application_name')) AS elsewhere,
 count(*) FILTER (WHERE a.pid <> pg_backend_pid()) AS others,
 count(*) FILTER (WHERE a.query = '<insufficient privilege>') AS hidden,
 count(*) FILTER (WHERE octet_length(a.query) >= (SELECT s.setting::int - 1 FROM pg_settings AS s
  WHERE s.name = 'track_activity_query_size')) AS cut,
 count(*) FILTER (WHERE a.usesysid IS NOT NULL
  AND coalesce(a.backend_type, 'client backend') = 'client backend') AS clients,
 count(*) FILTER (WHERE a.usesysid IS NOT NULL AND a.datname = current_database()) AS in_database,
 (SELECT d.datconnlimit FROM pg_database AS d WHERE d.datname = current_database())
  AS database_limit
FROM pg_stat_activity AS a"""

_SETTINGS = """SELECT /* pgc:check */ s.name, s.setting, s.source, s.pending_restart
FROM pg_settings AS s WHERE s.name = ANY (%(names)s)"""

_TLS = "SELECT /* pgc:check */ s.version FROM pg_stat_ssl AS s WHERE s.pid = pg_backend_pid()"

_CLOSED = """SELECT /* pgc:check */ d.datname FROM pg_database AS d
WHERE d.datallowconn AND NOT d.datistemplate AND NOT has_database_privilege(d.oid, 'CONNECT')
ORDER BY d.datname LIMIT 100"""

_AVAILABLE = """SELECT /* pgc:check */ x.default_version
FROM pg_available_extensions() AS x WHERE x.name = 'pg_stat_statements'"""

_STATEMENTS = """SELECT /* pgc:check */ count(*) AS entries,
 count(*) FILTER (WHERE s.queryid IS NULL) AS hidden FROM {schema}.pg_stat_statements(false) AS s"""

_EVICTIONS = """SELECT /* pgc:check */ i.dealloc,
 extract(epoch FROM now() - i.stats_reset)::float8 AS seconds
FROM {schema}.pg_stat_statements_info AS i"""


meet(Examination, Trouble, _Available, _Closed, _Tls)  # targets are examined side by side
