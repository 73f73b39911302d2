"""The wall clock is set while the agent schedules: sampling goes on all the same."""

import itertools
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.support.until import until

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))

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
GROWTH = 10_000_000  # bytes: what the runs themselves may take

DAY = 86400
SINCE_1970 = int(time.time()) - DAY


@pytest.fixture
def first():
    """By how many seconds the wall clock is off when the program starts."""
    return 0


@pytest.fixture
def stepped(tmp_path, first):
    if not LIBRARIES:
        missing("no libfaketime: apt-get install faketime")
    setting = tmp_path / "offset"
    setting.write_text(f"{first:+d}\n")
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
            [sys.executable, "-c", PROGRAM, str(EVERY)],
            stdin=subprocess.PIPE,
            stdout=out,
            env=environment,
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
    assert max(gaps) < EVERY + 1.0 + 0.6
    # Laid anew, a run comes out of turn; what was missed is not made up for.
    assert len(moments) <= (moments[-1] - moments[0]) / EVERY + 3
    wall = [int(moment) for _, moment, _ in runs()]
    assert abs(wall[-1] - wall[0] - (then - first)) < 60
    resident = [int(pages) * resource.getpagesize() for *_, pages in runs()]
    assert max(resident) - resident[0] < GROWTH
