"""The directory of a disk buffer, looked at: nothing in it is changed, whoever it belongs to.

A segment that a crash or a running agent left with a log is read from a private copy: to read it in
place, SQLite would write (https://sqlite.org/wal.html#read_only_databases).
"""

import contextlib
import datetime as dt
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, NamedTuple, Self

from pg_collector.buffer.cursor import UNKNOWN, State, saved
from pg_collector.buffer.held import Held, named
from pg_collector.buffer.place import FORMAT, AlreadyRunning, newer_format
from pg_collector.buffer.quarantine import Quarantine
from pg_collector.buffer.records import Record
from pg_collector.buffer.report import DiskReport, QuarantineReport, Report, remaining
from pg_collector.buffer.segment import DATABASE, WAL, Segment
from pg_collector.errors import StoreDamaged, StoreError
from pg_collector.sample import Gap

PAGE_LINES: Final = 1000
PAGE_BYTES: Final = 512 * 1024  # read at once

Opened = Callable[[Held], AbstractContextManager[Segment]]


class Finding(NamedTuple):
    """Something that is not as it was written: where, and what."""

    where: str
    what: str


class View:
    """What a directory holds. Methods raise StoreError, and OSError where it cannot be read."""

    def __init__(self, directory: Path, state: State, *, has_cursor: bool) -> None:
        self.directory = directory
        self.state = state
        self.has_cursor = has_cursor
        self.segments = _segments(directory, state)
        self.quarantine = Quarantine(directory / "quarantine")

    @classmethod
    def open(cls, directory: Path) -> Self | None:
        """Look at a directory; None where there is none.

        Raises StoreDown where a newer agent wrote it, PermissionError where one may not look.
        """
        try:
            with os.scandir(directory):  # `glob` keeps quiet about what it may not read
                pass
        except (FileNotFoundError, NotADirectoryError):
            return None
        _check_format(directory)
        state = saved(directory / "cursor")
        return cls(directory, state or State(), has_cursor=state is not None)

    @property
    def top(self) -> int:
        """The last position that was written."""
        return max(self.state.top, self.segments[-1].last if self.segments else 0)

    @property
    def after(self) -> int:
        """Positions up to here do not wait any more, or are told as gaps by the cursor."""
        gaps = self.state.gaps
        return max(self.state.acked, gaps[-1].through if gaps else 0)

    def records(self) -> Iterator[Record]:
        """Yield what waits, gaps included, in order: as an agent that starts now would send it."""
        return walk(self.state, self.segments, self.state.acked, self.top, opened=untouched)

    def lines(self, held: Held) -> int:
        """Return how many lines of a segment wait. Raises StoreDamaged."""
        if held.complete and held.first > self.after:
            return held.lines
        if held.complete and held.last <= self.after:
            return 0
        with untouched(held) as segment:
            survey = segment.survey(held.first, held.last, self.after)
        amiss = survey is None or not held.shown_by(survey)
        if held.complete and self.state.taken != UNKNOWN and amiss:
            return max(0, held.total - self.state.taken)
        return survey.lines if survey is not None else 0

    def damage(self, seen: Callable[[int], None] = lambda _bytes: None) -> Iterator[Finding]:
        """Read everything and yield what is damaged; `seen` hears of the bytes read so far."""
        if not self.has_cursor and self.segments:
            yield Finding("cursor", "it is missing or damaged: what was sent may be sent again")
        read = 0
        at = self.after + 1
        for held in self.segments:
            if held.last <= self.after:
                continue  # it is about to be deleted
            if at < held.first:
                yield Finding(f"numbers {at}-{held.first - 1}", "no segment holds them")
            yield from examined(held, untouched)
            read += held.segment.bytes()
            seen(read)
            at = max(at, held.last + 1)
        if at <= self.state.top:
            yield Finding(f"numbers {at}-{self.state.top}", "no segment holds them")
        names = {name for name, _ in self.quarantine}
        for path in sorted((self.directory / "quarantine").glob("line-*.json")):
            if path.stem not in names:
                yield Finding(f"quarantine/{path.name}", "it is not a refused line")

    def report(self, disk_max: int, now: dt.datetime) -> Report:
        """Say what is here; how long there is room, from the pace at which lines came."""
        trouble = ""
        lines = size = 0
        for held in self.segments:
            size += held.segment.bytes()
            try:
                lines += self.lines(held)
            except StoreError as error:
                trouble = trouble or str(error)
        volume = os.statvfs(self.directory)
        free = volume.f_bavail * volume.f_frsize
        oldest, newest = self._ends()
        pace = size / (newest - oldest) if oldest < newest else 0.0
        origin = self.state.origin
        waits = self.state.acked < self.top
        return Report(
            running=False,
            directory=str(self.directory),
            stream=str(self.state.stream) if self.has_cursor else "",
            life=str(self.state.life),
            first=self.state.acked + 1 - origin if waits else None,
            last=self.top - origin if waits else None,
            lines=lines,
            oldest_age_s=max(0.0, now.timestamp() - oldest) if oldest else 0.0,
            seconds_remaining=remaining(min(disk_max - size, free), pace),
            disk=DiskReport(
                segments=len(self.segments),
                bytes=size,
                backlog_bytes=size if waits else 0,
                capacity_bytes=disk_max,
                free_bytes=free,
            ),
            quarantine=QuarantineReport(
                lines=len(self.quarantine), segments=len(self.quarantine.segments)
            ),
            trouble=trouble,
            remedy="pgc buffer verify says what is damaged." if trouble else "",
        )

    def _ends(self) -> tuple[float, float]:
        """Return when the oldest and the newest line were taken, in Unix time; 0 if unknown."""
        waiting = [held for held in self.segments if held.last > self.after]
        if not waiting:
            return 0.0, 0.0
        try:
            return (
                _created(waiting[0], max(waiting[0].first, self.after + 1)),
                _created(waiting[-1], waiting[-1].last),
            )
        except StoreError:
            return 0.0, 0.0


def walk(
    state: State,
    segments: Sequence[Held],
    after: int,
    top: int,
    *,
    opened: Opened,
    holes: Sequence[Gap] = (),
) -> Iterator[Record]:
    """Yield the records beyond a position up to `top`; what is missing or damaged as a gap.

    `opened` lends a segment to read from; `holes` are gaps whose reason is known.
    """
    at = max(after, state.acked) + 1
    for gap in state.gaps:
        if gap.through >= at:
            yield Record(at, gap.through, None, reason=gap.reason)
            at = gap.through + 1
    for held in segments:
        if held.last < at:
            continue
        if at < held.first:
            yield _missing(at, held.first - 1, holes, "store_truncated")
            at = held.first
        for record in _records(held, at, opened, holes):
            yield record
            at = record.last + 1
    if at <= top:
        yield _missing(at, top, holes, "store_truncated")


def examined(held: Held, opened: Opened) -> Iterator[Finding]:
    """Read a segment and yield what is wrong with it."""
    name = held.segment.path.name
    at = held.first
    lines = 0
    try:
        with opened(held) as segment:
            for number, row in _rows(segment, at):
                if at < number:
                    yield Finding(name, f"numbers {at}-{number - 1} are missing")
                at = number + 1
                lines += not isinstance(row, Record) or row.line is not None
                if isinstance(row, Record):
                    at = row.last + 1
                else:
                    yield Finding(name, f"number {number}: {row}")
    except StoreDamaged as error:
        yield Finding(name, str(error))
        return
    if at <= held.last:
        yield Finding(name, f"numbers {at}-{held.last} are missing")
    elif held.complete and lines < held.total:
        yield Finding(name, f"it should hold {held.total} lines, and holds {lines}")


@contextlib.contextmanager
def untouched(held: Held) -> Iterator[Segment]:
    """Lend a segment that can be read without a write to it. Raises StoreDamaged, OSError."""
    path = held.segment.path
    try:
        logged = (path / WAL).stat().st_size
    except FileNotFoundError:
        logged = 0
    if not logged:
        yield Segment(path)
        return
    with tempfile.TemporaryDirectory(prefix="pgc-") as folder:
        copy = Path(folder) / path.name
        copy.mkdir(mode=0o700)
        for name in (DATABASE, WAL):
            try:
                shutil.copyfile(path / name, copy / name)
            except FileNotFoundError as error:
                raise StoreDamaged(f"{path / name} is missing") from error
        segment = Segment(copy)
        try:
            yield segment
        finally:
            segment.forget()


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep agents off a directory that is read; writes nothing.

    Raises AlreadyRunning where one has it, OSError.
    """
    try:
        fd = os.open(directory / "lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        yield  # no agent was ever here: a copy, perhaps
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "?"
            found = AlreadyRunning(f"process {pid} has the buffer {directory}")
            found.pid = int(pid) if pid.isdecimal() else None
            raise found from None
        yield
    finally:
        os.close(fd)


def _segments(directory: Path, state: State) -> list[Held]:
    """Return the segments, oldest first, of one that is being thinned the part that counts."""
    paths = sorted(directory.glob("seg-*"))
    starts = {path.name[4:20] for path in paths}
    paths += [path for path in directory.glob("tmp-*") if path.name[4:20] not in starts]
    paths.sort(key=lambda path: path.name[4:])
    firsts = [int(path.name[4:20]) for path in paths if path.name[4:20].isdigit()]
    found: list[Held] = []
    for path in paths:
        begins = path.name[4:20]
        until = min((n - 1 for n in firsts if begins < f"{n:016d}"), default=state.top)
        held = named(path, until)
        if held is None:
            continue
        if not held.complete:
            held = _looked_into(held)
        if held is not None:
            found.append(held)
    return found


def _looked_into(held: Held) -> Held | None:
    """Return a segment whose name does not tell its end, with it; None where it is empty."""
    try:
        with untouched(held) as segment:
            survey = segment.survey(held.first, held.last, 0)
    except StoreError:
        return held  # reading it will tell
    if survey is None:
        return None
    held.first, held.last, held.total, held.lines, _ = survey
    return held


def _records(held: Held, at: int, opened: Opened, holes: Sequence[Gap]) -> Iterator[Record]:
    """Yield the records of a segment from a position to its end."""
    with contextlib.ExitStack() as stack:
        try:
            segment = stack.enter_context(opened(held))
            for number, row in _rows(segment, at):
                if at < number:
                    yield _missing(at, number - 1, holes, "damaged")
                one = row
                if not isinstance(one, Record):
                    one = _missing(number, number, holes, "damaged")
                yield one
                at = one.last + 1
        except StoreDamaged:
            pass  # told as a gap
    if at <= held.last:
        yield _missing(at, held.last, holes, "damaged")


def _rows(segment: Segment, first: int) -> Iterator[tuple[int, Record | StoreDamaged]]:
    """Yield all rows from a number on."""
    while rows := segment.read(first, PAGE_LINES, PAGE_BYTES):
        yield from rows
        first = rows[-1][0] + 1


def _missing(first: int, last: int, holes: Sequence[Gap], reason: str) -> Record:
    known = (gap.reason for gap in holes if gap.first <= first <= gap.last)
    return Record(first, last, None, reason=next(known, reason))


def _created(held: Held, at: int) -> float:
    with untouched(held) as segment:
        for _, row in segment.read(at, 1, 1):
            if isinstance(row, Record):
                return row.created
    return 0.0


def _check_format(directory: Path) -> None:
    try:
        found = int((directory / "format").read_text("ascii"))
    except (FileNotFoundError, ValueError):
        return
    if found > FORMAT:
        raise newer_format(directory, found)
