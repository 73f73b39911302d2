"""An agent that dies between any two changes to its directory leaves what the next one continues.

PGC_STEPS_EVERY=1 tries every step of tests/fault/crash/steps.py instead of every eighth.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from pg_collector.buffer.spill import SpillingBuffer
from pg_collector.sample import Keep
from tests.fault.buffer_rig import FarSide
from tests.fault.crash.steps import DAMAGED_LINES, PAD, opened
from tests.support.lines import check, make
from tests.support.oracle import verify
from tests.support.scratch import in_memory

EVERY = int(os.environ.get("PGC_STEPS_EVERY", "8"))


def told(notes: Path) -> FarSide:
    """Return the far side as the dead process left it, with what that one put and promised."""
    far = FarSide()
    for line in notes.read_text().splitlines():
        one = json.loads(line)
        if "put" in one:
            far.put.put.append(one["put"])
        elif "written" in one:
            far.put.committed.update(range(1, one["written"] + 1))
        else:
            far.commit(one["stream"], one["first"], one["last"], one["body"].encode())
    return far


def continued(image: Path, far: FarSide) -> dict[str, int]:
    """Start an agent on what is there, twice; deliver everything, and a fresh line each time.

    Returns the numbers in gaps, by reason.
    """
    for _ in range(2):
        buffer = opened(image, SpillingBuffer)
        journal = buffer.journal
        assert journal is not None
        journal.open()
        assert journal.trouble is None
        k = max(far.put.put, default=0) + 1
        far.put.put.append(k)
        far.put.committed.add(k)
        buffer.put(make(k, PAD), Keep.EVENT)
        journal.step()
        while (batch := buffer.peek(100_000, 1000)) is not None:
            far.take(batch)
            buffer.ack(batch.last)
        account = buffer.account()
        assert account.balanced
        assert account.buffered == 0
        missing = far.put.committed - {check(e.line) for e in far.ledger if e.line is not None}
        assert sum(account.lost.values()) <= len(missing), f"{account}, {len(missing)} missing"
        assert buffer.close(5.0) == 0
        assert not list(image.glob("tmp-*")) + list(image.glob("old-*"))
    figures = verify(far.ledger, far.put)
    return dict(figures.gaps)


@pytest.mark.slow
def test_dying_before_any_step_leaves_a_directory_that_the_next_start_continues(tmp_path: Path):
    """Fault 3: segments being made, completed, thinned, given up, deleted, set aside."""
    place = in_memory("steps", tmp_path)
    program = (sys.executable, "-m", "tests.fault.crash.steps", place, str(EVERY))
    done = subprocess.run(program, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    steps = range(1, int(done.stdout) + 1, EVERY)
    assert len(steps) > 100 // EVERY
    gaps: Counter[str] = Counter()
    for step in steps:
        try:
            found = continued(place / str(step), told(place / f"{step}.notes"))
        except AssertionError as error:
            raise AssertionError(f"step {step}: {error}") from error
        assert set(found) <= {"damaged", "disk_full", "thinned"}, f"step {step}: {found}"
        assert found.get("damaged", 0) <= DAMAGED_LINES, f"step {step}: {found}"
        gaps.update(found)
    assert {"damaged", "disk_full", "thinned"} <= gaps.keys(), "all of it happened"
