"""`pgc check`: the preflight of the whole path, with the remedy for whatever is not well."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from pg_collector import __version__
from pg_collector.checkup import account, run, unit
from pg_collector.checkup import config as configuration
from pg_collector.checkup.asked import Asked
from pg_collector.checkup.finding import EXIT_CONFIGURATION, Finding, Level, Part, exit_code
from pg_collector.cli.options import (
    BEFORE_THE_VERB,
    ConfigOption,
    Globals,
    JsonOption,
    SetOption,
    source,
)
from pg_collector.cli.printable import printable, printable_json
from pg_collector.config.rights import SERVICE
from pg_collector.errors import ConfigurationError
from pg_collector.samplers import discover

_MARKS: Final = {Level.OK: "ok", Level.WARN: "!", Level.FAIL: "FAIL"}
_COLOURS: Final = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}


def check(
    offline: Annotated[
        bool, typer.Option("--offline", help="Use no network: configuration, secrets and disk.")
    ] = False,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="PARTS",
            show_default=False,
            help=f"Only these parts, with commas between: {', '.join(Part)}.",
        ),
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            "--database",
            "-d",
            metavar="NAME",
            show_default=False,
            help="Only this database of the configuration.",
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="End with 3 if there are warnings.")] = (
        False
    ),
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=1, help="For everything together.")
    ] = 60.0,
    user: Annotated[
        str,
        typer.Option(metavar="NAME", help="As root: with whose rights, if there is such a user."),
    ] = SERVICE,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    r"""Check the whole path: files, disk, every server and what it grants, the platform, clocks.

    \b
      sudo pgc check                                  everything, as the agent's user
      pgc check --only postgres,samplers -d prod      one server: what is hidden, what is missing
      pgc check --offline --strict                    before a start, without the network
      pgc check --json | jq -r '.[] | select(.level != "ok") | .remedy'

    Each line that is not ok comes with what mends it: SQL, a command, or a sentence. Nothing is
    written on a server, and nothing is left on disk. Where an agent runs, it lends its sessions;
    else one session is opened for each server, and every question is bounded in time. As root it
    has the variables and credentials that the unit pg-collector.service gives the agent.

    Exit codes: 0 well, 1 something has to be mended, 3 warnings, with --strict, 69 all that fails
    is that a server or the platform cannot be reached, 78 the configuration is invalid.
    """
    parts = _parts(only)
    if offline and not parts & run.LOCAL:
        raise typer.BadParameter("nothing of this can be checked without the network")
    named = config or (BEFORE_THE_VERB.get() or Globals()).config
    named = named.absolute() if named is not None else None
    discover()  # while whoever typed this may read the program, if another account may not
    typed_by = account.current()
    gives = unit.given() if os.geteuid() == 0 and user == SERVICE else unit.Given()
    whose = account.become(user)
    until = time.monotonic() + timeout
    where = source(named, overrides)
    gives = gives if where.path == unit.CONFIG and whose == SERVICE else unit.Given()
    head = _head(where.path, whose)
    with unit.applied(gives):
        try:
            loaded = where.load()
        except ConfigurationError as error:
            unseen = (one for one in unit.findings(gives) if one.level is not Level.OK)
            _tell(chain(configuration.invalid(error), unseen), head, as_json=as_json)
            raise typer.Exit(EXIT_CONFIGURATION) from None
        asked = Asked(loaded, os.environ, parts, until, database, not offline, typed_by, gives)
        if database is not None and not asked.targets:
            names = ", ".join(one.name for one in asked.config.databases)
            raise ConfigurationError(
                f"no database {database!r} in the configuration", remedy=f"There are: {names}"
            )
        found = _tell(run.findings(asked), head, as_json=as_json)
    code = exit_code(found, strict=strict)
    if not as_json:
        print(_summary(found, code))
    raise typer.Exit(code)


def _parts(text: str | None) -> frozenset[Part]:
    if text is None:
        return frozenset(Part)
    try:
        return frozenset(Part(one.strip()) for one in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"--only takes of these: {', '.join(Part)}") from None


def _head(path: Path | None, whose: str) -> str:
    where = path or "from the environment"
    return f"PG Collector {__version__}   config {where}   running checks as {whose}"


def _tell(findings: Iterable[Finding], head: str, *, as_json: bool) -> list[Finding]:
    """Print findings as they come, or all of them as a list; return them."""
    found: list[Finding] = []
    target: str | None = None
    if not as_json:
        print(printable(head))
    for one in findings:
        found.append(one)
        if as_json:
            continue
        if one.target is not None and one.target != target and one.section not in _HOST:
            print(printable(f" {one.target}"))
        target = one.target
        for line in _lines(one):
            print(line)
        sys.stdout.flush()
    if as_json:
        encoded = msgspec.json.format(msgspec.json.encode(found), indent=2)
        print(printable_json(encoded.decode()))
    return found


_HOST: Final = frozenset((Part.CONFIG, Part.SECRETS, Part.DISK))  # lines of these name their target


def _lines(one: Finding) -> Iterator[str]:
    inner = one.target is not None and one.section not in _HOST
    named = f"{one.target}: " if one.target is not None and not inner else ""
    indent = "   " if inner else " "
    width = 8 if inner else 10
    mark = _coloured(f"{_MARKS[one.level]:<4}", one.level)
    yield f"{indent}{one.section:<{width}} {mark} {printable(named + one.found)}"
    if one.remedy:
        yield f"{'':<12}fix:  {printable(one.remedy)}"


def _coloured(text: str, level: Level) -> str:
    plain = "NO_COLOR" in os.environ or not sys.stdout.isatty()
    return text if plain else typer.style(text, fg=_COLOURS[level])


def _summary(found: list[Finding], code: int) -> str:
    failures = sum(one.level is Level.FAIL for one in found)
    warnings = sum(one.level is Level.WARN for one in found)
    if not failures and not warnings:
        return "all is well"
    counted = (("failure", failures), ("warning", warnings))
    said = ", ".join(f"{n} {what}{'s' if n > 1 else ''}" for what, n in counted if n)
    return f"{said:<64}exit {code}"
