"""What lies in a row of the disk buffer: one line, or a gap where lines were, with a checksum.

    magic  version codec kind flags  first last  crc32  created | content
    4s     B       B     B    B      Q     Q     I      d

All integers are big-endian. The checksum covers the header (with 0 in its own place) and the
content as it is stored. `last` differs from `first` in a gap only, whose content is its reason.
A new version comes with a new format of the directory (place.FORMAT), which an older agent leaves
alone.
"""

import struct
import sys
import threading
import zlib
from typing import Final, NamedTuple

from pg_collector.errors import StoreDamaged
from pg_collector.sample import Gap, Keep

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAGIC: Final = b"PGC1"
VERSION: Final = 1
MAX_CONTENT: Final = 64 * 1024 * 1024  # bytes that a line may have; more is damage

_HEADER: Final = struct.Struct(">4sBBBBQQId")
_CRC_AT: Final = 24
_RAW: Final = 0
_ZSTD: Final = 1
_GAP: Final = 255
_WORTH_COMPRESSING: Final = 256  # bytes
_LEVEL: Final = 3
_SHORT: Final = 16 * 1024  # bytes


class UnknownVersion(StoreDamaged):
    """A newer agent wrote this. Its format has another number (place.FORMAT), so it is not seen."""


class Record(NamedTuple):
    """A numbered line; or, where `line` is None, a gap from `first` to `last` for a reason.

    `created` is Unix time; `since` is of the monotonic clock, and 0 where it comes from disk.
    """

    first: int
    last: int
    line: bytes | None
    keep: Keep = Keep.FACT
    reason: str = ""
    created: float = 0.0
    since: float = 0.0

    @classmethod
    def of_gap(cls, gap: Gap, created: float = 0.0) -> "Record":
        """Return the record of a gap."""
        return cls(gap.first, gap.last, None, reason=gap.reason, created=created)

    @property
    def gap(self) -> Gap:
        """Return it as a gap."""
        return Gap(self.first, self.last, self.reason)


def encode(record: Record) -> bytes:
    """Return the bytes of a row."""
    codec = _RAW
    if record.line is None:
        kind, content = _GAP, record.reason.encode()
    else:
        kind, content = int(record.keep), record.line
        if len(content) >= _WORTH_COMPRESSING:
            codec, content = _ZSTD, _compressed(content)
    head = (MAGIC, VERSION, codec, kind, 0, record.first, record.last)
    checksum = zlib.crc32(content, zlib.crc32(_HEADER.pack(*head, 0, record.created)))
    return _HEADER.pack(*head, checksum, record.created) + content


class _Compressor(threading.local):
    """One for each thread: to make one takes three times as long as to use it for a short line."""

    def __init__(self) -> None:
        self.made = zstd.ZstdCompressor(_LEVEL)


_compressor: Final = _Compressor()


def _compressed(content: bytes) -> bytes:
    if len(content) > _SHORT:  # it would keep its tables for as much
        return zstd.compress(content, _LEVEL)
    made = _compressor.made
    made.set_pledged_input_size(len(content))
    return made.compress(content, made.FLUSH_FRAME)


def decode(blob: bytes, number: int) -> Record:
    """Return the record of the row with that number.

    Raises StoreDamaged if it is not what was written there, UnknownVersion if a newer agent wrote
    it.
    """
    if len(blob) < _HEADER.size or blob[:4] != MAGIC:
        raise StoreDamaged("not a record of the buffer")
    if blob[4] > VERSION:
        raise UnknownVersion(f"a record of version {blob[4]}; this agent knows {VERSION}")
    _, _, codec, kind, _, first, last, checksum, created = _HEADER.unpack_from(blob)
    content = blob[_HEADER.size :]
    bare = blob[:_CRC_AT] + b"\0\0\0\0" + blob[_CRC_AT + 4 : _HEADER.size]
    if zlib.crc32(content, zlib.crc32(bare)) != checksum:
        raise StoreDamaged("a record's checksum does not fit")
    if first != number or last < first:
        raise StoreDamaged("a record lies under another number")
    if kind == _GAP:
        return Record(first, last, None, reason=content.decode(), created=created)
    if codec == _ZSTD:
        content = _decompressed(content)
    elif codec != _RAW:
        raise UnknownVersion(f"a record's codec is {codec}")
    return Record(first, last, content, keep=Keep(kind), created=created)


def covers(blob_head: bytes, number: int) -> tuple[int, int]:
    """Return (numbers, lines) of the row with that number from its first `HEAD_BYTES`.

    A line covers (1, 1), a gap (width, 0). Raises StoreDamaged where that is neither.
    """
    if len(blob_head) < _HEADER.size or blob_head[:4] != MAGIC:
        raise StoreDamaged("not a record of the buffer")
    _, _, _, kind, _, first, last, _, _ = _HEADER.unpack_from(blob_head)
    if kind == _GAP:  # how far it reaches decides which number is the next: it has to be whole
        gap = decode(blob_head, number)
        return gap.last - gap.first + 1, 0
    if not first == last == number:
        raise StoreDamaged("a record lies under another number")
    return 1, 1


HEAD_BYTES: Final = _HEADER.size + 64  # a gap's reason is shorter


def _decompressed(content: bytes) -> bytes:
    try:
        one = zstd.ZstdDecompressor()
        line = one.decompress(content, MAX_CONTENT)
    except zstd.ZstdError as error:
        raise StoreDamaged(f"a record cannot be decompressed: {error}") from error
    if not one.eof:
        raise StoreDamaged("a record is larger than any line")
    return line
