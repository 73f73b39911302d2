"""The directory of the disk buffer: whose it is, which format it has, how much room there is.

`lock`, `format`, `stream`, `cursor` and `ballast` are files; `seg-…` are segments (shelf.py);
`quarantine/` holds damaged segments, and the lines that the platform refused.
"""

import contextlib
import errno
import fcntl
import os
import stat
import time
import uuid
from pathlib import Path
from typing import Final, Self

from pg_collector.buffer.segment import FILE_MODE, FOLDER_MODE
from pg_collector.buffer.store_trouble import translated
from pg_collector.errors import CollectorError, StateError, StoreDown
from pg_collector.folders import reserve, sync, sync_folder

FORMAT: Final = 1
BALLAST: Final = 8 * 1024 * 1024  # bytes; a checkpoint and the rewriting of a segment need room
LOCK_LOOKS: Final = 10
LOCK_EVERY: Final = 0.05  # seconds
_FILE: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class AlreadyRunning(CollectorError):
    """Another agent has this buffer; exit code 1."""

    pid: int | None = None  # its process, where that could be read


class Removed(StoreDown):
    """The directory is not there any more, or is another one."""


class SegmentLost(StoreDown):
    """The segment that was written to is damaged, and set aside: what was rescued comes first."""


class Place:
    """The directory, owned: nobody else of ours uses it while this is open."""

    def __init__(self, directory: Path, lock_fd: int) -> None:
        self.directory = directory
        self.quarantine = directory / "quarantine"
        self._lock_fd = lock_fd

    @classmethod
    def take(cls, directory: Path) -> Self:
        """Make the directory when missing, check it and lock it.

        Raises AlreadyRunning with the other agent's process id, StateError where the directory is
        not ours alone, StoreDown or StoreFull where it cannot be used now, StoreDown where a newer
        agent has written it: nothing in it is touched then.
        """
        with translated(directory):
            _make(directory)
            _check(directory)
            fd = os.open(directory / "lock", _FILE, FILE_MODE)
            try:
                _lock(fd, directory)
                place = cls(directory, fd)
                place.check_format()
                place.quarantine.mkdir(mode=FOLDER_MODE, exist_ok=True)
            except BaseException:
                os.close(fd)
                raise
        return place

    def check_format(self) -> None:
        """Note the format of a new directory; raise StoreDown for one that this agent cannot read.

        Format 1 is the first. An older one would be brought up to date here, segment by segment.
        """
        path = self.directory / "format"
        try:
            found = int(path.read_text("ascii"))
        except (FileNotFoundError, ValueError):  # new, or damaged: every record has a version, too
            _write(path, f"{FORMAT}\n")
            return
        if found > FORMAT:
            raise newer_format(self.directory, found)

    def stream(self) -> uuid.UUID | None:
        """Return the stream that was noted here; None where none is readable."""
        try:
            return uuid.UUID((self.directory / "stream").read_text("ascii").strip())
        except (OSError, ValueError):
            return None

    def note_stream(self, stream: uuid.UUID) -> None:
        """Note the stream beside the cursor, for the day that the cursor is damaged."""
        with translated(self.directory):
            _write(self.directory / "stream", f"{stream}\n")

    def intact(self) -> bool:
        """Whether the directory is still the one that was locked."""
        try:
            there = (self.directory / "lock").lstat()
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return False
            raise
        return os.path.samestat(there, os.fstat(self._lock_fd))

    def free_bytes(self) -> tuple[int, int]:
        """Return the bytes that the volume has free for us, and all its bytes."""
        with translated(self.directory):
            volume = os.statvfs(self.directory)
            return volume.f_bavail * volume.f_frsize, volume.f_blocks * volume.f_frsize

    def probe(self, size: int) -> None:
        """Write and sync a file of so many bytes, and delete it; raises StoreError."""
        path = self.directory / "probe"
        with translated(path):
            try:
                fd = os.open(path, _FILE, FILE_MODE)
                try:
                    reserve(fd, size)
                    sync(fd)
                finally:
                    os.close(fd)
            finally:
                path.unlink(missing_ok=True)

    def spend_ballast(self) -> bool:
        """Give the ballast's room to the file system; return whether there was any."""
        try:
            (self.directory / "ballast").unlink()
        except OSError:
            return False
        return True

    def refill_ballast(self, size: int) -> bool:
        """Set the ballast aside, if there is four times its room; return whether it stands."""
        path = self.directory / "ballast"
        if path.exists():
            return True
        if self.free_bytes()[0] < 4 * size:
            return False
        try:
            fd = os.open(path, _FILE, FILE_MODE)
            try:
                reserve(fd, size)
            finally:
                os.close(fd)
        except OSError:
            with contextlib.suppress(OSError):
                path.unlink()
            return False
        return True

    def close(self) -> None:
        """Give the lock back."""
        os.close(self._lock_fd)


def newer_format(directory: Path, found: int) -> StoreDown:
    """Return what is said of a directory that this agent cannot read."""
    return StoreDown(
        f"{directory} has format {found}, this agent knows {FORMAT}",
        remedy="A newer agent wrote it and can deliver what is in it: start that one, or "
        "set another buffers.disk_path. Until then lines are kept in memory.",
    )


def _make(directory: Path) -> None:
    """Make a directory and what is missing above it, so that a power cut takes none of it away."""
    if not directory.is_dir():
        _make(directory.parent)
        directory.mkdir(mode=FOLDER_MODE, exist_ok=True)
        sync_folder(directory.parent)


def _check(directory: Path) -> None:
    status = directory.stat()
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid != os.geteuid():
        raise StateError(
            f"{directory} belongs to user {status.st_uid}, not to {os.geteuid()}",
            remedy="Run the agent as that user, or set another buffers.disk_path; or make it this "
            f"one's, as root: chown -R {os.geteuid()} {directory}",
        )
    if mode & 0o022:
        raise StateError(
            f"{directory} can be written to by others (mode {mode:04o})",
            remedy=f"chmod 700 {directory}",
        )


def _lock(fd: int, directory: Path) -> None:
    for _ in range(LOCK_LOOKS):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        time.sleep(LOCK_EVERY)  # a command may look into it at this moment
    else:
        pid = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "?"
        raise AlreadyRunning(
            f"another agent (process {pid}) has the buffer {directory}",
            remedy="Stop it, or give this one a state_dir of its own.",
        )
    # Its process id is for people; that it cannot be written on a full volume is no reason to stop.
    with contextlib.suppress(OSError):
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)


def _write(path: Path, text: str) -> None:
    """Write a small file so that it is there whole, or as it was before."""
    aside = path.with_name(f"{path.name}.new")
    fd = os.open(aside, _FILE | os.O_TRUNC, FILE_MODE)
    try:
        os.write(fd, text.encode("ascii"))
        sync(fd)
    finally:
        os.close(fd)
    aside.rename(path)
    sync_folder(path.parent)
