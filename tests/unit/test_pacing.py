"""How much at once, how soon again: on a clock that is moved by hand."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_collector.config.model import Platform
from pg_collector.pacing import (
    FULL_SPEED,
    HELD,
    LIMIT_HOLDS,
    OUTAGE,
    SMALLEST,
    SOME,
    Backoff,
    Pacing,
    Quota,
)
from tests.support.hand_clock import HandClock

FULL = 512 * 1024


def steepest(values: list[float], high: float) -> float:
    """Return the Kolmogorov-Smirnov distance to a uniform distribution from 0 to `high`."""
    ordered = sorted(value / high for value in values)
    count = len(ordered)
    return max(max((n + 1) / count - value, value - n / count) for n, value in enumerate(ordered))


@pytest.mark.parametrize("failures", [0, 1, 3, 6, 60])
def test_agents_that_failed_together_return_spread_evenly(failures: int):
    pauses = [
        Backoff(uniform=random.Random(seed).uniform).pause(failures)  # noqa: S311
        for seed in range(100)
    ]
    high = min(60.0, 2.0**failures)
    assert steepest(pauses, high) < 1.63 / math.sqrt(100), "at 1 % of doubt"


def test_the_longest_pause_is_the_one_that_was_asked_for():
    pauses = [Backoff(5.0, uniform=lambda _low, high: high).pause(n) for n in range(5)]
    assert pauses == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_agents_that_were_held_return_spread_evenly():
    low, high = HELD
    pauses = [Backoff(uniform=random.Random(n).uniform).held() for n in range(100)]  # noqa: S311
    assert steepest([pause - low for pause in pauses], high - low) < 1.63 / math.sqrt(100)


@pytest.mark.parametrize(
    ("asked", "pause"), [(None, 1.0), (0.0, 1.0), (-9.0, 1.0), (17.0, 17.0), (1e9, 3600.0)]
)
def test_what_is_asked_for_wins_where_it_is_longer(asked: float | None, pause: float):
    backoff = Backoff(uniform=lambda _low, high: high)
    assert backoff.pause(0, asked) == pause
    assert backoff.held(asked) == max(HELD[1], pause)


@given(failures=st.integers(0, 10**6), asked=st.none() | st.floats(-1e9, 1e9))
def test_a_pause_has_an_end_and_is_never_none(failures: int, asked: float | None):
    assert 0 < Backoff().pause(failures, asked) <= 3600


def pacing(clock: HandClock, rate_max: float = 1e6) -> Pacing:
    return Pacing(
        clock, max_bytes=FULL, rate_max=rate_max, resume_delay_max=30.0,
        uniform=lambda _low, high: high,
    )  # fmt: skip


def test_the_configuration_says_what_a_batch_may_hold():
    platform = Platform(batch_max_bytes=100_000, batch_max_lines=7)
    assert Pacing.of(platform, HandClock()).caps == (100_000, 7)


def test_lines_that_come_one_by_one_are_not_slowed_down():
    live = pacing(HandClock())
    live.emptied()
    assert live.delivered(FULL, FULL, 0.1) == 0


def test_a_backlog_keeps_to_the_rate_on_the_wire():
    clock = HandClock()
    draining = pacing(clock)
    sent = 0
    began = clock.monotonic()
    for _ in range(50):
        clock.advance(0.02)  # the POST
        sent += 100_000
        clock.advance(draining.delivered(FULL, 100_000, 0.02))
    seconds = clock.monotonic() - began
    assert sent / seconds == pytest.approx(1e6, rel=0.01)


def test_after_an_outage_comes_a_random_delay_once_then_a_slow_start():
    clock = HandClock()
    gentle = pacing(clock, rate_max=1e9)
    gentle.delivered(100, 100, 0.0)
    assert gentle.resumed(OUTAGE) == 30.0
    pauses = [gentle.delivered(100, 100, 0.0) for _ in range(15)]
    assert pauses == [1.0, *[0.5] * 2, *[0.25] * 4, *[0.125] * 8]
    batches = 0
    while gentle.delivered(100, 100, 0.0) > 0.001:
        batches += 1
    assert batches < 2 * FULL_SPEED


def test_a_hiccup_needs_no_gentle_return():
    clock = HandClock()
    gentle = pacing(clock)
    assert gentle.resumed(OUTAGE / 2) == 0
    assert gentle.delivered(100, 100, 0.0) < 0.001


def test_an_emptied_buffer_ends_the_slow_start():
    gentle = pacing(HandClock())
    gentle.resumed(OUTAGE)
    gentle.emptied()
    assert gentle.delivered(100, 100, 0.0) == 0


def test_without_caps_nothing_is_ever_slowed_down():
    files = Pacing(HandClock())
    assert files.resumed(1000.0) == 0
    assert files.delivered(FULL, FULL, 0.0) == 0


def settled(latency: float, rate: float, posts: int = 200) -> tuple[int, float]:
    """Return bytes and seconds of a POST after many over a way of that kind."""
    clock = HandClock()
    way = pacing(clock)
    size, seconds = FULL, 0.0
    for _ in range(posts):
        size = way.caps.max_bytes
        seconds = latency + size / rate
        way.delivered(size, size, seconds)
    return size, seconds


def test_batches_shrink_to_a_second_or_two_on_a_slow_way():
    size, seconds = settled(0.1, 100_000)
    assert size < FULL
    assert 0.5 <= seconds <= 3.0


def test_batches_stay_large_on_a_fast_way_however_far():
    assert settled(0.01, 1e8)[0] == FULL
    assert settled(5.0, 1e8)[0] == FULL, "smaller ones would take as long"


def test_batches_shrink_when_no_answer_comes_but_not_to_nothing():
    clock = HandClock()
    way = pacing(clock)
    for _ in range(50):
        way.failed()
    assert way.caps.max_bytes == SMALLEST
    for _ in range(10):
        way.delivered(way.caps.max_bytes, 1, 0.1)
    assert way.caps.max_bytes == FULL


def test_a_small_cap_is_kept_however_often_nothing_comes():
    way = Pacing(HandClock(), max_bytes=1000)
    way.failed()
    assert way.caps.max_bytes == 1000


def test_a_refused_size_is_remembered_for_an_hour():
    clock = HandClock()
    way = pacing(clock)
    way.too_large(FULL)
    assert way.caps.max_bytes == FULL // 2
    for _ in range(10):
        way.delivered(FULL // 2, 1, 0.1)
    assert way.caps.max_bytes == FULL // 2
    clock.advance(LIMIT_HOLDS)
    assert way.caps.max_bytes == FULL


@given(limit=st.integers(1, FULL))
def test_any_limit_is_found_in_a_few_steps(limit: int):
    way = pacing(HandClock())
    steps = 0
    while way.caps.max_bytes > limit:
        way.too_large(way.caps.max_bytes)
        steps += 1
    assert steps <= FULL.bit_length()
    assert way.caps.max_bytes * 2 + 1 > limit


def test_a_fifth_of_an_hours_lines_may_be_refused():
    clock = HandClock()
    quota = Quota(clock)
    quota.delivered(80)
    assert quota.allows(20, beside=0)
    assert not quota.allows(21, beside=0)
    assert quota.allows(21, beside=20), "what is disputed counts, too"
    quota.refused(20)
    assert not quota.allows(1, beside=0)
    clock.advance(3700)
    assert not quota.allows(1, beside=0), "without a delivery no time passes"
    quota.delivered(1)
    assert quota.allows(SOME, beside=0)


def test_a_handful_may_be_refused_in_any_case():
    quota = Quota(HandClock())
    for _ in range(SOME):
        assert quota.allows(1, beside=0)
        quota.refused(1)
    assert not quota.allows(1, beside=0)


def test_what_the_far_side_announced_caps_a_batch():
    pacing = Pacing(HandClock(), max_bytes=500_000)
    assert pacing.caps.max_bytes == 500_000
    pacing.limit = 100_000
    assert pacing.caps.max_bytes == 100_000
    pacing.limit = 900_000
    assert pacing.caps.max_bytes == 500_000
