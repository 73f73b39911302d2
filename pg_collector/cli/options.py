"""Options that several verbs share, and how they meet those given before the verb.

`pgc --config FILE start` and `pgc start --config FILE` are the same.
"""

import os
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from pg_collector.config.load import Loaded, find, load
from pg_collector.samplers import discover

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="Configuration file. Without it: ./pg-collector.yaml, the user's, then "
        "/etc/pg-collector/config.yaml, or the environment alone.",
        show_default=False,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override one key, as in --set sampling.activity=5s. Repeatable.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


class Globals(msgspec.Struct):
    """What stood before the verb."""

    config: Path | None = None
    overrides: tuple[str, ...] = ()


def read(
    context: typer.Context, config: Path | None = None, overrides: list[str] | None = None
) -> Loaded:
    """Load the configuration that a verb was called with.

    Raises ConfigurationError with every problem found.
    """
    before = context.find_object(Globals) or Globals()
    path = config or before.config or find(os.environ)
    return load(
        path,
        environ=os.environ,
        overrides=(*before.overrides, *(overrides or ())),
        samplers=discover(),
    )
