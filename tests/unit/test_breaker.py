"""Circuit breakers: when they open, who may probe, and what never reaches the caller."""

import logging
import threading
from typing import Any

import pytest

from pg_collector.breaker import Breaker, State
from pg_collector.errors import BreakerOpen as Open
from pg_collector.errors import (
    Busy,
    ConfigurationError,
    Held,
    Refused,
    TargetDown,
    TargetRefused,
    Unreachable,
)
from pg_collector.metrics import Metrics
from tests.support.hand_clock import HandClock
from tests.support.until import until


class Bench:
    """A breaker of three failures and ten seconds, on a clock moved by hand."""

    def __init__(self, **more):
        self.clock = HandClock()
        self.metrics = Metrics(self.clock)
        self.breaker = Breaker(
            "postgres:prod",
            failures=3,
            reset=10.0,
            counts=(TargetDown, Unreachable),
            **more,
            metrics=self.metrics,
            clock=self.clock,
        )

    def attempt(self, error=None):
        with self.breaker.guard():
            if error is not None:
                raise error

    def fail(self, times=3, error=None):
        error = error or TargetDown("nobody answers", remedy="Start it.")
        for _ in range(times):
            with pytest.raises(type(error)):
                self.attempt(error)

    def value(self):
        return self.metrics.registry.get_sample_value(
            "pg_collector_circuit_breaker_state", {"component": "postgres:prod"}
        )


@pytest.fixture
def bench():
    return Bench()


def test_failures_in_a_row_open_it_and_the_caller_sees_the_real_error(bench):
    bench.fail(2)
    bench.attempt()
    bench.fail(2)
    assert (bench.breaker.state, bench.value()) == (State.CLOSED, 0)
    bench.fail(1)  # raises what the work raised, although this one opens it
    assert (bench.breaker.state, bench.value()) == (State.OPEN, 2)
    with pytest.raises(Open, match="nobody answers") as caught:
        bench.attempt()
    assert caught.value.retry_in == 10.0
    assert caught.value.remedy == "Start it."


def test_it_opens_again_by_the_monotonic_clock_whatever_the_wall_clock_does(bench):
    bench.fail()
    for step in (-3600, 7200):
        bench.clock.step(step)
        with pytest.raises(Open):
            bench.attempt()
    bench.clock.advance(9.9)
    bench.clock.step(-86_400)
    with pytest.raises(Open):
        bench.attempt()
    bench.clock.advance(0.1)
    bench.attempt()
    assert bench.breaker.state is State.CLOSED


def test_a_probe_that_fails_leaves_it_alone_for_as_long_again(bench):
    bench.fail()
    bench.clock.advance(10)
    bench.fail(1)
    assert bench.breaker.state is State.OPEN
    with pytest.raises(Open) as caught:
        bench.attempt()
    assert caught.value.retry_in == 10.0


ALIVE = [TargetRefused("password"), Busy("429"), Held("402"), Refused("400")]


@pytest.mark.parametrize("answer", ALIVE, ids=lambda error: type(error).__name__)
def test_an_answer_that_says_no_is_a_sign_of_life(bench, answer):
    bench.fail(2)
    bench.fail(1, answer)
    bench.fail(2)
    assert bench.breaker.state is State.CLOSED
    bench.fail(1)
    bench.clock.advance(10)
    bench.fail(1, answer)
    assert bench.breaker.state is State.CLOSED


@pytest.mark.parametrize("error", [ConfigurationError("no such file"), ValueError(), SystemExit()])
def test_an_error_of_our_own_says_nothing_of_the_far_side(bench, error):
    bench.fail(2)
    bench.fail(1, error)
    bench.fail(1)
    assert bench.breaker.state is State.OPEN
    bench.clock.advance(10)
    bench.fail(1, error)
    assert bench.value() == 2
    bench.attempt()  # the next attempt is the probe, at once
    assert bench.value() == 0


def test_while_half_open_one_attempt_passes_and_nobody_waits(bench):
    bench.fail()
    bench.clock.advance(10)
    release = threading.Event()
    seen: list[Any] = []

    def probe():
        try:
            with bench.breaker.guard():
                seen.append("in")
                release.wait(10)
        except Open as error:
            seen.append(error)

    threads = [threading.Thread(target=probe) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: len(seen) == 8, what="seven were turned away while one is in")
        assert seen.count("in") == 1
        assert (bench.breaker.state, bench.value()) == (State.HALF_OPEN, 1)
        assert all(error.retry_in > 0 for error in seen if error != "in")
    finally:
        release.set()
        for thread in threads:
            thread.join(10)
    assert bench.breaker.state is State.CLOSED


def test_while_closed_nobody_waits_for_another_ones_work(bench):
    inside = threading.Barrier(5)

    def work():
        with bench.breaker.guard():
            inside.wait(10)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    inside.wait(10)  # all four are in at the same time
    for thread in threads:
        thread.join(10)
    assert bench.breaker.state is State.CLOSED


def test_what_began_before_it_opened_changes_nothing_afterwards(bench):
    late = bench.breaker.guard()
    late.__enter__()
    bench.fail()
    late.__exit__(None, None, None)
    assert bench.breaker.state is State.OPEN


def test_a_listener_that_fails_reaches_nobody():
    heard = []

    def listen(state):
        heard.append(state)
        raise RuntimeError("the listener's own trouble")

    bench = Bench(on_change=listen)
    bench.fail()
    bench.clock.advance(10)
    bench.attempt()
    assert heard == [State.OPEN, State.HALF_OPEN, State.CLOSED]
    recovered = bench.metrics.registry.get_sample_value(
        "pg_collector_panics_recovered_total", {"component": "breaker"}
    )
    assert recovered == 3


def test_opening_and_closing_are_logged_once_with_component_and_reason(bench, caplog):
    caplog.set_level(logging.INFO)
    bench.fail()
    for _ in range(5):
        bench.clock.advance(10)
        bench.fail(1)
    bench.clock.advance(10)
    bench.attempt()
    said = [(one.getMessage(), one.component, one.reason) for one in caplog.records]
    assert said == [
        ("circuit breaker opened", "postgres:prod", "nobody answers"),
        ("circuit breaker closed", "postgres:prod", "nobody answers"),
    ]


def test_other_limits_hold_from_now_on(bench):
    bench.fail(2)
    bench.breaker.adjust(failures=5, reset=60.0)
    bench.fail(2)
    assert bench.breaker.state is State.CLOSED
    bench.fail(1)
    bench.clock.advance(59)
    assert bench.breaker.trouble is not None
    assert bench.breaker.trouble.retry_in == 1.0
    bench.breaker.adjust(failures=5, reset=30.0)
    bench.attempt()
    assert bench.breaker.trouble is None
