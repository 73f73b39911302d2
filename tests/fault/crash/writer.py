"""A program whose disk is recorded: the buffer on a directory, and a far side that always answers.

Line k is the stream's number k. Marks say what was promised: `durable` (on disk), `accepted` (the
far side has it). Started as `python -m tests.fault.crash.writer DIRECTORY SEED LINES`.
"""

import os
import random
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

from pg_collector.buffer.journal import Journal
from pg_collector.buffer.spill import SpillingBuffer
from pg_collector.buffer.spool import Limits
from pg_collector.clock import SystemClock
from pg_collector.config.model import Durability
from pg_collector.metrics import Metrics
from pg_collector.sample import Keep
from tests.support.lines import make
from tests.support.powercut.marks import mark

MEMORY_MAX = 64 * 1024
PADS = (0, 100, 900, 4000, 20_000)


def limits(seed: int) -> Limits:
    """Return small segments, so that much happens; every third seed has a disk that fills up."""
    disk_max = 600_000 if seed % 3 == 0 else 50_000_000
    return Limits(disk_max=disk_max, min_free=0.0, segment_bytes=100_000, ballast=64 * 1024)


class Marking(SpillingBuffer):
    """Marks what is durable."""

    def written(self, through: int) -> None:
        super().written(through)
        mark("durable", through)


def opened(
    directory: Path, seed: int, kind: Callable[..., SpillingBuffer] = SpillingBuffer
) -> SpillingBuffer:
    """Return the buffer on a directory, its journal without a thread."""
    clock = SystemClock()
    buffer = kind(MEMORY_MAX, Metrics(clock), clock, Durability.WAL)
    buffer.journal = Journal(directory, limits(seed), clock, buffer)
    buffer.journal.open()
    return buffer


def write(buffer: SpillingBuffer, seed: int, lines: int) -> None:
    """Put so many lines, and deliver some of them on the way; some acknowledgements are lost."""
    chance = random.Random(seed)  # noqa: S311
    never = threading.Event()
    for k in range(1, lines + 1):
        buffer.wait_for_room(32_000, 10.0)
        buffer.put(make(k, chance.choice(PADS)), chance.choice(list(Keep)))
        if chance.random() < 0.05:
            never.wait(0.01)  # so that the journal's thread has its turn
        if chance.random() < 0.04:
            for _ in range(chance.randint(1, 6)):
                batch = buffer.peek(chance.choice((5_000, 100_000)), chance.randint(1, 60))
                if batch is None:
                    break
                mark("accepted", batch.last)
                if chance.random() < 0.9:
                    buffer.ack(batch.last)


def essential(work: Callable[[], None]) -> None:
    """Let the death of the journal's thread be that of the program."""
    try:
        work()
    except Exception:  # noqa: BLE001
        traceback.print_exc()
        os._exit(3)


def main() -> None:
    """Write, and end without closing anything."""
    directory, seed, lines = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    buffer = opened(directory, seed, Marking)
    assert buffer.journal is not None
    buffer.journal.start(essential)
    write(buffer, seed, lines)
    buffer.journal.urge()
    threading.Event().wait(0.7)  # the last lines are written, as in a life that goes on


if __name__ == "__main__":
    main()
