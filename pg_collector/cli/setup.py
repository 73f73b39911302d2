"""`pgc setup`: what PostgreSQL needs."""

from typing import Annotated

import typer

from pg_collector.errors import ConfigurationError

app = typer.Typer(
    help="Print what the monitored PostgreSQL needs.", no_args_is_help=True, rich_markup_mode=None
)

_AUTHENTICATION = {
    "password": "-- Then give it a password, which pgc reads from a file:  \\password {user}",
    "cert": "-- pg_hba.conf:  hostssl all {user} <agent's address>/32 cert clientcert=verify-full",
    "peer": "-- pg_hba.conf:  local all {user} peer   (pgc runs as the system user {user})",
}


@app.callback()
def _setup() -> None:
    """Keep `sql` a verb of its own; the guided form will stand beside it."""


@app.command()
def sql(
    user: Annotated[str, typer.Option(help="Name of the monitoring role.")] = "pgcollector",
    auth: Annotated[
        str, typer.Option(help="How the agent will log in: password, cert or peer.")
    ] = "password",
    targets: Annotated[
        int, typer.Option(min=1, help="How many targets of this server the agent will watch.")
    ] = 1,
    connection_limit: Annotated[
        int | None,
        typer.Option(min=1, help="Connections the role may hold.  [default: 2 per target]"),
    ] = None,
    databases: Annotated[
        list[str] | None,
        typer.Option(
            "--database", "-d", help="Database to connect to; repeatable.  [default: postgres]"
        ),
    ] = None,
) -> None:
    """Print the SQL that makes the monitoring role; it changes nothing by itself.

    Example:  pgc setup sql | sudo -u postgres psql
    """
    if auth not in _AUTHENTICATION:
        raise ConfigurationError(
            f"unknown authentication {auth!r}", remedy=f"One of: {', '.join(_AUTHENTICATION)}"
        )
    for line in script(user, auth, connection_limit or 2 * targets, databases or ["postgres"]):
        print(line)


def script(user: str, auth: str, connection_limit: int, databases: list[str]) -> list[str]:
    """Return the lines of a psql script that can be run again without harm."""
    role, literal = _identifier(user), _literal(user)
    lines = [
        "-- A role for PG Collector: it reads statistics, holds "
        f"{connection_limit} connections at most, and writes nothing.",
        "DO $pgc$ BEGIN",
        f"  IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {literal}) THEN",
        f"    CREATE ROLE {role} LOGIN;",
        "  END IF;",
        "END $pgc$;",
        f"ALTER ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION"
        f" CONNECTION LIMIT {connection_limit};",
        f"ALTER ROLE {role} SET default_transaction_read_only = on;",
        f"GRANT pg_monitor TO {role};",
    ]
    lines += [f"GRANT CONNECT ON DATABASE {_identifier(one)} TO {role};" for one in databases]
    lines += [
        "-- For the sampler `statements`. pg_stat_statements must also stand in",
        "-- shared_preload_libraries, which needs a restart.",
        "CREATE EXTENSION IF NOT EXISTS pg_stat_statements;",
        _AUTHENTICATION[auth].format(user=role),
    ]
    return lines


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
