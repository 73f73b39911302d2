"""Samples as files of JSON lines: `<path>/<target>/<sampler>/current.jsonl` and what it was before.

A line is written whole or not at all, once, and in order within its folder. A complete file is
named by when its first and its last line were written, so that names sort by time; the one that
grows is always `current.jsonl`. docs/specs/file-outlet.md says what holds when something fails.
"""

import contextlib
import datetime as dt
import errno
import fcntl
import hashlib
import logging
import os
import re
import stat
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec

from pg_collector.clock import Clock
from pg_collector.config.model import Fsync, Local
from pg_collector.errors import Deferred, Refused
from pg_collector.metrics import Metrics
from pg_collector.sample import Batch, address

log = logging.getLogger(__name__)

CURRENT: Final = "current.jsonl"
MAX_OPEN: Final = 64  # files, all together
FILE_MODE: Final = 0o640
FOLDER_MODE: Final = 0o750

_COMPLETE: Final = re.compile(r"\d{8}T\d{6}\.\d{6}Z--(\d{8}T\d{6}\.\d{6}Z)(?:-\d+)?\.jsonl")
_LONGEST_NAME: Final = 200  # bytes; file systems allow 255
_TAIL: Final = 64 * 1024
_HEAD: Final = 4096

Folder = tuple[str, str]  # target and sampler, as they stand in the path
Numbered = tuple[int, bytes]


class FileOutlet:
    """An `Outlet` of files below `local.path`, for one thread at a time, and one agent at a time."""

    name = "file"

    def __init__(self, local: Local, clock: Clock, metrics: Metrics) -> None:
        self._local = local
        self._clock = clock
        self._root = local.path
        self._open: OrderedDict[Folder, _CurrentFile] = OrderedDict()
        self._written: dict[Folder, int] = {}  # the last number: a repeated batch writes no twin
        self._lock_fd = -1
        self._closed = False
        metrics.introduce_output(self.name)

    def deliver(self, batch: Batch) -> int:
        """Write the lines to their folders; return the last number of the batch.

        Raises `Refused` before anything is written if one of them is not a line, and `Deferred`
        with the remedy if the file system fails: what this batch has written until then stays and
        is not written again, everything else is undone.
        """
        folders = _by_folder(batch)
        if self._closed:
            raise Deferred("the file outlet is closed")
        where = self._root
        try:
            self._own()
            self._rotate_aged()
            for folder, lines in folders.items():
                where = self._root.joinpath(*folder)
                self._write(folder, lines)
        except OSError as error:
            raise _deferred(error, where) from error
        return batch.last

    def close(self) -> None:
        """Sync as the policy says and close every file; `current.jsonl` is continued next time."""
        self._closed = True
        while self._open:
            _, file = self._open.popitem()
            try:
                file.close(sync=self._local.fsync is not Fsync.NEVER)
            except OSError as error:
                log.warning("%s was not closed properly: %s", file.path, error.strerror)
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _own(self) -> None:
        """Hold the lock of the output folder; two writers would undo each other's lines."""
        path = self._root / ".lock"
        if self._lock_fd >= 0:
            if _is_at(self._lock_fd, path):
                return
            log.warning("%s was removed or replaced; writing goes on in a new one", self._root)
            os.close(self._lock_fd)
            self._lock_fd = -1
        _make_folder(self._root)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise Deferred(
                f"another agent writes to {self._root}",
                remedy="Stop it, or give this one another local.path.",
            ) from None
        except BaseException:
            os.close(fd)
            raise
        self._lock_fd = fd
        self._retain()

    def _write(self, folder: Folder, lines: list[Numbered]) -> None:
        done = self._written.get(folder, 0)
        for last, data in self._pieces([(n, line) for n, line in lines if n > done]):
            file = self._file(folder)
            if file.size and file.size + len(data) > self._local.rotate_size:
                self._rotate(folder)
                file = self._file(folder)
            file.append(data, sync=self._local.fsync is Fsync.BATCH)
            self._written[folder] = last

    def _pieces(self, lines: list[Numbered]) -> Iterator[Numbered]:
        """Join lines into pieces that fit into one file; yield each with its last number."""
        piece = bytearray()
        last = 0
        for number, line in lines:
            if piece and len(piece) + len(line) + 1 > self._local.rotate_size:
                yield last, bytes(piece)
                piece.clear()
            piece += line
            piece += b"\n"
            last = number
        if piece:
            yield last, bytes(piece)

    def _file(self, folder: Folder) -> "_CurrentFile":
        file = self._open.get(folder)
        if file is not None and not file.in_place():
            log.warning("%s was removed or replaced; a new one is begun", file.path)
            del self._open[folder]
            file.abandon()
            file = None
        if file is None:
            self._make_room()
            file = _CurrentFile(self._root.joinpath(*folder), self._clock, self._local)
            self._open[folder] = file
        self._open.move_to_end(folder)
        return file

    def _make_room(self) -> None:
        while len(self._open) >= MAX_OPEN:
            folder, file = next(iter(self._open.items()))
            file.close(sync=self._local.fsync is Fsync.ROTATE)
            del self._open[folder]

    def _rotate_aged(self) -> None:
        for folder in [f for f, file in self._open.items() if file.size]:
            file = self._open[folder]
            if file.age() >= self._local.rotate_age and file.in_place():
                self._rotate(folder)

    def _rotate(self, folder: Folder) -> None:
        self._open[folder].complete()
        del self._open[folder]
        self._retain()

    def _retain(self) -> None:
        """Delete the oldest complete files beyond `keep` bytes. Touches no name but its own."""
        if not self._local.keep:
            return
        complete = sorted(_complete_files(self._root))
        excess = sum(size for _, _, size in complete) - self._local.keep
        for _, path, size in complete:
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            log.info("%s was deleted: local.keep is reached", path)
            excess -= size


class _CurrentFile:
    """A `current.jsonl`, open for appending. Every method may raise OSError."""

    def __init__(self, folder: Path, clock: Clock, local: Local) -> None:
        _make_folder(folder)
        self.path = folder / CURRENT
        self._clock = clock
        self._durable = local.fsync is not Fsync.NEVER
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self.path, flags, FILE_MODE)
        try:
            status = os.fstat(self._fd)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EEXIST, "not a regular file", str(self.path))
            self.size = status.st_size
            self._repair()
            self._first = self._began(status) if self.size else None
            self._last = dt.datetime.fromtimestamp(status.st_mtime, dt.UTC)
            self._since = self._monotonic_start()
            if self._durable:
                _sync_folder(folder)
        except BaseException:
            os.close(self._fd)
            raise
        self._torn = False

    def append(self, data: bytes, *, sync: bool) -> None:
        """Add whole lines, or nothing at all if this raises."""
        if self._torn:
            self._undo()
        self._torn = True  # until it is done
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
            if sync:
                os.fdatasync(self._fd)
        except OSError:
            with contextlib.suppress(OSError):  # if this fails too, the next append tries again
                self._undo()
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
        return _is_at(self._fd, self.path)

    def complete(self) -> None:
        """Sync, close, and give it the name of a complete file."""
        if self._torn:
            self._undo()
        if self._durable:
            os.fdatasync(self._fd)
        os.rename(self.path, self._complete_path())  # noqa: PTH104  # Path.rename is the same
        os.close(self._fd)
        self._fd = -1
        if self._durable:
            _sync_folder(self.path.parent)

    def close(self, *, sync: bool) -> None:
        """Close it, to be continued."""
        if self._fd < 0:
            return
        try:
            if self._torn:
                self._undo()
            if sync:
                os.fdatasync(self._fd)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close it as it is."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _undo(self) -> None:
        os.ftruncate(self._fd, self.size)
        self._torn = False

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
        name = f"{_stamp(self._first or self._last)}--{_stamp(self._last)}"
        path = self.path.with_name(f"{name}.jsonl")
        twin = 1
        while path.exists():
            path = self.path.with_name(f"{name}-{twin}.jsonl")
            twin += 1
        return path


def path_component(name: str) -> str:
    """Return a name that is safe as one component of a path; different names stay different.

    Letters, digits and `_.-~` stay, the rest is percent-encoded; a very long name ends in a hash.
    """
    safe = quote(name, safe="", errors="surrogatepass")
    if not safe or safe.startswith("."):
        safe = f"%2E{safe[1:]}" if safe else "%00"
    if len(safe) > _LONGEST_NAME:
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        safe = f"{safe[: _LONGEST_NAME - 17]}-{digest}"
    return safe


def _by_folder(batch: Batch) -> dict[Folder, list[Numbered]]:
    folders: dict[Folder, list[Numbered]] = {}
    for number, line in enumerate(batch.lines, batch.first):
        try:
            head = address(line)
        except msgspec.DecodeError as error:
            raise Refused(f"line {number} is not a sample: {error}") from error
        if b"\n" in line:
            raise Refused(f"line {number} holds a line break")
        folder = (path_component(head.target), path_component(head.sampler))
        folders.setdefault(folder, []).append((number, line))
    return folders


def _complete_files(root: Path) -> Iterator[tuple[str, Path, int]]:
    """Yield (time of the last line, path, size) of every complete file."""
    for path in root.glob("*/*/*.jsonl"):
        if found := _COMPLETE.fullmatch(path.name):
            with contextlib.suppress(FileNotFoundError):
                yield found[1], path, path.lstat().st_size


def _stamp(moment: dt.datetime) -> str:
    return moment.astimezone(dt.UTC).strftime("%Y%m%dT%H%M%S.%fZ")


def _is_at(fd: int, path: Path) -> bool:
    try:
        there = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    here = os.fstat(fd)
    return (there.st_ino, there.st_dev) == (here.st_ino, here.st_dev)


def _make_folder(folder: Path) -> None:
    """Make a folder and what is missing above it, closed to others."""
    if folder.is_dir():
        return
    if folder.parent != folder:
        _make_folder(folder.parent)
    folder.mkdir(mode=FOLDER_MODE, exist_ok=True)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _deferred(error: OSError, where: Path) -> Deferred:
    """Translate an error of the file system; the remedy says what one can do about it."""
    number = error.errno or 0
    remedy = _REMEDIES.get(number, "Look at the disk and at the system log.")
    said = error.strerror or type(error).__name__
    return Deferred(f"cannot write to {where}: {said}", remedy=remedy.format(uid=os.geteuid()))


_FREE_SPACE: Final = "Free space there, or lower local.keep."
_ALLOW: Final = "Make it writable for the user that the agent runs as (uid {uid})."
_CLEAR: Final = "Something else is there under that name; move it away."
_REMEDIES: Final = {
    errno.ENOSPC: _FREE_SPACE,
    errno.EDQUOT: _FREE_SPACE,
    errno.EFBIG: "Raise the limit of file sizes (ulimit -f), or lower local.rotate_size.",
    errno.EACCES: _ALLOW,
    errno.EPERM: _ALLOW,
    errno.EROFS: "The file system is read-only; remount it, or set another local.path.",
    errno.EEXIST: _CLEAR,
    errno.ENOTDIR: _CLEAR,
    errno.EISDIR: _CLEAR,
    errno.ELOOP: _CLEAR,
    errno.EMFILE: "Raise the limit of open files (ulimit -n).",
}
