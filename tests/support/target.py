"""A target as the configuration would give it, for a server of the lab."""

from typing import Any

from psycopg.conninfo import make_conninfo

from pg_collector.config.model import Database, Postgres
from pg_collector.secret import Secret


def target(dsn: str, *, sslmode: str | None = "disable", **postgres: Any) -> Database:
    """Return the target behind `dsn`; `postgres` are fields of that section.

    Without TLS unless `sslmode` says otherwise; None leaves it to the rest.
    """
    conn_string = make_conninfo(dsn, **({} if sslmode is None else {"sslmode": sslmode}))
    return Database(name="lab", postgres=Postgres(conn_string=Secret(conn_string), **postgres))
