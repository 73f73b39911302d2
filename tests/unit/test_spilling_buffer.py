"""The buffer without a disk, by example."""

import threading

import pytest

from pg_collector.buffer import Buffer
from pg_collector.buffer.memory import ENTRY_BYTES
from pg_collector.buffer.spill import QUARANTINE_SHARE, SpillingBuffer
from pg_collector.clock import SystemClock
from pg_collector.metrics import Metrics
from pg_collector.sample import Batch, Gap, Keep
from tests.support.hand_clock import HandClock
from tests.support.truth import held

ALL = 1 << 40


def room_for(lines: int, size: int) -> int:
    return lines * (size + ENTRY_BYTES)


def buffer_of(max_bytes: int, clock: HandClock | None = None) -> SpillingBuffer:
    clock = clock or HandClock()
    return SpillingBuffer(max_bytes, Metrics(clock), clock)


def peeked(buffer: SpillingBuffer, max_bytes: int = ALL, max_lines: int = ALL) -> Batch:
    batch = buffer.peek(max_bytes, max_lines)
    assert batch is not None
    return batch


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"pg_collector_{name}", labels)


def test_it_is_a_buffer():
    buffer: Buffer = buffer_of(ALL)
    assert buffer.put(b"line", Keep.EVENT) == 1
    assert buffer.peek(ALL, ALL) is not None


def test_lines_are_numbered_and_come_out_oldest_first():
    buffer = buffer_of(ALL)
    assert [buffer.put(b"%d" % n, Keep.DELTA) for n in range(3)] == [1, 2, 3]
    assert peeked(buffer)[:4] == (1, 3, (b"0", b"1", b"2"), ())


def test_each_buffer_without_a_disk_is_a_stream_of_its_own():
    one, other = buffer_of(ALL), buffer_of(ALL)
    one.put(b"a", Keep.DELTA)
    other.put(b"a", Keep.DELTA)
    assert peeked(one).stream != peeked(other).stream


def test_nothing_leaves_before_it_is_acknowledged():
    buffer = buffer_of(ALL)
    buffer.put(b"a", Keep.DELTA)
    buffer.put(b"b", Keep.DELTA)
    assert buffer.peek(ALL, 1) == buffer.peek(ALL, 1)
    buffer.ack(1)
    assert peeked(buffer).lines == (b"b",)


def test_what_arrives_tells_how_old_it_was_and_a_refused_line_is_counted():
    clock = HandClock()
    metrics = Metrics(clock)
    buffer = SpillingBuffer(ALL, metrics, clock)
    for line in (b"a", b"b", b"c"):
        buffer.put(line, Keep.EVENT)
        clock.advance(2)
    batch = peeked(buffer, max_lines=2)
    buffer.set_aside(1, "no good")
    buffer.ack(batch.last)
    buffer.ack(batch.last)  # heard of before: nothing arrives twice
    assert value(metrics, "delivery_lag_seconds_sum") == 4, "the oldest that arrived was the second"
    assert value(metrics, "delivery_lag_seconds_count") == 1
    assert value(metrics, "lines_refused_total") == 1
    peeked(buffer)
    clock.advance(10)
    buffer.ack(3)
    assert value(metrics, "delivery_lag_seconds_sum") == 4 + 12


def test_what_was_given_up_has_no_age():
    clock = HandClock()
    metrics = Metrics(clock)
    buffer = SpillingBuffer(room_for(3, 4), metrics, clock)
    for line in (b"aaaa", b"bbbb", b"cccc", b"dddd", b"eeee"):
        clock.advance(10)
        buffer.put(line, Keep.EVENT)
    assert peeked(buffer).gaps[0].first == 1, "it begins with a gap"
    age = value(metrics, "buffer_oldest_sample_age_seconds")
    assert age == 10 * (len(peeked(buffer).lines) - 1)


def test_an_empty_buffer_has_no_batch():
    buffer = buffer_of(ALL)
    assert buffer.peek(ALL, ALL) is None
    buffer.ack(7)
    assert buffer.account() == (0, 0, 0, 0, {})


@pytest.mark.parametrize(("max_bytes", "count"), [(1, 1), (8, 1), (10, 2), (14, 2), (15, 3)])
def test_a_batch_keeps_to_its_bytes_but_for_a_single_line(max_bytes: int, count: int):
    buffer = buffer_of(ALL)
    for _ in range(4):
        buffer.put(b"1234", Keep.DELTA)
    batch = peeked(buffer, max_bytes)
    assert len(batch.lines) == count
    assert count == 1 or len(batch.body) <= max_bytes


def test_a_full_buffer_gives_up_the_oldest_event_and_says_so_in_its_place():
    clock = HandClock()
    metrics = Metrics(clock)
    cap = room_for(3, 4)
    buffer = SpillingBuffer(cap, metrics, clock)
    for line in (b"aaaa", b"bbbb", b"cccc", b"dddd", b"eeee"):
        buffer.put(line, Keep.EVENT)
    batch = peeked(buffer)
    lost = batch.gaps[0].width
    assert batch.gaps == (Gap(1, lost, "memory_full"),)
    assert batch.lines == (b"aaaa", b"bbbb", b"cccc", b"dddd", b"eeee")[lost:]
    assert buffer.account() == (5, 0, 5 - lost, 0, {"memory_full": lost})
    assert buffer.losses == lost
    assert value(metrics, "lines_lost_total", reason="memory_full") == lost
    assert value(metrics, "lines_produced_total") == 5
    assert value(metrics, "lines_buffered") == 5 - lost
    assert 0 < (value(metrics, "buffer_memory_bytes") or 0) <= cap


def test_a_full_buffer_gives_up_changes_before_full_lines_and_those_before_events():
    buffer = buffer_of(room_for(20, 100))
    for n in range(40):
        keep = (Keep.DELTA, Keep.CUMULATIVE, Keep.EVENT, Keep.FACT)[n % 4]
        buffer.put(b'{"set":"s","target":"t","at":"%d"}' % n + b" " * 60, keep)
    kept = [int(line.split(b'"')[-2]) % 4 for line in peeked(buffer).lines]
    assert kept.count(0) <= kept.count(1) < kept.count(2)
    assert kept.count(2) + kept.count(3) >= 8
    assert buffer.account().balanced


def test_gaps_do_not_fill_the_memory_that_lines_need():
    buffer = buffer_of(room_for(50, 100))
    for n in range(5000):
        keep = (Keep.DELTA, Keep.CUMULATIVE, Keep.EVENT, Keep.FACT)[n % 4]
        buffer.put(b'{"set":"s","target":"t","at":"%d"}' % n + b" " * 60, keep)
    batch = peeked(buffer)
    assert len(batch.lines) > 20
    assert len(batch.gaps) <= len(batch.lines) + 1
    assert buffer.account().buffered == len(batch.lines)


def test_a_line_larger_than_the_buffer_does_not_empty_it():
    buffer = buffer_of(room_for(4, 4))
    buffer.put(b"aaaa", Keep.EVENT)
    assert buffer.put(bytes(2000), Keep.EVENT) == 2
    buffer.put(b"bbbb", Keep.EVENT)
    assert buffer.account() == (3, 0, 2, 0, {"too_large": 1})
    batch = peeked(buffer)
    assert (batch.first, batch.last) == (1, 3)
    assert batch.gaps == (Gap(2, 2, "too_large"),)
    assert [number for number, _ in batch.numbered()] == [1, 3]


def test_overflow_during_a_delivery_forgets_no_later_line():
    buffer = buffer_of(room_for(8, 4))
    for n in range(8):
        buffer.put(b"%04d" % n, Keep.EVENT)
    batch = peeked(buffer)
    buffer.put(b"last", Keep.EVENT)
    lost = buffer.account().lost["memory_full"]
    buffer.ack(batch.last)
    assert peeked(buffer).lines == (b"last",)
    assert buffer.account() == (9, 8 - lost, 1, 0, {"memory_full": lost})


def test_a_line_that_nobody_accepts_goes_out_of_the_way_and_leaves_a_gap():
    buffer = buffer_of(100_000)
    for line in (b"a", b"bad", b"c"):
        buffer.put(line, Keep.FACT)
    peeked(buffer)
    buffer.set_aside(2, "400 not json")
    (refusal,) = buffer.quarantined()
    assert (refusal.number, refusal.reason, refusal.line) == (2, "400 not json", "bad")
    assert buffer.losses == 1, "who relies on that line must start anew"
    batch = peeked(buffer)
    assert batch.gaps == (Gap(2, 2, "refused"),)
    assert batch.lines == (b"a", b"c")
    buffer.ack(3)
    assert buffer.account() == (3, 2, 0, 1, {})


def test_setting_aside_what_is_not_on_its_way_changes_nothing():
    buffer = buffer_of(ALL)
    buffer.put(b"a", Keep.FACT)
    buffer.set_aside(1, "nothing was peeked")
    peeked(buffer)
    buffer.ack(1)
    buffer.set_aside(1, "late")
    buffer.set_aside(7, "never was")
    assert buffer.account() == (1, 1, 0, 0, {})


def test_the_quarantine_is_bounded_and_counts_what_leaves_it():
    buffer = buffer_of(QUARANTINE_SHARE * room_for(2, 4))
    for number in (1, 2, 3):
        buffer.put(b"%04d" % number, Keep.FACT)
        peeked(buffer)
        buffer.set_aside(number, "no")
    assert [each.number for each in buffer.quarantined()] == [2, 3]
    assert buffer.account() == (3, 0, 0, 2, {"quarantine_full": 1})


def test_what_is_left_at_the_end_is_counted():
    buffer = buffer_of(100_000)
    for _ in range(3):
        buffer.put(b"x", Keep.DELTA)
    peeked(buffer)
    buffer.set_aside(2, "no")
    assert buffer.close(0.0) == 3
    assert buffer.account() == (3, 0, 0, 0, {"shutdown": 3})


def test_a_new_stream_counts_what_waits_from_one():
    buffer = buffer_of(ALL)
    for n in range(4):
        buffer.put(b"%d" % n, Keep.DELTA)
    before = peeked(buffer, max_lines=2)
    buffer.ack(before.last)
    peeked(buffer)
    buffer.renumber()
    batch = peeked(buffer)
    assert batch.stream != before.stream
    assert (batch.first, batch.last, batch.lines) == (1, 2, (b"2", b"3"))


def test_going_back_to_what_was_acknowledged_tells_a_gap_and_counts_nothing_twice():
    buffer = buffer_of(ALL)
    for n in range(5):
        buffer.put(b"%d" % n, Keep.DELTA)
    peeked(buffer)
    buffer.ack(3)
    buffer.rewind(2)
    batch = peeked(buffer)
    assert batch.gaps == (Gap(2, 3, "acknowledged"),)
    assert (batch.first, batch.lines) == (2, (b"3", b"4"))
    buffer.ack(batch.last)
    assert buffer.account() == (5, 5, 0, 0, {})


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
    peeked(buffer)
    buffer.ack(1)
    assert buffer.oldest_age() == 2


def test_who_only_looks_reads_nothing_that_moves_and_waits_for_nobody():
    clock = HandClock()
    buffer = buffer_of(ALL, clock)
    buffer.put(b"a", Keep.DELTA)
    clock.advance(5)
    assert buffer.oldest_age() == 5
    with held(buffer._lock):
        clock.advance(5)
        assert buffer.oldest_age() == 5, "as it was when somebody could look"
        assert buffer.glimpse().buffered == 1
    assert buffer.oldest_age() == 10


def test_many_threads_lose_no_line_between_them():
    clock = SystemClock()
    buffer = SpillingBuffer(room_for(50, 8), Metrics(clock), clock)
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
    assert seen == list(range(1, 2001)), "every number once and in order, as a line or in a gap"
