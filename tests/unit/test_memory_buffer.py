"""The memory buffer, by example and against a model."""

import threading

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pg_collector.buffer import Buffer
from pg_collector.buffer.memory import ENTRY_BYTES, QUARANTINE_SHARE, MemoryBuffer
from pg_collector.clock import SystemClock
from pg_collector.metrics import Metrics
from pg_collector.sample import Batch, Keep
from tests.support.hand_clock import HandClock

ALL = 1 << 40


def room_for(lines: int, size: int) -> int:
    return lines * (size + ENTRY_BYTES)


def buffer_of(max_bytes: int, clock: HandClock | None = None) -> MemoryBuffer:
    clock = clock or HandClock()
    return MemoryBuffer(max_bytes, Metrics(clock), clock)


def held(buffer: MemoryBuffer) -> tuple[bytes, ...]:
    batch = buffer.peek(ALL, ALL)
    return batch.lines if batch else ()


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"pg_collector_{name}", labels)


def test_it_is_a_buffer():
    buffer: Buffer = buffer_of(ALL)
    assert buffer.put(b"line", Keep.EVENT) == 1


def test_lines_are_numbered_and_come_out_oldest_first():
    buffer = buffer_of(ALL)
    assert [buffer.put(b"%d" % n, Keep.DELTA) for n in range(3)] == [1, 2, 3]
    assert buffer.peek(ALL, ALL) == Batch(1, 3, (b"0", b"1", b"2"))


def test_nothing_leaves_before_it_is_acknowledged():
    buffer = buffer_of(ALL)
    buffer.put(b"a", Keep.DELTA)
    buffer.put(b"b", Keep.DELTA)
    assert buffer.peek(ALL, 1) == buffer.peek(ALL, 1)
    buffer.ack(1)
    assert held(buffer) == (b"b",)


@pytest.mark.parametrize(("max_bytes", "count"), [(1, 1), (8, 1), (10, 2), (14, 2), (15, 3)])
def test_a_batch_keeps_to_its_bytes_but_for_a_single_line(max_bytes: int, count: int):
    buffer = buffer_of(ALL)
    for _ in range(4):
        buffer.put(b"1234", Keep.DELTA)
    batch = buffer.peek(max_bytes, ALL)
    assert batch is not None
    assert len(batch.lines) == count
    assert count == 1 or len(batch.body) <= max_bytes


def test_a_full_buffer_gives_up_the_oldest_and_counts_it():
    clock = HandClock()
    metrics = Metrics(clock)
    buffer = MemoryBuffer(room_for(2, 4), metrics, clock)
    for line in (b"aaaa", b"bbbb", b"cccc"):
        buffer.put(line, Keep.EVENT)
    assert held(buffer) == (b"bbbb", b"cccc")
    assert buffer.account() == (3, 0, 2, 0, {"memory_full": 1})
    assert buffer.losses == 1
    assert value(metrics, "lines_lost_total", reason="memory_full") == 1
    assert value(metrics, "lines_produced_total") == 3
    assert value(metrics, "lines_buffered") == 2
    assert value(metrics, "buffer_memory_bytes") == room_for(2, 4)


def test_a_line_larger_than_the_buffer_does_not_empty_it():
    buffer = buffer_of(room_for(2, 4))
    buffer.put(b"aaaa", Keep.EVENT)
    assert buffer.put(bytes(1000), Keep.EVENT) == 2
    buffer.put(b"bbbb", Keep.EVENT)
    assert buffer.account() == (3, 0, 2, 0, {"too_large": 1})
    assert buffer.peek(ALL, ALL) == Batch(1, 1, (b"aaaa",)), "a batch has no hole"


def test_overflow_during_a_delivery_forgets_no_later_line():
    buffer = buffer_of(room_for(2, 4))
    buffer.put(b"aaaa", Keep.DELTA)
    buffer.put(b"bbbb", Keep.DELTA)
    batch = buffer.peek(ALL, ALL)
    assert batch is not None
    buffer.put(b"cccc", Keep.DELTA)
    buffer.ack(batch.last)
    assert held(buffer) == (b"cccc",)
    assert buffer.account() == (3, 1, 1, 0, {"memory_full": 1})


def test_a_line_that_nobody_accepts_goes_out_of_the_way():
    buffer = buffer_of(100_000)
    for line in (b"a", b"bad", b"c"):
        buffer.put(line, Keep.FACT)
    buffer.set_aside(2, "400 not json")
    assert buffer.quarantined() == ((2, "400 not json", b"bad"),)
    assert buffer.losses == 1, "who relies on that line must start anew"
    assert buffer.peek(ALL, ALL) == Batch(1, 1, (b"a",))
    buffer.ack(1)
    assert buffer.peek(ALL, ALL) == Batch(3, 3, (b"c",))
    assert buffer.account() == (3, 1, 1, 1, {})


def test_setting_aside_what_is_gone_changes_nothing():
    buffer = buffer_of(ALL)
    buffer.put(b"a", Keep.FACT)
    buffer.ack(1)
    buffer.set_aside(1, "late")
    buffer.set_aside(7, "never was")
    assert buffer.account() == (1, 1, 0, 0, {})


def test_the_quarantine_is_bounded_and_counts_what_leaves_it():
    buffer = buffer_of(QUARANTINE_SHARE * room_for(2, 4))
    for number in (1, 2, 3):
        buffer.put(b"%04d" % number, Keep.FACT)
        buffer.set_aside(number, "no")
    assert [each.number for each in buffer.quarantined()] == [2, 3]
    assert buffer.account() == (3, 0, 0, 2, {"quarantine_full": 1})


def test_what_is_abandoned_at_the_end_is_counted():
    buffer = buffer_of(100_000)
    for _ in range(3):
        buffer.put(b"x", Keep.DELTA)
    buffer.set_aside(2, "no")
    assert buffer.abandon("shutdown") == 3
    assert buffer.account() == (3, 0, 0, 0, {"shutdown": 3})
    assert buffer.abandon("shutdown") == 0


def test_the_age_is_that_of_the_oldest_line_and_no_wall_clock_moves_it():
    clock = HandClock()
    buffer = buffer_of(ALL, clock)
    assert buffer.oldest_age() == 0
    buffer.put(b"a", Keep.DELTA)
    clock.advance(5)
    buffer.put(b"b", Keep.DELTA)
    clock.step(-3600)
    clock.advance(2)
    assert buffer.oldest_age() == 7
    buffer.ack(1)
    assert buffer.oldest_age() == 2


def test_many_threads_lose_no_line_between_them():
    clock = SystemClock()
    buffer = MemoryBuffer(room_for(50, 8), Metrics(clock), clock)
    seen: list[int] = []
    done = threading.Event()

    def produce() -> None:
        for n in range(500):
            buffer.put(b"%08d" % n, Keep.DELTA)

    def consume() -> None:
        while not done.is_set() or buffer.peek(1, 1):
            if batch := buffer.peek(100, 10):
                seen.extend(range(batch.first, batch.last + 1))
                buffer.ack(batch.last)

    producers = [threading.Thread(target=produce, name=f"producer {n}") for n in range(4)]
    consumer = threading.Thread(target=consume, name="consumer")
    for thread in (*producers, consumer):
        thread.start()
    for thread in producers:
        thread.join(30)
    done.set()
    consumer.join(30)
    account = buffer.account()
    assert account.produced == 2000
    assert account.buffered == 0
    assert account.balanced
    assert seen == sorted(set(seen)), "in order, each once"


class AgainstAModel(RuleBasedStateMachine):
    """The buffer and a plain dictionary, given the same work."""

    CAP = room_for(6, 20)

    def __init__(self) -> None:
        super().__init__()
        clock = HandClock()
        self.metrics = Metrics(clock)
        self.buffer = MemoryBuffer(self.CAP, self.metrics, clock)
        self.model: dict[int, bytes] = {}
        self.aside: dict[int, bytes] = {}
        self.number = self.delivered = self.lost = 0

    @staticmethod
    def size(lines: dict[int, bytes]) -> int:
        return sum(len(line) + ENTRY_BYTES for line in lines.values())

    @rule(line=st.binary(max_size=60) | st.just(bytes(CAP)))
    def put(self, line: bytes) -> None:
        self.number += 1
        assert self.buffer.put(line, Keep.CUMULATIVE) == self.number
        if len(line) + ENTRY_BYTES > self.CAP:
            self.lost += 1
            return
        self.model[self.number] = line
        while self.size(self.model) > self.CAP:
            del self.model[min(self.model)]
            self.lost += 1

    @rule(
        max_bytes=st.integers(1, 200),
        max_lines=st.integers(1, 6),
        meanwhile=st.lists(st.binary(max_size=60), max_size=8),
        part=st.integers(0, 5),
    )
    def deliver(self, max_bytes: int, max_lines: int, meanwhile: list[bytes], part: int) -> None:
        batch = self.buffer.peek(max_bytes, max_lines)
        if batch is None:
            assert not self.model
            return
        numbers = list(range(batch.first, batch.last + 1))
        assert numbers[0] == min(self.model)
        assert [self.model[n] for n in numbers] == list(batch.lines)
        assert len(numbers) == 1 or len(batch.body) <= max_bytes
        assert len(numbers) <= max_lines
        for line in meanwhile:
            self.put(line)
        through = min(batch.last, batch.first + part)
        self.buffer.ack(through)
        for number in [n for n in self.model if n <= through]:
            del self.model[number]
            self.delivered += 1

    @rule(back=st.integers(0, 8))
    def set_aside(self, back: int) -> None:
        number = self.number - back
        self.buffer.set_aside(number, "refused")
        if number not in self.model:
            return
        self.aside[number] = self.model.pop(number)
        while self.size(self.aside) > self.CAP // QUARANTINE_SHARE:
            del self.aside[next(iter(self.aside))]
            self.lost += 1

    @invariant()
    def every_line_is_accounted_for(self) -> None:
        account = self.buffer.account()
        assert account.balanced
        assert account[:4] == (self.number, self.delivered, len(self.model), len(self.aside))
        assert sum(account.lost.values()) == self.lost
        assert value(self.metrics, "lines_delivered_total") == self.delivered
        assert value(self.metrics, "lines_quarantined") == len(self.aside)
        assert value(self.metrics, "buffer_memory_bytes") == self.size(self.model)

    def teardown(self) -> None:
        self.buffer.abandon("shutdown")
        assert self.buffer.account().balanced


TestAgainstAModel = AgainstAModel.TestCase
TestAgainstAModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
