"""`pgc status`: the live state of the agent."""

import contextlib
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer

from pg_collector import control
from pg_collector.cli import (
    EXIT_PROBLEM,
    EXIT_UNREACHABLE,
    EXIT_WARNING,
    agent_access,
    status_words,
)
from pg_collector.cli.options import ConfigOption, JsonOption, SetOption, StrictOption
from pg_collector.cli.printable import printable, printable_json
from pg_collector.errors import CollectorError
from pg_collector.status import Status, StatusRequest

if TYPE_CHECKING:
    from pg_collector.activation.device import Told
    from pg_collector.buffer.report import Report

_CLEAR: Final = "\033[H\033[J"  # home, then erase what is below
_COLOURS: Final = {"ok": "green", "warn": "yellow", "bad": "red"}


class Down(msgspec.Struct, frozen=True, kw_only=True):
    """What can be said of an agent that does not run."""

    running: bool = False
    device: "Told | None" = None
    buffer: "Report | None" = None


def status(
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Show it again and again, until Ctrl-C.")
    ] = False,
    interval: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="Between two looks of --watch.")
    ] = 2.0,
    strict: StrictOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    r"""Show the running agent: targets and their samplers, buffer, delivery, device.

    \b
      pgc status
      pgc status --watch
      pgc status --json | jq '.targets[].samplers[] | select(.state != "ok")'

    `can hold` is for how long samples could be kept if nothing were delivered from now on. Where
    no agent runs, its state directory says how the device is and what waits to be delivered.

    Exit codes: 0 ok or degraded, 1 down or stopping, 3 degraded (--strict), 69 no agent runs or it
    does not answer, 77 an agent runs that this user may not ask, 78 the configuration is invalid.
    """
    if not watch:
        raise typer.Exit(_shown(config, overrides, strict=strict, as_json=as_json))
    terminal = sys.stdout.isatty()
    again = False
    while True:
        try:
            code = _shown(
                config, overrides, strict=strict, as_json=as_json, clear=terminal, again=again
            )
            again = code != EXIT_UNREACHABLE
        except CollectorError as error:  # it may be back at the next look
            again = False
            _clear(wanted=terminal and not as_json)
            print(printable(error.sentence(), keep="\n"), file=sys.stderr)
        if not terminal and not as_json:
            print()
        sys.stdout.flush()
        time.sleep(interval)


def _shown(
    config: Path | None,
    overrides: list[str] | None,
    *,
    strict: bool,
    as_json: bool,
    clear: bool = False,
    again: bool = False,
) -> int:
    """Print it once, with `clear` in the place of what was there; return the exit code.

    `again`: the agent has been asked a moment ago.
    """
    agent = agent_access.meant(config, overrides)
    try:
        reply = agent_access.ask(StatusRequest(again=again), agent.state_dir)
    except PermissionError as error:
        agent_access.refuse(error)
    if reply is None:
        if agent.invalid is not None:
            raise agent.invalid
        _print_down(config, overrides, as_json=as_json, clear=clear)
        return EXIT_UNREACHABLE
    now = control.told(reply, Status)
    _clear(wanted=clear and not as_json)
    if as_json:
        print(printable_json(msgspec.json.encode(now).decode()))
    else:
        _print(status_words.running(now))
    if now.status not in {"ok", "degraded"}:
        return EXIT_PROBLEM
    return EXIT_WARNING if strict and now.status != "ok" else 0


def _print_down(
    config: Path | None, overrides: list[str] | None, *, as_json: bool, clear: bool
) -> None:
    """Print what the state directory tells."""
    from pg_collector.cli import buffer_access
    from pg_collector.cli.device_access import Place

    device = Place(config, overrides).read()
    buffer: Report | None = None
    with contextlib.suppress(CollectorError):  # kept in a memory that is gone
        buffer = buffer_access.find(config, overrides).report()
    _clear(wanted=clear and not as_json)
    if as_json:
        print(printable_json(msgspec.json.encode(Down(device=device, buffer=buffer)).decode()))
    else:
        _print(status_words.stopped(device, buffer))


def _clear(*, wanted: bool) -> None:
    """Empty the screen at once: what follows may go to standard error, which overtakes."""
    if wanted:
        sys.stdout.write(_CLEAR)
        sys.stdout.flush()


def _print(lines: Iterable[str]) -> None:
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for line in _split(lines):
        text = printable(line)
        print(_coloured(text) if coloured else text)


def _split(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        yield from line.split("\n")


def _coloured(line: str) -> str:
    """Colour the words that say how something is."""
    return "  ".join(
        typer.style(word, fg=_COLOURS[status_words.MARKS[word.strip()]])
        if word.strip() in status_words.MARKS
        else word
        for word in line.split("  ")
    )
