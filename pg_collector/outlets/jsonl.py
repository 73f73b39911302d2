"""One growing file of JSON lines: lines are added whole or not at all, and a crash is repaired."""

import contextlib
import datetime as dt
import errno
import logging
import os
import re
import stat
from pathlib import Path
from typing import Final

from pg_collector.clock import Clock
from pg_collector.folders import sync_data, sync_folder

log = logging.getLogger(__name__)

CURRENT: Final = "current.jsonl"
COMPLETE: Final = re.compile(r"\d{8}T\d{6}\.\d{6}Z--(\d{8}T\d{6}\.\d{6}Z)\.jsonl")
FILE_MODE: Final = 0o640
FOLDER_MODE: Final = 0o750

_TAIL: Final = 64 * 1024
_HEAD: Final = 4096


class CurrentFile:
    """A folder's `current.jsonl`, open for appending. Every method may raise OSError.

    `durable` makes its existence and its completion survive a power cut.
    """

    def __init__(self, folder: Path, clock: Clock, *, durable: bool) -> None:
        make_folder(folder, durable=durable)
        self.path = folder / CURRENT
        self._clock = clock
        self._durable = durable
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self.path, flags, FILE_MODE)
        try:
            status = self._status()
            self.size = status.st_size
            self._repair()
            self._first = self._began(status) if self.size else None
            self._last = dt.datetime.fromtimestamp(status.st_mtime, dt.UTC)
            self._since = self._monotonic_start()
            if self._durable:
                sync_folder(folder)
        except BaseException:
            os.close(self._fd)
            raise
        self._torn = False

    def append(self, data: bytes, *, sync: bool) -> None:
        """Add whole lines, or nothing at all if this raises."""
        self.settle()
        self._torn = True  # until it is done
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
            if sync:
                sync_data(self._fd)
        except OSError:
            with contextlib.suppress(OSError):  # if this fails too, the next append tries again
                self.settle()
            raise
        self._torn = False
        self.size += len(data)
        self._last = self._clock.now()
        if self._first is None:
            self._first = self._last
            self._since = self._clock.monotonic()

    def age(self) -> float:
        """Return the seconds since its first line was written."""
        return self._clock.monotonic() - self._since

    def in_place(self) -> bool:
        """Whether the path still leads to this file."""
        return is_at(self._fd, self.path)

    def settle(self) -> None:
        """Make sure that nothing of a failed append is left."""
        if self._torn:
            os.ftruncate(self._fd, self.size)
            self._torn = False

    def complete(self) -> None:
        """Give it the name of a complete file, which `COMPLETE` matches. Close it afterwards."""
        self.settle()
        if self._durable:
            sync_data(self._fd)
        self.path.rename(self._complete_path())
        if self._durable:
            sync_folder(self.path.parent)

    def close(self, *, sync: bool) -> None:
        """Close it; what it holds now is continued next time."""
        try:
            if sync:
                sync_data(self._fd)
        finally:
            os.close(self._fd)

    def _status(self) -> os.stat_result:
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EEXIST, "not a regular file", str(self.path))
        return status

    def _repair(self) -> None:
        """Cut off a last line that a crash tore; it was never acknowledged."""
        end = whole = self.size
        while whole:
            start = max(0, whole - _TAIL)
            tail = os.pread(self._fd, whole - start, start)
            newline = tail.rfind(b"\n")
            whole = start + newline + 1 if newline >= 0 else start
            if newline >= 0:
                break
        if whole == end:
            return
        log.warning("%s ended in a torn line of %d bytes, cut off", self.path, end - whole)
        os.ftruncate(self._fd, whole)
        self.size = whole

    def _began(self, status: os.stat_result) -> dt.datetime:
        """Return when a file that is continued was begun, by its first line or its inode."""
        head = os.pread(self._fd, _HEAD, 0)
        found = re.search(rb'"at":"([0-9T:.+-]+Z?)"', head)
        if found:
            with contextlib.suppress(ValueError):
                began = dt.datetime.fromisoformat(found[1].decode())
                return began if began.tzinfo else began.replace(tzinfo=dt.UTC)
        return dt.datetime.fromtimestamp(status.st_mtime, dt.UTC)

    def _monotonic_start(self) -> float:
        now = self._clock.monotonic()
        if self._first is None:
            return now
        return now - max(0.0, (self._clock.now() - self._first).total_seconds())

    def _complete_path(self) -> Path:
        """Return a free name; of two files of one moment the later one ends a microsecond later."""
        last = self._last
        while True:
            path = self.path.with_name(f"{_stamp(self._first or last)}--{_stamp(last)}.jsonl")
            if not path.exists():
                return path
            last += dt.timedelta(microseconds=1)


def is_at(fd: int, path: Path) -> bool:
    """Whether a path leads to the file that is open."""
    try:
        there = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    here = os.fstat(fd)
    return (there.st_ino, there.st_dev) == (here.st_ino, here.st_dev)


def make_folder(folder: Path, *, durable: bool) -> None:
    """Make a folder and what is missing above it, closed to others."""
    if folder.is_dir():
        return
    if folder.parent != folder:
        make_folder(folder.parent, durable=durable)
    folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
    if durable:
        sync_folder(folder.parent)


def _stamp(moment: dt.datetime) -> str:
    return moment.astimezone(dt.UTC).strftime("%Y%m%dT%H%M%S.%fZ")
