"""What SQLite, diskcache and the file system raise, by what the owner of the store does next."""

import errno
import sqlite3
from pathlib import Path
from typing import Final

import diskcache

from pg_collector.errors import CollectorError, StoreDamaged, StoreDown, StoreError, StoreFull

_CORRUPT: Final = frozenset((sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT))
_NO_ROOM: Final = frozenset((errno.ENOSPC, errno.EDQUOT))


class translated:  # noqa: N801  # reads as a statement
    """Translate what SQLite, diskcache and the file system raise, by what the owner does next.

    Whatever is not known to be about the volume is taken for damage: a crafted or broken file can
    make diskcache raise anything.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Raise the StoreError that an error means."""
        if isinstance(error, Exception) and not isinstance(error, CollectorError):
            raise _translated(error, self._path) from error


def _translated(error: Exception, path: Path) -> StoreError:
    if isinstance(error, OSError):
        if error.errno in _NO_ROOM:
            return StoreFull(f"{path}: {error.strerror}", remedy="Free space on this volume.")
        return StoreDown(f"{path}: {error.strerror or error}", remedy=LOOK)
    if isinstance(error, diskcache.Timeout):
        return StoreDown(f"{path}: the store cannot be written", remedy=LOOK)
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            return StoreFull(f"{path}: the volume is full", remedy="Free space on this volume.")
        if code not in _CORRUPT and code != sqlite3.SQLITE_ERROR:
            return StoreDown(f"{path}: {error}", remedy=LOOK)
    return StoreDamaged(f"{path}: {type(error).__name__}: {error}")


LOOK: Final = "Look at the volume and its mount options; the agent tries again by itself."
