"""The sender and every kind of error, with a real buffer and an outlet that answers as told."""

import contextlib
import logging
from collections.abc import Iterator

import pytest

from pg_collector.errors import (
    BreakerOpen,
    Busy,
    Deferred,
    DeliveryError,
    Held,
    Refused,
    SequenceGap,
    StoreDown,
    StreamConflict,
    TooLarge,
    Unexpected,
    Unreachable,
)
from pg_collector.outlets import Receipt
from pg_collector.pacing import OUTAGE, Backoff, Pacing
from pg_collector.sample import Batch
from pg_collector.sender import NOTICE_LASTS, Sender
from tests.unit.test_sender import Answer, Bench, ScriptedOutlet

KINDS = {
    "unreachable": Unreachable("timeout"),
    "busy": Busy("429"),
    "held": Held("403"),
    "unexpected": Unexpected("unexpected answer"),
    "deferred": Deferred("disk full"),
    "refused": Refused("400"),
    "too_large": TooLarge("413"),
    "conflict": StreamConflict("409"),
    "store": StoreDown("the disk does not answer"),
    "error": ZeroDivisionError("oops"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_error_has_a_series_of_its_own(kind: str):
    bench = Bench(ScriptedOutlet(KINDS[kind]), 2)
    bench.sender.step()
    values = {
        each: bench.value("output_errors_total", output="scripted", reason=each) or 0
        for each in KINDS
    }
    assert values == {each: float(each == kind) for each in KINDS}


def test_a_sequence_gap_is_a_conflict_too():
    bench = Bench(ScriptedOutlet(None, SequenceGap("409", expected=1)), 2, max_lines=1)
    bench.sender.step()
    assert bench.sender.step() == 0
    assert bench.value("output_errors_total", output="scripted", reason="conflict") == 1


@pytest.mark.parametrize("reason", [Unreachable("a"), Busy("b"), Unexpected("c"), Deferred("d")])
def test_what_passes_by_itself_is_tried_again_soon(reason: DeliveryError):
    assert Bench(ScriptedOutlet(reason), 1).sender.step() == 1


def test_what_a_person_must_change_is_tried_again_in_minutes():
    bench = Bench(ScriptedOutlet(Held("403"), Held("403", retry_after=900.0)), 1)
    assert [bench.sender.step(), bench.sender.step()] == [180, 900]


class DeafStore:
    """A real buffer whose disk does not answer for some time."""

    def __init__(self, bench: Bench, times: int) -> None:
        self._times = times
        self._peek = bench.buffer.peek

    def peek(self, max_bytes: int, max_lines: int) -> Batch | None:
        if self._times:
            self._times -= 1
            raise StoreDown("the disk does not answer", remedy="Look at the disk.")
        return self._peek(max_bytes, max_lines)


def test_a_disk_that_does_not_answer_is_waited_for_calmly(caplog: pytest.LogCaptureFixture):
    outlet = ScriptedOutlet()
    bench = Bench(outlet, 3)
    bench.buffer.peek = DeafStore(bench, 4).peek  # type: ignore[method-assign]
    with caplog.at_level(logging.INFO):
        assert [bench.sender.step() for _ in range(4)] == [1, 2, 4, 8]
    assert outlet.asked == 0
    assert caplog.messages == ["delivery is held up: the disk does not answer. Look at the disk."]
    assert bench.value("output_errors_total", output="scripted", reason="store") == 4
    assert bench.value("panics_recovered_total", component="sender") == 0
    bench.work()
    assert len(outlet.took) == 3


def test_draining_from_a_disk_that_does_not_answer_ends():
    bench = Bench(ScriptedOutlet(), 3)
    bench.buffer.peek = DeafStore(bench, 99).peek  # type: ignore[method-assign]
    assert not bench.sender.drain(bench.clock.monotonic() + 5)


class OpenBreaker:
    """Lets nothing pass for so many times."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.ended: list[type[BaseException] | None] = []

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        if self.times:
            self.times -= 1
            raise BreakerOpen("connection refused", retry_in=22.5, remedy="Is it up?")
        try:
            yield
        except BaseException as error:
            self.ended.append(type(error))
            raise
        self.ended.append(None)


def test_an_open_breaker_is_waited_for_without_an_attempt():
    outlet = ScriptedOutlet(Unreachable("no"))
    bench = Bench(outlet, 3)
    breaker = OpenBreaker(2)
    bench.sender._breaker = breaker
    assert [bench.sender.step(), bench.sender.step()] == [22.5, 22.5]
    assert outlet.asked == 0
    assert bench.sender.trouble is not None
    assert bench.sender.trouble.message == "connection refused"
    assert bench.value("output_errors_total", output="scripted", reason="unreachable") is None
    bench.sender.step()
    bench.work()
    assert breaker.ended == [Unreachable, None], "the breaker hears how it ended"


def test_an_open_breaker_ends_the_draining():
    bench = Bench(ScriptedOutlet(), 3)
    bench.sender._breaker = OpenBreaker(1)
    assert not bench.sender.drain(bench.clock.monotonic() + 5)


def gentle(bench: Bench, outlet: ScriptedOutlet, attempt_max: float = 0.0) -> Sender:
    pacing = Pacing(
        bench.clock, max_lines=10, rate_max=1e6, resume_delay_max=30.0,
        uniform=lambda _low, high: high,
    )  # fmt: skip
    return Sender(
        bench.buffer, outlet, bench.stopping, bench.metrics, clock=bench.clock, pacing=pacing,
        backoff=Backoff(uniform=lambda _low, high: high), linger=0.7, beat=bench.beats.append,
        attempt_max=attempt_max,
    )  # fmt: skip


def test_after_an_outage_delivery_returns_gently_and_tells_when_it_is_through(
    caplog: pytest.LogCaptureFixture,
):
    outlet = ScriptedOutlet(*[Unreachable("down")] * 6)
    bench = Bench(outlet, 50)
    sender = gentle(bench, outlet)
    with caplog.at_level(logging.INFO):
        pauses = []
        while (pause := sender.step()) != 0.7:
            pauses.append(pause)
            bench.clock.advance(pause)
    assert pauses == [1, 2, 4, 8, 16, 32, 30, 1, 0.5, 0.5, 0.25]
    assert caplog.messages == [
        "delivery is held up: down",
        "delivery resumed after 6 failed attempts",
        "sync complete: 50 lines in 32.2 s",
    ]
    caplog.clear()
    bench.put(1)
    with caplog.at_level(logging.INFO):
        assert [sender.step(), sender.step()] == [0, 0.7]
    assert caplog.messages == [], "what comes as it goes is no backlog"


def test_a_backlog_of_the_start_is_told_when_it_is_through(caplog: pytest.LogCaptureFixture):
    bench = Bench(ScriptedOutlet(), 50, max_lines=10)
    with caplog.at_level(logging.INFO):
        bench.work()
    assert caplog.messages == ["sync complete: 50 lines in 0.0 s"]
    caplog.clear()
    bench.put(50)
    with caplog.at_level(logging.INFO):
        bench.work()
    assert caplog.messages == [], "a busy minute is no backlog"


def test_the_end_does_not_wait_for_the_gentle_return():
    outlet = ScriptedOutlet(*[Unreachable("down")] * 6)
    bench = Bench(outlet, 50)
    sender = gentle(bench, outlet)
    for _ in range(6):
        bench.clock.advance(sender.step())
    assert bench.clock.monotonic() - 1000 > OUTAGE
    assert sender.drain(bench.clock.monotonic() + 5)
    assert len(outlet.took) == 50


def test_each_attempt_is_announced_with_the_time_that_it_may_take():
    bench = Bench(ScriptedOutlet(), 20)
    sender = gentle(bench, ScriptedOutlet(), attempt_max=90.0)
    sender.step()
    assert bench.beats == [90.0]


class Rejecting(ScriptedOutlet):
    """Takes the others, and says which it did not."""

    def __init__(self, *numbers: int) -> None:
        super().__init__()
        self.numbers = numbers
        self.why = "schema: unknown"

    def deliver(self, batch: Batch) -> Receipt:
        self.asked += 1
        rejected = {n: self.why for n in self.numbers if batch.first <= n <= batch.last}
        self.took += [line for n, line in batch.numbered() if n not in rejected]
        return Receipt(batch.last, rejected)


def test_rejected_lines_go_to_quarantine_and_their_neighbours_count_as_delivered():
    outlet = Rejecting(2, 7)
    bench = Bench(outlet, 20, max_lines=10)
    bench.work()
    assert bench.buffer.account() == (20, 18, 0, 2, {})
    assert [(one.number, one.reason) for one in bench.buffer.quarantined()] == [
        (2, "schema: unknown"), (7, "schema: unknown"),
    ]  # fmt: skip


def test_what_is_kept_of_an_answer_holds_no_credentials():
    outlet = Rejecting(2)
    outlet.why = "not this: password=hunter22"
    bench = Bench(outlet, 20, max_lines=10)
    bench.work()
    assert [one.reason for one in bench.buffer.quarantined()] == ["not this: password=?"]
    refusing = ScriptedOutlet(hates=lambda line: line == b"line 003")
    refusing.refusal = outlet.why
    bench = Bench(refusing, 20, max_lines=10)
    bench.work()
    assert [one.reason for one in bench.buffer.quarantined()] == ["not this: password=?"]


def test_an_outlet_that_rejects_too_much_is_held():
    outlet = Rejecting(*range(1, 8))
    bench = Bench(outlet, 20)
    assert bench.sender.step() == 180
    assert bench.buffer.account().buffered == 20
    assert bench.sender.trouble is not None
    assert bench.sender.trouble.message.startswith("more than a fifth")


def test_a_burst_of_bad_lines_passes_where_most_of_the_hour_was_good():
    bad = {b"line %03d" % n for n in range(100, 112)}
    outlet = ScriptedOutlet(hates=lambda line: line in bad)
    bench = Bench(outlet, 200, max_lines=50)
    bench.work()
    assert bench.buffer.account() == (200, 188, 0, 12, {})


def test_the_far_side_may_ask_for_what_it_had_once():
    outlet = ScriptedOutlet(None, None, SequenceGap("409", expected=5))
    bench = Bench(outlet, 30, max_lines=10)
    seen: list[tuple[int, int]] = []
    deliver = outlet.deliver

    def watch(batch: Batch) -> Receipt:
        seen.append((batch.first, batch.last))
        return deliver(batch)

    outlet.deliver = watch  # type: ignore[method-assign]
    bench.work()
    assert seen[:3] == [(1, 10), (11, 20), (21, 30)]
    assert seen[3][0] == 5
    assert bench.buffer.account() == (30, 30, 0, 0, {})


@pytest.mark.parametrize("expected", [-1, 0, 11, 12, 99])
def test_an_impossible_number_is_not_believed(expected: int):
    outlet = ScriptedOutlet(None, SequenceGap("409", expected=expected))
    bench = Bench(outlet, 20, max_lines=10)
    bench.sender.step()
    assert bench.sender.step() == 1
    assert bench.sender.trouble is not None
    assert bench.sender.trouble.message.startswith("unexpected answer: 409")


def test_a_cloned_machine_takes_a_new_stream_and_says_so_for_an_hour():
    outlet = ScriptedOutlet(None, StreamConflict("409"))
    bench = Bench(outlet, 20, max_lines=10)
    bench.sender.step()
    first = bench.buffer.peek(1, 1)
    assert bench.sender.step() == 0
    second = bench.buffer.peek(1, 1)
    assert first is not None
    assert second is not None
    assert second.stream != first.stream
    assert second.first == 1
    bench.work()
    assert bench.sender.trouble is None
    assert bench.sender.notice is not None
    bench.clock.advance(NOTICE_LASTS + 1)
    assert bench.sender.notice is None


def test_a_conflict_that_stays_is_held():
    conflicts: list[Answer] = [StreamConflict("409"), StreamConflict("409")]
    bench = Bench(ScriptedOutlet(*conflicts), 3)
    assert bench.sender.step() == 0
    assert bench.sender.step() == 180


def test_a_batch_that_is_too_large_is_halved_in_bytes():
    class Small(ScriptedOutlet):
        def deliver(self, batch: Batch) -> Receipt:
            self.asked += 1
            if len(batch.body) > 60:
                raise TooLarge("413")
            self.took += batch.lines
            return Receipt(batch.last)

    outlet = Small()
    bench = Bench(outlet, 100)
    bench.work()
    assert len(outlet.took) == 100
    assert bench.buffer.account() == (100, 100, 0, 0, {})
    refused = bench.value("output_errors_total", output="scripted", reason="too_large")
    assert refused is not None
    assert refused <= 7
