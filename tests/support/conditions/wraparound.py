"""A server whose transaction ids are far from where they began."""

import struct

from tests.support import process
from tests.support.lab.server import Server

_SEGMENT = 16 * 1024 * 1024
_PAGE = 8192
_XIDS_PER_SEGMENT = _PAGE * 4 * 32  # of pg_xact: two bits each, 32 pages
_LAST_CHECKPOINT, _TIMELINE, _NEXT_XID = 32, 48, 64  # in pg_control
_RECORD_HEADER, _CHUNK_HEADER, _XID_IN_CHECKPOINT = 24, 2, 24


def jump_xids(server: Server, xid: int) -> None:
    """Let the next transaction id be `xid`, as if so many transactions had been; restarts.

    The number is changed in pg_control and in the WAL record of the shutdown checkpoint, as
    pg_resetwal would; the commit log gets an empty segment for it.
    """
    server.query("checkpoint")
    server.stop()
    control = server.data / "global" / "pg_control"
    data = bytearray(control.read_bytes())
    end = next(n for n in range(200, 400) if struct.unpack_from("<I", data, n)[0] == crc(data[:n]))
    (checkpoint,) = struct.unpack_from("<Q", data, _LAST_CHECKPOINT)
    (timeline,) = struct.unpack_from("<I", data, _TIMELINE)
    number = checkpoint // _SEGMENT
    segment = server.data / "pg_wal" / f"{timeline:08X}{number >> 8:08X}{number & 0xFF:08X}"
    wal = bytearray(segment.read_bytes())
    _patch_record(wal, checkpoint % _SEGMENT, xid)
    segment.write_bytes(wal)
    struct.pack_into("<Q", data, _NEXT_XID, xid)
    struct.pack_into("<I", data, end, crc(data[:end]))
    control.write_bytes(data)
    log = server.data / "pg_xact" / f"{xid // _XIDS_PER_SEGMENT:04X}"
    if not log.exists():
        log.write_bytes(bytes(_PAGE * 32))
        process.give(log, 0o600)
    server.start()


def _patch_record(wal: bytearray, offset: int, xid: int) -> None:
    (length,) = struct.unpack_from("<I", wal, offset)
    record = wal[offset : offset + length]
    assert offset % _PAGE + length <= _PAGE, "the checkpoint's record goes over a page"
    assert struct.unpack_from("<I", record, 20)[0] == crc(record[24:], record[:20])
    struct.pack_into("<Q", record, _RECORD_HEADER + _CHUNK_HEADER + _XID_IN_CHECKPOINT, xid)
    struct.pack_into("<I", record, 20, crc(record[24:], record[:20]))
    wal[offset : offset + length] = record


def crc(*parts: bytes | bytearray) -> int:
    """Return the CRC-32C (Castagnoli) of the parts one after the other, as PostgreSQL does."""
    value = 0xFFFFFFFF
    for part in parts:
        for byte in part:
            value = _TABLE[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF


def _entry(value: int) -> int:
    for _ in range(8):
        value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value


_TABLE = [_entry(number) for number in range(256)]
