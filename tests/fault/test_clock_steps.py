"""The wall clock is set while the agent schedules: sampling goes on all the same."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.support.until import until

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))

PROGRAM = """
import sys, threading, time
from pg_collector.clock import SystemClock
from pg_collector.metrics import Metrics
from pg_collector.samplers._sampler import LaneName
from pg_collector.schedule import Job
from pg_collector.scheduler import Scheduler
stopping = threading.Event()
def run(job):
    print(f"{time.monotonic():.3f} {time.time():.0f}", flush=True)
scheduler = Scheduler(run, Metrics(SystemClock()), SystemClock(), stopping)
scheduler.start()
scheduler.apply([Job("prod", "activity", 1.0, LaneName.FAST)])
sys.stdin.read()
stopping.set()
scheduler.stop(2.0)
"""


@pytest.fixture
def stepped(tmp_path):
    if not LIBRARIES:
        missing("no libfaketime: apt-get install faketime")
    setting = tmp_path / "offset"
    setting.write_text("+0\n")
    log = tmp_path / "runs"
    environment = os.environ | {
        "LD_PRELOAD": str(LIBRARIES[0]),
        "FAKETIME_TIMESTAMP_FILE": str(setting),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with (
        log.open("wb") as out,
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=out, env=environment
        ) as process,
    ):
        yield setting, lambda: [line.split() for line in log.read_text().splitlines()]
        process.communicate(timeout=10)
    assert process.returncode == 0


@pytest.mark.parametrize("step", [-3600, 3600, -86400 * 30])
def test_a_step_of_the_wall_clock_costs_at_most_an_interval_and_a_second(stepped, step):
    setting, runs = stepped
    until(lambda: len(runs()) >= 2, what="it samples")
    before = len(runs())
    setting.write_text(f"{step:+d}\n")
    until(lambda: len(runs()) >= before + 4, deadline=15, what="it goes on sampling")
    moments = [float(monotonic) for monotonic, _ in runs()]
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert max(gaps) < 1.0 + 1.0 + 0.6
    assert sum(gap < 0.05 for gap in gaps) <= 1  # no burst of what was missed
    wall = [int(moment) for _, moment in runs()]
    assert abs(wall[-1] - wall[0] - step) < 60
