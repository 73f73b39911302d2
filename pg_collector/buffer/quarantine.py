"""Lines that nobody accepts: kept on disk, one small file each, to be looked at or sent again."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from pg_collector.buffer.segment import FILE_MODE
from pg_collector.buffer.store_trouble import translated
from pg_collector.folders import sync

QUARANTINE_MAX: Final = 10 * 1024 * 1024  # bytes; beyond it the oldest go

_PATTERN: Final = "line-*.json"


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A refused line, under which number of which stream it was sent, and the answer."""

    stream: str
    number: int
    reason: str
    at: str  # RFC 3339
    line: str

    @property
    def name(self) -> str:
        """What it is called in quarantine."""
        return f"line-{self.number:016d}-{self.stream}"


class Quarantine:
    """The refused lines of one buffer. Methods raise StoreError."""

    def __init__(self, folder: Path, max_bytes: int = QUARANTINE_MAX) -> None:
        self._folder = folder
        self._max_bytes = max_bytes

    def __len__(self) -> int:
        """Return how many lines are here."""
        return len(self._paths())

    @property
    def segments(self) -> list[str]:
        """The names of the damaged segments that were set aside."""
        return sorted(path.name for path in self._folder.glob("seg-*"))

    def add(self, refusal: Refusal) -> tuple[int, int]:
        """Keep a line; return how many were added and how many old ones had to go for it.

        The same number of the same stream is kept once.
        """
        path = self._folder / f"{refusal.name}.json"
        with translated(path):
            if path.exists():
                return 0, 0
            aside = path.with_suffix(".new")
            try:
                with open(aside, "wb", opener=_private) as file:  # its mode
                    file.write(msgspec.json.encode(refusal))
                    file.flush()
                    sync(file.fileno())
                aside.rename(path)
            except OSError:
                aside.unlink(missing_ok=True)
                raise
            return 1, self._cap()

    def __iter__(self) -> Iterator[tuple[str, Refusal]]:
        """Yield (name, line), oldest first; a file that is none is passed over."""
        for path in self._paths():
            try:
                yield path.stem, _decoder.decode(path.read_bytes())
            except (OSError, msgspec.MsgspecError):
                continue

    def remove(self, name: str) -> bool:
        """Delete a line; return whether it was there."""
        path = self._folder / f"{Path(name).name}.json"
        with translated(path):
            existed = path.match(_PATTERN) and path.exists()
            if existed:
                path.unlink()
        return existed

    def _paths(self) -> list[Path]:
        found = [(_modified(path), path.name, path) for path in self._folder.glob(_PATTERN)]
        return [path for _, _, path in sorted(found)]

    def _cap(self) -> int:
        paths = self._paths()
        sizes = [path.stat().st_size for path in paths]
        gone = 0
        while sum(sizes[gone:]) > self._max_bytes and gone < len(paths) - 1:
            paths[gone].unlink(missing_ok=True)
            gone += 1
        return gone


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, FILE_MODE)


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


_decoder = msgspec.json.Decoder(Refusal)
