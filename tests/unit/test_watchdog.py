"""The watchdog: who counts as lost, how soon, and who does not."""

import datetime as dt
import threading
from collections.abc import Iterator

import pytest

from pg_collector.health.vitals import OK, State, Vital, Vitals
from pg_collector.health.watchdog import Watchdog
from pg_collector.metrics import Metrics
from tests.support.hand_clock import HandClock
from tests.support.until import until


class Bench:
    def __init__(self) -> None:
        self.clock = HandClock()
        self.vitals = Vitals(self.clock, Metrics(self.clock))
        self.lost: list[str] = []
        self.watchdog = Watchdog(self.vitals, self.clock, self.lost.append)

    def pass_by(self, seconds: float) -> float:
        """Let so many seconds pass, looking as the thread would; return when it was told."""
        started = self.clock.monotonic()
        while self.clock.monotonic() - started < seconds and not self.lost:
            self.clock.advance(self.watchdog.step())
        return self.clock.monotonic() - started


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.watchdog.stop()


def test_a_thread_without_a_sign_is_lost_within_thirty_seconds_and_told_once(bench):
    bench.vitals.heart("sender").beat(5.0)
    assert bench.pass_by(100) <= 30
    assert "thread sender: no sign" in bench.lost[0]
    for _ in range(10):
        bench.clock.advance(bench.watchdog.step())
    assert len(bench.lost) == 1


def test_a_thread_that_has_ended_is_lost_within_seconds_whatever_it_announced(bench):
    heart = bench.vitals.heart("sender")
    thread = threading.Thread(target=heart.beat, args=(3600.0,))
    thread.start()
    thread.join(10)
    assert bench.pass_by(100) <= 5
    assert "this thread has ended" in bench.lost[0]


def test_a_thread_is_not_lost_while_it_keeps_its_word(bench):
    heart = bench.vitals.heart("sender")
    for _ in range(5):
        heart.beat(60.0)
        bench.pass_by(75)
    assert bench.lost == []


def test_a_process_that_was_stopped_and_continued_is_not_to_blame(bench):
    heart = bench.vitals.heart("sender")
    heart.beat(1.0)
    bench.watchdog.step()
    bench.clock.advance(3600)  # SIGSTOP, a frozen container, a suspended machine
    bench.watchdog.step()
    bench.clock.advance(1)
    bench.watchdog.step()
    heart.beat(1.0)  # the others woke up, too
    bench.pass_by(10)
    assert bench.lost == []


def test_no_wall_clock_step_loses_a_thread(bench):
    bench.vitals.heart("sender").beat(30.0)
    for step in (86_400, -172_800):
        bench.clock.step(step)
        bench.pass_by(5)
    assert bench.lost == []


def test_a_thread_that_ends_in_the_end_is_not_lost(bench):
    thread = threading.Thread(target=bench.vitals.heart("sender").beat)
    thread.start()
    thread.join(10)
    bench.vitals.ending()
    bench.pass_by(60)
    assert bench.lost == []


def test_an_end_that_takes_too_long_meets_the_last_resort_once_and_in_time(bench):
    calls = []
    bench.watchdog.end_within(9.5, lambda: calls.append(bench.clock.monotonic()))
    started = bench.clock.monotonic()
    bench.pass_by(60)
    assert calls == [started + 9.5]


def test_a_check_that_hangs_holds_up_neither_the_end_nor_what_is_said_of_lost_threads(bench):
    release, returned, calls = threading.Event(), threading.Event(), []

    def check() -> Vital:
        release.wait(5)
        returned.set()
        return OK

    bench.vitals.register("stuck", check)
    bench.vitals.heart("sender").beat(5.0)
    bench.watchdog.end_within(9.0, lambda: calls.append(bench.clock.monotonic()))
    started = bench.clock.monotonic()
    try:
        assert bench.pass_by(100) <= 30
        assert calls == [started + 9.0]
        assert [one for one in threading.enumerate() if one.name == "watchdog-notes"]
        assert not returned.is_set()
    finally:
        release.set()
        bench.watchdog.stop()
    until(lambda: not [one for one in threading.enumerate() if one.name == "watchdog-notes"])


def test_a_check_that_takes_its_time_is_no_sleep_of_the_process(bench):
    bench.vitals.register("slow", lambda: bench.clock.advance(4.5) or OK)
    bench.vitals.heart("sender").beat(5.0)
    bench.pass_by(100)
    assert "thread sender: no sign" in bench.lost[0]


@pytest.mark.parametrize("of", ["on_well", "on_noted"])
def test_what_cannot_be_told_ends_nobody(bench, caplog, of):
    def tell() -> None:
        "\udcff".encode()

    well, noted = (tell if of == one else _nothing for one in ("on_well", "on_noted"))
    watchdog = Watchdog(bench.vitals, bench.clock, bench.lost.append, on_well=well, on_noted=noted)
    died: list[str] = []
    watchdog.start(lambda work: _ends(work, died))
    until(lambda: "tells of all parts failed" in caplog.text)
    watchdog.stop()
    assert died == []
    assert bench.lost == []


def _nothing() -> None:
    """Tell nobody."""


def _ends(work, died) -> None:
    try:
        work()
    except Exception as error:  # noqa: BLE001
        died.append(repr(error))


def test_it_notes_within_seconds_since_when_a_part_is_as_it_is(bench):
    well = [True]
    bench.vitals.register("output", lambda: OK if well[0] else Vital(state=State.DOWN))
    bench.pass_by(10)
    well[0], changed = False, bench.clock.now()
    bench.pass_by(600)
    since = dt.datetime.fromisoformat(bench.vitals.health().parts["output"].since)
    assert dt.timedelta(0) <= since - changed <= dt.timedelta(seconds=3)


def test_its_thread_ends_when_told(bench):
    bench.watchdog.start()
    assert bench.vitals.heart_state("watchdog") is State.OK
    assert "thread watchdog" in bench.vitals.liveness().parts
    assert [one for one in threading.enumerate() if one.name == "watchdog"]
    bench.watchdog.stop()
    assert not [one for one in threading.enumerate() if one.name.startswith("watchdog")]
