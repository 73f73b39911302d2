"""The file outlet on a real directory: what is where, under which name, and for how long."""

import datetime as dt
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_collector.config.model import Fsync, Local
from pg_collector.errors import Deferred, Refused
from pg_collector.metrics import Metrics
from pg_collector.outlets import Outlet
from pg_collector.outlets.file import MAX_OPEN, FileOutlet, path_component
from pg_collector.sample import Batch
from tests.support.hand_clock import HandClock


def line(n: int, target: str = "prod", set_name: str = "activity.sessions", pad: int = 0) -> bytes:
    sample = {
        "v": 1, "set": set_name, "schema": 1, "target": target,
        "at": "2026-11-22T17:00:00.000001Z", "every_s": 1.0, "took_ms": 1.0,
        "c": ["n", "pad"], "r": [[n, "x" * pad]],
    }  # fmt: skip
    return json.dumps(sample, separators=(",", ":")).encode()


def batch(first: int, *lines: bytes) -> Batch:
    return Batch(first, first + len(lines) - 1, lines)


def numbers(*files: Path) -> list[int]:
    """The rows in the files, which must hold whole lines only."""
    found = []
    for path in files:
        content = path.read_bytes()
        assert content.endswith(b"\n") or not content
        found += [json.loads(text)["r"][0][0] for text in content.splitlines()]
    return found


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class Bench:
    def __init__(self, root: Path, **settings: Any) -> None:
        self.root = root
        self.clock = HandClock()
        self.metrics = Metrics(self.clock)
        self.settings = settings
        self.outlet = self.another()

    def another(self) -> FileOutlet:
        local = Local(enabled=True, path=self.root, **self.settings)
        return FileOutlet(local, self.clock, self.metrics)

    def files(self, folder: str = "prod/activity") -> list[Path]:
        """Complete files in the order of their names, then the current one."""
        path = self.root / folder
        return [*sorted(path.glob("2*.jsonl")), path / "current.jsonl"]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "a" / "output")
    yield bench
    bench.outlet.close()


def test_it_is_an_outlet(bench: Bench):
    outlet: Outlet = bench.outlet
    assert outlet.name == "file"


def test_each_sampler_of_each_target_has_a_folder(bench: Bench):
    sets = ["activity.sessions", "activity.counts", "server", "query_text", "sampler_state"]
    lines = [line(n, set_name=name) for n, name in enumerate(sets)]
    assert bench.outlet.deliver(batch(1, *lines, line(9, target="other"))).through == 6
    for folder, rows in {
        "prod/activity": [0, 1], "prod/server": [2], "prod/query_text": [3],
        "prod/sampler_state": [4], "other/activity": [9],
    }.items():  # fmt: skip
        assert numbers(bench.root / folder / "current.jsonl") == rows
    assert (bench.root / "prod/activity/current.jsonl").read_bytes() == b"".join(
        text + b"\n" for text in lines[:2]
    ), "the very bytes"


def test_files_and_folders_are_closed_to_others(bench: Bench):
    before = os.umask(0)
    try:
        bench.outlet.deliver(batch(1, line(1)))
    finally:
        os.umask(before)
    modes = {p: stat.S_IMODE(p.stat().st_mode) for p in [bench.root, *bench.root.rglob("*")]}
    assert len(modes) == 5
    for path, mode in modes.items():
        assert mode == (0o750 if path.is_dir() else 0o640), path


def test_a_file_is_complete_when_the_next_line_does_not_fit(tmp_path: Path):
    size = len(line(0)) + 1
    bench = Bench(tmp_path, rotate_size=3 * size)
    for n in range(1, 8):
        bench.outlet.deliver(batch(n, line(n)))
        bench.clock.advance(60)
    files = bench.files()
    assert [path.name for path in files] == [
        "20261122T180000.000000Z--20261122T180200.000000Z.jsonl",
        "20261122T180300.000000Z--20261122T180500.000000Z.jsonl",
        "current.jsonl",
    ]
    assert numbers(*files) == list(range(1, 8))
    bench.outlet.close()


def test_a_large_batch_is_cut_into_files_that_keep_to_the_size(tmp_path: Path):
    size = len(line(10)) + 1
    bench = Bench(tmp_path, rotate_size=3 * size)
    bench.outlet.deliver(batch(1, *(line(n) for n in range(10, 40)), line(40, pad=5000)))
    files = bench.files()
    assert numbers(*files) == list(range(10, 41))
    assert [path.stat().st_size <= 3 * size for path in files] == [True] * 10 + [False]
    assert len({path.name for path in files}) == 11, "one moment, different names"
    bench.outlet.close()


def test_a_file_is_complete_at_its_age_whichever_folder_is_written(tmp_path: Path):
    bench = Bench(tmp_path, rotate_age=3600.0)
    bench.outlet.deliver(batch(1, line(1)))
    bench.clock.advance(3599)
    bench.outlet.deliver(batch(2, line(2)))
    assert len(bench.files()) == 1
    bench.clock.step(-86_400)  # no wall clock makes it older or younger
    bench.clock.advance(1)
    bench.outlet.deliver(batch(3, line(3, target="other")))
    assert len(bench.files()) == 2
    assert numbers(bench.files()[0]) == [1, 2]
    bench.outlet.close()


def test_a_restart_continues_the_current_file_and_its_age(tmp_path: Path):
    bench = Bench(tmp_path, rotate_age=7200.0)
    bench.outlet.deliver(batch(1, line(1)))
    bench.outlet.close()
    again = bench.another()
    again.deliver(batch(1, line(2)))
    assert numbers(*bench.files()) == [1, 2]
    bench.clock.advance(3601)  # the first line is from 17:00, it is past 19:00
    again.deliver(batch(2, line(3)))
    complete, current = bench.files()
    assert complete.name.startswith("20261122T170000.000001Z--20261122T180000")
    assert numbers(complete) == [1, 2]
    assert numbers(current) == [3]
    again.close()


@pytest.mark.parametrize("tear", [b'{"v":1,"set":"acti', b"x" * 200_000, b"\0" * 4096])
@pytest.mark.parametrize("whole", [0, 1, 2000])
def test_a_torn_last_line_is_cut_off_at_the_start(tmp_path: Path, tear: bytes, whole: int):
    folder = tmp_path / "prod" / "activity"
    folder.mkdir(parents=True)
    current = folder / "current.jsonl"
    current.write_bytes(b"".join(line(n) + b"\n" for n in range(whole)) + tear)
    bench = Bench(tmp_path)
    bench.outlet.deliver(batch(1, line(5000)))
    assert numbers(current) == [*range(whole), 5000]
    bench.outlet.close()


def test_only_the_oldest_complete_files_beyond_the_limit_are_deleted(tmp_path: Path):
    size = len(line(10)) + 1
    bench = Bench(tmp_path, rotate_size=size, keep=4 * size)
    foreign = tmp_path / "prod" / "activity" / "20200101-mine.jsonl"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(bytes(10 * size))
    for n in range(10, 20):
        bench.outlet.deliver(batch(n, line(n, target="prod" if n % 2 else "test")))
        bench.clock.advance(1)
    prod, other = bench.files(), bench.files("test/activity")
    assert foreign.exists()
    prod.remove(foreign)
    assert numbers(*prod) == [15, 17, 19]
    assert numbers(*other) == [14, 16, 18], "oldest of all folders first"
    bench.outlet.close()


def test_keep_zero_keeps_all(tmp_path: Path):
    bench = Bench(tmp_path, rotate_size=1, keep=0)
    for n in range(5):
        bench.outlet.deliver(batch(n + 1, line(n)))
    assert numbers(*bench.files()) == list(range(5))
    bench.outlet.close()


def test_a_batch_with_something_that_is_no_line_is_refused_before_anything_is_written(
    bench: Bench,
):
    for bad in (b"{}", b"not json", b"\xff", b'{"target":1,"set":"a"}', line(1) + b"\n" + line(2)):
        with pytest.raises(Refused):
            bench.outlet.deliver(batch(1, line(1), bad))
    assert not bench.root.exists()


def test_a_folder_that_was_removed_is_made_again(bench: Bench):
    bench.outlet.deliver(batch(1, line(1)))
    folder = bench.root / "prod" / "activity"
    (folder / "current.jsonl").unlink()
    folder.rmdir()
    bench.outlet.deliver(batch(2, line(2)))
    assert numbers(folder / "current.jsonl") == [2]
    bench.root.rename(bench.root.with_name("moved"))
    bench.outlet.deliver(batch(3, line(3)))
    assert numbers(folder / "current.jsonl") == [3]
    assert numbers(bench.root.with_name("moved") / "prod/activity/current.jsonl") == [2]


def test_a_file_that_was_moved_away_is_begun_anew(bench: Bench):
    bench.outlet.deliver(batch(1, line(1)))
    current = bench.files()[-1]
    current.rename(current.with_suffix(".taken"))
    bench.outlet.deliver(batch(2, line(2)))
    assert numbers(current) == [2]


def test_what_is_no_file_of_ours_is_never_followed(bench: Bench, tmp_path: Path):
    folder = bench.root / "prod" / "activity"
    folder.mkdir(parents=True)
    secret = tmp_path / "secret"
    secret.write_text("x")
    (folder / "current.jsonl").symlink_to(secret)
    with pytest.raises(Deferred, match="prod/activity") as caught:
        bench.outlet.deliver(batch(1, line(1)))
    assert "move it away" in caught.value.remedy
    (folder / "current.jsonl").unlink()
    os.mkfifo(folder / "current.jsonl")
    with pytest.raises(Deferred):
        bench.outlet.deliver(batch(1, line(1)))
    assert secret.read_text() == "x"


def test_a_file_in_the_way_of_the_folder_is_told(bench: Bench):
    bench.root.parent.mkdir(parents=True)
    bench.root.write_text("in the way")
    with pytest.raises(Deferred, match="cannot write") as caught:
        bench.outlet.deliver(batch(1, line(1)))
    assert "move it away" in caught.value.remedy
    bench.root.unlink()
    assert bench.outlet.deliver(batch(1, line(1))).through == 1


def test_a_second_agent_in_the_same_folder_waits_until_the_first_is_gone(bench: Bench):
    bench.outlet.deliver(batch(1, line(1)))
    second = bench.another()
    with pytest.raises(Deferred, match="another agent") as caught:
        second.deliver(batch(1, line(2)))
    assert "local.path" in caught.value.remedy
    bench.outlet.close()
    second.deliver(batch(1, line(2)))
    assert numbers(*bench.files()) == [1, 2]
    second.close()


def test_after_closing_nothing_is_taken(bench: Bench):
    bench.outlet.close()
    bench.outlet.close()
    with pytest.raises(Deferred):
        bench.outlet.deliver(batch(1, line(1)))


def test_the_number_of_open_files_is_bounded(bench: Bench):
    targets = [f"t{n}" for n in range(MAX_OPEN + 30)]
    before = open_files()
    for turn in range(2):
        first = turn * len(targets) + 1
        bench.outlet.deliver(batch(first, *(line(turn, target=name) for name in targets)))
    assert open_files() - before == MAX_OPEN + 1
    assert all(numbers(bench.root / n / "activity/current.jsonl") == [0, 1] for n in targets)
    bench.outlet.close()
    assert open_files() == before


@pytest.mark.parametrize("fsync", list(Fsync))
def test_every_fsync_policy_writes_the_same(tmp_path: Path, fsync: Fsync):
    bench = Bench(tmp_path, fsync=fsync, rotate_size=400)
    for n in range(1, 9):
        bench.outlet.deliver(batch(n, line(n)))
    bench.outlet.close()
    assert numbers(*bench.files()) == list(range(1, 9))


def test_bytes_are_counted(bench: Bench):
    bench.outlet.deliver(batch(1, line(1), line(2, target="other")))
    written = bench.metrics.registry.get_sample_value(
        "pg_collector_output_bytes_total", {"output": "file"}
    )
    assert written == sum(path.stat().st_size for path in bench.root.rglob("*.jsonl"))


@pytest.mark.parametrize(
    ("name", "component"),
    [
        ("Production", "Production"), ("db-1.example_x~", "db-1.example_x~"),
        ("..", "%2E."), (".", "%2E"), (".lock", "%2Elock"), ("", "%"),
        ("a/b", "a%2Fb"), ("../../etc", "%2E.%2F..%2Fetc"), ("a b\n", "a%20b%0A"),
        ("Größe", "Gr%C3%B6%C3%9Fe"), ("\0", "%00"),
    ],
)  # fmt: skip
def test_a_target_may_have_any_name(name: str, component: str):
    assert path_component(name) == component


@given(st.text(max_size=400))
def test_no_name_leaves_its_folder(name: str):
    component = path_component(name)
    assert "/" not in component
    assert not component.startswith(".")
    assert 0 < len(component.encode()) <= 200
    assert component.isascii()
    assert component.isprintable()


@given(st.lists(st.text(max_size=300), unique=True, max_size=20))
def test_different_names_have_different_folders(names: list[str]):
    assert len({path_component(name) for name in names}) == len(names)


def test_complete_files_sort_by_time(tmp_path: Path):
    bench = Bench(tmp_path, rotate_size=1)
    bench.clock.wall = dt.datetime(2026, 12, 31, 23, 59, 58, 999_999, tzinfo=dt.UTC)
    for n in range(6):
        bench.outlet.deliver(batch(n + 1, line(n)))
        bench.clock.advance(1)
    assert numbers(*bench.files()) == list(range(6))
    bench.outlet.close()
