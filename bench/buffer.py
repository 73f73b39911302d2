"""A backlog of 500 MB on disk: how long it takes to open, what memory it takes, how fast it drains.

Each figure stands beside the same of an almost empty buffer, in a process of its own. Run:
python bench/buffer.py [MEGABYTES]; the files lie in a temporary directory and are deleted.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pg_collector.buffer.journal import Journal
from pg_collector.buffer.spill import SpillingBuffer
from pg_collector.buffer.spool import Limits
from pg_collector.clock import SystemClock
from pg_collector.config.model import Durability
from pg_collector.metrics import Metrics
from pg_collector.sample import Keep

LINE = 20_000  # bytes, which compress to about half
DRAINED = 10_000  # lines, at most


def buffer_on(directory: Path) -> tuple[SpillingBuffer, Journal]:
    """Return a buffer with the default 4 MB of memory, its journal not yet open."""
    clock = SystemClock()
    buffer = SpillingBuffer(4 << 20, Metrics(clock), clock, Durability.WAL)
    journal = Journal(directory, Limits(disk_max=1 << 40, min_free=0.0), clock, buffer)
    buffer.journal = journal
    return buffer, journal


def resident() -> float:
    """Return the megabytes that this process has resident."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def fill(directory: Path, megabytes: float) -> None:
    """Put lines until the disk buffer takes so much."""
    buffer, journal = buffer_on(directory)
    journal.open()
    while journal.bytes < megabytes * 2**20:
        for _ in range(50):
            buffer.put(os.urandom(LINE // 2).hex().encode(), Keep.EVENT)
        journal.step()
    buffer.close(60.0)


def drain(directory: Path) -> None:
    """Open a filled buffer, drain some of it, and print the figures."""
    buffer, journal = buffer_on(directory)
    before = peak = resident()
    started = time.perf_counter()
    journal.open()
    opened = time.perf_counter() - started
    held = buffer.account().buffered
    started = time.perf_counter()
    lines = 0
    while lines < DRAINED and (batch := buffer.peek(512 << 10, 500)) is not None:
        buffer.ack(batch.last)
        lines += len(batch.lines)
        peak = max(peak, resident())
    rate = lines / (time.perf_counter() - started)
    print(
        f"{held:>8,} lines held: opened in {opened * 1000:.0f} ms, "
        f"{peak - before:.1f} MB more resident at most, {rate:,.0f} lines/s"
    )


def main() -> None:
    """Fill two buffers, and drain each in a fresh process."""
    if sys.argv[1:2] == ["drain"]:
        drain(Path(sys.argv[2]))
        return
    megabytes = float(sys.argv[1]) if len(sys.argv) > 1 else 500.0
    with tempfile.TemporaryDirectory() as place:
        for name, size in (("floor", 0.01), ("backlog", megabytes)):
            fill(Path(place, name), size)
            subprocess.run((sys.executable, __file__, "drain", Path(place, name)), check=True)


if __name__ == "__main__":
    main()
