"""Samples as files of JSON lines: `<path>/<target>/<sampler>/current.jsonl` and what it was before.

A line is written whole or not at all, once, and in order within its folder. A complete file is
named by when its first and its last line were written, so that names sort by time; the one that
grows is always `current.jsonl`. docs/specs/file-outlet.md says what holds when something fails.
"""

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
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
from pg_collector.outlets import Receipt
from pg_collector.outlets.jsonl import COMPLETE, FILE_MODE, CurrentFile, is_at, make_folder
from pg_collector.sample import Batch, address

log = logging.getLogger(__name__)

MAX_OPEN: Final = 64  # files, all together

_LONGEST_NAME: Final = 200  # bytes; file systems allow 255

Folder = tuple[str, str]  # target and sampler, as they stand in the path
Numbered = tuple[int, bytes]


class FileOutlet:
    """An `Outlet` of files below `local.path`, for one agent and one thread at a time."""

    name = "file"

    def __init__(self, local: Local, clock: Clock, metrics: Metrics) -> None:
        self._local = local
        self._clock = clock
        self._root = local.path
        self._durable = local.fsync is not Fsync.NEVER
        self._open: OrderedDict[Folder, CurrentFile] = OrderedDict()
        self._written: dict[Folder, int] = {}  # through which number: a batch comes again
        self._lock_fd = -1
        self._closed = False
        metrics.introduce_output(self.name, "deferred")
        self._bytes_total = metrics.output_bytes_total.labels(self.name)
        self._uncompressed_total = metrics.output_uncompressed_bytes_total.labels(self.name)

    def deliver(self, batch: Batch) -> Receipt:
        """Write the lines to their folders; return a receipt for all of them.

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
        # The next batch may be another cut: what was written beyond this one is still remembered.
        self._written = {f: n for f, n in self._written.items() if n > batch.last}
        return Receipt(batch.last)

    def close(self) -> None:
        """Sync as the policy says and close every file; `current.jsonl` is continued next time."""
        self._closed = True
        while self._open:
            _, file = self._open.popitem()
            try:
                file.settle()
                file.close(sync=self._durable)
            except OSError as error:
                log.warning("%s was not closed properly: %s", file.path, error.strerror)
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _own(self) -> None:
        """Hold the lock of the output folder; two writers would undo each other's lines."""
        path = self._root / ".lock"
        if self._lock_fd >= 0:
            if is_at(self._lock_fd, path):
                return
            log.warning("%s was removed or replaced; writing goes on in a new one", self._root)
            os.close(self._lock_fd)
            self._lock_fd = -1
        make_folder(self._root, durable=self._durable)
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
            self._bytes_total.inc(len(data))
            self._uncompressed_total.inc(len(data))

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

    def _file(self, folder: Folder) -> CurrentFile:
        file = self._open.get(folder)
        if file is not None and not file.in_place():
            log.warning("%s was removed or replaced; a new one is begun", file.path)
            del self._open[folder]
            file.close(sync=False)
            file = None
        if file is None:
            self._make_room()
            file = CurrentFile(self._root.joinpath(*folder), self._clock, durable=self._durable)
            self._open[folder] = file
        self._open.move_to_end(folder)
        return file

    def _make_room(self) -> None:
        while len(self._open) >= MAX_OPEN:
            folder, file = next(iter(self._open.items()))
            file.settle()
            del self._open[folder]
            file.close(sync=self._local.fsync is Fsync.ROTATE)

    def _rotate_aged(self) -> None:
        for folder in [f for f, file in self._open.items() if file.size]:
            file = self._open[folder]
            if file.age() >= self._local.rotate_age and file.in_place():
                self._rotate(folder)

    def _rotate(self, folder: Folder) -> None:
        self._open[folder].complete()
        self._open.pop(folder).close(sync=False)
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


def path_component(name: str) -> str:
    """Return a name that is safe as one component of a path; different names stay different.

    Letters, digits and `_.-~` stay, the rest is percent-encoded; a very long name ends in a hash.
    """
    safe = quote(name, safe="", errors="surrogatepass")
    if not safe or safe.startswith("."):
        safe = f"%2E{safe[1:]}" if safe else "%"  # which is never the whole of a quoted name
    if len(safe) > _LONGEST_NAME:
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        safe = f"{safe[: _LONGEST_NAME - 17]}-{digest}"
    return safe


def _by_folder(batch: Batch) -> dict[Folder, list[Numbered]]:
    folders: dict[Folder, list[Numbered]] = {}
    for number, line in batch.numbered():
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
        if found := COMPLETE.fullmatch(path.name):
            with contextlib.suppress(FileNotFoundError):
                yield found[1], path, path.lstat().st_size


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
