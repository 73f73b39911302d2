"""`pgc config`: check, show, init, reference."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from pg_collector.cli.options import (
    EXIT_CONFIGURATION,
    ConfigOption,
    JsonOption,
    QuietOption,
    SetOption,
    exit_invalid,
    loaded,
)
from pg_collector.config.load import Loaded
from pg_collector.config.problems import InvalidConfiguration, Problem
from pg_collector.errors import ConfigurationError
from pg_collector.samplers import discover

EXIT_PROBLEM = 1

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Check, show, make and explain the configuration.\n\n"
    "\b\n"
    "  pgc config init pg-collector.yaml     write a file to begin with\n"
    "  pgc config check                      what is wrong, and where\n"
    "  pgc config show --origin              what is in force, and why",
)


@app.command(epilog="Example: pgc config check -c ./pg-collector.yaml && pgc start")
def check(
    config: ConfigOption = None,
    overrides: SetOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say whether the configuration is valid, and if not, all that is wrong. Exit code 0 or 78."""
    try:
        found = loaded(config, overrides)
    except ConfigurationError as error:
        if as_json:
            _print_json({"valid": False, "problems": _problems(error), "warnings": [], "files": []})
        elif not quiet:
            exit_invalid(error)
        raise typer.Exit(EXIT_CONFIGURATION) from None
    if as_json:
        files = [str(path) for path in found.files]
        _print_json(
            {"valid": True, "problems": [], "warnings": list(found.warnings), "files": files}
        )
    elif not quiet:
        _warn(found)
        count = len(found.config.databases)
        source = ", ".join(map(str, found.files)) or "the environment"
        typer.echo(f"valid: {count} database{'s' if count > 1 else ''}, from {source}")


@app.command(epilog="Example: pgc config show --origin | grep -v '# default'")
def show(
    config: ConfigOption = None,
    overrides: SetOption = None,
    origin: Annotated[
        bool, typer.Option("--origin", help="Say where each value came from.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the configuration in force: all layers merged, secrets as (secret)."""
    from pg_collector.config import render  # only this verb needs it

    try:
        found = loaded(config, overrides)
    except ConfigurationError as error:
        exit_invalid(error)
    _warn(found)
    if as_json:
        told: dict[str, object] = {"config": render.as_json(found)}
        if origin:
            told["origins"] = {path: str(place) for path, place in found.origins.items()}
        _print_json(told)
    else:
        typer.echo(render.as_yaml(found, origins=origin), nl=False)


@app.command(epilog="Example: pgc config init --minimal - | less")
def init(
    path: Annotated[
        Path, typer.Argument(metavar="[PATH]", help="Where to write; `-` is standard output.")
    ] = Path("pg-collector.yaml"),
    minimal: Annotated[
        bool, typer.Option("--minimal", help="Only what is needed to begin.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the file if it is there.")
    ] = False,
) -> None:
    """Write a commented configuration, by default ./pg-collector.yaml, with mode 0640."""
    from pg_collector.config import guide, template  # only this verb needs it

    text = guide.MINIMAL if minimal else template.full(discover())
    if str(path) == "-":
        typer.echo(text, nl=False)
        return
    try:
        _write(path, text, replace=force)
    except FileExistsError:
        typer.echo(f"{path} exists; --force replaces it, - prints instead", err=True)
        raise typer.Exit(EXIT_PROBLEM) from None
    except OSError as error:
        typer.echo(f"cannot write {path}: {error.strerror}; - prints instead", err=True)
        raise typer.Exit(EXIT_PROBLEM) from None
    typer.echo(f"wrote {path}; edit it, then: pgc config check -c {path}", err=True)


@app.command(epilog="Example: pgc config reference | grep -A2 query_timeout")
def reference(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="The page docs/configuration.md.")
    ] = False,
    json_schema: Annotated[
        bool, typer.Option("--json-schema", help="A JSON Schema, for editors.")
    ] = False,
) -> None:
    """List every key: type, unit, default, meaning."""
    from pg_collector.config import reference as pages  # only this verb needs it

    if markdown and json_schema:
        raise typer.BadParameter("choose one of --markdown and --json-schema")
    if json_schema:
        _print_json(pages.as_json_schema(discover()))
    else:
        page = pages.as_markdown if markdown else pages.as_text
        typer.echo(page(discover()), nl=False)


def _write(path: Path, text: str, *, replace: bool) -> None:
    """Write a file that only its owner may change and its group may read."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_TRUNC if replace else os.O_EXCL)
    descriptor = os.open(path, flags, 0o640)
    with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123  # it is a descriptor
        os.fchmod(descriptor, 0o640)  # of a file that was there, and whatever the umask
        file.write(text)


def _problems(error: ConfigurationError) -> list[dict[str, object]]:
    if not isinstance(error, InvalidConfiguration):
        return [{"message": str(error), "remedy": error.remedy}]
    return [_problem(problem) for problem in error.problems]


def _problem(problem: Problem) -> dict[str, object]:
    return {
        "source": problem.origin.source,
        "line": problem.origin.line or None,
        "column": problem.origin.column or None,
        "path": problem.path,
        "message": problem.message,
        "remedy": problem.remedy,
    }


def _warn(found: Loaded) -> None:
    for warning in found.warnings:
        typer.echo(f"warning: {warning}", err=True)


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
