"""The power-cut recorder: what it calls durable is, what it calls lost can be lost."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import diskcache
import pytest

from tests.support import preload
from tests.support.lab.server import LabMissing
from tests.support.powercut import Image, Kind, Recording, Survival, Unreplayable, operations

ROOT = Path(__file__).parents[2]
STRICT, TORN, WHOLE = Survival.STRICT, Survival.TORN, Survival.WHOLE

HEAD = """
import os, sys
from pathlib import Path
from tests.support.powercut.marks import mark
def sync(path):
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
"""

Run = Callable[..., Recording]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a program in an empty recorded directory (its working directory)."""
    tree = tmp_path / "tree"
    tree.mkdir()

    def run(program: str, *arguments: str) -> Recording:
        recording = Recording(tree, tmp_path / "log")
        environment = recording.environment() | {"PYTHONPATH": str(ROOT)}
        subprocess.run(
            [sys.executable, "-c", HEAD + program, *arguments],
            cwd=tree, env=environment, check=True, timeout=60,
        )  # fmt: skip
        return recording

    return run


def last(recording: Recording) -> int:
    return sum(1 for _ in operations(recording.log))


def at_mark(recording: Recording, number: int) -> int:
    """The point right after a mark."""
    for point, one in enumerate(operations(recording.log), 1):
        if one.kind is Kind.MARK and one.offset == number:
            return point
    raise AssertionError(f"no mark {number}")


def contents(image: Image) -> dict[str, bytes]:
    return {
        str(path.relative_to(image.path)): path.read_bytes()
        for path in image.path.rglob("*")
        if path.is_file()
    }


def after(
    recording: Recording, place: Path, number: int, survival: Survival = STRICT, seed: int = 0
) -> dict[str, bytes]:
    """The files after a power cut right after the mark with this number."""
    point = at_mark(recording, number)
    (image,) = map(contents, recording.images([point], place, survivals=[survival], seed=seed))
    return image


def test_a_file_survives_with_its_data_once_both_it_and_its_directory_are_synced(
    run: Run, tmp_path: Path
):
    recording = run("""
fd = os.open("a", os.O_CREAT | os.O_WRONLY, 0o600)
os.write(fd, b"one")
mark("step", 1)
os.fsync(fd)
mark("step", 2)
sync(".")
mark("step", 3)
os.write(fd, b"two")
mark("step", 4)
os.fdatasync(fd)
mark("step", 5)
""")
    assert after(recording, tmp_path, 1) == {}
    assert after(recording, tmp_path, 2) == {}
    assert after(recording, tmp_path, 3) == {"a": b"one"}
    assert after(recording, tmp_path, 4) == {"a": b"one"}
    assert after(recording, tmp_path, 5) == {"a": b"onetwo"}


def test_a_directory_synced_before_its_file_keeps_an_empty_file(run: Run, tmp_path: Path):
    recording = run("""
Path("a").write_bytes(b"one")
sync(".")
mark("step", 1)
""")
    assert after(recording, tmp_path, 1) == {"a": b""}


def test_a_rename_needs_the_sync_of_its_directory(run: Run, tmp_path: Path):
    recording = run("""
Path("a").write_bytes(b"old")
sync("a"); sync(".")
Path("new").write_bytes(b"new")
sync("new"); sync(".")
os.rename("new", "a")
mark("step", 1)
sync(".")
mark("step", 2)
""")
    both = {"a": b"old", "new": b"new"}
    assert after(recording, tmp_path, 1) == both
    assert after(recording, tmp_path, 2) == {"a": b"new"}
    seen = [after(recording, tmp_path, 1, TORN, seed) for seed in range(20)]
    assert all(files in (both, {"a": b"new"}) for files in seen), "a rename is kept or lost whole"
    assert both in seen
    assert {"a": b"new"} in seen


def test_a_move_between_directories_is_kept_by_half(run: Run, tmp_path: Path):
    recording = run("""
os.mkdir("from"); os.mkdir("to")
Path("from/a").write_bytes(b"a")
sync("from/a"); sync("from"); sync("to"); sync(".")
os.rename("from/a", "to/b")
sync("to")
mark("step", 1)
sync("from")
mark("step", 2)
""")
    assert after(recording, tmp_path, 1) == {"from/a": b"a", "to/b": b"a"}
    assert after(recording, tmp_path, 2) == {"to/b": b"a"}


def test_an_unlinked_file_returns_until_its_directory_is_synced(run: Run, tmp_path: Path):
    recording = run("""
Path("a").write_bytes(b"a")
sync("a"); sync(".")
os.unlink("a")
mark("step", 1)
sync(".")
mark("step", 2)
""")
    assert after(recording, tmp_path, 1) == {"a": b"a"}
    assert after(recording, tmp_path, 2) == {}


def test_an_unsynced_directory_is_lost_with_what_was_synced_in_it(run: Run, tmp_path: Path):
    recording = run("""
os.mkdir("sub", 0o700)
Path("sub/a").write_bytes(b"a")
sync("sub/a"); sync("sub")
mark("step", 1)
sync(".")
mark("step", 2)
""")
    assert after(recording, tmp_path, 1) == {}
    assert after(recording, tmp_path, 2) == {"sub/a": b"a"}


def test_a_torn_write_keeps_whole_sectors_of_one_version_or_another(run: Run, tmp_path: Path):
    recording = run("""
fd = os.open("a", os.O_CREAT | os.O_RDWR, 0o600)
os.write(fd, b"0" * 4096)
os.fsync(fd); sync(".")
os.pwrite(fd, b"1" * 4096, 0)
os.pwrite(fd, b"2" * 100, 0)
mark("step", 1)
""")
    seen = set()
    for seed in range(40):
        content = after(recording, tmp_path, 1, TORN, seed)["a"]
        assert len(content) == 4096
        sectors = [content[start : start + 512] for start in range(0, 4096, 512)]
        assert all(sector in (b"0" * 512, b"1" * 512) for sector in sectors[1:])
        assert sectors[0] in (b"0" * 512, b"1" * 512, b"2" * 100 + b"1" * 412)
        seen.add(content)
    assert len(seen) > 20
    again = after(recording, tmp_path, 1, TORN, 7)
    assert again == after(recording, tmp_path, 1, TORN, 7), "the same seed tears alike"


def test_sync_file_range_promises_nothing_and_o_dsync_everything(run: Run, tmp_path: Path):
    recording = run("""
import ctypes
fd = os.open("a", os.O_CREAT | os.O_WRONLY, 0o600)
sync(".")
os.write(fd, b"x" * 100)
libc = ctypes.CDLL(None)
assert libc.sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), 7) == 0
mark("step", 1)
synced = os.open("a", os.O_WRONLY | os.O_DSYNC)
os.write(synced, b"y" * 10)
mark("step", 2)
""")
    assert after(recording, tmp_path, 1) == {"a": b""}
    assert after(recording, tmp_path, 2) == {"a": b"y" * 10 + b"x" * 90}


def test_a_shared_mapping_is_durable_once_flushed(run: Run, tmp_path: Path):
    recording = run("""
import mmap
fd = os.open("a", os.O_CREAT | os.O_RDWR, 0o600)
os.ftruncate(fd, 5000)
os.fsync(fd); sync(".")
area = mmap.mmap(fd, 5000)
area[0:4] = b"here"
mark("step", 1)
area.flush()
mark("step", 2)
area[0:4] = b"next"
area.close()
mark("step", 3)
""")
    assert after(recording, tmp_path, 1)["a"] == bytes(5000)
    assert after(recording, tmp_path, 2)["a"] == b"here" + bytes(4996)
    assert after(recording, tmp_path, 3)["a"] == b"here" + bytes(4996)
    assert after(recording, tmp_path, 3, WHOLE)["a"] == b"next" + bytes(4996)


EVERYTHING = """
import random, shutil, threading, fcntl
def work(seed):
    chance = random.Random(seed)
    home = Path(f"thread-{seed}")
    os.makedirs(home / "deep", 0o750)
    for n in range(60):
        path = home / ("deep" if n % 3 else ".") / f"file-{chance.randrange(8)}"
        fd = os.open(path, os.O_CREAT | os.O_RDWR | (os.O_TRUNC if n % 7 == 0 else 0), 0o600)
        os.pwrite(fd, chance.randbytes(chance.randrange(1, 3000)), chance.randrange(5000))
        other = os.dup(fd)
        os.close(fd)
        os.writev(other, [b"some", b"", b"parts"])
        os.lseek(other, 17, os.SEEK_SET)
        os.write(other, b"in place")
        os.pwritev(other, [b"more", b"parts"], 100)
        if n % 5 == 0:
            os.ftruncate(other, chance.randrange(4000))
        if n % 11 == 0:
            os.posix_fallocate(other, 0, 9000)
        if n % 4 == 0:
            os.fsync(other)
        os.close(other)
        with path.open("ab") as log:
            log.write(b"appended")
        if n % 6 == 0:
            shutil.copyfile(path, home / "copy")
        if n % 9 == 0:
            os.rename(path, home / "renamed")
            os.truncate(home / "renamed", 100)
        if n % 13 == 0 and path.exists():
            os.link(path, home / f"link-{n}")
        if n % 10 == 0 and path.exists():
            os.unlink(path)
    shutil.copytree(home, f"copied-{seed}")
    if seed % 2:
        shutil.rmtree(home)
    folder = os.open(f"copied-{seed}", os.O_RDONLY)
    os.mkdir("within", dir_fd=folder)
    os.rename("copy", "within/moved", src_dir_fd=folder, dst_dir_fd=folder)
    os.chmod("within/moved", 0o640, dir_fd=folder)
threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
import sqlite3
for mode in ("wal", "delete"):
    connection = sqlite3.connect(f"{mode}.db", isolation_level=None)
    connection.execute(f"pragma journal_mode={mode}")
    connection.execute("create table t (n integer primary key, b blob)")
    for n in range(50):
        connection.execute("insert into t (b) values (?)", (bytes([n]) * 5000,))
    connection.close()
"""


def test_everything_that_several_threads_do_is_recorded(run: Run, tmp_path: Path):
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    (tmp_path / "tree" / "deep" / "before").write_bytes(b"was here")
    recording = run(EVERYTHING)
    (same,) = (
        tree(image.path) == tree(recording.directory)
        for image in recording.images([last(recording)], tmp_path, survivals=[WHOLE])
    )
    assert same


def tree(root: Path) -> dict[str, tuple[int, bytes | None]]:
    """Everything below a directory: its mode and content."""
    return {
        str(path.relative_to(root)): (
            path.stat().st_mode,
            path.read_bytes() if path.is_file() else None,
        )
        for path in root.rglob("*")
    }


def test_signals_during_a_sync_stop_nothing(run: Run, tmp_path: Path):
    recording = run("""
import signal
reader, writer = os.pipe()
os.set_blocking(writer, False)
signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
fd = os.open("a", os.O_CREAT | os.O_WRONLY, 0o600)
for n in range(2000):
    os.write(fd, b"x" * 100)
    if n % 10 == 0: os.fsync(fd)
os.fsync(fd)
sync(".")
signal.setitimer(signal.ITIMER_REAL, 0)
mark("step", 1)
""")
    assert after(recording, tmp_path, 1) == {"a": b"x" * 200_000}


def test_a_file_that_was_made_elsewhere_is_refused(run: Run, tmp_path: Path):
    (tmp_path / "stranger").write_bytes(b"x")
    recording = run('os.rename("../stranger", "a")')
    with pytest.raises(Unreplayable, match="rename into the tree"):
        last(recording)


def test_marks_without_the_recorder_are_an_error():
    program = "from tests.support.powercut.marks import mark; mark('x', 1)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "the recorder is not preloaded" in done.stderr


def test_a_missing_compiler_is_a_missing_part(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LabMissing, match="apt-get install gcc"):
        preload.compiled(ROOT / "tests/support/powercut/recorder.c")


STORE = """
import diskcache
cache = diskcache.Cache(
    "store", eviction_policy="none", size_limit=2**62, disk_min_file_size=int(sys.argv[2]),
    sqlite_synchronous=int(sys.argv[1]))
for path in (".", "store"): sync(path)
mark("open", 1)
for n in range(1, 401):
    cache.push(n.to_bytes(4, "big") * 500)
    mark("durable", n)
"""


@pytest.mark.parametrize(
    ("synchronous", "file_size", "loses"),
    [(2, 2**62, False), (1, 2**62, True), (2, 1000, True)],
    ids=["FULL", "NORMAL", "FULL with value files"],
)
def test_stock_diskcache_keeps_what_it_committed_only_with_full_sync_and_inline_values(
    run: Run, tmp_path: Path, synchronous: int, file_size: int, loses
):
    recording = run(STORE, str(synchronous), str(file_size))
    opened = at_mark(recording, 1)
    points = [point for point in recording.points(40, seed=1) if point >= opened]
    lost = {STRICT: 0, TORN: 0}
    for image in recording.images(points, tmp_path):
        promised = image.marks.get("durable", ())
        lost[image.survival] += len(set(promised) - set(stored(image.path / "store")))
    assert (lost[STRICT] > 0) is loses, lost
    assert (lost[TORN] > 0) is loses, lost


def stored(path: Path) -> list[int]:
    """The values of a store that can be read, in their order."""
    found = []
    with diskcache.Cache(path) as cache:
        for key in cache.iterkeys():
            value = cache.get(key, b"")
            if value and value == value[:4] * 500:
                found.append(int.from_bytes(value[:4], "big"))
    return found
