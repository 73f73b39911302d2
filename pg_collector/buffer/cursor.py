"""The cursor of the disk buffer: which numbers are acknowledged, written, promised, given up.

One file of two slots, allocated once and written in turn, in place: it can be moved when the volume
is full, and a torn write leaves the other slot. It is synced before `save` returns.
"""

import os
import struct
import uuid
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from pg_collector.folders import sync, sync_data, sync_folder

FILE_MODE: Final = 0o600
# What the numbers of a gap were lost to. The position is what the cursor keeps: only append here.
REASONS: Final = (
    "unknown",
    "disk_full",
    "thinned",
    "damaged",
    "store_truncated",
    "crash",
    "memory_full",
    "too_large",
    "refused",
    "acknowledged",
    "shutdown",
    "purged",
)
MAX_GAPS: Final = 16
UNKNOWN: Final = -1

_MAGIC: Final = b"PGCC"
_VERSION: Final = 1
_SLOT: Final = 4096
_HEAD: Final = struct.Struct(">4sBQQQQQqI16sB")
_GAP: Final = struct.Struct(">QB")
_CRC: Final = struct.Struct(">I")


class HeadGap(NamedTuple):
    """Numbers given up at the head: after the acknowledged ones and earlier gaps, `through`."""

    through: int
    reason: str


class State(NamedTuple):
    """What the cursor says. All but `life` are positions in the life of the store."""

    acked: int = 0  # everything up to here is safe elsewhere
    top: int = 0  # everything up to here was written, and is not to be missed
    ceiling: int = 0  # numbers up to here may have been handed out without being written
    origin: int = 0  # the stream's number 1 is the position after this one
    life: int = 0  # how often an agent has started on this store
    stream: uuid.UUID = uuid.UUID(int=0)
    gaps: tuple[HeadGap, ...] = ()
    # Of the segment in which what is acknowledged or given up ends: its lines up to there.
    taken: int = UNKNOWN


class Cursor:
    """The file, open. For one thread."""

    def __init__(self, path: Path) -> None:
        """Open it, or make it. `fresh` tells whether it held nothing usable. Raises OSError."""
        self.path = path
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(path, flags, FILE_MODE)
        self._generation = 0
        self.state = State()
        self.fresh = True
        try:
            if os.fstat(self._fd).st_size < 2 * _SLOT:
                os.pwrite(self._fd, bytes(2 * _SLOT), 0)
                sync(self._fd)
                sync_folder(path.parent)
            found = _newest(os.pread(self._fd, 2 * _SLOT, 0))
            if found is not None:
                self._generation, self.state = found
                self.fresh = False
        except BaseException:
            os.close(self._fd)
            raise

    def save(self, state: State) -> None:
        """Write a state and sync it. Raises OSError; the state before then still stands."""
        generation = self._generation + 1
        slot = _pack(generation, state)
        os.pwrite(self._fd, slot, (generation % 2) * _SLOT)
        sync_data(self._fd)
        self._generation, self.state = generation, state

    def in_place(self) -> bool:
        """Whether the path still leads to this file."""
        try:
            return os.path.samestat(self.path.lstat(), os.fstat(self._fd))
        except (FileNotFoundError, NotADirectoryError):
            return False

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def saved(path: Path) -> State | None:
    """Return what a cursor file says, without touching it; None where it holds nothing usable."""
    try:
        found = _newest(path.read_bytes())
    except FileNotFoundError:
        return None
    return found[1] if found is not None else None


def merged(gaps: Sequence[HeadGap], gap: HeadGap) -> tuple[HeadGap, ...]:
    """Return the gaps with one more behind them; neighbours of one reason become one."""
    if gaps and gap.through <= gaps[-1].through:
        return tuple(gaps)
    kept = list(gaps)
    if kept and (kept[-1].reason == gap.reason or len(kept) >= MAX_GAPS):
        kept[-1] = HeadGap(gap.through, gap.reason)
    else:
        kept.append(gap)
    return tuple(kept)


def _pack(generation: int, state: State) -> bytes:
    head = _HEAD.pack(
        _MAGIC,
        _VERSION,
        generation,
        state.acked,
        state.top,
        state.ceiling,
        state.origin,
        state.taken,
        state.life,
        state.stream.bytes,
        len(state.gaps),
    )
    body = head + b"".join(_GAP.pack(gap.through, REASONS.index(gap.reason)) for gap in state.gaps)
    return body + _CRC.pack(zlib.crc32(body))


def _newest(slots: bytes) -> tuple[int, State] | None:
    """Return generation and state of the slot that was written last."""
    found = (_unpack(slots[at : at + _SLOT]) for at in (0, _SLOT))
    return max((one for one in found if one is not None), default=None, key=lambda one: one[0])


def _unpack(slot: bytes) -> tuple[int, State] | None:
    """Return generation and state of a slot; None if it holds none."""
    if len(slot) < _HEAD.size:
        return None
    magic, version, generation, acked, top, ceiling, origin, taken, life, stream, count = (
        _HEAD.unpack_from(slot)
    )
    end = _HEAD.size + count * _GAP.size
    if magic != _MAGIC or version != _VERSION or end + _CRC.size > len(slot):
        return None
    if _CRC.unpack_from(slot, end)[0] != zlib.crc32(slot[:end]):
        return None
    gaps = []
    for number in range(count):
        through, code = _GAP.unpack_from(slot, _HEAD.size + number * _GAP.size)
        gaps.append(HeadGap(through, REASONS[code] if code < len(REASONS) else REASONS[0]))
    state = State(acked, top, ceiling, origin, life, uuid.UUID(bytes=stream), tuple(gaps), taken)
    return generation, state
