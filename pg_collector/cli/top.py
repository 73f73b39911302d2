"""`pgc top`: watch a target live, from what the running agent samples."""

import os
import shutil
import sys
from typing import Annotated

import msgspec
import typer

from pg_collector import control
from pg_collector.cli import EXIT_UNREACHABLE, agent_access
from pg_collector.cli.options import ConfigOption, SetOption
from pg_collector.cli.printable import printable_json
from pg_collector.errors import AgentUnreachable, CollectorError

WIDTH_WITHOUT_TERMINAL = 120


def top(
    target: Annotated[
        str | None,
        typer.Option("--target", "-t", metavar="NAME", help="Target to watch; the first without."),
    ] = None,
    interval: Annotated[
        float,
        typer.Option(min=0.5, max=20.0, metavar="SECONDS", help="How often to look for news."),
    ] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one picture and end.")] = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one picture as JSON, and end.")
    ] = False,
) -> None:
    r"""Watch a target live: waits, who blocks whom, statements, databases, replication, vacuum.

    \b
      pgc top
      pgc top --target prod --interval 1
      pgc top --once > picture.txt
      pgc top --json | jq '.blocking[] | {pid, blocked_by, wait_s}'

    The running agent is asked: it opens no further session. When somebody begins to watch, it
    samples the target at once, twice where figures are differences, and then at its own intervals;
    each panel says how old it is. Texts and names are masked as they leave the host. In the view,
    ? lists the keys: a b s d r v show one panel, left and right the next target, space holds.

    Exit codes: 0 ended by q, or printed; 2 there is no such target, or no terminal; 69 no agent
    runs, or (--once, --json) the target is down; 77 an agent runs that this user may not ask; 130
    interrupted.
    """
    from pg_collector.cli.live import header, page, run
    from pg_collector.cli.live.feed import Feed, Link
    from pg_collector.cli.live.terminal import in_text

    alone = once or as_json
    if not alone:
        _need_a_terminal()
    agent = agent_access.meant(config, overrides)
    places = control.candidates(os.environ, agent.state_dir)
    feed = Feed(Link(lambda: places, agent.state_dir), target, interval)
    try:
        feed.ask()
    except PermissionError as error:
        agent_access.refuse(error)
    except AgentUnreachable:
        if agent.invalid is not None:
            raise agent.invalid from None
        raise
    except CollectorError as error:
        if target is None or not str(error).startswith("no target"):
            raise
        raise typer.BadParameter(error.sentence(), param_hint="--target") from None
    if not alone:
        run.live(feed, os.environ)
        return
    shown = run.once(feed)
    if as_json:
        from pg_collector.cli.live.told import told

        print(printable_json(msgspec.json.encode(told(shown)).decode()))
    else:
        width = shutil.get_terminal_size((WIDTH_WITHOUT_TERMINAL, 24)).columns
        print(in_text(page.whole(shown, width), sys.stdout.encoding))
    if header.is_down(shown):
        raise typer.Exit(EXIT_UNREACHABLE)


def _need_a_terminal() -> None:
    """End with 2 where nothing can be drawn."""
    if sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return
    print("pgc: this is no terminal to draw on; print one picture with --once", file=sys.stderr)
    raise typer.Exit(2)
