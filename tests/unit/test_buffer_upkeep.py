"""What people do with an open buffer: read it page by page, sort out its quarantine, hurry it."""

import shutil
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from pg_collector.buffer.journal import Journal
from pg_collector.buffer.records import Record
from pg_collector.buffer.spill import SpillingBuffer
from pg_collector.buffer.spool import FLOOR, Limits
from pg_collector.buffer.upkeep import Upkeep
from pg_collector.buffer.view import View
from pg_collector.clock import Clock, SystemClock
from pg_collector.config.model import Durability
from pg_collector.errors import Busy, CollectorError, StoreError, StoreFull, Unreachable
from pg_collector.metrics import Metrics
from pg_collector.outlets import Receipt
from pg_collector.pacing import Backoff
from pg_collector.sample import Keep
from pg_collector.sender import Sender
from tests.support.hand_clock import HandClock
from tests.support.lines import make
from tests.support.until import until

ALL = 1 << 30
MEMORY = 60_000
# Each segment is made with dozens of syncs: other tests are about disks.
IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(prefix="buffer-upkeep-", dir=IN_MEMORY) as name:
        yield Path(name)


def spilled(folder: Path, memory_max: int = MEMORY, clock: Clock | None = None) -> SpillingBuffer:
    clock = clock or HandClock()
    buffer = SpillingBuffer(memory_max, Metrics(clock), clock, Durability.WAL)
    buffer.journal = Journal(folder, Limits(segment_bytes=100_000, ballast=0), clock, buffer)
    buffer.journal.open()
    assert buffer.journal.trouble is None
    return buffer


def put(buffer: SpillingBuffer, counters: range) -> None:
    assert buffer.journal is not None
    for k in counters:
        buffer.put(make(k, 4000), Keep.EVENT)
        if k % 10 == 0 or k == counters[-1]:
            buffer.journal.flush()


def test_lines_of_another_life_that_nobody_has_read_have_no_age(folder):
    clock = HandClock()
    before = spilled(folder)
    put(before, range(1, 41))
    before.close(10)
    buffer = spilled(folder, clock=clock)
    assert buffer.account().buffered == 40
    assert buffer.oldest_age() == 0
    assert buffer.peek(ALL, 1) is not None
    clock.advance(3)
    assert buffer.oldest_age() == 3


def test_what_has_arrived_is_no_backlog_though_its_segment_stays(folder):
    clock = HandClock()
    buffer = spilled(folder, clock=clock)
    journal = buffer.journal
    assert journal is not None
    put(buffer, range(1, 6))
    batch = buffer.peek(ALL, 5)
    assert batch is not None
    buffer.ack(batch.last)
    put(buffer, range(6, 8))
    assert journal.bytes > 0
    assert journal.backlog_bytes == 0, "memory holds all that waits"
    put(buffer, range(8, 41))
    assert 0 < journal.backlog_bytes <= journal.bytes
    while (batch := buffer.peek(ALL, 100)) is not None:
        buffer.ack(batch.last)
    assert journal.backlog_bytes == 0
    buffer.close(10)
    stopped = View.open(folder)
    assert stopped is not None
    disk = stopped.report(ALL, clock.now()).disk
    assert disk is not None
    assert disk.backlog_bytes == 0


def test_the_time_that_is_left_is_that_of_the_volume_and_of_memory_alone_without_a_disk(folder):
    clock = HandClock()
    buffer = SpillingBuffer(MEMORY, Metrics(clock), clock, Durability.WAL)
    limits = Limits(disk_max=1 << 40, min_free=1.0, segment_bytes=100_000, ballast=0)
    journal = buffer.journal = Journal(folder, limits, clock, buffer)
    journal.open()
    clock.advance(10)
    put(buffer, range(1, 6))
    pace = 5 * 4000 / 10
    assert journal.room == pytest.approx(FLOOR - journal.bytes)
    assert buffer.seconds_remaining() == pytest.approx(journal.room / pace, rel=0.05)
    shutil.rmtree(folder)
    folder.write_text("in the way")
    buffer.put(make(6, 4000), Keep.EVENT)
    with pytest.raises(StoreError):
        journal.flush()
    clock.advance(1)
    journal.step()
    assert journal.trouble is not None
    assert buffer.seconds_remaining() < MEMORY / pace, "memory has to do"
    folder.unlink()
    folder.mkdir()


def test_whoever_urges_is_told_when_what_waits_is_on_disk(folder):
    buffer = spilled(folder, clock=SystemClock())
    journal = buffer.journal
    assert journal is not None
    journal.start(lambda work: work())
    told: list[bool] = []
    try:
        for round_ in range(1, 6):
            buffer.put(make(round_, 4000), Keep.EVENT)
            journal.urge(lambda: told.append(buffer.waits))
            until(lambda: len(told) == round_, deadline=5, what="it was written")  # noqa: B023
    finally:
        buffer.close(10)
    assert told == [False] * 5


def test_a_long_commit_of_a_disk_that_answers_keeps_nobody_waiting(folder):
    clock = HandClock()
    buffer = spilled(folder, clock=clock)
    journal = buffer.journal
    assert journal is not None
    due, waited = buffer.due, list[float]()

    def slowly(*, everything: bool) -> Sequence[Record]:
        waited.append(journal.busy_for)
        clock.advance(1.5)  # for a part of it
        return due(everything=everything)

    for k in range(1, 13):
        buffer.put(make(k, 4000), Keep.EVENT)
    buffer.due = slowly  # type: ignore[method-assign]
    with journal._at_the_disk():
        journal.step()
        assert len(waited) > 3
        assert max(waited) < 2
        assert not buffer.disk_at_fault
        clock.advance(2.1)
        assert buffer.disk_at_fault
    assert not buffer.disk_at_fault
    buffer.close(10)


def deliver(buffer: SpillingBuffer, through: int) -> None:
    while (batch := buffer.peek(ALL, 50)) is not None and batch.last <= through:
        buffer.ack(batch.last)


def refuse(buffer: SpillingBuffer, count: int) -> None:
    for _ in range(count):
        batch = buffer.peek(ALL, 1)
        assert batch is not None
        buffer.set_aside(batch.first, "400")
        buffer.ack(batch.last)


def test_pages_go_over_disk_and_memory_and_end_where_they_began_to(folder):
    buffer = spilled(folder / "buffer")
    put(buffer, range(1, 201))
    upkeep = Upkeep(buffer)
    page = upkeep.page()
    seen = list(page.records)
    put(buffer, range(201, 211))
    pages = 1
    while page.last is not None:
        page = upkeep.page(page.last, page.through)
        seen += page.records
        pages += 1
    assert pages > 1
    assert [one.line for one in seen] == [make(k, 4000) for k in range(1, 201)]
    assert buffer.close(1.0) == 0


def test_what_is_delivered_between_two_pages_is_told_as_a_gap(folder):
    buffer = spilled(folder / "buffer")
    put(buffer, range(1, 301))
    upkeep = Upkeep(buffer)
    page = upkeep.page()
    assert page.last is not None
    deliver(buffer, 250)
    following = upkeep.page(page.last, page.through)
    gap = following.records[0]
    assert (gap.first, gap.line, gap.reason) == (page.last + 1, None, "acknowledged")
    assert following.records[-1].last == page.through == 300
    assert following.last is None
    deliver(buffer, 300)
    assert [one[:3] for one in upkeep.page(page.last, page.through).records] == [
        (page.last + 1, 300, None)
    ]
    assert buffer.close(1.0) == 0


def test_reading_and_examining_an_open_buffer_changes_no_account(folder):
    buffer = spilled(folder / "buffer")
    put(buffer, range(1, 101))
    path = min((folder / "buffer").glob("seg-*-*")) / "cache.db"
    path.write_bytes(b"nothing")
    before = buffer.account()
    upkeep = Upkeep(buffer)
    found = upkeep.examine()
    assert [one.where for one in found.findings] == [path.parent.name]
    assert found.last is not None
    assert upkeep.examine(found.last).findings == ()
    assert upkeep.page().records[0].reason == "damaged"
    assert buffer.account() == before
    assert path.parent.exists()
    buffer.close(1.0)


def test_requeued_lines_are_new_lines_that_were_counted_before(folder):
    buffer = spilled(folder / "buffer")
    put(buffer, range(1, 31))
    refuse(buffer, 25)  # more than memory holds
    assert buffer.account().quarantined == 25
    upkeep = Upkeep(buffer)
    names = [one.name for one in upkeep.refusals()]
    assert upkeep.requeue(names[:1]) == 1
    assert upkeep.discard(names[1:3]) == 2
    with pytest.raises(CollectorError, match="no line"):
        upkeep.requeue(names[:1])
    account = buffer.account()
    assert account.balanced
    assert (account.produced, account.quarantined, account.lost) == (30, 22, {"purged": 2})
    last = upkeep.page().records[-1]
    assert (last.first, last.line) == (31, make(1, 4000))
    assert buffer.close(1.0) == 0


def test_more_refused_lines_than_memory_holds_are_requeued_without_a_loss(folder):
    buffer = spilled(folder / "buffer")
    put(buffer, range(1, 31))
    refuse(buffer, 25)
    upkeep = Upkeep(buffer)
    assert upkeep.requeue(None) == 25
    account = buffer.account()
    assert account.balanced
    assert (account.buffered, account.quarantined, account.lost) == (30, 0, {})
    lines = [one.line for one in upkeep.page().records]
    assert lines == [make(k, 4000) for k in (*range(26, 31), *range(1, 26))]
    assert buffer.close(1.0) == 0


def test_a_line_that_finds_no_room_stays_in_quarantine(folder, monkeypatch):
    monkeypatch.setattr("pg_collector.buffer.upkeep.ROOM_WITHIN", 0.01)
    buffer = spilled(folder / "buffer")
    put(buffer, range(1, 3))
    refuse(buffer, 1)
    for k in range(3, 16):  # nobody writes them
        buffer.put(make(k, 4000), Keep.EVENT)
    upkeep = Upkeep(buffer)
    with pytest.raises(StoreFull, match="no room"):
        upkeep.requeue(None)
    assert len(upkeep.refusals()) == buffer.account().quarantined == 1
    assert buffer.account().balanced
    assert buffer.close(1.0) == 0


def test_refused_lines_of_a_buffer_without_a_disk_are_requeued_and_purged():
    clock = HandClock()
    buffer = SpillingBuffer(1 << 20, Metrics(clock), clock)
    for k in range(1, 4):
        buffer.put(make(k, 100), Keep.EVENT)
    refuse(buffer, 2)
    upkeep = Upkeep(buffer)
    first, second = (one.name for one in upkeep.refusals())
    assert upkeep.requeue([first]) == 1
    assert upkeep.discard([second]) == 1
    assert upkeep.refusals() == ()
    assert buffer.account().balanced
    assert [one.line for one in upkeep.page().records] == [make(3, 100), make(1, 100)]
    assert upkeep.report().disk is None
    assert upkeep.examine().last is None


class Flaky:
    """An outlet that fails once, asking for a pause or not."""

    name = "flaky"

    def __init__(self, failure: Exception) -> None:
        self.failure = failure
        self.tried = 0

    def deliver(self, batch):
        self.tried += 1
        if self.tried == 1:
            raise self.failure
        return Receipt(batch.last)

    def close(self):
        """Nothing is open."""


@pytest.mark.parametrize(
    ("failure", "hurries"),
    [(Unreachable("away"), True), (Busy("later", retry_after=60.0), False)],
    ids=["its own pause", "a pause that was asked for"],
)
def test_urging_ends_a_pause_unless_the_far_side_asked_for_it(failure, hurries):
    clock = SystemClock()
    buffer = SpillingBuffer(1 << 20, Metrics(clock), clock)
    buffer.put(b"a", Keep.EVENT)
    outlet, stopping = Flaky(failure), threading.Event()
    backoff = Backoff(uniform=lambda _low, _high: 60.0)
    pauses: list[float] = []
    sender = Sender(
        buffer, outlet, stopping, Metrics(clock), clock=clock, linger=60.0, backoff=backoff,
        beat=pauses.append,
    )  # fmt: skip
    thread = threading.Thread(target=sender.run, name="sender", daemon=True)
    thread.start()
    try:
        until(lambda: pauses, what="it failed once")
        sender.urge()
        if hurries:
            until(lambda: outlet.tried == 2, deadline=5, what="it tries again")
            until(lambda: len(pauses) == 3, what="it found the buffer empty")
            buffer.put(b"b", Keep.EVENT)
            sender.urge()
            until(lambda: outlet.tried == 3, deadline=5, what="it does not linger")
        else:
            assert not stopping.wait(1.2)
            assert outlet.tried == 1
    finally:
        stopping.set()
        sender.urge()
        thread.join(5)
