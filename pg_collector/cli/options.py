"""Options that several verbs share, and how an invalid configuration is told."""

import os
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer

from pg_collector.config.load import Loaded, find, load
from pg_collector.config.rules import CheckConnString
from pg_collector.errors import ConfigurationError
from pg_collector.samplers import discover

EXIT_CONFIGURATION: Final = 78  # EX_CONFIG; systemd does not start the unit again after it

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="PATH",
        show_default=False,
        help="The configuration file; else ./pg-collector.yaml, "
        "$XDG_CONFIG_HOME/pg-collector/config.yaml or /etc/pg-collector/config.yaml.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        show_default=False,
        help="Set one key, above file and environment: --set sampling.activity=5s. Repeatable.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print nothing; the exit code says it.")
]


def loaded(
    config: Path | None, overrides: list[str] | None, check: CheckConnString | None = None
) -> Loaded:
    """Return the configuration that these options and the environment give.

    Raises `ConfigurationError`.
    """
    return load(
        config if config is not None else find(os.environ),
        environ=os.environ,
        overrides=overrides or (),
        samplers=discover(),
        check_conn_string=check,
    )


def exit_invalid(error: ConfigurationError) -> NoReturn:
    """Tell what is wrong on stderr and end with 78."""
    typer.echo(str(error), err=True)
    raise typer.Exit(EXIT_CONFIGURATION)
