"""The cursor of the disk buffer may know less than the segments: a crash came between them."""

import shutil
from pathlib import Path

from pg_collector.buffer.journal import Journal
from pg_collector.buffer.spill import SpillingBuffer
from pg_collector.buffer.spool import Limits
from pg_collector.config.model import Durability
from pg_collector.metrics import Metrics
from pg_collector.sample import Gap, Keep
from tests.support.hand_clock import HandClock

LIMITS = Limits(segment_bytes=1, ballast=0)  # a segment for each commit


def opened(directory: Path) -> tuple[SpillingBuffer, Journal]:
    clock = HandClock()
    buffer = SpillingBuffer(1 << 20, Metrics(clock), clock, Durability.WAL)
    journal = buffer.journal = Journal(directory, LIMITS, clock, buffer)
    journal.open()
    return buffer, journal


def test_a_commit_that_the_cursor_does_not_know_takes_no_gap_away(tmp_path: Path):
    buffer, journal = opened(tmp_path / "before")
    for line in (b"refused", b"second"):
        buffer.put(line, Keep.EVENT)
        journal.step()
    assert buffer.peek(1 << 20, 1) is not None
    buffer.set_aside(1, "400")
    cursor = (tmp_path / "before" / "cursor").read_bytes()
    buffer.put(b"third", Keep.EVENT)
    journal.step()
    shutil.copytree(tmp_path / "before", tmp_path / "after")
    buffer.close(5.0)
    (tmp_path / "after" / "cursor").write_bytes(cursor)
    (given_up,) = (tmp_path / "after").glob(f"seg-{1:016d}-*")
    shutil.rmtree(given_up)

    buffer, _ = opened(tmp_path / "after")
    batch = buffer.peek(1 << 20, 10)
    assert batch is not None
    assert batch.gaps == (Gap(1, 1, "refused"),)
    assert (batch.first, batch.lines) == (1, (b"second", b"third"))
    buffer.close(5.0)
