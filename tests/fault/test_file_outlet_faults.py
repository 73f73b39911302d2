"""The file outlet when the disk is full, closed, read-only, or the process is killed."""

import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pg_collector.clock import SystemClock
from pg_collector.config.model import Fsync, Local
from pg_collector.errors import Deferred
from pg_collector.metrics import Metrics
from pg_collector.outlets.file import FileOutlet
from pg_collector.sample import Batch
from tests.support.scratch import new_directory

TARGETS = ("one", "two", "three")


def line(n: int, pad: int = 200) -> bytes:
    sample = {"set": "activity.sessions", "target": TARGETS[n % 3], "r": [[n, "x" * pad]]}
    return json.dumps(sample).encode()


def batch(first: int, last: int, pad: int = 200) -> Batch:
    return Batch(first, last, tuple(line(n, pad) for n in range(first, last + 1)))


def outlet_at(path: Path, **settings: Any) -> FileOutlet:
    clock = SystemClock()
    local = Local(enabled=True, path=path, fsync=Fsync.BATCH, **settings)
    return FileOutlet(local, clock, Metrics(clock))


def numbers(root: Path) -> list[int]:
    """All rows, checked: whole lines, each folder in order, nothing twice."""
    everything = []
    for target in TARGETS:
        here: list[int] = []
        for path in sorted((root / target / "activity").glob("*.jsonl")):
            content = path.read_bytes()
            assert not content or content.endswith(b"\n"), f"{path} is torn"
            here += [json.loads(text)["r"][0][0] for text in content.splitlines()]
        assert here == sorted(set(here)), target
        everything += here
    return sorted(everything)


def _delivers(outlet: FileOutlet, batch: Batch) -> bool:
    try:
        return outlet.deliver(batch).through == batch.last
    except Deferred:
        return False


@contextlib.contextmanager
def limit(kind: int, soft: int) -> Iterator[None]:
    """Lower a limit of this process for a moment."""
    before, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (soft, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (before, hard))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k,mode=0755", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False, timeout=20)
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True, timeout=20)


@pytest.mark.root
def test_a_full_disk_holds_delivery_and_tears_or_doubles_nothing(small_disk: Path):
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(100_000))
    outlet = outlet_at(small_disk / "output")
    first = 1
    while _delivers(outlet, batch(first, first + 19)):
        first += 20
    assert first > 100
    for _ in range(3):
        with pytest.raises(Deferred, match="No space left") as caught:
            outlet.deliver(batch(first, first + 19))
        assert "Free space" in caught.value.remedy
    assert set(numbers(small_disk / "output")) >= set(range(1, first))
    ballast.unlink()
    outlet.deliver(batch(first, first + 19))
    assert numbers(small_disk / "output") == list(range(1, first + 20))
    outlet.close()


@pytest.mark.root
def test_a_disk_that_is_full_from_the_start_is_used_once_there_is_room(small_disk: Path):
    ballast = small_disk / "ballast"
    with contextlib.suppress(OSError):
        ballast.write_bytes(bytes(1_000_000))
    outlet = outlet_at(small_disk / "output")
    with pytest.raises(Deferred, match="No space left"):
        outlet.deliver(batch(1, 3))
    ballast.unlink()
    assert outlet.deliver(batch(1, 3)).through == 3
    assert numbers(small_disk / "output") == [1, 2, 3]
    outlet.close()


@pytest.mark.root
def test_a_read_only_file_system_is_told_and_survived(small_disk: Path):
    def remount(how: str) -> None:
        command = ["mount", "-o", f"remount,{how}", str(small_disk)]
        subprocess.run(command, check=True, timeout=20)

    remount("ro")
    outlet = outlet_at(small_disk / "output")
    with pytest.raises(Deferred, match="Read-only") as caught:
        outlet.deliver(batch(1, 3))
    assert "remount" in caught.value.remedy
    remount("rw")
    assert outlet.deliver(batch(1, 3)).through == 3
    outlet.close()


def test_a_write_that_fails_half_way_is_undone_and_repeated_once(tmp_path: Path):
    outlet = outlet_at(tmp_path)
    outlet.deliver(batch(1, 30))
    with limit(resource.RLIMIT_FSIZE, 5000), pytest.raises(Deferred, match="too large") as caught:
        outlet.deliver(batch(31, 90))
    assert "ulimit -f" in caught.value.remedy
    assert numbers(tmp_path) == list(range(1, 31)), "5000 bytes do not end at a line"
    outlet.deliver(batch(31, 90))
    assert numbers(tmp_path) == list(range(1, 91))
    outlet.close()


def test_whatever_fails_when_every_line_arrives_once_and_in_order(tmp_path: Path):
    seed = int.from_bytes(os.urandom(4))
    chance = random.Random(seed)  # noqa: S311
    outlet = outlet_at(tmp_path, rotate_size=20_000)
    first = 1
    failures = 0
    for _ in range(150):
        last = first + chance.randrange(40)
        size = chance.choice([1, 5000, 12_000, 19_000, 10_000_000])
        try:
            with limit(resource.RLIMIT_FSIZE, size):
                outlet.deliver(batch(first, last, pad=chance.randrange(400)))
        except Deferred:
            failures += 1
            # What comes next may be another cut of the same lines.
            last = first + chance.randrange(40)
            outlet.deliver(batch(first, last))
        assert set(numbers(tmp_path)) >= set(range(1, last + 1)), f"seed {seed}"
        first = last + 1
    outlet.deliver(batch(first, first + 99))
    assert numbers(tmp_path) == list(range(1, first + 100)), f"seed {seed}"
    assert failures > 20
    outlet.close()


def test_a_folder_without_permission_is_told_with_the_user():
    closed = new_directory("closed")
    closed.chmod(0o555)
    outlet = outlet_at(closed / "output")
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(65534)
    try:
        with pytest.raises(Deferred, match="Permission denied") as caught:
            outlet.deliver(batch(1, 3))
        assert f"uid {os.geteuid()}" in caught.value.remedy
    finally:
        if was_root:
            os.seteuid(0)
    closed.chmod(0o755)
    assert outlet.deliver(batch(1, 3)).through == 3
    outlet.close()


def test_without_file_descriptors_delivery_is_held(tmp_path: Path):
    outlet = outlet_at(tmp_path)
    outlet.deliver(batch(3, 3))
    free = os.dup(0)
    os.close(free)
    with limit(resource.RLIMIT_NOFILE, free), pytest.raises(Deferred) as caught:
        outlet.deliver(batch(4, 6))
    assert "ulimit -n" in caught.value.remedy
    outlet.deliver(batch(4, 6))
    assert numbers(tmp_path) == [3, 4, 5, 6]
    outlet.close()


WRITER = """
import sys
from pathlib import Path
from tests.fault.test_file_outlet_faults import batch, outlet_at

outlet = outlet_at(Path(sys.argv[1]), rotate_size=100_000)
first = int(sys.argv[2])
while True:
    print(outlet.deliver(batch(first, first + 9, pad=3000)).through, flush=True)
    first += 10
"""


def test_a_killed_process_leaves_whole_lines_and_all_that_it_acknowledged(tmp_path: Path):
    chance = random.Random(7)  # noqa: S311
    first = 1
    for turn in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(first)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        ) as writer:
            assert writer.stdout is not None
            acknowledged = [int(writer.stdout.readline()) for _ in range(chance.randrange(1, 30))]
            writer.send_signal(signal.SIGKILL)
            acknowledged += [int(text) for text in writer.stdout.read().split()]
            writer.wait(10)
        # The next start repairs what the kill tore; it writes into every folder.
        first = 10_000 * (turn + 1)
        with contextlib.closing(outlet_at(tmp_path, rotate_size=100_000)) as outlet:
            outlet.deliver(batch(first, first + 2))
        assert set(numbers(tmp_path)) >= set(range(acknowledged[0], acknowledged[-1] + 1))
        first += 3
