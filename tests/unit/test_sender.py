"""The sender, with a real buffer and an outlet that answers as told."""

import logging
import threading
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pg_collector.buffer.spill import SpillingBuffer
from pg_collector.errors import Deferred, Refused
from pg_collector.metrics import Metrics
from pg_collector.outlets import Outlet, Receipt
from pg_collector.pacing import SOME, Backoff, Pacing
from pg_collector.sample import Batch, Keep
from pg_collector.sender import LEAST_LINGER, Sender
from tests.support.hand_clock import HandClock
from tests.support.until import until

Answer = Exception | int | None


class ScriptedOutlet:
    """Gives one answer per batch, then takes everything; remembers what it took."""

    name = "scripted"

    def __init__(self, *answers: Answer, hates: Callable[[bytes], bool] = lambda _: False) -> None:
        self.answers = list(answers)
        self.hates = hates
        self.refusal = "400 not acceptable"
        self.took: list[bytes] = []
        self.asked = 0

    def deliver(self, batch: Batch) -> Receipt:
        self.asked += 1
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        if any(self.hates(line) for line in batch.lines):
            raise Refused(self.refusal)
        if answer is not None:
            self.took += batch.lines[: max(0, answer - batch.first + 1)]
            return Receipt(answer)
        self.took += batch.lines
        return Receipt(batch.last)

    def close(self) -> None:
        pass


class Bench:
    """A sender with all that it needs. Its jitter is the upper bound: pauses can be told."""

    def __init__(self, outlet: Outlet, lines: int = 0, **options: float) -> None:
        self.clock = HandClock()
        self.metrics = Metrics(self.clock)
        self.buffer = SpillingBuffer(1 << 20, self.metrics, self.clock)
        self.stopping = threading.Event()
        self.beats: list[float] = []
        self.put(lines)
        self.sender = Sender(
            self.buffer,
            outlet,
            self.stopping,
            self.metrics,
            clock=self.clock,
            linger=options.get("linger", 0.5),
            pacing=Pacing(self.clock, max_lines=int(options.get("max_lines", 500))),
            backoff=Backoff(uniform=lambda _low, high: high),
            beat=self.beats.append,
        )

    def put(self, lines: int) -> None:
        for n in range(lines):
            self.buffer.put(b"line %03d" % n, Keep.DELTA)

    def work(self) -> None:
        while self.sender.step() == 0:
            assert self.buffer.account().balanced

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"pg_collector_{name}", labels)


def lines(count: int) -> list[bytes]:
    return [b"line %03d" % n for n in range(count)]


def test_an_empty_buffer_is_asked_again_after_the_linger():
    assert Bench(ScriptedOutlet()).sender.step() == 0.5


def test_an_empty_buffer_is_left_alone_for_a_moment_even_without_a_linger():
    assert Bench(ScriptedOutlet(), linger=0.0).sender.step() == LEAST_LINGER


def test_an_outage_loses_nothing_and_keeps_order():
    outlet = ScriptedOutlet(*[Deferred("503")] * 3)
    bench = Bench(outlet, 50, max_lines=7)
    for _ in range(3):
        assert bench.sender.step() > 0
    bench.work()
    assert outlet.took == lines(50)
    assert bench.buffer.account() == (50, 50, 0, 0, {})


def test_pauses_double_up_to_the_longest_and_end_with_the_first_success():
    outlet = ScriptedOutlet(*[Deferred("down")] * 8, None, Deferred("again"))
    bench = Bench(outlet, 2, max_lines=1)
    assert [bench.sender.step() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert bench.sender.step() == 0
    assert bench.sender.step() == 1


def test_pauses_are_spread_over_the_whole_range():
    bench = Bench(ScriptedOutlet(*[Deferred("down")] * 200), 1)
    plain = Sender(
        bench.buffer, ScriptedOutlet(*[Deferred("down")] * 200), bench.stopping, bench.metrics,
        clock=bench.clock, backoff=Backoff(1.0),
    )  # fmt: skip
    pauses = [plain.step() for _ in range(200)]
    assert all(0 < pause <= 1 for pause in pauses)
    assert min(pauses) < 0.2
    assert max(pauses) > 0.8


@pytest.mark.parametrize(
    ("asked", "pause"), [(17.0, 17.0), (0.2, 1.0), (-5.0, 1.0), (10_000_000.0, 3600.0)]
)
def test_the_far_side_says_when_to_come_back_within_reason(asked: float, pause: float):
    bench = Bench(ScriptedOutlet(Deferred("429", retry_after=asked)), 1)
    assert bench.sender.step() == pause


@pytest.mark.parametrize("count", [1, 2, 3, 200])
@pytest.mark.parametrize("at", [0, 1, 66, 199])
def test_only_the_line_at_fault_is_set_aside(count: int, at: int):
    bad = b"line %03d" % min(at, count - 1)
    outlet = ScriptedOutlet(hates=lambda line: line == bad)
    bench = Bench(outlet, count)
    bench.work()
    assert outlet.took == [line for line in lines(count) if line != bad]
    assert [(each.line.encode(), each.reason) for each in bench.buffer.quarantined()] == [
        (bad, "400 not acceptable")
    ]
    assert bench.buffer.account() == (count, count - 1, 0, 1, {})
    assert outlet.asked <= 20, "bisecting takes about two attempts per halving"


@settings(max_examples=60, deadline=None)
@given(bad=st.sets(st.integers(0, 99), max_size=SOME), limit=st.integers(1, 120))
def test_whatever_is_refused_the_rest_arrives_in_order(bad: set[int], limit: int):
    outlet = ScriptedOutlet(hates=lambda line: int(line[5:]) in bad)
    bench = Bench(outlet, 100, max_lines=limit)
    bench.work()
    assert outlet.took == [line for n, line in enumerate(lines(100)) if n not in bad]
    assert {int(each.line[5:]) for each in bench.buffer.quarantined()} == bad


def test_batches_are_large_again_after_the_line_at_fault():
    outlet = ScriptedOutlet(hates=lambda line: line == b"line 005")
    bench = Bench(outlet, 100, max_lines=50)
    bench.work()
    outlet.hates = lambda _: False
    before = outlet.asked
    bench.put(100)
    bench.work()
    assert outlet.asked - before == 2


def test_a_part_that_was_taken_is_not_sent_again():
    outlet = ScriptedOutlet(3)
    bench = Bench(outlet, 10)
    bench.work()
    assert outlet.took == lines(10)
    assert bench.buffer.account().delivered == 10


@pytest.mark.parametrize("through", [0, -1, 11, 1000])
def test_an_acknowledgement_of_something_else_is_none(through: int):
    outlet = ScriptedOutlet(through)
    bench = Bench(outlet, 10)
    assert bench.sender.step() > 0
    assert bench.buffer.account().buffered == 10


def test_a_bug_below_is_survived_counted_and_loses_nothing(caplog: pytest.LogCaptureFixture):
    outlet = ScriptedOutlet(ZeroDivisionError("oops"), MemoryError())
    bench = Bench(outlet, 3)
    with caplog.at_level(logging.ERROR):
        assert [bench.sender.step(), bench.sender.step()] == [1, 2]
    assert "ZeroDivisionError" in caplog.text
    assert bench.value("panics_recovered_total", component="sender") == 2
    assert bench.value("output_errors_total", output="scripted", reason="error") == 2
    bench.work()
    assert outlet.took == lines(3)


def test_trouble_is_told_once_with_its_remedy_and_its_end(caplog: pytest.LogCaptureFixture):
    trouble = [Deferred("disk full", remedy="Free space.")] * 4
    bench = Bench(ScriptedOutlet(*trouble), 1)
    with caplog.at_level(logging.INFO):
        for _ in range(4):
            bench.sender.step()
            bench.clock.advance(10)
        assert bench.sender.trouble == ("disk full", "Free space.", 1000.0, 4, False)
        bench.work()
    assert bench.sender.trouble is None
    assert caplog.messages == [
        "delivery is held up: disk full. Free space.",
        "delivery resumed after 4 failed attempts",
        "sync complete: 1 lines in 0.0 s",
    ]


def test_deliveries_and_failures_are_counted_from_zero():
    bench = Bench(ScriptedOutlet(Deferred("no"), Refused("bad")), 2)
    assert bench.value("output_success_total", output="scripted") == 0
    assert bench.value("output_errors_total", output="scripted", reason="refused") == 0
    bench.sender.step()
    bench.work()
    assert bench.value("output_errors_total", output="scripted", reason="deferred") == 1
    assert bench.value("output_errors_total", output="scripted", reason="refused") == 1
    assert bench.value("output_success_total", output="scripted") == 2
    last = bench.value("output_last_success_timestamp_seconds", output="scripted")
    assert last == bench.clock.now().timestamp()


def test_draining_delivers_everything_and_says_so():
    outlet = ScriptedOutlet()
    bench = Bench(outlet, 30, max_lines=4)
    assert bench.sender.drain(bench.clock.monotonic() + 5)
    assert outlet.took == lines(30)


def test_draining_gives_up_when_the_outlet_does():
    bench = Bench(ScriptedOutlet(None, Deferred("gone")), 10, max_lines=4)
    assert not bench.sender.drain(bench.clock.monotonic() + 5)
    assert bench.buffer.account() == (10, 4, 6, 0, {})


def test_draining_ends_at_its_deadline():
    class SlowOutlet(ScriptedOutlet):
        def deliver(self, batch: Batch) -> Receipt:
            bench.clock.advance(2)
            return super().deliver(batch)

    bench = Bench(SlowOutlet(), 10, max_lines=1)
    assert not bench.sender.drain(bench.clock.monotonic() + 5)
    assert bench.buffer.account().delivered == 3


def test_the_thread_delivers_and_stops_in_the_middle_of_a_long_pause():
    outlet = ScriptedOutlet(None, Deferred("429", retry_after=3000))
    bench = Bench(outlet, 2, max_lines=1)
    thread = threading.Thread(target=bench.sender.run, name="sender")
    thread.start()
    until(lambda: 3000.0 in bench.beats, 5)
    bench.stopping.set()
    bench.sender.urge()
    thread.join(1)
    assert not thread.is_alive()
    assert outlet.took == lines(1)
    assert bench.beats == [0.0, 3000.0], "each pause is announced"
