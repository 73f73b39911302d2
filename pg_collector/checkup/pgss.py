"""pg_stat_statements: loaded, made in this database, as new as the server, and large enough.

https://www.postgresql.org/docs/current/pgstatstatements.html
"""

from collections.abc import Iterator
from typing import Final

from pg_collector.checkup.finding import Finding, Level
from pg_collector.pg.examination import STATEMENTS, Examination

_LIBRARIES: Final = "shared_preload_libraries"
_HOUR: Final = 3600.0
_FULL: Final = 0.9  # of the entries: an eviction takes 5 % of them, or 10
_CREATE: Final = f"CREATE EXTENSION {STATEMENTS};"


def findings(target: str, examined: Examination) -> Iterator[Finding]:
    """Say how the extension is; of two faults the one that comes first on the way."""
    fault = _not_loaded(examined) or _missing(examined) or _behind(examined) or _small(examined)
    if fault is None:
        entries = examined.statements.entries if examined.statements is not None else 0
        room = examined.settings.get(f"{STATEMENTS}.max")
        yield Finding(
            section="pgss",
            target=target,
            level=Level.OK,
            found=f"version {examined.installed}, {entries} of "
            f"{room.setting if room is not None else '?'} entries",
            measured={"version": examined.installed, "entries": entries},
        )
        return
    found, remedy = fault
    yield Finding(
        section="pgss", target=target, level=Level.WARN, found=found, remedy=remedy,
        measured={"version": examined.installed},
    )  # fmt: skip


def _not_loaded(examined: Examination) -> tuple[str, str] | None:
    libraries = examined.settings.get(_LIBRARIES)
    if libraries is None:  # this role may not see it
        if f"{STATEMENTS}.max" in examined.settings:
            return None
        # What else is loaded has to stay, and cannot be seen from here.
        return (
            f"not loaded by this server, as far as role {examined.role} is shown",
            f"Give the role pg_monitor, and check again; or add {STATEMENTS} to {_LIBRARIES}, "
            "beside what is there, and restart PostgreSQL",
        )
    names = [one.strip().strip('"') for one in libraries.setting.split(",") if one.strip()]
    if STATEMENTS in names:
        return None
    if libraries.pending_restart:
        return "not loaded: its setting waits for a restart", "Restart PostgreSQL"
    if libraries.source == "command line":
        return (
            f"not loaded: {_LIBRARIES} is on the server's command line",
            f"Add {STATEMENTS} to it there, and restart PostgreSQL",
        )
    return (
        "not loaded by this server",
        f"{_preload(names)}  -- then restart PostgreSQL; a managed service has it among its "
        "parameters",
    )


def _preload(names: list[str]) -> str:
    """Return the SQL that keeps what is loaded; each name is a value of its own in it."""
    quoted = ", ".join("'" + one.replace("'", "''") + "'" for one in (*names, STATEMENTS))
    return f"ALTER SYSTEM SET {_LIBRARIES} = {quoted};"


def _missing(examined: Examination) -> tuple[str, str] | None:
    if examined.installed is not None:
        return None
    where = f'loaded, extension missing in "{examined.database}"'
    if examined.available is None:
        package = f"apt-get install postgresql-{examined.major}"
        return (
            f"{where}, and its files are not on the server",
            f"Install PostgreSQL's contrib modules there ({package}; elsewhere "
            f"postgresql-contrib), then in the database {examined.database}: {_CREATE}",
        )
    return where, f"{_CREATE}  -- in the database {examined.database}"


def _behind(examined: Examination) -> tuple[str, str] | None:
    if examined.available is None or examined.installed == examined.available:
        return None
    return (
        f"version {examined.installed}, this server has {examined.available}: columns are missing",
        f"ALTER EXTENSION {STATEMENTS} UPDATE;  -- in the database {examined.database}",
    )


def _small(examined: Examination) -> tuple[str, str] | None:
    """Complain where entries are evicted more than once an hour: their counters begin anew."""
    evicted, room = examined.evictions, examined.settings.get(f"{STATEMENTS}.max")
    if evicted is None or room is None:
        return None
    # How often is known since the last reset, which outlasts a restart: whether it is full, is now.
    full = examined.statements is not None and (
        examined.statements.entries >= _FULL * int(room.setting)
    )
    hours = max(evicted.seconds / _HOUR, 1.0)
    if evicted.dealloc <= hours or not full:
        return None
    if room.pending_restart:
        return f"{STATEMENTS}.max: another value waits for a restart", "Restart PostgreSQL"
    return (
        f"too small: entries were evicted {evicted.dealloc} times in {hours:.0f} h "
        f"({STATEMENTS}.max {room.setting})",
        f"ALTER SYSTEM SET {STATEMENTS}.max = {2 * int(room.setting)};  -- then restart PostgreSQL",
    )
