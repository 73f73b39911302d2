"""The end of the agent's log: of its file, or of the journal; no older than asked for."""

import datetime as dt
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pg_collector.bundle.parts import LeftOut

UNIT: Final = "pg-collector.service"
LARGEST: Final = 4 * 1024 * 1024  # bytes of a log that are taken, the newest
_LINES: Final = 20_000  # of the journal
_CLOCK: Final = re.compile(r"([0-2][0-9]):([0-5][0-9]):([0-6][0-9])\.[0-9]{3} ")


def of_file(path: Path, now: dt.datetime, since: float) -> str:
    """Return the lines of a file that are at most `since` seconds old. Raises OSError."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - LARGEST))
        lines = file.read(LARGEST).decode("utf-8", "replace").splitlines(keepends=True)
        written = dt.datetime.fromtimestamp(os.fstat(file.fileno()).st_mtime, dt.UTC)
    if size > LARGEST:
        lines = lines[1:]  # it begins in the middle of one
    return "".join(_young(lines, written, now - dt.timedelta(seconds=since)))


def of_journal(since: float, seconds: float) -> str:
    """Return what the unit wrote in the last `since` seconds. It may take so many `seconds`.

    Raises LeftOut where there is no journal, or nothing of the unit in it.
    """
    program = shutil.which("journalctl")
    if program is None:
        raise LeftOut("log.file is not set, and this host has no journal")
    command = [
        program, "--unit", UNIT, "--since", f"-{int(since)}s", "--output", "cat", "--no-pager",
        "--quiet", "--lines", str(_LINES),
    ]  # fmt: skip
    try:
        done = subprocess.run(  # noqa: S603  # of this host, with words of ours
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise LeftOut(f"the journal did not answer within {seconds:g} s") from None
    if done.returncode or not done.stdout.strip():
        raise LeftOut(
            f"log.file is not set, and the journal shows this user nothing of {UNIT} in that time"
        )
    return done.stdout[-LARGEST:].decode("utf-8", "replace")


def _young(lines: list[str], written: dt.datetime, oldest: dt.datetime) -> Iterator[str]:
    """Yield the lines from the first on that is not too old; those without a time go with theirs.

    Lines for people have no date: from the end on, where the time of day is later than that of the
    line behind it, it is the day before.
    """
    begin = len(lines)
    later = written
    for number in range(len(lines) - 1, -1, -1):
        at = _time(lines[number], later)
        if at is None:
            continue
        if at < oldest:
            break
        later, begin = at, number
    yield from lines[begin:]


def _time(line: str, later: dt.datetime) -> dt.datetime | None:
    """Return when a line was written: at its `ts`, or at the last such time before `later`."""
    if line.startswith("{"):
        try:
            return dt.datetime.fromisoformat(json.loads(line)["ts"])
        except (ValueError, KeyError, TypeError):
            return None
    clock = _CLOCK.match(line)
    if clock is None:
        return None
    hour, minute, second = map(int, clock.groups())
    try:
        at = later.replace(hour=hour, minute=minute, second=min(second, 59), microsecond=0)
    except ValueError:
        return None
    return at if at <= later else at - dt.timedelta(days=1)
