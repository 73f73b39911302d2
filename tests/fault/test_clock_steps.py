"""The wall clock is set while the agent schedules: sampling goes on all the same."""

import itertools
import os
import resource
import signal
import subprocess
import sys
import time
from datetime import datetime

import pytest

from tests.support.clocks import faked
from tests.support.daemon import Daemon
from tests.support.far_side import FarSide
from tests.support.sampling import SAMPLERS, Line
from tests.support.until import until

PROGRAM = """
import sys, threading, time
from pathlib import Path
from pg_collector.clock import SystemClock
from pg_collector.metrics import Metrics
from pg_collector.samplers._sampler import LaneName
from pg_collector.schedule import Job
from pg_collector.scheduler import Scheduler
stopping = threading.Event()
def run(job):
    pages = Path("/proc/self/statm").read_text().split()[1]
    print(f"{time.monotonic():.3f} {time.time():.0f} {pages}", flush=True)
scheduler = Scheduler(run, Metrics(SystemClock()), SystemClock(), stopping)
scheduler.start()
scheduler.apply([Job("prod", "activity", float(sys.argv[1]), LaneName.FAST)])
sys.stdin.read()
stopping.set()
scheduler.stop(2.0)
"""


EVERY = 0.3  # seconds: the scheduler sees most steps before the watchdog does
LATE = 0.6  # seconds that a busy machine may add to what is promised
GROWTH = 10_000_000  # bytes: what the runs themselves may take

DAY = 86400
SINCE_1970 = int(time.time()) - DAY


@pytest.fixture
def first():
    """By how many seconds the wall clock is off when the program starts."""
    return 0


@pytest.fixture
def stepped(tmp_path, first):
    setting = tmp_path / "offset"
    setting.write_text(f"{first:+d}\n")
    log = tmp_path / "runs"
    with (
        log.open("wb") as out,
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(EVERY)],
            stdin=subprocess.PIPE,
            stdout=out,
            env=os.environ | faked(setting),
        ) as process,
    ):
        yield setting, lambda: [line.split() for line in log.read_text().splitlines()]
        process.communicate(timeout=10)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (0, -3600),
        (0, 3600),
        (0, -30 * DAY),
        (0, 60 * DAY),
        pytest.param(-SINCE_1970, 0, id="from 1970"),  # a machine without a clock of its own
    ],
)
def test_a_step_of_the_wall_clock_costs_at_most_an_interval_and_a_second(stepped, first, then):
    setting, runs = stepped
    until(lambda: len(runs()) >= 2, what="it samples")
    before = len(runs())
    setting.write_text(f"{then:+d}\n")
    until(lambda: len(runs()) >= before + 8, deadline=15, what="it goes on sampling")
    moments = [float(monotonic) for monotonic, *_ in runs()]
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert max(gaps) < EVERY + 1.0 + LATE
    # A run may come out of turn before the step is seen; what was missed is not made up for.
    assert len(moments) <= (moments[-1] - moments[0]) / EVERY + 3
    wall = [int(moment) for _, moment, _ in runs()]
    assert abs(wall[-1] - wall[0] - (then - first)) < 60
    resident = [int(pages) * resource.getpagesize() for *_, pages in runs()]
    assert max(resident) - resident[0] < GROWTH


@pytest.mark.slow
def test_a_whole_agent_keeps_its_pace_while_the_clock_jumps_by_an_hour(newest_server, tmp_path):
    """Fault 38: twelve samplers each two seconds, delivered to a platform."""
    setting = tmp_path / "offset"
    setting.write_text("+0\n")
    steps = (3600, 0, -3600)
    with FarSide() as far:
        keys = {
            "local": {"enabled": False},
            "sampling": {**dict.fromkeys(SAMPLERS, "2s"), "budget": "off"},
            "platform": {"url": far.url, "linger": "0s"},
            "buffers": {"durability": "wal"},
        }
        it = Daemon(tmp_path, {"prod": newest_server.dsn("pgcollector")}, "platform", **keys)
        it.environment |= faked(setting)
        with it:
            until(lambda: len(turns(far)) > 3, deadline=20, what="it samples")
            for offset in steps:
                before = len(turns(far))
                setting.write_text(f"{offset:+d}\n")
                until(lambda: len(turns(far)) >= before + 4, deadline=20, what="it goes on")  # noqa: B023
            it.signal(signal.SIGTERM)
            assert it.ended()[0] == 0
            said = it.said()
        far.ledger.check()
        moments = turns(far)  # the server's time
    assert [one for one in said if one["level"] in {"error", "critical"}] == []
    first, *_, last = (datetime.fromisoformat(one["ts"]) for one in said)
    assert (last - first).total_seconds() < -3000, "the agent's own clock was set"
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert min(gaps) > 0
    assert max(gaps) < 2.0 + 1.0 + LATE
    assert len(gaps) <= sum(gaps) / 2.0 + 1 + len(steps)  # what was missed is not made up for


def turns(far):
    """Return when the samples of a sampler were taken, on the wall clock, in their order."""
    heads = (Line(one.line).head for one in list(far.ledger.lines))
    told = [head["at"] for head in heads if head["set"].startswith("activity")]
    return [datetime.fromisoformat(at).timestamp() for at, _ in itertools.groupby(told)]
