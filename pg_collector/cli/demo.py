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
        Path, typer.Option(metavar="DIR", help="With --local: where the samples go.")
    ] = Path("./output"),
    local: Annotated[
        bool, typer.Option("--local", help="Write JSON lines into files; without a platform.")
    ] = False,
    outage: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Take the platform away for N seconds; 0: not at all.  [default: 6]",
            show_default=False,
            callback=_finite,
        ),
    ] = None,
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

    A platform of its own stores the samples, is away for some seconds while the agent's buffer
    holds them, and tells in the end what it has. With --local they go into files, which stay.
    Nothing leaves this machine. Ctrl-C ends everything and removes both servers. It needs the extra
    `demo`: pip install 'pg-collector[demo]'.

    Example:  pgc demo

    Example:  pgc demo --local --seconds 20 --output /tmp/samples | tee demo.log

    Exit codes: 0 ended by time or by Ctrl-C, 1 a part died, 73 a directory or an address cannot be
    used, 78 it is no address, or this build has no demo.
    """
    from pg_collector.demo.run import Options, run

    raise typer.Exit(run(Options(seconds, output, keep, http, local, outage)))
