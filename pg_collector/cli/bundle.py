"""`pgc bundle`: pack what support needs, without secrets."""

import contextlib
import contextvars
import datetime as dt
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from pg_collector.cli.options import ConfigOption, JsonOption, SetOption, source
from pg_collector.cli.printable import printable
from pg_collector.errors import ConfigurationError, StateError

if TYPE_CHECKING:
    from pg_collector.bundle.archive import Bundle, Manifest
    from pg_collector.cli.bundle_parts import Scene
    from pg_collector.cli.options import Source
    from pg_collector.config.load import Loaded

WITHIN: Final = 10.0  # seconds that each look-up may take; they run at the same time
EXIT_USAGE: Final = 2


def bundle(
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where to write; `-` is standard output. By default a name with host and time, "
            "in this directory.",
        ),
    ] = "",
    only_list: Annotated[
        bool, typer.Option("--list", help="Print what would be in it; write nothing.")
    ] = False,
    since: Annotated[
        str, typer.Option(metavar="TIME", help="How far the log goes back: 30m, 6h, 2d.")
    ] = "24h",
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    r"""Pack what support needs into one archive (.tar.gz, mode 0600), without secrets.

    \b
      sudo pgc bundle
      pgc bundle --list
      pgc bundle --since 1h -o - | ssh support@example.com 'cat > bundle.tar.gz'

    In it are the configuration with its secrets hidden, versions, facts of the host and of the
    agent's process, the stacks of its threads, its HTTP pages (/status, too), device, buffer and
    samplers, the end of its log, and a list of the files in the state directory. It works as well
    while the agent is down or hangs, and for a user who may not ask it: what cannot be had within
    10 s is left out, and manifest.json says why.

    Before anything is written, all of it is searched for every secret that the configuration and
    the environment hold, and for what looks like one. What is found is replaced by (secret), and
    counted in manifest.json. Where not all secrets can be found out within 10 s (a volume hangs),
    only versions.json, host.json, process.json and threads.json are written: they can hold none.

    Exit codes: 0 written, 2 wrong usage, 73 the file is there already or cannot be made.
    """
    from pg_collector.bundle import archive
    from pg_collector.clock import SystemClock

    if output == "-" and not only_list and sys.stdout.isatty():
        typer.echo("pgc: an archive is not for a terminal: name a file with -o", err=True)
        raise typer.Exit(EXIT_USAGE)
    seconds = _seconds(since)
    now = SystemClock().now()
    made = _made(config, overrides, seconds, now)
    if only_list:
        _print(made.manifest, "", as_json=as_json, to_stdout=True)
        return
    data = archive.compressed(made, now)
    if output == "-":
        sys.stdout.buffer.write(data)
        _print(made.manifest, "-", as_json=as_json, to_stdout=False)
        return
    path = Path(output or f"{made.name}.tar.gz")
    path = path / f"{made.name}.tar.gz" if path.is_dir() else path
    archive.write(path, data)
    _print(made.manifest, str(path), as_json=as_json, to_stdout=True)


def _seconds(since: str) -> float:
    from pg_collector.config import units

    try:
        return units.duration(since)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--since") from None


def _made(
    config: Path | None, overrides: list[str] | None, since: float, now: dt.datetime
) -> "Bundle":
    """Look everything up, and pack it. Raises CollectorError.

    Each step is bounded: whatever is on a volume may hang.
    """
    from pg_collector.bundle import archive
    from pg_collector.bundle.parts import gather, reason, within
    from pg_collector.cli import bundle_parts

    try:
        seen = _scene(config, overrides, since, now)
    except TimeoutError:
        raise StateError(
            f"no place of configuration or state is known within {WITHIN:g} s: nothing is written",
            remedy="A volume hangs. Name places on another: -c FILE, STATE_DIRECTORY=DIRECTORY.",
        ) from None
    pages: list[str] = []
    with contextlib.suppress(Exception):  # each page says so for itself
        pages = within(lambda: bundle_parts.further_pages(seen.peer), WITHIN, "index")
    found = gather(bundle_parts.parts(seen, pages), WITHIN)
    not_searched = ""
    try:
        within(seen.find_secrets, WITHIN, "secrets")
    except Exception as error:  # noqa: BLE001  # what it may hold is not to leave
        not_searched = f"not searched for secrets, for not all are known: {reason(error, WITHIN)}"
    return archive.pack(
        found, seen.scan(), host=platform.node(), now=now, since=since, not_searched=not_searched
    )


def _scene(
    config: Path | None, overrides: list[str] | None, since: float, now: dt.datetime
) -> "Scene":
    """Read the configuration and find the agent. Raises TimeoutError."""
    from pg_collector.bundle import process
    from pg_collector.bundle.parts import reason, within
    from pg_collector.cli import bundle_parts

    # A thread begins without what stands before the verb.
    named = contextvars.copy_context()
    place = within(lambda: named.run(source, config, overrides), WITHIN, "configuration")

    def scene(loaded: "Loaded | None", why: str) -> bundle_parts.Scene:
        made = within(
            lambda: bundle_parts.Scene(place, loaded, why, since=since, now=now), WITHIN, "state"
        )
        try:
            within(lambda: made.peer.find(made.sockets), WITHIN, "agent")
        except Exception as error:  # noqa: BLE001
            made.peer.trouble = reason(error, WITHIN)
        return made

    seen = scene(*_loaded(place, os.environ))
    pid = seen.peer.pid
    if seen.loaded is None and pid is not None:
        # What the configuration wants of the environment, the agent's has.
        variables: dict[str, str] = {}
        with contextlib.suppress(TimeoutError):
            variables = within(lambda: process.environment(pid), WITHIN, "variables")
        loaded, why = _loaded(place, {**variables, **os.environ})
        seen = scene(loaded, why) if loaded is not None else seen
    return seen


def _loaded(place: "Source", environ: Mapping[str, str]) -> "tuple[Loaded | None, str]":
    """Return the configuration; or None, and why there is none."""
    from pg_collector.bundle.parts import reason, within

    def load() -> "Loaded":
        return place.load(environ=environ, of_another=True)

    try:
        return within(load, WITHIN, "configuration"), ""
    except ConfigurationError as error:
        return None, f"the configuration is not valid: {error}"
    except Exception as error:  # noqa: BLE001  # the rest is wanted all the more
        return None, reason(error, WITHIN)


def _print(manifest: "Manifest", written: str, *, as_json: bool, to_stdout: bool) -> None:
    """Say what is in it; data goes to standard output unless the archive does."""
    import msgspec

    if manifest.not_searched:
        typer.echo(printable(f"pgc: most is left out: {manifest.not_searched}"), err=True)
    stream = sys.stdout if to_stdout else sys.stderr
    if as_json:
        told = {"written": written or None, **msgspec.to_builtins(manifest)}
        print(msgspec.json.encode(told).decode(), file=stream)
        return
    if written and to_stdout:
        print(printable(written))
        stream = sys.stderr
    for one in manifest.files:
        print(printable(f"{one.name:<24} {one.bytes:>9} B  {one.what}"), file=stream)
    for missing in manifest.left_out:
        print(printable(f"{missing.name:<24} left out: {missing.why}"), file=stream)
    for hit in manifest.redacted:
        times = f"{hit.count} times" if hit.count > 1 else "once"
        print(printable(f"{hit.file:<24} replaced: {hit.kind}, {times}"), file=stream)
