"""A segment of the disk buffer: a diskcache store in a folder of its own, only ever appended to.

diskcache gives the file format, the transactions and the settings; what it would do beyond that is
switched off: no pickles, no value files, no paths that come from a row, no eviction, no retry loop.
One thread has one connection; that also keeps clear of SQLite's WAL-reset defect
(https://sqlite.org/wal.html#walresetbug, before 3.51.3).

A segment that nobody writes to any more is read without being written to, so that it can be read
when the volume is full or read-only.
"""

import contextlib
import ctypes
import os
import shutil
import sqlite3
import weakref
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import diskcache
from diskcache.core import MODE_RAW, UNKNOWN

from pg_collector.buffer.records import HEAD_BYTES, Record, covers, decode, encode
from pg_collector.buffer.store_trouble import translated
from pg_collector.errors import StoreDamaged, StoreDown, StoreError
from pg_collector.folders import sync_folder

FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600

DATABASE: Final = "cache.db"
WAL: Final = "cache.db-wal"
_ENDLESS: Final = 2**62
_SETTINGS: Final = {
    "eviction_policy": "none",
    "cull_limit": 0,
    "size_limit": _ENDLESS,
    "statistics": 0,
    "tag_index": 0,
    "sqlite_synchronous": 2,  # FULL: an acknowledged commit survives a power cut
    "sqlite_mmap_size": 0,  # a file that someone truncates would kill the process
    "sqlite_cache_size": -512,  # KiB
    "sqlite_auto_vacuum": 0,
    "disk_min_file_size": _ENDLESS,
    "disk_pickle_protocol": 0,
}
_PRAGMAS: Final = tuple(
    f"{name.removeprefix('sqlite_')} = {value}"
    for name, value in _SETTINGS.items()
    if name.startswith("sqlite_")
)
_THROUGH: Final = "fullfsync = ON"  # macOS: not only as far as the disk's cache
_BUSY: Final = 2.0  # seconds
_RANGE: Final = (
    "SELECT key, mode, filename, value FROM Cache WHERE raw = 1 AND key >= ? ORDER BY key LIMIT ?"
)
_HEADS: Final = (
    f"SELECT key, mode, filename, substr(value, 1, {HEAD_BYTES})"  # noqa: S608  # a constant
    " FROM Cache ORDER BY key"
)


class BytesDisk(diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
    """Whole numbers as keys and bytes as values, inline; everything else is refused, both ways."""

    def put(self, key: object) -> tuple[int, bool]:
        """Return a key as the table holds it."""
        if type(key) is not int:
            raise TypeError("keys of the buffer are numbers")
        return key, True

    def get(self, key: object, raw: object) -> int:
        """Return a key of the table; raises StoreDamaged for any other than a number."""
        if type(key) is not int or not raw:
            raise StoreDamaged("a row's key is not a number")
        return key

    def store(
        self,
        value: object,
        read: object,
        key: object = UNKNOWN,  # noqa: ARG002  # diskcache's interface
    ) -> tuple[int, int, None, memoryview]:
        """Return size, mode, file name and value as the table holds them."""
        if type(value) is not bytes or read:
            raise TypeError("the buffer holds bytes")
        return len(value), MODE_RAW, None, sqlite3.Binary(value)

    def fetch(self, mode: object, filename: object, value: object, read: object) -> bytes:
        """Return the bytes of a row; raises StoreDamaged for what `store` never wrote."""
        if mode != MODE_RAW or filename is not None or type(value) is not bytes or read:
            raise StoreDamaged("a row holds something else than bytes")
        return value

    def remove(self, file_path: object) -> None:
        """Remove nothing: there are no value files."""


class _Store(diskcache.Cache):  # type: ignore[misc]  # diskcache has no types
    """The open segment: its one connection, and the reads that diskcache does not offer."""

    def __init__(self, directory: str) -> None:
        self._connection: sqlite3.Connection | None = None
        try:
            super().__init__(directory, timeout=_BUSY, disk=BytesDisk, **_SETTINGS)
        except BaseException:
            self.close()  # whoever tries again finds it unlocked
            raise

    @property
    def _con(self) -> sqlite3.Connection:
        """The connection, which has the store to itself.

        The log's index is in memory then, and not in a file that is mapped: where the volume fails,
        touching a mapped page kills the process (https://sqlite.org/wal.html#noshm).
        """
        if self._connection is None:
            path = os.path.join(self.directory, DATABASE)  # noqa: PTH118  # as diskcache has it
            self._connection = sqlite3.connect(path, timeout=_BUSY, isolation_level=None)
            _stores.add(self)
            # Those that hold for one connection; what libraries are built with is not relied on.
            for pragma in ("locking_mode = EXCLUSIVE", _THROUGH, *_PRAGMAS):
                self._connection.execute(f"PRAGMA {pragma}")
        return self._connection

    def leak(self) -> None:
        """Let the connection outlive everything that refers to it."""
        if self._connection is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._connection))

    def close(self) -> None:
        """Close the connection; what the log holds goes into the database."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def rows(self, sql: str, *parameters: int) -> Generator[tuple[Any, ...], None, None]:
        with closing(self._sql(sql, parameters)) as found:
            yield from found

    def settle(self) -> None:
        """End a transaction that a failed COMMIT left open."""
        if self._con.in_transaction:
            self._con.rollback()


_stores: Final[weakref.WeakSet[_Store]] = weakref.WeakSet()  # those that were opened


def _keep_open() -> None:
    """Let a fork never close what it inherited: SQLite would take the log away from its owner."""
    for store in _stores:
        store.leak()


os.register_at_fork(after_in_child=_keep_open)


class Survey(NamedTuple):
    """What is in a segment: numbers, lines in all, lines that wait, and whether no row is amiss."""

    first: int
    last: int
    total: int
    lines: int
    whole: bool


class Segment:
    """One folder, open or closed. For one thread. Its methods raise StoreError, nothing else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._store: _Store | None = None
        self._files: dict[Path, int] = {}  # of the open store, by inode

    def open(self) -> None:
        """Open it for appending, making it when missing; a log left by a crash is taken over."""
        if self._store is not None:
            return
        with translated(self.path):
            new = not self.path.is_dir()
            if new:
                self.path.mkdir(mode=FOLDER_MODE)
            self._store = _Store(str(self.path))
            for name in (DATABASE, WAL):
                file = self.path / name
                if file.exists():
                    file.chmod(FILE_MODE)
            if new:
                sync_folder(self.path)
                sync_folder(self.path.parent)

    def append(self, records: Sequence[Record]) -> None:
        """Write records; they survive a power cut once this returns. All of them, or none."""
        self.open()
        store = self._opened()
        blobs = [(record.first, encode(record)) for record in records]
        try:
            with translated(self.path), store.transact():
                for key, blob in blobs:
                    # A commit that reported an error may have happened all the same.
                    if not store.add(key, blob) and store.get(key) != blob:
                        raise StoreDamaged(f"number {key} is taken")
        except StoreError:
            with translated(self.path):
                store.settle()
            raise
        if not self._files:
            with translated(self.path):
                names = (self.path / DATABASE, self.path / WAL)
                self._files = {path: path.stat().st_ino for path in names if path.exists()}

    def in_place(self) -> bool:
        """Whether the files that it is written to still have their names. Raises StoreError."""
        with translated(self.path):
            return all(_inode(path) == inode for path, inode in self._files.items())

    def read(
        self, first: int, max_lines: int, max_bytes: int
    ) -> list[tuple[int, Record | StoreDamaged]]:
        """Return rows from number `first` on: (number, record), or what is wrong with that row.

        At least one if there is any, then while the lines stay within both limits. Raises
        StoreDamaged where the file cannot be read, UnknownVersion where a newer agent wrote it.
        """
        found: list[tuple[int, Record | StoreDamaged]] = []
        disk = BytesDisk("")
        size = 0
        with translated(self.path), closing(self._rows(_RANGE, first, max_lines)) as rows:
            for key, mode, filename, value in rows:
                number = disk.get(key, raw=True)
                one: Record | StoreDamaged
                try:
                    one = decode(disk.fetch(mode, filename, value, None), number)
                except StoreDamaged as error:
                    one = error
                else:
                    size += len(one.line or b"") + 1
                if found and size > max_bytes:
                    break
                found.append((number, one))
        return found

    def count(self, after: int, until: int) -> int:
        """Return how many lines can be read between two numbers. Raises StoreDamaged."""
        disk = BytesDisk("")
        lines = 0
        with translated(self.path), closing(self._rows(_RANGE, after + 1, -1)) as rows:
            for key, mode, filename, value in rows:
                number = disk.get(key, raw=True)
                if number > until:
                    break
                with contextlib.suppress(StoreDamaged):
                    record = decode(disk.fetch(mode, filename, value, None), number)
                    lines += record.line is not None
        return lines

    def survey(self, begin: int, until: int, after: int) -> Survey | None:
        """Look through it, counting the lines beyond `after` apart.

        Returns None where it is empty. A row that is damaged or missing counts as a line. Rows are
        believed from number `begin` to `until`, and what follows that without a break; raises
        StoreDamaged where there are others only.
        """
        total = lines = first = last = strange = 0
        whole = True
        with translated(self.path), closing(self._rows(_HEADS)) as rows:
            for key, _mode, _filename, head in rows:
                if type(key) is not int:
                    raise StoreDamaged("a row's key is not a number")
                if not begin <= key <= max(until, last) + 1:
                    strange += 1
                    whole = False
                    continue
                try:
                    numbers, is_line = covers(bytes(head or b""), key)
                except (StoreDamaged, TypeError):
                    numbers, is_line = 1, 1
                    whole = False
                if first:
                    lines += max(0, key - 1 - max(last, after))
                    total += key - 1 - last
                    whole = whole and key - 1 == last
                first = first or key
                last = max(last, key + numbers - 1)
                total += is_line
                lines += is_line if key > after else 0
            if strange and not first:
                raise StoreDamaged("its rows have the numbers of others")
        return Survey(first, last, total, lines, whole) if first else None

    @property
    def is_open(self) -> bool:
        """Whether it can be appended to without opening."""
        return self._store is not None

    def close(self) -> None:
        """Close it; what its log holds goes into the database. An error leaves the log in place."""
        store, self._store = self._store, None
        self._files = {}
        if store is not None:
            with translated(self.path):
                store.close()

    def forget(self) -> None:
        """Close it, whatever that says: it is damaged, or going to be deleted."""
        try:
            self.close()
        except StoreError:
            self._store = None

    def remove(self) -> None:
        """Delete the folder."""
        self.forget()
        with translated(self.path):
            shutil.rmtree(self.path)
            sync_folder(self.path.parent)

    def bytes(self) -> int:
        """Return what its files take."""
        try:
            with os.scandir(self.path) as entries:
                return sum(one.stat().st_size for one in entries if one.is_file())
        except OSError:
            return 0

    def _opened(self) -> _Store:
        if self._store is None:
            raise StoreDown(f"{self.path} is closed")
        return self._store

    def _rows(self, sql: str, *parameters: int) -> Generator[tuple[Any, ...], None, None]:
        if self._store is None and _size(self.path / WAL):
            self.open()  # what a crash left in the log becomes part of the database
            self.close()
        if self._store is not None:
            yield from self._store.rows(sql, *parameters)
            return
        database = self.path / DATABASE
        if not _size(database):
            raise StoreDamaged(f"{database} is missing or empty")
        uri = f"file:{quote(str(database))}?mode=ro&immutable=1"
        connection = sqlite3.connect(uri, uri=True, timeout=_BUSY)
        try:
            connection.execute("PRAGMA cache_size = -512")
            yield from connection.execute(sql, parameters)
        finally:
            connection.close()


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
