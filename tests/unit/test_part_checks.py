"""What targets and the output say of themselves when something is amiss, and what they do not."""

import threading

import pytest

from pg_collector import checks
from pg_collector.health.vitals import OK, State, Vital
from pg_collector.metrics import Metrics
from pg_collector.privacy.mask import Masker
from pg_collector.runner import Runner
from pg_collector.samplers._sampler import LaneName
from pg_collector.schedule import Job
from pg_collector.spot import Tray
from pg_collector.target import Target
from tests.support.hand_clock import HandClock
from tests.support.ports import free_port
from tests.support.sampling import SAMPLERS, target
from tests.unit.test_sender import Bench, ScriptedOutlet
from tests.unit.test_sender_troubles import DeafStore

FAST = Job("prod", "activity", 1.0, LaneName.FAST)
SLOW = Job("prod", "vacuum", 10.0, LaneName.SLOW)
RESTS = Vital(state=State.OK, reason="nothing is sampled here")


@pytest.fixture
def away() -> Target:
    """Return a target where nobody listens."""
    clock, tray = HandClock(), Tray()
    metrics = Metrics(clock)
    return Target(
        target(f"host=127.0.0.1 port={free_port()} user=nobody dbname=postgres"),
        SAMPLERS,
        Runner(tray, Masker(), metrics, clock),
        buffer=tray,
        metrics=metrics,
        clock=clock,
        stopping=threading.Event(),
    )


def test_a_target_where_nothing_is_sampled_any_more_has_no_trouble(away: Target):
    away.expect({"activity", "vacuum"})
    away.take(FAST)
    assert checks.target(away).state is State.DOWN
    away.expect(())
    away.take(FAST)  # it had begun before
    assert checks.target(away) == RESTS
    away.expect({"activity"})
    assert checks.target(away).state is State.UNKNOWN


def test_a_target_where_nothing_was_ever_sampled_has_no_trouble(away: Target):
    away.expect(())
    assert checks.target(away) == RESTS


def test_a_lane_whose_samplers_are_all_switched_off_has_no_trouble(away: Target):
    away.expect({"activity", "vacuum"})
    away.take(SLOW)
    assert away.trouble is not None
    away.expect({"activity"})
    assert away.trouble is None
    away.take(FAST)
    assert away.down, "the other lane alone counts"


def test_an_output_that_cannot_read_its_lines_blames_the_buffer_only_where_that_says_so():
    bench = Bench(ScriptedOutlet(), 3)
    bench.buffer.peek = DeafStore(bench, 1).peek  # type: ignore[method-assign]
    bench.sender.step()
    vital = checks.output("file", bench.sender, bench.buffer)
    assert vital.state is State.DEGRADED
    assert vital.reason == "file: waits for the buffer: the disk does not answer"
    assert vital.remedy


def test_an_output_without_anything_to_deliver_is_well():
    bench = Bench(ScriptedOutlet())
    assert checks.output("file", bench.sender, bench.buffer).state is State.UNKNOWN
    bench.sender.step()
    assert checks.output("file", bench.sender, bench.buffer) == OK
