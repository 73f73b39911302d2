"""The demo's last words: where the data is, and what to try next."""

import os
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
    found += [
        "\nTry next:",
        f"  who held up whom    {_WHO_BLOCKS_WHOM} {shown(folder / 'activity' / 'current.jsonl')}",
        "  your own server     pgc sample activity --dsn postgresql://you@your-server/postgres",
        "  its monitoring role pgc setup sql | psql -h your-server -U postgres",
    ]
    return found


def shown(path: Path) -> str:
    """Return a path as it is shortest from here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
