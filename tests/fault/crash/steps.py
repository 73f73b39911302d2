"""A program that dies before each change to its directory's names in turn; every death is an image.

One short life of the buffer makes, completes, thins, gives up, deletes and sets aside segments. A
child of this process lives it for every step, and ends, as kill -9 would end it, before that step:
a file or folder made, renamed or deleted. What it promised and delivered stands in `notes` beside
the image. Started as `python -m tests.fault.crash.steps PLACE EVERY`: every so many steps.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any, Final, TypeVar

from pg_collector.buffer.journal import Journal
from pg_collector.buffer.spill import SpillingBuffer
from pg_collector.buffer.spool import Limits
from pg_collector.config.model import Durability
from pg_collector.metrics import Metrics
from pg_collector.sample import Keep
from tests.support.hand_clock import HandClock
from tests.support.lines import make

LIMITS: Final = Limits(segment_bytes=150_000, ballast=8192, disk_max=600_000, min_free=0.0)
MEMORY_MAX: Final = 60_000
PAD: Final = 2000
ROUNDS: Final = 30
DELIVERED: Final = (5, 6, 22, 23, 24)  # rounds
DAMAGED: Final = 22
DAMAGED_LINES: Final = 64  # of one segment
EVENTS: Final = frozenset(
    ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "open", "sqlite3.connect")
)


B = TypeVar("B", bound=SpillingBuffer)


class Noting(SpillingBuffer):
    """Notes what is on disk."""

    notes: int

    def written(self, through: int) -> None:
        super().written(through)
        note(self.notes, {"written": through})


def note(to: int, what: dict[str, Any]) -> None:
    """Write a line at once: it outlives the process."""
    os.write(to, json.dumps(what).encode() + b"\n")


def opened(directory: Path, kind: type[B]) -> B:
    """Return the buffer on a directory, its journal without a thread."""
    clock = HandClock()
    buffer = kind(MEMORY_MAX, Metrics(clock), clock, Durability.WAL)
    buffer.journal = Journal(directory, LIMITS, clock, buffer)
    return buffer


def live(directory: Path, notes: int) -> None:
    """Be a life, to its good end."""
    buffer = opened(directory, Noting)
    buffer.notes = notes
    journal = buffer.journal
    assert journal is not None
    journal.open()
    k = 0
    for turn in range(ROUNDS):
        for _ in range(20):
            k += 1
            note(notes, {"put": k})
            buffer.put(make(k, PAD), Keep.DELTA if k % 3 else Keep.EVENT)
        journal.step()
        if turn == DAMAGED:
            oldest = min(directory.glob("seg-*-*"))
            os.truncate(oldest / "cache.db", 5000)
        for _ in range(4 if turn in DELIVERED else 0):
            if (batch := buffer.peek(20_000, 1000)) is not None:
                sent = {"stream": batch.stream, "first": batch.first, "last": batch.last}
                note(notes, {**sent, "body": batch.body.decode()})
                buffer.ack(batch.last)
    buffer.close(5.0)


def die_before(step: int, directory: Path) -> None:
    """Let this process end before it does so many things below a directory; 0 counts them only."""
    seen = 0
    inside = str(directory)

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event not in EVENTS or not _changes(event, arguments, inside):
            return
        seen += 1
        if seen == step:
            os._exit(9)

    sys.addaudithook(look)


def _changes(event: str, arguments: tuple[Any, ...], inside: str) -> bool:
    if inside not in str(arguments[0]) and not event.startswith("os.r"):
        return False  # what is deleted has a name relative to an open folder
    if event == "sqlite3.connect":
        return "mode=ro" not in arguments[0]
    return event != "open" or bool(arguments[2] & os.O_CREAT)


def child(directory: Path, step: int) -> int:
    """Live and die; return 0 where the life ended before that step."""
    pid = os.fork()
    if pid == 0:
        notes = os.open(directory.with_suffix(".notes"), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        die_before(step, directory)
        try:
            live(directory, notes)
        except BaseException:  # noqa: BLE001 - the child ends here
            sys.excepthook(*sys.exc_info())
            os._exit(3)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main() -> None:
    """Leave `1`, `2` … and their notes in the place; the last life ends by itself."""
    place, every = Path(sys.argv[1]), int(sys.argv[2])
    step = 1
    while (code := child(place / str(step), step)) == 9:
        step += every
    sys.stdout.write(f"{step}\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
