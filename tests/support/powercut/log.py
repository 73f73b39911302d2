"""The recorder's log: one record for each operation, in the order in which they happened."""

import enum
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

_HEAD: Final = struct.Struct("=c3xIQQqQ")  # `struct head` of tree.h


class Unreplayable(Exception):
    """The run did something that the recorder does not follow; the message says what."""


class Kind(enum.Enum):
    """What an operation did; the letters are the log's."""

    CREATE = "C"
    MAKE_DIRECTORY = "D"
    LINK = "L"
    RENAME = "N"
    UNLINK = "U"
    WRITE = "W"
    PAGES = "p"  # of a shared mapping, as it was unmapped
    PAGES_SYNCED = "P"  # by msync
    TRUNCATE = "T"
    ALLOCATE = "A"
    MODE = "H"
    SYNC = "S"
    SYNC_ALL = "Y"
    SYNC_RANGE = "R"  # promises nothing
    MARK = "M"


class Operation(NamedTuple):
    """One record. Which fields mean something depends on the kind."""

    kind: Kind
    ino: int
    directory: int  # of the name, or of the old name
    offset: int  # of data; a size; a mode; the new directory of a rename; a mark's number
    names: tuple[str, ...]
    data: bytes


def operations(log: Path) -> Iterator[Operation]:
    """Yield the operations of a log; a last record that was cut short is left out.

    Raises `Unreplayable` at an operation that cannot be followed.
    """
    with log.open("rb", buffering=1024 * 1024) as source:
        while len(head := source.read(_HEAD.size)) == _HEAD.size:
            letter, names_length, ino, directory, offset, length = _HEAD.unpack(head)
            rest = source.read(names_length + length)
            if len(rest) < names_length + length:
                return
            names = rest[:names_length].decode(errors="surrogateescape")
            if letter == b"?":
                raise Unreplayable(names)
            data = rest[names_length:]
            kind = _KINDS[letter]
            yield Operation(kind, ino, directory, offset, tuple(names.split("\0")), data)


_KINDS: Final = {kind.value.encode(): kind for kind in Kind}
