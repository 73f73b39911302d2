"""`pgc buffer quarantine`: the lines that the far side refused."""

from typing import Annotated

import msgspec
import typer

from pg_collector.buffer.quarantine import Refusal
from pg_collector.buffer.upkeep import Upkeep
from pg_collector.cli import buffer_words
from pg_collector.cli.buffer_access import Running, find
from pg_collector.cli.options import ConfigOption, JsonOption, SetOption
from pg_collector.cli.printable import printable, printable_json
from pg_collector.errors import CollectorError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Look at the lines that the far side refused; send them again, or delete them.\n\n"
    "\b\n"
    "  pgc buffer quarantine list\n"
    "  pgc buffer quarantine show NAME\n"
    "  pgc buffer quarantine requeue --all    send them again, as new lines\n"
    "  pgc buffer quarantine purge NAME",
)

NamesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME]...", help="Names, as `list` shows them.")
]
AllOption = Annotated[bool, typer.Option("--all", help="All of them.")]


@app.command("list", epilog="Example: pgc buffer quarantine list --json | jq -r .reason | sort")
def show_all(
    config: ConfigOption = None, overrides: SetOption = None, as_json: JsonOption = False
) -> None:
    """List the refused lines, oldest first: name, when, size, and what the far side said.

    With --json one object a line.
    """
    found = find(config, overrides).refusals()
    if as_json:
        for one in found:
            print(_encoded(one))
        return
    for line in buffer_words.refusals(found):
        print(printable(line))


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `list` shows it.")],
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a refused line, and under which number it was sent, when, and what the answer was."""
    for one in find(config, overrides).refusals():
        if one.name == name:
            break
    else:
        raise _unknown(name)
    if as_json:
        print(_encoded(one))
        return
    pairs = [("number", str(one.number)), ("stream", one.stream), ("refused at", one.at)]
    pairs += [("answer", one.reason), ("line", one.line)]
    for line in buffer_words.aligned(iter(pairs)):
        print(printable(line))


@app.command(epilog="Example: pgc buffer quarantine requeue --all && pgc buffer drain")
def requeue(
    names: NamesArgument = None,
    every: AllOption = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Put refused lines behind everything that waits, as new lines with new numbers."""
    count = _sorted_out("requeue", _chosen(names, every=every), config, overrides)
    print(f"requeued {buffer_words.counted(count, 'line')}")


@app.command()
def purge(
    names: NamesArgument = None,
    every: AllOption = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Delete refused lines; they count as lost (purged)."""
    count = _sorted_out("purge", _chosen(names, every=every), config, overrides)
    print(f"purged {buffer_words.counted(count, 'line')}")


def _sorted_out(
    action: str, names: tuple[str, ...] | None, config: ConfigOption, overrides: SetOption
) -> int:
    found = find(config, overrides)
    if isinstance(found, Running):
        return found.sort_out(action, names)
    with found.opened() as buffer:
        if buffer is None:
            if names:
                raise _unknown(names[0])
            return 0
        upkeep = Upkeep(buffer)
        return upkeep.requeue(names) if action == "requeue" else upkeep.discard(names)


def _chosen(names: list[str] | None, *, every: bool) -> tuple[str, ...] | None:
    """Return the names that were given; None for all."""
    if bool(names) == every:
        raise typer.BadParameter("give names, or --all")
    return None if every else tuple(names or ())


def _unknown(name: str) -> CollectorError:
    return CollectorError(
        f"no line {name} in quarantine", remedy="pgc buffer quarantine list names them."
    )


def _encoded(one: Refusal) -> str:
    told = {"name": one.name, **msgspec.structs.asdict(one)}
    return printable_json(msgspec.json.encode(told).decode())
