"""Damaged files and crafted rows: nothing raises, one segment at most is lost, all of it counted.

PGC_DAMAGE_IMAGES=1000 tries so many images instead of 60.
"""

import itertools
import os
import pickle
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pg_collector.buffer.records import Record, encode
from pg_collector.sample import Keep
from tests.fault.buffer_rig import MB, SMALL, FarSide, Rig, backlog, segments
from tests.support.corruption import Damage, damage
from tests.support.oracle import Figures
from tests.support.scratch import in_memory

IMAGES = int(os.environ.get("PGC_DAMAGE_IMAGES", "60"))
LINES = 300
DELIVERED = 60


class Image(NamedTuple):
    """A directory, and the far side at that moment."""

    path: Path
    far: FarSide


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return in_memory("damage", tmp_path)


@pytest.fixture
def image(place: Path) -> Iterator[Image]:
    """What a kill left: `LINES` lines on disk, some delivered, in several segments."""
    with backlog(place / "first", LINES) as rig:
        rig.step(max_lines=DELIVERED)
        rig.put(5)
        rig.written()
        yield Image(rig.crash(place / "image"), rig.far)


def restarted(copy: Path, far: FarSide) -> tuple[Figures, Rig]:
    """Start on a directory, deliver what is there, and a fresh line."""
    with Rig(copy, deepcopy(far)) as rig:
        assert rig.journal.trouble is None
        rig.deliver()
        rig.put(1)
        rig.written()
        rig.deliver()
        return rig.verify(), rig


def widest(image: Path) -> int:
    """Return the numbers of the largest segment."""
    firsts = [int(path.name[4:20]) for path in segments(image)] + [LINES + 6]
    return max(b - a for a, b in itertools.pairwise(firsts))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_whatever_is_damaged_costs_one_segment_at_most_and_is_counted(image: Image, place: Path):
    """Fault 11: a byte, a page, some bytes, the end, all, the file itself."""
    largest = widest(image.path)
    for seed in range(IMAGES):
        copy = place / "copy"
        shutil.copytree(image.path, copy)
        (done,) = damage(copy, seed)
        try:
            _damaged(Image(copy, image.far), done, largest)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, {done}: {error}") from error
        shutil.rmtree(copy)


def _damaged(copy: Image, done: Damage, largest: int) -> None:
    if done.path.name == "format":  # a damaged number may be that of a newer agent
        with Rig(copy.path, deepcopy(copy.far)) as rig:
            rig.put(5)
            rig.deliver()
            assert rig.buffer.account().balanced
        return
    figures, rig = restarted(*copy)
    lost = rig.buffer.account().lost
    assert sum(lost.values()) <= largest, lost
    assert set(lost) <= {"damaged", "store_truncated"}
    if "damaged" in lost:
        assert list((copy.path / "quarantine").iterdir()), "what was damaged is kept"
    if done.path.parent.name != "quarantine" and "seg-" not in str(done.path):
        assert figures.told == 0


class Bomb:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self._path,)


def crafted(segment: Path, sql: str, *values: object) -> None:
    with closing(sqlite3.connect(segment / "cache.db")) as database, database:
        assert database.execute(sql, values).rowcount != 0


def victim(place: Path) -> Path:
    path = place / "victim"
    path.write_text("precious")
    return path


ROW = "UPDATE Cache SET {} WHERE key = (SELECT min(key) + 2 FROM Cache)"


@pytest.mark.parametrize("which", [2, -1], ids=["complete", "open"])
@pytest.mark.parametrize(
    "craft",
    [
        "mode = 4, value = :bomb",
        "mode = 4, filename = :path, value = NULL",
        "mode = 2, filename = :up",
        "filename = :up",
        "filename = :path",
        "value = 'text'",
        "value = NULL",
        "value = 7",
        "raw = 0",
        "value = zeroblob(30000000)",
    ],
)
def test_a_crafted_row_is_refused_and_nothing_is_executed_or_deleted(
    image: Image, place: Path, craft: str, which: int
):
    """Fault 14: a pickle, a path, a text where bytes belong."""
    precious, exploded = victim(place), place / "exploded"
    segment = segments(image.path)[which]
    values = {
        ":bomb": pickle.dumps(Bomb(exploded)),
        ":path": str(precious),
        ":up": "../../victim",
    }
    given = [value for name, value in values.items() if name in craft]
    for name in values:
        craft = craft.replace(name, "?")
    crafted(segment, ROW.format(craft), *given)
    figures, rig = restarted(*image)
    assert sum(figures.gaps.values()) == 1
    assert rig.buffer.account().lost == dict(figures.gaps)
    if which != -1:  # the open one is still written to
        assert list((image.path / "quarantine").iterdir())
    assert precious.read_text() == "precious"
    assert not exploded.exists()


@pytest.mark.parametrize("which", [2, -1], ids=["complete", "open"])
@pytest.mark.parametrize("key", [-5, 0, 2**62, 2**63 - 1, "'text'", 1.5])
def test_a_row_under_an_impossible_key_costs_its_segment_at_most(
    image: Image, key: object, which: int
):
    """Fault 14: numbers far beyond all others must not become those of the next lines."""
    crafted(segments(image.path)[which], ROW.format(f"key = {key}"))
    largest = widest(image.path)
    figures, rig = restarted(*image)
    assert 0 < sum(figures.gaps.values()) <= largest
    assert rig.buffer.account().lost == dict(figures.gaps)
    with Rig(image.path) as again:
        assert again.journal.call(lambda spool: spool.top) < 10_000


@pytest.mark.parametrize("number", [2**40, 2**63 - 1])
def test_a_valid_record_far_beyond_all_others_is_damage(image: Image, number: int):
    """Fault 14."""
    crafted(
        segments(image.path)[-1],
        ROW.format("key = ?, value = ?"),
        number,
        encode(Record(number, number, b'{"k":1}', created=1.0)),
    )
    figures, rig = restarted(*image)
    assert sum(figures.gaps.values()) <= widest(image.path) + 60
    assert rig.buffer.account().lost == dict(figures.gaps)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sqlite_journal_mode", "off"),
        ("sqlite_synchronous", 0),
        ("sqlite_mmap_size", 2**40),
        ("sqlite_trusted_schema", 1),
        ("sqlite_writable_schema = 1; DROP TABLE Cache; --", 1),
        ("disk_min_file_size", 0),
        ("disk_evil", "x"),
        ("eviction_policy", "least-recently-used"),
        ("cull_limit", 1000),
        ("size_limit", 1),
        ("count", -1),
        ("tag_index", 1),
        ("_disk", "x"),
    ],
)
def test_crafted_settings_change_nothing(image: Image, name: str, value: object):
    """Fault 14: what a store says of itself is not believed."""
    tail = segments(image.path)[-1]
    crafted(tail, "INSERT OR REPLACE INTO Settings VALUES (?, ?)", name, value)
    figures, rig = restarted(*image)
    lost = rig.buffer.account().lost
    assert lost == dict(figures.gaps)
    assert sum(lost.values()) <= widest(image.path)
    files = {path.name for path in image.path.rglob("*") if path.is_file()}
    assert not [path for path in files if path.endswith(".val")]
    with Rig(image.path) as again:
        mode = again.journal.call(
            lambda spool: [
                (
                    held.segment._store._sql("PRAGMA synchronous").fetchone(),
                    held.segment._store._sql("PRAGMA mmap_size").fetchone(),
                )
                for held in spool._shelf
                if held.segment._store is not None
            ]
        )
    assert all(one == ((2,), (0,)) for one in mode)


@pytest.fixture
def thinned(place: Path) -> Iterator[Image]:
    """What a kill left of a store at its cap: thinned out, and its first segment half delivered."""
    limits = SMALL._replace(disk_max=MB)
    with Rig(place / "first", memory_max=150_000, limits=limits) as rig:
        while "thinned" not in rig.buffer.account().lost:
            for n in range(20):
                rig.put_one(1000, Keep.EVENT if n % 3 == 0 else Keep.DELTA)
            rig.written()
        head = segments(rig.directory)[0]
        assert head.name.endswith("-1")
        half = int(head.name.split("-")[3]) // 2
        rig.step(max_lines=half)
        yield Image(rig.crash(place / "image"), rig.far)


def _gap_row(segment: Path) -> None:
    """Damage the record of a gap, whose width nobody knows then."""
    with closing(sqlite3.connect(segment / "cache.db")) as database, database:
        sql = "SELECT max(key) FROM Cache WHERE length(value) < 200"
        ((key,),) = database.execute(sql).fetchall()
        database.execute("UPDATE Cache SET value = zeroblob(9) WHERE key = ?", (key,))


def _line_row(segment: Path) -> None:
    last = "SELECT max(key) FROM Cache WHERE length(value) > 500"
    crafted(segment, f"UPDATE Cache SET value = zeroblob(9) WHERE key = ({last})")


def _rows_gone(segment: Path) -> None:
    crafted(segment, "DELETE FROM Cache WHERE key > (SELECT max(key) - 9 FROM Cache)")


def _middle_gone(segment: Path) -> None:
    sql = "SELECT max(key) - 12 FROM Cache UNION ALL SELECT max(key) - 3 FROM Cache"
    with closing(sqlite3.connect(segment / "cache.db")) as database:
        (begin,), (end,) = database.execute(sql).fetchall()
    crafted(segment, "DELETE FROM Cache WHERE key BETWEEN ? AND ?", begin, end)


def _emptied(segment: Path) -> None:
    (segment / "cache.db").write_bytes(b"")


def _torn(segment: Path) -> None:
    file = segment / "cache.db"
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize("which", [0, 1], ids=["being sent", "waiting"])
@pytest.mark.parametrize(
    "harm",
    [_gap_row, _line_row, _rows_gone, _middle_gone, _emptied, _torn],
    ids=lambda f: f.__name__,
)
def test_of_a_thinned_segment_only_the_lines_that_were_left_are_counted(
    thinned: Image, which: int, harm: Callable[[Path], None]
):
    """Fault 11: what thinning took was counted before, and what was delivered is no loss."""
    arrived = sum(entry.line is not None for entry in thinned.far.ledger)
    with Rig(thinned.path, deepcopy(thinned.far)) as rig:
        waiting = rig.buffer.account().buffered
    harm(segments(thinned.path)[which])
    with Rig(thinned.path, deepcopy(thinned.far)) as rig:
        rig.deliver()
        account = rig.buffer.account()
        assert account.balanced
        came = sum(entry.line is not None for entry in rig.far.ledger) - arrived
        assert sum(account.lost.values()) == waiting - came
        assert (waiting - came > 0) == (harm is not _gap_row)


def test_a_segment_that_went_on_after_all_of_it_was_delivered_counts_the_rest_only(place: Path):
    """Fault 11: the cursor has to know the lines of a segment that was still growing."""
    with Rig(place / "first") as rig:
        rig.put(10)
        rig.written()
        rig.deliver()
        while len(segments(rig.directory)) < 3:
            rig.put(20)
            rig.written()
        waiting = rig.buffer.account().buffered
        image, far = rig.crash(place / "image"), rig.far
    arrived = sum(entry.line is not None for entry in far.ledger)
    _emptied(segments(image)[0])
    with Rig(image, far) as rig:
        rig.deliver()
        came = sum(entry.line is not None for entry in far.ledger) - arrived
        assert sum(rig.buffer.account().lost.values()) == waiting - came > 0
