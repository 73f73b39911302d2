"""A sample: what one sampler saw on one target at one moment, and the bytes it becomes.

A sampler's queries answer with rows; the runner masks them and writes each row into a `Body`.
`Sample.lines` then makes the line (or, where it would grow too long, its parts) that memory, disk,
files and the wire all share. Nothing decodes it again on the way. The line's fields are those of
docs/specs/samples.md.
"""

import enum
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from pg_collector.errors import Reason

MAX_LINE_BYTES = 256 * 1024  # a longer line is cut into parts between rows


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parent of every row type: its fields are the columns that a query wants, in their order.

    A field with a default may be missing on some server. Production does not build rows: it keeps
    what the database returned, with the names of the columns beside it. The contract tests do,
    strictly, on every version.
    """


class Answer(NamedTuple):
    """What a query returned: the names of the columns, and the rows in the same order."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


class Extension(msgspec.Struct, frozen=True):
    """An extension as it is installed in the database of the session."""

    version: str
    schema: str


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a server is, read at each connection: nothing else decides which columns are asked for.

    `columns` maps a relation (view or catalog, by its bare name) to the columns that exist;
    `shared_stats_reset` is the one marker that a crash restart always moves.
    """

    version: int  # server_version_num: 180004
    database: str
    role: str
    in_recovery: bool
    columns: Mapping[str, frozenset[str]]
    extensions: Mapping[str, Extension] = {}
    settings: Mapping[str, str] = {}
    system_identifier: str | None = None
    timeline: int | None = None
    started_at: str | None = None
    shared_stats_reset: str | None = None
    reads_all_stats: bool = False
    superuser: bool = False

    @property
    def major(self) -> int:
        """The major version: 18."""
        return self.version // 10_000


class Keep(enum.IntEnum):
    """What a line is worth when a full buffer must thin out, cheapest first."""

    DELTA = 0  # a later full line carries the same counters
    CUMULATIVE = 1  # a later line makes up for it, at a lower resolution
    EVENT = 2  # seen once, never again
    FACT = 3  # others need it to be understood


class Unavailable(msgspec.Struct, frozen=True):
    """A field that this server did not give, and why."""

    field: str
    reason: Reason


class Body:
    """Encoded rows, gathered into parts that each fit into one line."""

    def __init__(self, max_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_bytes = max_bytes
        self.parts: list[bytearray] = [bytearray()]
        self.rows = 0

    def add(self, row: Sequence[Any]) -> int:
        """Encode one row of JSON-ready values at the end of the last part, or of a new one.

        Returns the bytes it took.
        """
        encoded = _encoder.encode(row)
        part = self.parts[-1]
        if part and len(part) + len(encoded) > self._max_bytes:
            part = bytearray()
            self.parts.append(part)
        if part:
            part += b","
        part += encoded
        self.rows += 1
        return len(encoded)


class Sample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The head of a line: everything but the rows. Field names are the wire's."""

    v: int
    set: str
    schema: int
    target: str
    database: str | None = None
    at: str  # the server's clock, RFC 3339 in UTC
    every_s: float
    took_ms: float
    server: str | None = None  # its system identifier
    epoch: str | None = None  # counters count from here
    epoch_changed: bool = False
    delta: bool = False  # rows that did not change are left out
    base: str | None = None  # `at` of the last line that was not a delta
    total_rows: int | None = None  # when fewer rows than that follow
    unavailable: tuple[Unavailable, ...] = ()
    part: tuple[int, int] | None = None
    c: tuple[str, ...]

    def lines(self, body: Body) -> Iterator[bytes]:
        """Yield the line of this sample, or its parts, as UTF-8 JSON without a line break."""
        count = len(body.parts)
        for number, rows in enumerate(body.parts, 1):
            head = self
            if count > 1:
                head = msgspec.structs.replace(self, part=(number, count))
            yield b"".join((_encoder.encode(head)[:-1], b',"r":[', rows, b"]}"))


class Gap(NamedTuple):
    """Numbers without lines, told to the far side in the lines' place; both ends are included."""

    first: int
    last: int
    reason: str

    @property
    def width(self) -> int:
        """How many numbers it covers."""
        return self.last - self.first + 1


class Batch(NamedTuple):
    """Consecutive numbers on their way out, `first` to `last`: lines, and gaps between them.

    `lines` are in the order of the numbers that no gap covers. `stream` says whose numbers they
    are, `life` which start of the agent sends them.
    """

    first: int
    last: int
    lines: tuple[bytes, ...]
    gaps: tuple[Gap, ...] = ()
    stream: str = ""
    life: str = ""

    def numbered(self) -> Iterator[tuple[int, bytes]]:
        """Yield every line with its number."""
        for number, entry in self._entries():
            if not isinstance(entry, Gap):
                yield number, entry

    @property
    def body(self) -> bytes:
        """Newline-delimited JSON (https://github.com/ndjson/ndjson-spec), a gap an object too."""
        return b"".join(
            (_gap_line(entry) if isinstance(entry, Gap) else entry) + b"\n"
            for _, entry in self._entries()
        )

    def _entries(self) -> Iterator[tuple[int, bytes | Gap]]:
        gaps = iter(self.gaps)
        gap = next(gaps, None)
        number = self.first
        for line in (*self.lines, None):
            while gap is not None and gap.first == number:
                yield number, gap
                number = gap.last + 1
                gap = next(gaps, None)
            if line is not None:
                yield number, line
                number += 1


def _gap_line(gap: Gap) -> bytes:
    return msgspec.json.encode({"gap": {"from": gap.first, "to": gap.last, "reason": gap.reason}})


class Address(msgspec.Struct, frozen=True):
    """Where a line belongs: the part of its head that an outlet needs."""

    target: str
    set: str

    @property
    def sampler(self) -> str:
        """The first word of the set: `activity` of `activity.sessions`."""
        return self.set.partition(".")[0]


def address(line: bytes) -> Address:
    """Read where a line belongs, and nothing else of it.

    Raises `msgspec.DecodeError` if it is not a line.
    """
    return _address_decoder.decode(line)


_encoder = msgspec.json.Encoder()
_address_decoder = msgspec.json.Decoder(Address)
