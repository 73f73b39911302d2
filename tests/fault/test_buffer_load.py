"""Much at once: a full cap, bursts with nobody delivering, large lines, a large backlog."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pg_collector.buffer.records import Record
from pg_collector.buffer.spool import Spool
from pg_collector.sample import Keep
from tests.fault.buffer_rig import BATCH, MB, SMALL, Rig
from tests.support.lines import make
from tests.support.scratch import in_memory

BACKLOG = 500 * MB
REOPENS = 0.2  # seconds
TAKES = 8 * MB  # of memory beyond what an empty one takes


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return in_memory("load", tmp_path)


def test_at_the_cap_resolution_goes_first_and_the_gaps_are_the_counts(place: Path):
    """Fault 20: what goes is told and counted; a segment takes its thinned lines along."""
    limits = SMALL._replace(disk_max=2 * MB, segment_bytes=200_000)
    with Rig(place / "buffer", memory_max=150_000, limits=limits) as rig:
        for turn in range(150):
            for n in range(20):
                rig.put_one(2000, Keep.EVENT if n % 4 == 0 else Keep.CUMULATIVE)
            if turn % 2:
                rig.written()
        rig.written()
        lost = rig.buffer.account().lost
        assert lost["thinned"] > 0 < lost["disk_full"]
        assert rig.journal.bytes <= limits.disk_max
        rig.deliver()
        assert rig.buffer.account().lost == lost
        figures = rig.verify(counted=False)
        assert sum(figures.gaps.values()) == sum(lost.values())


def test_a_burst_with_nobody_delivering_keeps_to_both_caps(place: Path):
    """Fault 39."""
    limits = SMALL._replace(disk_max=8 * MB, segment_bytes=MB)
    with Rig(place / "buffer", memory_max=2 * MB, limits=limits) as rig:
        for _ in range(400):
            rig.put(20, 1500)
            assert rig.buffer._tier.bytes <= 2 * MB
        rig.written()
        assert rig.journal.bytes <= limits.disk_max
        assert rig.buffer.account().lost
        rig.deliver()
        rig.verify(counted=False)


def test_lines_of_any_size_keep_their_order(place: Path):
    """Fault 40: 100 kB to 5 MB, among small ones, through memory and disk."""
    limits = SMALL._replace(segment_bytes=8 * MB)
    with Rig(place / "buffer", memory_max=8 * MB, limits=limits) as rig:
        for pad in (10, 100_000, 5 * MB, 0, 2 * MB, 300_000, 5 * MB, 10, MB):
            rig.buffer.wait_for_room(pad, 10.0)
            rig.put_one(pad)
        rig.written()
        while rig.step(max_bytes=BATCH):
            pass
        assert rig.verify().told == 0
        assert rig.buffer.account().buffered == 0


MEASURES = """
import json, os, sys, time
from pathlib import Path
from pg_collector.buffer.spool import Limits
from tests.fault.buffer_rig import MB, Rig

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

rig = Rig(Path(sys.argv[1]), memory_max=MB, limits=Limits(disk_max=1 << 40, min_free=0.0))
began = time.monotonic()
rig.journal.open()
seconds = time.monotonic() - began
rig.journal.start(rig._essential)
sent = 0
for _ in range(5):
    batch = rig.buffer.peek(200_000, 500)
    if batch is not None:
        sent += len(batch.lines)
        rig.buffer.ack(batch.last)
found = {"seconds": seconds, "resident": resident(), "sent": sent,
         "backlog": rig.journal.call(lambda spool: spool.bytes)}
rig.journal.stop(10)
print(json.dumps(found))
"""


def measured(directory: Path) -> dict[str, float]:
    """Reopen a buffer in a process of its own."""
    program = (sys.executable, "-c", MEASURES, str(directory))
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_half_a_gigabyte_of_backlog_opens_at_once_and_takes_no_memory(place: Path):
    with Rig(place / "empty") as rig:
        assert rig.journal.trouble is None
    limits = SMALL._replace(disk_max=1 << 40, segment_bytes=8 * MB)
    spool = Spool.open(place / "buffer", limits, lambda _count, _reason: None)
    line = make(1, 40_000)
    while spool.bytes < BACKLOG:
        first = spool.top + 1
        records = [Record(n, n, line, Keep.EVENT, created=1.0) for n in range(first, first + 100)]
        spool.append(records, above=0, below=0)
    spool.close()
    empty, full = measured(place / "empty"), measured(place / "buffer")
    figures = f"{full['seconds']:.3f} s, {(full['resident'] - empty['resident']) / MB:.1f} MB more"
    sys.stdout.write(figures)
    assert full["backlog"] > BACKLOG * 0.9
    assert full["sent"] > 0
    assert full["seconds"] < REOPENS, figures
    assert full["resident"] - empty["resident"] <= TAKES, figures
