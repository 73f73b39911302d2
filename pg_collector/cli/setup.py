"""`pgc setup`: what PostgreSQL needs."""

from typing import Annotated

import typer

from pg_collector.errors import ConfigurationError
from pg_collector.pg.role import AUTHENTICATION, column_statistics_script, script

app = typer.Typer(
    help="Print what the monitored PostgreSQL needs.", no_args_is_help=True, rich_markup_mode=None
)


@app.callback()
def _setup() -> None:
    """Keep `sql` a verb of its own; the guided form will stand beside it."""


@app.command()
def sql(
    user: Annotated[
        str, typer.Option(metavar="NAME", help="Name of the monitoring role.")
    ] = "pgcollector",
    auth: Annotated[
        str,
        typer.Option(
            metavar="METHOD", help=f"How the agent will log in: {', '.join(AUTHENTICATION)}."
        ),
    ] = "password",
    targets: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="How many targets of this server the agent will watch."
        ),
    ] = 1,
    connection_limit: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Connections the role may hold.  [default: 2 per target]"
        ),
    ] = None,
    databases: Annotated[
        list[str] | None,
        typer.Option(
            "--database",
            "-d",
            metavar="NAME",
            help="Database to connect to; repeatable.  [default: postgres]",
        ),
    ] = None,
    bloat: Annotated[
        bool,
        typer.Option(
            "--bloat", help="Print the function that lets the sampler bloat see column widths."
        ),
    ] = False,
) -> None:
    r"""Print the SQL that makes the monitoring role; it changes nothing by itself.

    With --bloat it prints only the function for the sampler bloat, to be made in each database.

    \b
      pgc setup sql | sudo -u postgres psql
      pgc setup sql --bloat | sudo -u postgres psql shop
    """
    if bloat:
        for line in column_statistics_script(user):
            print(line)
        return
    if auth not in AUTHENTICATION:
        raise ConfigurationError(
            f"unknown authentication {auth!r}", remedy=f"One of: {', '.join(AUTHENTICATION)}"
        )
    for line in script(user, auth, connection_limit or 2 * targets, databases or ["postgres"]):
        print(line)
