"""Options that several verbs share, and how they meet those given before the verb.

`pgc --config FILE start` and `pgc start --config FILE` are the same.
"""

import os
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Final, NamedTuple, NoReturn

import typer

from pg_collector.config.load import Loaded, find, load
from pg_collector.config.model import Database, Postgres
from pg_collector.errors import ConfigurationError
from pg_collector.samplers import discover
from pg_collector.secret import Secret

EXIT_CONFIGURATION: Final = 78  # EX_CONFIG; systemd does not start the unit again after it

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        show_default=False,
        help="Configuration file. Without it: ./pg-collector.yaml, "
        "$XDG_CONFIG_HOME/pg-collector/config.yaml, /etc/pg-collector/config.yaml, or the "
        "environment alone.",
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
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="End with 3 where something is degraded, too.")
]
UrlOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        show_default=False,
        help="An agent's HTTP address: http://db1:8080. Without it: the agent that runs here.",
    ),
]
TimeoutOption = Annotated[
    float, typer.Option(metavar="SECONDS", min=0.1, help="How long to wait for the answer.")
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print nothing; the exit code says it.")
]


class Globals(NamedTuple):
    """What stood before the verb."""

    config: Path | None = None
    overrides: tuple[str, ...] = ()


class Source(NamedTuple):
    """Where a configuration is from, so that it can be read more than once."""

    path: Path | None
    overrides: tuple[str, ...]

    def load(self, *, environ: Mapping[str, str] = os.environ, of_another: bool = False) -> Loaded:
        """Read and check it; raises `ConfigurationError` with every problem found.

        `of_another`: it is an agent's of another user, who may use files that this one may not.
        """
        return load(
            self.path,
            environ=environ,
            overrides=self.overrides,
            samplers=discover(),
            check_conn_string=_complaint,
            of_another=of_another,
        )


BEFORE_THE_VERB: Final[ContextVar[Globals | None]] = ContextVar("before_the_verb", default=None)


def source(config: Path | None = None, overrides: list[str] | None = None) -> Source:
    """Return where the configuration of a verb is from; what stands after the verb goes first."""
    before = BEFORE_THE_VERB.get() or Globals()
    path = config or before.config or find(os.environ)
    return Source(path, (*before.overrides, *(overrides or ())))


def loaded(config: Path | None = None, overrides: list[str] | None = None) -> Loaded:
    """Return the configuration that a verb was called with.

    Raises `ConfigurationError` with every problem found.
    """
    return source(config, overrides).load()


def _complaint(conn_string: str) -> str | None:
    """Return what libpq has against a connection string, without a part of it."""
    from pg_collector.pg.conninfo import parse

    postgres = Postgres(conn_string=Secret(conn_string))
    try:
        parse(Database(name="it", postgres=postgres))
    except ConfigurationError as error:
        return str(error).partition(": ")[2]
    return None


def no_database(name: str | None, databases: Sequence[Database]) -> ConfigurationError:
    """Return the error of a verb that finds no database; `name` is the one that was asked for."""
    if name is None:
        names = ", ".join(one.name for one in databases)
        return ConfigurationError(
            "no database is enabled", remedy=f"Set enabled: true for: {names}"
        )
    if any(one.name == name for one in databases):
        return ConfigurationError(
            f"the database {name!r} is not enabled", remedy="Set its enabled: true, or take another"
        )
    names = ", ".join(one.name for one in databases if one.enabled)
    return ConfigurationError(
        f"no database {name!r} in the configuration", remedy=f"Enabled are: {names or 'none'}"
    )


def exit_invalid(error: ConfigurationError) -> NoReturn:
    """Tell what is wrong on stderr and end with 78."""
    typer.echo(str(error), err=True)
    raise typer.Exit(EXIT_CONFIGURATION)
