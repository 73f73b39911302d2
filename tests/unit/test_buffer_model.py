"""The buffer on a real disk against a list: random histories of puts, deliveries, crashes, stops.

The far side keeps what it accepts by stream and number, as the platform does. In the end it must
have every line that was committed, once and in order, or the buffer must have counted it.
"""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pg_collector.buffer.journal import Journal
from pg_collector.buffer.spill import SpillingBuffer
from pg_collector.buffer.spool import Limits
from pg_collector.config.model import Durability
from pg_collector.metrics import Metrics
from pg_collector.sample import Batch, Keep
from tests.support.hand_clock import HandClock

# Thousands of synced writes: this is about order and counts, the fault suite is about disks.
IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
PAD = st.integers(0, 3000)
COUNT = st.integers(1, 30)
KEEP = st.sampled_from(Keep)


def made(k: int, pad: int) -> bytes:
    """Return line number k; its set and moment are what thinning looks at."""
    return b'{"set":"s%d","target":"t","at":"%d","k":%d,"r":"%s"}' % (k % 3, k, k, b"x" * pad)


def counter(line: bytes) -> int:
    return int(line.partition(b'"k":')[2].partition(b",")[0])


class FarSide:
    """Keeps lines by stream and number; refuses to skip one."""

    def __init__(self) -> None:
        self.next: dict[str, int] = {}
        self.kept: list[int] = []

    def take(self, batch: Batch) -> None:
        expected = self.next.setdefault(batch.stream, 1)
        assert batch.first <= expected, f"{batch.first} comes where {expected} is expected"
        width = len(batch.lines) + sum(gap.width for gap in batch.gaps)
        assert batch.last - batch.first + 1 == width
        for number, line in batch.numbered():
            if number >= expected:
                self.kept.append(counter(line))
        self.next[batch.stream] = max(expected, batch.last + 1)


class BufferMachine(RuleBasedStateMachine):
    durability = Durability.WAL
    memory_max = 20_000
    limits = Limits(segment_bytes=60_000, ballast=0)

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="buffer-model-", dir=IN_MEMORY))
        self.lives = 0
        self.clock = HandClock()
        self.far = FarSide()
        self.put_so_far = 0
        self.lost = self.lost_in_crashes = self.unsure = self.set_aside = 0
        self.written_before = 0
        self.open()

    @property
    def directory(self) -> Path:
        return self.root / str(self.lives)

    def open(self) -> None:
        self.buffer = SpillingBuffer(
            self.memory_max, Metrics(self.clock), self.clock, self.durability
        )
        journal = Journal(self.directory, self.limits, self.clock, self.buffer)
        self.buffer.journal = journal
        journal.open()
        assert journal.trouble is None

    def journal(self) -> Journal:
        assert self.buffer.journal is not None
        return self.buffer.journal

    def close_account(self) -> None:
        self.lost += sum(self.buffer.account().lost.values())

    @rule(count=COUNT, pad=PAD, keep=KEEP)
    def put(self, count: int, pad: int, keep: Keep) -> None:
        for _ in range(count):
            self.put_so_far += 1
            self.buffer.put(made(self.put_so_far, pad), keep)

    @rule()
    def commit(self) -> None:
        self.clock.advance(1)
        self.journal().step()
        assert self.journal().trouble is None

    @rule(lines=st.integers(1, 40), size=st.integers(1, 40_000))
    def deliver(self, lines: int, size: int) -> None:
        batch = self.buffer.peek(size, lines)
        if batch is not None:
            self.far.take(batch)
            self.buffer.ack(batch.last)

    @rule(lines=st.integers(1, 40), part=st.integers(0, 39))
    def deliver_a_part(self, lines: int, part: int) -> None:
        batch = self.buffer.peek(40_000, lines)
        if batch is not None:
            self.far.take(batch)
            self.unsure += len(batch.lines)
            self.buffer.ack(min(batch.last, batch.first + part))

    @rule(lines=st.integers(1, 40))
    def the_acknowledgement_is_lost(self, lines: int) -> None:
        batch = self.buffer.peek(40_000, lines)
        if batch is not None:
            self.far.take(batch)
            self.unsure += len(batch.lines)

    @rule()
    def nobody_accepts_the_next_line(self) -> None:
        batch = self.buffer.peek(1, 1)
        if batch is not None and batch.lines:
            number, _ = next(batch.numbered())
            if number >= self.far.next.get(batch.stream, 1):
                self.buffer.set_aside(number, "400")
                self.set_aside += 1

    @rule()
    def another_stream(self) -> None:
        """The far side says that the stream is another agent's; nothing of the batch was kept."""
        batch = self.buffer.peek(1, 1)
        if batch is not None and batch.first == self.far.next.get(batch.stream, 1):
            self.buffer.renumber()

    @rule()
    def stop_and_start(self) -> None:
        assert self.buffer.close(1.0) == 0
        self.close_account()
        self.open()

    @rule()
    def crash(self) -> None:
        """What kill -9 leaves: the files as they are, without what was only in memory."""
        before = self.buffer.account()
        self.close_account()
        copy = self.root / str(self.lives + 1)
        shutil.copytree(self.directory, copy, ignore=shutil.ignore_patterns("*-shm"))
        self.buffer.close(1.0)
        self.lives += 1
        self.open()
        after = self.buffer.account()
        found_lost = sum(after.lost.values())
        only_in_memory = before.buffered - after.buffered - found_lost
        assert only_in_memory >= 0 or self.durability is Durability.OVERFLOW
        self.lost_in_crashes += before.buffered - after.buffered
        self.lost -= found_lost

    @invariant()
    def every_line_is_accounted_for(self) -> None:
        assert self.buffer.account().balanced

    def teardown(self) -> None:
        self.journal().step()
        while (batch := self.buffer.peek(30_000, 50)) is not None:
            self.far.take(batch)
            self.buffer.ack(batch.last)
        account = self.buffer.account()
        assert account.buffered == 0
        assert account.balanced
        self.close_account()
        self.buffer.close(1.0)
        assert self.far.kept == sorted(set(self.far.kept)), "in order, and once"
        missing = self.put_so_far - len(self.far.kept) - self.set_aside
        counted = self.lost + self.lost_in_crashes
        assert missing <= counted <= missing + self.unsure
        shutil.rmtree(self.root)


class OverflowMachine(BufferMachine):
    durability = Durability.OVERFLOW


class SmallDiskMachine(BufferMachine):
    """The cap is soon reached: lines are thinned out and given up, and all of it is counted."""

    limits = Limits(segment_bytes=40_000, ballast=0, disk_max=400_000)


SETTINGS = settings(
    max_examples=25,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.slow
@pytest.mark.parametrize("machine", [BufferMachine, OverflowMachine, SmallDiskMachine])
def test_random_histories(machine: type[BufferMachine]):
    test = machine.TestCase
    test.settings = SETTINGS
    test().runTest()
