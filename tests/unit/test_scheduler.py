import datetime as dt
import itertools
import logging
import threading
import time

import pytest

from pg_collector.clock import SystemClock
from pg_collector.errors import AgentUnreachable
from pg_collector.metrics import Metrics
from pg_collector.samplers._sampler import LaneName
from pg_collector.schedule import Job
from pg_collector.scheduler import LOOK_EVERY, OnwardTrigger, Scheduler
from tests.support.until import until


class Bench:
    """A scheduler whose jobs wait until they are let go."""

    def __init__(self) -> None:
        self.metrics = Metrics(SystemClock())
        self.stopping = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.runs: list[tuple[str, float, str]] = []
        self.ends: list[tuple[str, str]] = []
        self.scheduler = Scheduler(
            self.run, self.metrics, SystemClock(), self.stopping, after=self.end
        )

    def run(self, job: Job) -> None:
        self.runs.append((job.sampler, time.monotonic(), threading.current_thread().name))
        self.gate.wait(30)

    def end(self, last: Job) -> None:
        self.ends.append((last.sampler, threading.current_thread().name))

    def count(self, sampler: str) -> int:
        return sum(name == sampler for name, _, _ in self.runs)

    def skipped(self, sampler: str, reason: str) -> float:
        name = "pg_collector_sampler_skipped_total"
        labels = {"sampler": sampler, "reason": reason}
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
def bench():
    bench = Bench()
    bench.scheduler.start()
    yield bench
    bench.gate.set()
    bench.stopping.set()
    assert bench.scheduler.stop(5.0)


def job(sampler="activity", every=0.2, lane=LaneName.FAST, target="prod"):
    return Job(target, sampler, every, lane)


def test_a_job_runs_at_once_and_then_at_its_interval(bench):
    started = time.monotonic()
    bench.scheduler.apply([job(every=0.3)])
    until(lambda: bench.count("activity") >= 4, what="four runs")
    moments = [moment for _, moment, _ in bench.runs]
    assert moments[0] - started < 0.2
    assert moments[3] - moments[0] == pytest.approx(0.9, abs=0.15)


def test_the_lanes_of_a_target_do_not_wait_for_each_other(bench):
    bench.gate.clear()
    bench.scheduler.apply([job("activity"), job("statements", lane=LaneName.SLOW)])
    until(lambda: len(bench.runs) == 2, what="both lanes at work")
    assert len({thread for _, _, thread in bench.runs}) == 2


def test_one_lane_runs_one_thing_at_a_time(bench):
    bench.gate.clear()
    bench.scheduler.apply([job("activity"), job("database")])
    until(lambda: len(bench.runs) == 1, what="the first is at work")
    until(
        lambda: bench.skipped(bench.runs[0][0], "still_running") > 0,
        what="its next run is left out and counted",
    )
    assert len(bench.runs) == 1


def test_no_sampler_starves_on_a_lane_that_cannot_keep_up():
    bench = Bench()
    bench.gate.clear()

    def run(job):
        bench.runs.append((job.sampler, time.monotonic(), ""))
        bench.gate.wait(0.06)  # eight of these take longer than the interval

    scheduler = Scheduler(run, bench.metrics, SystemClock(), bench.stopping)
    scheduler.start()
    names = [f"s{number}" for number in range(8)]
    scheduler.apply([job(name, every=0.4) for name in names])
    started = time.monotonic()
    until(lambda: time.monotonic() - started > 3.0, what="some rounds")
    bench.stopping.set()
    assert scheduler.stop(5.0)
    for name in names:
        moments = [started, *(at for who, at, _ in bench.runs if who == name)]
        gaps = [after - before for before, after in itertools.pairwise(moments)]
        # Three intervals, and the wait for what is before it in the lane.
        assert max(gaps) <= 3 * 0.4 + 0.5, name
        assert len(moments) >= 3, name


def test_the_scheduling_thread_gives_a_sign_of_life_without_any_job():
    signs: list[float] = []
    scheduler = Scheduler(
        lambda _job: None, Metrics(SystemClock()), SystemClock(), stopping := threading.Event(),
        beat=signs.append,
    )  # fmt: skip
    scheduler.start()
    try:
        until(lambda: signs, what="a sign")
        assert 0 < max(signs) <= LOOK_EVERY
    finally:
        stopping.set()
        assert scheduler.stop(5.0)


def test_a_target_that_is_retired_leaves_no_thread_and_what_waits_there_does_not_run(bench):
    bench.gate.clear()
    bench.scheduler.apply([job("first", every=30), job("second", every=30)])
    until(lambda: len(bench.runs) == 1, what="one runs, one waits")
    (running, _, thread), waiting = bench.runs[0], {"first", "second"}
    bench.scheduler.withdraw("prod")
    bench.gate.set()
    done = bench.scheduler.lend("prod", LaneName.FAST, lambda: "all before is over")
    assert done.result(10) == "all before is over"
    bench.scheduler.retire("prod", [LaneName.FAST])
    until(
        lambda: thread not in {one.name for one in threading.enumerate()},
        what="the lane's thread ends",
    )
    (left_out,) = waiting - {running}
    assert bench.count(left_out) == 0


def test_what_waited_longer_than_its_interval_is_skipped_and_counted(bench):
    bench.gate.clear()
    bench.scheduler.apply([job("activity", every=30)])
    until(lambda: len(bench.runs) == 1, what="the lane is busy")
    bench.scheduler.apply([job("activity", every=30), job("database", every=0.2)])
    until(lambda: bench.skipped("database", "still_running") > 1, what="it waits its time out")
    bench.gate.set()
    until(lambda: bench.skipped("database", "lane_busy") == 1, what="it is skipped")
    until(lambda: bench.count("database") > 0, what="and runs again when due")


def test_a_job_that_is_taken_away_runs_no_more_and_a_new_one_runs_at_once(bench):
    bench.scheduler.apply([job("activity")])
    until(lambda: bench.count("activity") > 1)
    bench.scheduler.apply([job("database")])
    gone = bench.count("activity")
    until(lambda: bench.count("database") > 3)
    assert bench.count("activity") <= gone + 1


def test_jobs_laid_together_follow_each_other_and_one_that_is_taken_away_leaves_the_others(bench):
    names = ["a", "b", "c"]
    bench.scheduler.apply([job(name, every=0.5) for name in names])
    until(lambda: len(bench.runs) >= 6, what="two rounds")
    assert [name for name, _, _ in bench.runs[:6]] == names * 2
    due = bench.scheduler.next_run("prod/a")
    assert due == bench.scheduler.next_run("prod/c")
    bench.scheduler.apply([job(name, every=0.5) for name in "ac"])
    assert bench.scheduler.next_run("prod/a") >= due, "it keeps its time"
    assert bench.scheduler.next_run("prod/b") is None
    there = len(bench.runs)
    until(lambda: len(bench.runs) >= there + 4, what="two more rounds")
    assert [name for name, _, _ in bench.runs[there + 1 : there + 4]] in (list("aca"), list("cac"))


def test_an_interval_is_changed_without_a_restart(bench):
    bench.scheduler.apply([job(every=600)])
    until(lambda: bench.count("activity") == 1)
    bench.scheduler.apply([job(every=0.2)])
    until(lambda: bench.count("activity") > 3)
    assert bench.scheduler.next_run("prod/activity") is not None


def test_work_that_is_lent_a_lane_runs_in_its_thread_behind_what_waits(bench):
    bench.scheduler.apply([job(every=600)])
    until(lambda: bench.count("activity") == 1)
    lent = bench.scheduler.borrow("prod", "fast", lambda: threading.current_thread().name, 5.0)
    assert lent == bench.runs[0][2]


def test_a_lane_that_stays_busy_is_not_waited_for_for_ever(bench):
    bench.gate.clear()
    bench.scheduler.apply([job(every=600)])
    until(lambda: bench.count("activity") == 1)
    with pytest.raises(TimeoutError, match="fast of prod was busy"):
        bench.scheduler.borrow("prod", "fast", lambda: None, 0.1)


def test_what_is_lent_raises_what_it_raises(bench):
    with pytest.raises(ZeroDivisionError):
        bench.scheduler.borrow("prod", "slow", lambda: 1 / 0, 5.0)


def test_laying_the_jobs_anew_leaves_each_its_turn(bench):
    bench.scheduler.apply([job("activity", every=600), job("database", every=0.5)])
    until(lambda: bench.count("activity") == 1 and bench.count("database") == 2)
    began = time.monotonic()
    for _ in range(100):
        bench.scheduler.reanchor()
    until(lambda: bench.count("database") == 4)
    assert time.monotonic() - began > 0.5  # the second of them comes a whole interval later
    assert bench.count("activity") == 1
    due = bench.scheduler.next_run(job("activity").id)
    assert 0 < (due - dt.datetime.now(dt.UTC)).total_seconds() < 600


def test_a_run_that_waits_while_the_clock_is_set_is_not_lost(bench):
    bench.gate.clear()
    bench.scheduler.apply([job("activity", every=600)])
    until(lambda: bench.count("activity") == 1, what="the lane is busy")
    bench.scheduler.apply([job("activity", every=600), job("database", every=500)])
    due = bench.scheduler.next_run(job("database").id)
    until(lambda: bench.scheduler.next_run(job("database").id) != due, what="another one waits")
    bench.scheduler.reanchor()
    bench.gate.set()
    until(lambda: bench.count("database") == 1, what="it has its turn")


def test_jobs_of_one_interval_keep_their_own_turns_when_laid_anew(bench):
    bench.scheduler.apply([job("activity", every=600)])
    until(lambda: bench.count("activity") == 1)
    bench.scheduler.apply([job("activity", every=600), job("database", every=600)])
    for _ in range(3):
        bench.scheduler.reanchor()
    until(lambda: bench.count("database") == 1, what="the new one has its first turn at once")
    bench.scheduler.reanchor()
    due = bench.scheduler.next_run(job("activity").id)
    assert (due - dt.datetime.now(dt.UTC)).total_seconds() > 500
    assert bench.count("activity") == 1


def test_a_job_that_had_no_turn_yet_has_it_at_once_when_laid_anew(bench):
    bench.scheduler.apply([job(every=600)])
    bench.scheduler.reanchor()
    until(lambda: bench.count("activity") == 1)


def test_a_stop_waits_for_the_running_turn_but_not_for_ever():
    bench = Bench()
    bench.scheduler.start()
    bench.gate.clear()
    bench.scheduler.apply([job(every=600)])
    until(lambda: bench.count("activity") == 1)
    bench.stopping.set()
    started = time.monotonic()
    assert not bench.scheduler.stop(0.3)
    assert time.monotonic() - started < 2
    bench.gate.set()
    assert bench.scheduler.stop(5.0)
    assert not bench.scheduler.alive


def test_the_end_of_a_round_is_told_in_its_lane_unless_all_ends(bench):
    bench.scheduler.apply([job("activity", every=600), job("database", every=600)])
    until(lambda: bench.ends, what="the round is over")
    ((_, _, lane), _) = bench.runs
    assert bench.ends == [("database", lane)]
    bench.gate.clear()
    bench.scheduler.apply([job("wal", every=600)])
    until(lambda: bench.count("wal") == 1)
    bench.stopping.set()
    bench.gate.set()
    assert bench.scheduler.stop(5.0)
    lanes = [one for one in threading.enumerate() if one.name.startswith("prod:")]
    until(lambda: not any(one.is_alive() for one in lanes), what="the lane has ended")
    assert bench.ends == [("database", lane)], "whoever stops it does not wait for that"


def test_a_stop_with_a_turn_that_waits_logs_nothing_and_leaves_it_out(bench, caplog):
    bench.gate.clear()
    bench.scheduler.apply([job("activity", every=600)])
    until(lambda: bench.count("activity") == 1, what="the lane is busy")
    bench.scheduler.apply([job("activity", every=600), job("database", every=0.2)])
    until(lambda: bench.skipped("database", "still_running") > 0, what="another turn waits")
    with caplog.at_level(logging.WARNING):
        bench.stopping.set()
        assert not bench.scheduler.stop(0.1)
        bench.gate.set()
        assert bench.scheduler.stop(5.0)
        lanes = [one for one in threading.enumerate() if one.name.startswith("prod:")]
        until(lambda: not any(one.is_alive() for one in lanes), what="the lane has ended")
    assert caplog.records == []
    assert bench.count("database") == 0


def test_work_that_waits_for_a_lane_when_all_stops_is_refused(bench):
    bench.gate.clear()
    bench.scheduler.apply([job(every=600)])
    until(lambda: bench.count("activity") == 1)
    refused = []

    def borrow():
        with pytest.raises(AgentUnreachable, match="is stopping") as caught:
            bench.scheduler.borrow("prod", "fast", lambda: None, 10.0)
        refused.append(caught.value)

    waiting = threading.Thread(target=borrow)
    waiting.start()
    pool = bench.scheduler._lanes["prod/fast"].pool
    until(lambda: pool._work_queue.qsize() == 1, what="it waits")
    bench.stopping.set()
    bench.scheduler.stop(0.1)
    bench.gate.set()
    waiting.join(5)
    borrow()
    assert len(refused) == 2


MOMENT = dt.datetime(2026, 11, 22, 12, 0, 0, 250_000, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("late", "then"),
    [(0.0, 1.0), (0.999, 1.0), (1.0, 2.0), (2.5, 3.0), (60 * 86400.5, 60 * 86400 + 31)],
)
def test_what_was_missed_is_left_behind_in_one_step_and_the_phase_stays(late, then):
    trigger = OnwardTrigger(seconds=1.0, start_date=MOMENT, timezone=dt.UTC)
    following = trigger.get_next_fire_time(MOMENT, MOMENT + dt.timedelta(seconds=late))
    assert following == MOMENT + dt.timedelta(seconds=then)


def test_half_a_century_is_one_step():
    early = MOMENT.replace(year=1970)
    trigger = OnwardTrigger(seconds=0.5, start_date=early, timezone=dt.UTC)
    began = time.process_time()
    following = trigger.get_next_fire_time(early, MOMENT)
    assert time.process_time() - began < 0.1
    assert MOMENT < following <= MOMENT + dt.timedelta(seconds=0.5)
