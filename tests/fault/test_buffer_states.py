"""Directories as crashes, people and backups leave them: opening finishes, counts, goes on."""

import shutil
import sqlite3
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pg_collector.buffer import records
from pg_collector.buffer.records import Record
from pg_collector.buffer.segment import Segment
from pg_collector.config.model import Durability
from pg_collector.sample import Keep
from tests.fault.buffer_rig import SMALL, FarSide, Rig, backlog, copied, segments
from tests.support.lines import check, make
from tests.support.oracle import Figures
from tests.support.scratch import in_memory
from tests.unit.test_buffer_model import OverflowMachine

LINES = 400


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return in_memory("buffer", tmp_path)


@pytest.fixture
def image(place: Path) -> Iterator[tuple[Path, FarSide]]:
    """What a kill left of a life with all lines on disk, and the first 120 of them delivered."""
    with backlog(place / "first", LINES) as rig:
        for _ in range(12):
            rig.step(max_lines=10)
        yield rig.crash(place / "image"), rig.far


def continued(image: Path, far: FarSide, *, counted: bool = True) -> tuple[Figures, Rig]:
    """Start on a directory, deliver what is there and a fresh line; return the oracle's figures."""
    with Rig(image, far) as rig:
        assert rig.journal.trouble is None
        rig.deliver()
        rig.put(1)
        rig.written()
        rig.deliver()
        figures = rig.verify(counted=counted)
    assert figures.delivered + figures.told == figures.committed
    return figures, rig


def unmade(path: Path) -> None:
    path.mkdir()


def empty_database(path: Path) -> None:
    path.mkdir()
    (path / "cache.db").touch()


def without_rows(path: Path) -> None:
    segment = Segment(path)
    segment.open()
    copied(path, path.with_name("copy"))
    segment.forget()
    shutil.rmtree(path)
    path.with_name("copy").rename(path)


def half_a_log(path: Path) -> None:
    """A commit that was not finished."""
    segment = Segment(path)
    first = int(path.name[4:])
    segment.append([Record(first, first, b"{}", created=1.0)])
    copied(path, path.with_name("copy"))
    segment.forget()
    shutil.rmtree(path)
    path.with_name("copy").rename(path)
    log = path / "cache.db-wal"
    log.write_bytes(log.read_bytes()[: log.stat().st_size // 2])


@pytest.mark.parametrize("left", [unmade, empty_database, without_rows, half_a_log])
def test_a_segment_that_was_being_made_is_no_loss(
    image: tuple[Path, FarSide], left: Callable[[Path], None]
):
    """Fault 3."""
    directory, far = image
    tail = segments(directory)[-1]
    with Rig(directory, far) as rig:  # so that the newest is complete
        rig.journal.call(lambda spool: spool._shelf.complete_tail())
    left(directory / f"seg-{LINES + 1:016d}")
    figures, rig = continued(directory, far)
    assert figures.told == 0
    assert rig.buffer.account().lost == {}
    assert tail.name[:20] not in {path.name for path in (directory / "quarantine").iterdir()}
    assert not list((directory / "quarantine").iterdir())


def test_a_commit_that_the_cursor_does_not_know_is_delivered(image: tuple[Path, FarSide]):
    """Fault 3: the process ended between the commit and the cursor."""
    directory, far = image
    before = (directory / "cursor").read_bytes()
    with Rig(directory, far) as rig:
        rig.put(1)
        rig.written()
        again = rig.crash(directory.with_name("again"))
    (again / "cursor").write_bytes(before)
    figures, _ = continued(again, far)
    assert figures.told == 0


@pytest.mark.parametrize("gone", [("cache.db",), ("cache.db", "cache.db-wal"), ()])
def test_segments_that_were_being_deleted_are_gone_in_the_end(
    image: tuple[Path, FarSide], gone: tuple[str, ...]
):
    """Fault 3: acknowledged by the cursor, the folder deleted in part."""
    directory, far = image
    heads = segments(directory)[:2]
    kept = [(path, directory.with_name(path.name)) for path in heads]
    for path, aside in kept:
        shutil.copytree(path, aside)
    with Rig(directory, far) as rig:
        while rig.far.ledger[-1].last < 300:
            rig.step(max_lines=50)
        again = rig.crash(directory.with_name("again"))
    for path, aside in kept:
        here = again / path.name
        aside.rename(here)
        for name in gone:
            (here / name).unlink(missing_ok=True)
    figures, rig = continued(again, far)
    assert figures.told == 0
    assert rig.buffer.account().lost == {}
    assert not list((again / "quarantine").iterdir())
    assert not any((again / path.name).exists() for path, _ in kept)


def test_a_damaged_segment_is_counted_once_and_told_as_damaged_after_a_crash(
    image: tuple[Path, FarSide],
):
    """Fault 3: the process ended right after the segment was set aside."""
    directory, far = image
    second = segments(directory)[2]
    (second / "cache.db").write_bytes(b"nothing")
    width = int(second.name[21:37]) - int(second.name[4:20]) + 1
    with Rig(directory, far) as rig:
        while rig.step(max_lines=20, ack=False) and not rig.buffer.account().lost:
            rig.step(max_lines=20)
        assert rig.buffer.account().lost == {"damaged": width}
        again = rig.crash(directory.with_name("again"))
    figures, _ = continued(again, far)
    assert figures.gaps == {"damaged": width}
    assert len(list((again / "quarantine").iterdir())) == 1


@pytest.mark.parametrize("spoil", ["lost", "emptied", "garbage"])
def test_without_a_cursor_lines_are_sent_again_and_none_is_lost(
    image: tuple[Path, FarSide], spoil: str
):
    """Fault 12: the platform passes over what it has."""
    directory, far = image
    cursor = directory / "cursor"
    if spoil == "lost":
        cursor.unlink()
    else:
        cursor.write_bytes(b"" if spoil == "emptied" else b"\xa5" * 8192)
    figures, _ = continued(directory, far)
    assert figures.told == 0
    assert figures.streams == 1
    assert far.duplicates > 0


def test_an_older_cursor_only_sends_again(image: tuple[Path, FarSide]):
    """Fault 12: a copy of the cursor is put back."""
    directory, far = image
    older = (directory / "cursor").read_bytes()
    with Rig(directory, far) as rig:
        rig.step(max_lines=100)
        rig.put(60)
        rig.written()
        rig.step(max_lines=100)
        again = rig.crash(directory.with_name("again"))
    (again / "cursor").write_bytes(older)
    figures, _ = continued(again, far)
    assert figures.told == 0
    assert figures.streams == 1


def test_an_older_cursor_gives_no_number_twice_when_everything_was_delivered(place: Path):
    """Fault 12: new lines under numbers that the platform has would be passed over in silence."""
    with Rig(place / "first") as rig:
        rig.put(20)
        rig.deliver()
        older = (rig.directory / "cursor").read_bytes()
        (tail,) = segments(rig.directory)
        while sum(one.stat().st_size for one in tail.iterdir()) < SMALL.segment_bytes:
            rig.put(5)
            rig.written()
        rig.deliver()
        image = rig.crash(place / "image")
    (image / "cursor").write_bytes(older)
    figures, _ = continued(image, rig.far, counted=False)
    assert figures.told == 0


def test_a_segment_that_was_delivered_in_part_before_it_was_full_is_counted_right(place: Path):
    """Fault 12: the cursor is lost, and all of it is sent again."""
    with Rig(place / "first") as rig:
        rig.put(20)
        rig.written()
        rig.step(max_lines=10)
        for _ in range(3):
            rig.put(30)
            rig.written()
        assert len(segments(rig.directory)) > 1
        image, far = rig.crash(place / "image"), rig.far
    (image / "cursor").unlink()
    figures, _ = continued(image, far)
    assert figures.told == 0
    assert far.duplicates == 10


@pytest.mark.parametrize("part", ["head", "middle", "tail"])
@pytest.mark.parametrize("how", ["emptied", "deleted", "log deleted"])
def test_what_is_missing_of_a_store_is_counted(image: tuple[Path, FarSide], part: str, how: str):
    """Fault 13: the database truncated to nothing, the folder deleted, the log deleted."""
    directory, far = image
    found = segments(directory)
    path = found[{"head": 0, "middle": len(found) // 2, "tail": -1}[part]]
    if how == "emptied":
        (path / "cache.db").write_bytes(b"")
    elif how == "deleted":
        shutil.rmtree(path)
    else:
        (path / "cache.db-wal").unlink(missing_ok=True)
    figures, rig = continued(directory, far)
    lost = rig.buffer.account().lost
    assert set(lost) <= {"store_truncated", "damaged"}
    if how == "deleted":
        assert set(lost) == {"store_truncated"}
    if how != "log deleted" or part == "tail":
        assert 0 < figures.told <= 80


def test_a_newer_format_is_left_alone_and_memory_has_to_do(image: tuple[Path, FarSide]):
    """Fault 15."""
    directory, _ = image
    (directory / "format").write_text("2\n")
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    with Rig(directory) as rig:
        trouble = rig.journal.trouble
        assert trouble is not None
        assert "format 2" in str(trouble)
        assert "newer agent" in trouble.remedy
        rig.put(50)
        rig.deliver()
        assert rig.verify().told == 0
    after = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    lock = directory / "lock"
    assert {**after, lock: b""} == {**before, lock: b""}


def test_a_record_of_a_newer_version_is_passed_over_counted_and_kept(place: Path):
    """Fault 15: without a newer format of the directory it can only be damage."""
    with backlog(place / "first", LINES) as rig:
        image, far = rig.crash(place / "image"), rig.far
    head = segments(image)[0]
    with_newer(head, 7)
    figures, rig = continued(image, far)
    assert figures.gaps == {"damaged": 1}
    (kept,) = (image / "quarantine").iterdir()
    assert kept.name.startswith(head.name[:20]), "its segment is there to be looked at"


def with_newer(segment: Path, number: int) -> None:
    with closing(sqlite3.connect(segment / "cache.db")) as db, db:
        ((blob,),) = db.execute("SELECT value FROM Cache WHERE key = ?", (number,))
        newer = blob[:4] + struct.pack("B", records.VERSION + 1) + blob[5:]
        db.execute("UPDATE Cache SET value = ? WHERE key = ?", (newer, number))


def test_a_copied_directory_tells_by_its_life_that_it_is_another(image: tuple[Path, FarSide]):
    """Fault 17: both say the same start count with different ids; renumbering ends the conflict."""
    directory, far = image
    clone = directory.with_name("clone")
    copied(directory, clone)
    other = FarSide()
    with Rig(directory, far) as one, Rig(clone, other) as two:
        batches = [one.buffer.peek(1000, 1), two.buffer.peek(1000, 1)]
        assert batches[0] is not None
        assert batches[1] is not None
        assert batches[0].stream == batches[1].stream
        lives = [batch.life.partition("/") for batch in batches if batch is not None]
        assert lives[0][0] == lives[1][0]
        assert lives[0][2] != lives[1][2]
        two.buffer.renumber()
        renumbered = two.buffer.peek(1000, 1)
        assert renumbered is not None
        assert renumbered.stream != batches[0].stream
        assert renumbered.first == 1
        two.far.put.put += range(121, LINES + 1)
        two.far.put.committed.update(two.far.put.put)
        two.deliver()
        one.deliver()
        assert two.verify().told == one.verify().told == 0
    again, _ = continued(clone, other)
    assert again.streams == 1, "the new stream is kept"


def test_what_overflow_had_only_in_memory_is_told_as_a_gap_after_a_crash(place: Path):
    """Overflow: numbers that left unwritten are not given again; the gap is counted as a crash."""
    with Rig(place / "first", durability=Durability.OVERFLOW) as rig:
        rig.put(300)
        rig.deliver()
        rig.put(30)
        image, far = rig.crash(place / "image"), rig.far
    with Rig(image, far, durability=Durability.OVERFLOW) as rig:
        rig.put(10)
        rig.deliver()
        figures = rig.verify()
        assert set(figures.gaps) == {"crash"}
        assert figures.gaps["crash"] >= 30
        assert figures.streams == 1
        assert figures.told == 30


def test_the_log_says_when_the_disk_holds_more_than_memory_and_when_that_is_over(
    place: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    with backlog(place / "buffer", memory_max=60_000) as rig:
        rig.deliver()
    said = [one for one in caplog.messages if one.startswith("disk buffer")]
    assert said == ["disk buffer activated", "disk buffer drained"]


def test_a_gap_record_survives_in_the_store(place: Path):
    """Fault 20: a line that is too large for memory is told after a restart, too."""
    with Rig(place / "first", memory_max=100_000) as rig:
        rig.put(3)
        rig.far.put.put.append(4)
        rig.far.put.committed.add(4)
        rig.buffer.put(make(4, 200_000), Keep.EVENT)
        rig.put(3)
        rig.written()
        image, far = rig.crash(place / "image"), rig.far
    figures, _ = continued(image, far, counted=False)
    assert figures.gaps == {"too_large": 1}


def test_a_gap_that_memory_made_leaves_no_earlier_than_its_numbers_are_promised():
    """Overflow: a crash would give them again, to lines that the platform then passes over."""
    machine = OverflowMachine()
    machine.commit()
    machine.crash()
    machine.put(count=25, keep=Keep.EVENT, pad=486)
    machine.deliver_a_part(lines=1, part=0)
    machine.crash()
    machine.put(count=1, keep=Keep.DELTA, pad=0)
    machine.teardown()
    assert machine.far.kept == [26]


def test_a_line_that_was_refused_stays_so_when_the_disk_gives_up_what_lies_before_it(place: Path):
    """Fault 20: the first line of the second segment is refused, then the first segment goes."""
    limits = SMALL._replace(disk_max=700_000, segment_bytes=100_000)
    with Rig(place / "buffer", memory_max=40_000, limits=limits) as rig:
        for _ in range(6):
            rig.put(10, 2000)
            rig.written()
        second = int(segments(rig.directory)[1].name[4:20])
        for number in range(1, second + 1):
            assert rig.buffer.peek(1, 1) is not None
            rig.buffer.set_aside(number, "400")
        assert rig.journal.call(lambda spool: spool.lines) == 60 - second
        while (segments(rig.directory)[0].name[4:20]) != f"{second:016d}":
            rig.put(10, 2000)
            rig.written()
        account = rig.buffer.account()
        assert account.quarantined == second
        while rig.step():
            pass
        arrived = {check(entry.line) for entry in rig.far.ledger if entry.line is not None}
        assert arrived.isdisjoint(range(1, second + 1))
        assert rig.buffer.account().buffered == 0
