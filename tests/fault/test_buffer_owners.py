"""Whose directory it is: a second agent, a fork, someone who deletes or replaces it, its modes."""

import os
import shutil
import stat
import subprocess
import sys
import time
from copy import deepcopy
from pathlib import Path

import pytest

from pg_collector.buffer.place import AlreadyRunning
from pg_collector.errors import StateError
from tests.fault.buffer_rig import MB, RESUMES, Rig, backlog, copied, segments
from tests.support.scratch import in_memory
from tests.support.until import until


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return in_memory("owners", tmp_path)


def test_a_second_agent_is_told_the_first_ones_process_at_once(place: Path):
    """Fault 16."""
    with Rig(place / "buffer") as first:
        began = time.monotonic()
        with pytest.raises(AlreadyRunning, match=rf"process {os.getpid()}\b") as refused:
            Rig(place / "buffer").__enter__()
        assert time.monotonic() - began < 1
        assert refused.value.remedy
        first.put(20)
        first.written()
        first.deliver()
        assert first.verify().told == 0
    with Rig(place / "buffer", first.far) as second:
        second.put(1)
        second.written()
        second.deliver()
        assert second.verify().told == 0


FORKS = """
import os, subprocess, sys
from pathlib import Path
from pg_collector.errors import StoreError
from tests.fault.buffer_rig import Rig

def seen():  # by a process of its own: closing a file that is locked gives up the lock
    files = sorted(path for path in rig.directory.rglob("*") if path.is_file())
    return subprocess.run(["sha256sum", *files], capture_output=True, text=True, check=True).stdout

with Rig(Path(sys.argv[1])) as rig:
    rig.put(200)
    rig.written()
    before = seen()
    pid = os.fork()
    if pid == 0:
        rig.buffer.put(b"a child's line", 2)
        for ask in (rig.step, rig.journal.step, lambda: rig.buffer.close(1.0)):
            try:
                ask()
            except StoreError:
                pass
        sys.exit(0)  # with all that a good end of an interpreter does
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert seen() == before, before + seen()
    rig.put(20)
    rig.written()
    rig.deliver()
    assert rig.verify().told == 0
"""


def test_a_fork_never_touches_the_store(place: Path):
    """Fault 18: whatever a child calls, and however it ends."""
    program = (sys.executable, "-W", "ignore", "-c", FORKS, str(place / "buffer"))
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


SEGMENT = """
import os, sys
from pathlib import Path
from pg_collector.buffer.records import Record
from pg_collector.buffer.segment import Segment

segment = Segment(Path(sys.argv[1]))
segment.append([Record(1, 1, b"{}")])
log = segment.path / "cache.db-wal"
before = log.stat()
pid = os.fork()
if pid == 0:
    sys.exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert os.path.samestat(before, log.stat())
segment.append([Record(2, 2, b"{}")])
segment.close()
assert [number for number, _ in segment.read(1, 10, 1000)] == [1, 2]
"""


def test_the_end_of_a_fork_does_not_take_the_log_away(place: Path):
    """Fault 18: SQLite deletes the log when the last connection is closed, as it believes."""
    program = (sys.executable, "-W", "ignore", "-c", SEGMENT, str(place / "seg-1"))
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_deleted_directory_is_made_again_and_what_memory_holds_is_delivered(place: Path):
    """Fault 10: rm -rf while lines come."""
    with backlog(place / "buffer", 400, memory_max=100_000) as rig:
        lines = rig.buffer.account().buffered
        in_memory = 400 - (rig.buffer.backlog_from() - 1)
        assert 0 < in_memory < lines
        deleted = time.monotonic()
        shutil.rmtree(rig.directory)
        until((rig.directory / "cursor").exists, RESUMES, "it is made again")
        until(lambda: rig.journal.trouble is None, RESUMES, "it works again")
        rig.put(50)  # now that memory has room: it was full of what had to be written again
        rig.written()
        rig.put(50)
        rig.written()
        assert time.monotonic() - deleted < RESUMES
        assert rig.buffer.account().lost == {"store_truncated": 400 - in_memory}
        rig.deliver()
        assert rig.buffer.account().lost == {"store_truncated": 400 - in_memory}
        figures = rig.verify()
        assert figures.streams == 1, "the numbers go on"
        again = rig.crash(place / "image")
    with Rig(again, rig.far) as next_life:
        next_life.put(1)
        next_life.written()
        next_life.deliver()
        assert next_life.verify(counted=False).streams == 1


def test_a_deleted_directory_costs_nothing_that_was_delivered(place: Path):
    """Fault 10: while a sender is at work and memory holds everything."""
    with Rig(place / "buffer") as rig:
        rig.start_sender()
        for _ in range(3):
            rig.put(50)
            rig.written()
            shutil.rmtree(rig.directory)
            rig.put(50)
            until((rig.directory / "cursor").exists, RESUMES, "it is made again")
        until(lambda: rig.buffer.account().buffered == 0, RESUMES, "all is delivered")
        assert rig.verify().told == 0
        assert rig.buffer.account().lost == {}


def test_another_directory_in_its_place_is_continued_and_nothing_comes_twice(place: Path):
    """Fault 10: a backup is put back while the agent runs."""
    with backlog(place / "buffer", 200) as rig:
        backup = rig.crash(place / "backup")
        rig.step(max_lines=100)
        rig.put(100)
        rig.written()
        rig.directory.rename(place / "aside")
        backup.rename(rig.directory)
        lock = rig.directory / "lock"
        until(lambda: f"{os.getpid()}\n" == lock.read_text(), RESUMES, "it is taken")
        until(lambda: rig.journal.trouble is None, RESUMES, "it works")
        rig.put(50)
        rig.written()
        rig.deliver()
        assert rig.buffer.account().balanced
        rig.verify(counted=False)
        again = rig.crash(place / "image")
    with Rig(again, rig.far) as next_life:
        next_life.put(5)
        next_life.written()
        next_life.deliver()
        figures = next_life.verify(counted=False)
        assert figures.delivered + figures.told == figures.committed


@pytest.mark.parametrize("part", ["database", "log", "folder"])
def test_a_tail_that_is_deleted_under_the_agent_is_noticed(place: Path, part: str):
    """Fault 13: what is written to a deleted file is gone with the process."""
    with Rig(place / "buffer") as rig:
        rig.put(50)
        rig.written()
        (tail,) = segments(rig.directory)
        before = (tail / "cache.db").stat().st_ino
        if part == "folder":
            shutil.rmtree(tail)
        else:
            (tail / ("cache.db" if part == "database" else "cache.db-wal")).unlink()
        rig.put(50)
        first = tail / "cache.db"
        until(lambda: first.exists() and first.stat().st_ino != before, RESUMES, "a new one")
        rig.put(50)
        rig.written()
        image, far = rig.crash(place / "image"), rig.far
        assert rig.buffer.account().lost == {}, "memory has it all"
    with Rig(image, far) as again:
        again.deliver()
        assert again.verify().told == 0


def test_everything_is_the_owners_alone(place: Path):
    before = os.umask(0)
    try:
        with backlog(place / "buffer", 200) as rig:
            rig.step(max_lines=1)
            number = rig.buffer.peek(1, 1)
            assert number is not None
            rig.buffer.set_aside(number.first, "400")
            everything = [rig.directory, *rig.directory.rglob("*")]
            modes = {
                str(path.relative_to(place)): stat.S_IMODE(path.stat().st_mode)
                for path in everything
            }
            assert len(modes) > 12
            wrong = {
                name: oct(mode)
                for name, mode in modes.items()
                if mode != (0o700 if (place / name).is_dir() else 0o600)
            }
            assert wrong == {}
    finally:
        os.umask(before)


@pytest.mark.parametrize("mode", [0o770, 0o720, 0o702, 0o777])
def test_a_directory_that_others_can_write_to_is_refused(place: Path, mode: int):
    path = place / "buffer"
    path.mkdir()
    path.chmod(mode)
    with pytest.raises(StateError, match="can be written to by others") as refused:
        Rig(path).__enter__()
    assert refused.value.remedy == f"chmod 700 {path}"
    assert list(path.iterdir()) == []


@pytest.mark.root
def test_a_directory_of_another_user_is_refused(place: Path):
    path = place / "buffer"
    path.mkdir(mode=0o700)
    os.chown(path, 65534, 65534)
    with pytest.raises(StateError, match="belongs to user 65534"):
        Rig(path).__enter__()
    assert list(path.iterdir()) == []


def test_a_link_in_the_place_of_a_file_is_not_followed(place: Path):
    """Fault 14: neither the lock nor the cursor nor the ballast writes to somewhere else."""
    with Rig(place / "buffer", limits=Rig(place).journal._limits._replace(ballast=MB)) as rig:
        rig.put(5)
        rig.deliver()
    precious = place / "precious"
    for name in ("lock", "cursor", "ballast", "stream.new", "format.new"):
        copy = place / f"copy-{name}"
        copied(place / "buffer", copy)
        (copy / name).unlink(missing_ok=True)
        precious.write_text("precious")
        (copy / name).symlink_to(precious)
        with Rig(copy, deepcopy(rig.far)) as again:
            again.put(5)
            again.deliver()
            assert again.buffer.account().balanced
        assert precious.read_text() == "precious", name
