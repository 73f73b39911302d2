"""The databases of a server that a session's role may connect to."""

from collections.abc import Callable

from pg_collector.sample import Answer

# https://www.postgresql.org/docs/current/catalog-pg-database.html
_VISITABLE = (
    "SELECT /* pgc:discover */ d.datname FROM pg_catalog.pg_database AS d WHERE d.datallowconn"
    " AND NOT d.datistemplate AND pg_catalog.has_database_privilege(d.oid, 'CONNECT')"
    " ORDER BY d.datname"
)


def visitable(fetch: Callable[[str], Answer]) -> list[str]:
    """Return their names, templates left out. Raises what `fetch` raises."""
    return [str(name) for (name,) in fetch(_VISITABLE).rows]
