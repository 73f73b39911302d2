"""The databases of a server that a session's role may connect to, and whether one can now."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from pg_collector.errors import SamplerError, TargetRefused
from pg_collector.sample import Answer

LOOKS_AGAIN_AFTER: Final = 60.0  # seconds, where a lock kept us out

# https://www.postgresql.org/docs/current/catalog-pg-database.html
_VISITABLE = (
    "SELECT /* pgc:discover */ d.datname FROM pg_catalog.pg_database AS d WHERE d.datallowconn"
    " AND NOT d.datistemplate AND pg_catalog.has_database_privilege(d.oid, 'CONNECT')"
    " ORDER BY d.datname"
)


def visitable(fetch: Callable[[str], Answer]) -> list[str]:
    """Return their names, templates left out. Raises what `fetch` raises."""
    return [str(name) for (name,) in fetch(_VISITABLE).rows]


# https://www.postgresql.org/docs/current/explicit-locking.html: each session takes ROW EXCLUSIVE on
# its database; these go with it.
_OCCUPIED = (
    "SELECT /* pgc:discover */ EXISTS (SELECT FROM pg_locks AS l"
    " JOIN pg_database AS d ON d.oid = l.objid AND d.datname = %(name)s"
    " WHERE l.locktype = 'object' AND l.classid = 'pg_database'::regclass"
    " AND l.mode NOT IN ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock',"
    " 'ShareUpdateExclusiveLock'))"
)


def refuse_occupied(
    fetch: Callable[[str, Mapping[str, Any]], Answer], target: str, name: str
) -> None:
    """Look, from another database, whether a new session there would wait for a lock.

    One that does keeps a place of the role until it has the lock, whether or not it is waited for.
    Raises TargetRefused then, and TargetDown; where the look fails, the attempt tells more.
    """
    try:
        ((occupied,),) = fetch(_OCCUPIED, {"name": name}).rows
    except SamplerError:
        return
    if occupied:
        raise TargetRefused(
            f"{target}: a lock keeps sessions out of this database",
            remedy="Nothing to do while it is copied, moved, renamed or dropped",
            retry_in=LOOKS_AGAIN_AFTER,
        )
