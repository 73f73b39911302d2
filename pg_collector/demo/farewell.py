"""The demo's last words: where the data is, and what to try next."""

import os
import shlex
import shutil
import sys
from pathlib import Path

from pg_collector.demo.feed import Board
from pg_collector.demo.watch import size

_WHO_BLOCKS_WHOM = (
    """jq -c 'select(.set == "activity.sessions") | .c as $c | .r[] | [$c, .] | transpose"""
    """ | map({(.[0]): .[1]}) | add | select(.blocking_pids)"""
    """ | {pid, application_name, blocking_pids, query}'"""
)


def say(board: Board, folder: Path) -> None:
    """Print how much went into which files, and three commands."""
    for line in lines(board, folder):
        print(line, flush=True)  # noqa: T201  # talking is what it is for


def lines(board: Board, folder: Path) -> list[str]:
    """Return the last words; `folder` is the target's."""
    total = board.total
    found = [f"\nWritten: {total.lines} lines, {size(total.bytes)}, one JSON object a line"]
    for sampler, written in sorted(board.written.items()):
        path = shown(folder / sampler / "current.jsonl")
        found.append(f"  {sampler:<14} {written.lines:>6} lines {size(written.bytes):>9}  {path}")
    look = _look_into(folder / "activity" / "current.jsonl")
    return [*found, *next_steps(look)]


def next_steps(*first: str) -> list[str]:
    """Return what to try next, `first` first."""
    return [
        "\nTry next:",
        *first,
        f"  your own server     {program()} sample activity"
        " --dsn postgresql://you@your-server/postgres",
        f"  its monitoring role {program()} setup sql > role.sql",
    ]


def program() -> str:
    """Return how to call this program again from here, as a shell reads it."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return f"{_python()} -m {__package__.partition('.')[0]}"
    found = shutil.which(called.name)
    if found is not None and called.exists() and called.samefile(found):
        return called.name
    path = shown(called.absolute())
    return shlex.quote(path if os.sep in path else f"./{path}")


def _python() -> str:
    """Return this interpreter. Another of the same name may lack our packages."""
    name = Path(sys.executable).name
    return (
        name if shutil.which(name) == sys.executable else shlex.quote(shown(Path(sys.executable)))
    )


def _look_into(file: Path) -> str:
    """Return a line with a command that looks into a file of samples, and exists here."""
    path = shlex.quote(shown(file))
    if shutil.which("jq") is not None:
        return f"  who held up whom    {_WHO_BLOCKS_WHOM} {path}"
    return f"  one of the samples  head -n 1 {path} | {_python()} -m json.tool"


def shown(path: Path) -> str:
    """Return a path as it is shortest from here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
