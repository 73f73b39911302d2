"""The role: is it let in, is there room for the agent, and may it do more than it needs."""

import re
from collections.abc import Iterator
from typing import Final

from pg_collector.checkup.finding import Finding, Level
from pg_collector.config.model import Database
from pg_collector.pg.examination import Examination, Role, Sessions, Trouble
from pg_collector.tour import Tour

# Faults of TLS have no SQLSTATE: they come before the server has anything to say.
_TLS: Final = re.compile(
    r"\bSSL\b|\bTLS\b|certificate|sslrootcert|private key|tlsv1 alert|server name"
)
_EXPIRES_SOON: Final = 14.0  # days of a password
_CROWDED: Final = (
    "SELECT usename, application_name, count(*) FROM pg_stat_activity "
    "WHERE backend_type = 'client backend' GROUP BY 1, 2 ORDER BY 3 DESC;  "
    "-- end some, or raise max_connections, which needs a restart"
)
ALONE: Final = "-- where nobody else needs it; else a role of the agent's own: pgc setup sql"
# Without a session the limit is not known, so it is shown first.
_ROLE_LIMIT: Final = (
    "SELECT rolconnlimit, (SELECT count(*) FROM pg_stat_activity WHERE usename = rolname) AS "
    "sessions FROM pg_roles WHERE rolname = {literal};  -- end lost sessions, or raise by 2: "
    "ALTER ROLE {name} CONNECTION LIMIT …"
)
_DATABASE_LIMIT: Final = (
    "SELECT datconnlimit, (SELECT count(*) FROM pg_stat_activity AS a WHERE a.datname = d.datname) "
    "AS sessions FROM pg_database AS d WHERE datname = {literal};  -- end some, or raise by 2: "
    "ALTER DATABASE {name} CONNECTION LIMIT …"
)
ROLE: Final = "pgcollector"  # that `pgc setup sql` makes, where no other is named
_ANOTHER: Final = "pgc_agent"
_OUR_OWN: Final = 1  # the session that asks


def refused(target: str, trouble: Trouble) -> Iterator[Finding]:
    """Say why there is no session, in the section that it belongs to."""
    is_tls = trouble.sqlstate is None and _TLS.search(trouble.message) is not None
    timed_out = "no answer within" in trouble.message
    section = "tls" if is_tls else "network" if timed_out else "login"
    yield Finding(
        section=section,
        target=target,
        level=Level.FAIL,
        found=trouble.message.removeprefix(f"{target}: "),
        remedy=_remedy(trouble),
        measured={} if trouble.sqlstate is None else {"sqlstate": trouble.sqlstate},
        unreachable=section == "network" or _is_down(trouble),
    )


def _is_down(trouble: Trouble) -> bool:
    """Whether nobody answers: a server that starts or stops says so itself."""
    return trouble.kind == "down" and (trouble.sqlstate or "57P03") in {"57P01", "57P03"}


def _remedy(trouble: Trouble) -> str:
    """Return what helps; of a limit that was reached, which of the limits it is."""
    if trouble.sqlstate != "53300":
        return trouble.remedy
    role = re.search(r'for role "([^"]+)"', trouble.message)
    database = re.search(r'for database "([^"]+)"', trouble.message)
    for found, shown in ((role, _ROLE_LIMIT), (database, _DATABASE_LIMIT)):
        if found is not None:
            return shown.format(literal=literal(found[1]), name=quoted(found[1]))
    return _CROWDED


def findings(database: Database, examined: Examination, *, lent: bool) -> Iterator[Finding]:
    """Say who is logged in, and judge the role's limits and rights."""
    part = "standby" if examined.in_recovery else "primary"
    standing, sessions = examined.standing, examined.sessions
    release = examined.release or str(examined.major)
    said = [f"role {examined.role}", f"PostgreSQL {release}", part]
    measured: dict[str, object] = {"version": examined.version, "in_recovery": examined.in_recovery}
    worse: list[Finding] = []
    if standing is not None and sessions is not None:
        limit = standing.connection_limit
        said.append(
            f"connection limit {limit}, {sessions.own} used"
            if limit >= 0
            else "no connection limit"
        )
        measured |= {"connection_limit": limit, "connections": sessions.own}
        worse += _places(database, examined, standing, sessions, lent=lent)
    if lent:
        said.append("asked through the agent")
    if standing is not None:
        worse += _rights(database.name, examined, standing)
    worse += _visits(database, examined)
    yield Finding(
        section="login",
        target=database.name,
        level=Level.OK,
        found=", ".join(said),
        measured=measured,
    )
    yield from worse


def _places(
    database: Database, examined: Examination, standing: Role, sessions: Sessions, *, lent: bool
) -> Iterator[Finding]:
    """Compare the limits on sessions with what the agent wants."""
    wanted = database.postgres.max_connections
    # Those of the agent that lends are the ones that are wanted; else all but ours are others'.
    others = 0 if lent else sessions.own - _OUR_OWN
    limit, role = standing.connection_limit, quoted(examined.role)
    if 0 <= limit < wanted and not examined.superuser:
        yield Finding(
            section="login",
            target=database.name,
            level=Level.FAIL,
            found=f"role {examined.role} may have {limit} session, the agent wants {wanted}: "
            "some samplers would never run",
            remedy=f"ALTER ROLE {role} CONNECTION LIMIT {wanted};",
            measured={"connection_limit": limit, "wanted": wanted},
        )
    elif 0 <= limit < others + wanted and not examined.superuser:
        yield Finding(
            section="login",
            target=database.name,
            level=Level.WARN,
            found=f"{others} of the {limit} sessions of role {examined.role} are taken by others, "
            f"the agent wants {wanted}",
            remedy=f"ALTER ROLE {role} CONNECTION LIMIT {others + wanted};",
            measured={"connection_limit": limit, "taken": others, "wanted": wanted},
        )
    limit = sessions.database_limit
    room = sessions.in_database - (wanted if lent else _OUR_OWN) + wanted
    if 0 <= limit < room and not examined.superuser:
        yield Finding(
            section="login",
            target=database.name,
            level=Level.WARN,
            found=f"the database {examined.database} may have {limit} "
            f"session{'' if limit == 1 else 's'}, {sessions.in_database} are there: the agent may "
            "find no place",
            remedy=f"ALTER DATABASE {quoted(examined.database)} CONNECTION LIMIT "
            f"{sessions.in_database + wanted};",
        )
    if not lent:
        yield from _crowd(database.name, examined, sessions, wanted - _OUR_OWN)


def _crowd(target: str, examined: Examination, sessions: Sessions, more: int) -> Iterator[Finding]:
    """Warn where the server has no room for `more` sessions beside those that are there."""
    rooms = {
        name: int(one.setting)
        for name, one in examined.settings.items()
        if name.endswith("_connections")
    }
    limit = rooms.pop("max_connections", None)
    if limit is None or examined.superuser:
        return
    room = limit - sum(rooms.values())  # what is reserved is not for the agent
    if sessions.clients + more > room:
        yield Finding(
            section="login",
            target=target,
            level=Level.WARN,
            found=f"{sessions.clients} of the {room} sessions that the server has for all "
            "are taken: the agent may find no place",
            remedy=_CROWDED,
            measured={"sessions": sessions.clients, "room": room, "wanted": more},
        )


def _visits(database: Database, examined: Examination) -> Iterator[Finding]:
    """Name the databases that are to be visited, too, and that the role may not connect to."""
    visited = Tour(database.discover)
    visited.learn(examined.closed, examined.database, 0.0)
    closed = sorted(visited.visited) if visited.enabled else []
    if closed:
        role = quoted(examined.role)
        names = ", ".join(quoted(one) for one in closed)
        yield Finding(
            section="login",
            target=database.name,
            level=Level.WARN,
            found=f"role {examined.role} may not connect to {', '.join(closed)}, which discover "
            "is to visit",
            remedy=f"GRANT CONNECT ON DATABASE {names} TO {role};",
            measured={"databases": closed},
        )


def _rights(target: str, examined: Examination, standing: Role) -> Iterator[Finding]:
    """Warn of what the agent does not need, and of a password that ends."""
    role = quoted(examined.role)
    if examined.superuser:
        remedy = f"GRANT pg_monitor TO {role}; ALTER ROLE {role} NOSUPERUSER;  {ALONE}"
        if standing.bootstrap or is_shared(examined):
            remedy = own_role(examined)
        yield Finding(
            section="login",
            target=target,
            level=Level.WARN,
            found=f"role {examined.role} is a superuser; statistics need pg_monitor only",
            remedy=remedy,
        )
        return
    excess = {
        "CREATEROLE": standing.rolcreaterole,
        "CREATEDB": standing.rolcreatedb,
        "REPLICATION": standing.rolreplication,
        "BYPASSRLS": standing.rolbypassrls,
    }
    more = [name for name, has in excess.items() if has]
    sql = [f"ALTER ROLE {role} {' '.join(f'NO{name}' for name in more)};"] if more else []
    sql += [f"REVOKE {one} FROM {role};" for one in standing.powers]
    if sql:
        yield Finding(
            section="login",
            target=target,
            level=Level.WARN,
            found=f"role {examined.role} may do more than look at statistics: "
            f"{', '.join([*more, *standing.powers])}",
            remedy=own_role(examined) if is_shared(examined) else f"{' '.join(sql)}  {ALONE}",
        )
    days = standing.valid_days
    if days is not None and days < _EXPIRES_SOON:
        yield Finding(
            section="login",
            target=target,
            level=Level.WARN,
            found=f"the password of role {examined.role} ends in {days:.1f} d",
            remedy=f"ALTER ROLE {role} VALID UNTIL 'infinity';  -- or give it a new one in time",
            measured={"password_days": round(days, 1)},
        )


def is_shared(examined: Examination) -> bool:
    """Whether another application uses the role, as far as is known."""
    return examined.sessions is None or examined.sessions.elsewhere != 0


def own_role(examined: Examination) -> str:
    """Return what gives the agent a role that nobody else has."""
    if examined.role == ROLE:
        return f"pgc setup sql --user {_ANOTHER} | sudo -u postgres psql   # then user={_ANOTHER}"
    return f"pgc setup sql | sudo -u postgres psql   # then user={ROLE} in conn_string"


def literal(text: str) -> str:
    """Return a text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def quoted(name: str) -> str:
    """Quote an identifier where SQL needs it."""
    if re.fullmatch(r"[a-z_][a-z0-9_]*", name):
        return name
    return '"' + name.replace('"', '""') + '"'
