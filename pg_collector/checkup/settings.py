"""Settings of a server that decide what samples show; each with its SQL, where it is worth it."""

from collections.abc import Iterator
from typing import Final, NamedTuple

from pg_collector.checkup.finding import Finding, Level
from pg_collector.checkup.login import quoted
from pg_collector.pg.examination import Examination, Setting

_RELOAD: Final = "SELECT pg_reload_conf();"
_RESTART: Final = "-- then restart PostgreSQL"


class _Switch(NamedTuple):
    off: frozenset[str]  # values that lose something
    value: str
    why: str


_SWITCHES: Final = {
    "track_activities": _Switch(
        frozenset({"off"}), "on", "sessions show neither state nor query: activity is blind"
    ),
    "track_counts": _Switch(
        frozenset({"off"}), "on", "nothing is counted, and autovacuum does not run"
    ),
    "track_io_timing": _Switch(
        frozenset({"off"}), "on", "the times of reads and writes are 0, of statements as well"
    ),
    "compute_query_id": _Switch(
        frozenset({"off"}), "auto", "sessions have no query_id, and statements are not counted"
    ),
    "pg_stat_statements.track": _Switch(frozenset({"none"}), "top", "statements are not counted"),
}


_OUR_ROLES: Final = frozenset(("user", "database user"))


def findings(target: str, examined: Examination) -> Iterator[Finding]:
    """Judge each setting; one line where all are as they should be."""
    worse = [*_switches(target, examined), *_cut(target, examined)]
    if not worse:
        names = [name for name in _SWITCHES if name in examined.settings]
        shown = [f"{name} {examined.settings[name].setting}" for name in names]
        yield Finding(
            section="settings", target=target, level=Level.OK, found=", ".join(shown) or "unknown"
        )
    yield from worse


def _switches(target: str, examined: Examination) -> Iterator[Finding]:
    for name, switch in _SWITCHES.items():
        found = examined.settings.get(name)
        if name == "pg_stat_statements.track" and found is not None and found.source in _OUR_ROLES:
            continue  # the agent's own statements are not counted; those of others are
        if found is not None and found.setting in switch.off:
            yield Finding(
                section="settings",
                target=target,
                level=Level.WARN,
                found=f"{name} is {found.setting}: {switch.why}",
                remedy=_remedy(found, switch.value, examined),
            )


def _remedy(found: Setting, value: str, examined: Examination) -> str:
    """Return the SQL that changes a setting where it comes from."""
    if found.source == "command line":
        return f"Take {found.name} out of the server's command line, and restart PostgreSQL"
    role, database = quoted(examined.role), quoted(examined.database)
    of = {
        "database": f"ALTER DATABASE {database}",
        "user": f"ALTER ROLE {role}",
        "database user": f"ALTER ROLE {role} IN DATABASE {database}",
    }.get(found.source)
    if of is not None:
        return f"{of} SET {found.name} = {value};"
    return f"ALTER SYSTEM SET {found.name} = {value}; {_RELOAD}"


def _cut(target: str, examined: Examination) -> Iterator[Finding]:
    """Warn of queries that are longer than what the server shows of them, where there are any."""
    size = examined.settings.get("track_activity_query_size")
    if size is None or examined.sessions is None or not examined.sessions.cut:
        return
    larger = max(4096, 4 * int(size.setting))
    if size.pending_restart:
        yield Finding(
            section="settings", target=target, level=Level.WARN,
            found=f"track_activity_query_size {size.setting}: another value waits for a restart",
            remedy="Restart PostgreSQL",
        )  # fmt: skip
        return
    yield Finding(
        section="settings",
        target=target,
        level=Level.WARN,
        found=f"{_cut_off(examined.sessions.cut)} at {size.setting} bytes "
        "(track_activity_query_size)",
        remedy=f"ALTER SYSTEM SET track_activity_query_size = {larger};  {_RESTART}",
        measured={"cut_queries": examined.sessions.cut, "bytes": int(size.setting)},
    )


def _cut_off(sessions: int) -> str:
    if sessions == 1:
        return "the query of 1 session is cut off"
    return f"the queries of {sessions} sessions are cut off"
