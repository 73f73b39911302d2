"""A batch on its way: what was peeked, and what became of its lines meanwhile."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pg_collector.buffer.memory import MemoryTier
from pg_collector.buffer.records import Record
from pg_collector.sample import Batch, Gap


@dataclass
class Numbering:
    """Whose numbers positions become: a stream's numbers are positions less its origin."""

    stream: str
    origin: int
    life: str

    def batch(self, records: Sequence[Record]) -> Batch:
        """Return consecutive records as a batch of this stream."""
        by = self.origin
        return Batch(
            records[0].first - by,
            records[-1].last - by,
            tuple(record.line for record in records if record.line is not None),
            tuple(Gap(r.first - by, r.last - by, r.reason) for r in records if r.line is None),
            self.stream,
            self.life,
        )


@dataclass
class Flight:
    """The records of the batch that was peeked last."""

    numbering: Numbering
    records: Sequence[Record]
    gone: set[int] = field(default_factory=set)  # lines that are counted elsewhere by now

    @property
    def last(self) -> int:
        """The last position."""
        return self.records[-1].last

    def position(self, number: int) -> int:
        """Return the position of one of the stream's numbers."""
        return number + self.numbering.origin

    def settled(self, number: int) -> int:
        """Return the position up to which all is acknowledged; a gap is so as a whole."""
        position = self.position(number)
        for record in self.records:
            if record.first <= position < record.last:
                return record.first - 1
        return position

    def line(self, position: int) -> Record | None:
        """Return a line of the batch; None if it is counted elsewhere, or never was in it."""
        if position in self.gone:
            return None
        found = (r for r in self.records if r.first == position and r.line is not None)
        return next(found, None)

    @property
    def oldest(self) -> Record | None:
        """The first line that is counted nowhere else; None if there is none."""
        found = (r for r in self.records if r.line is not None and r.first not in self.gone)
        return next(found, None)

    def first_line(self) -> int:
        """Return the position of its first line; 0 if there are only gaps."""
        return next((record.first for record in self.records if record.line is not None), 0)

    def lines(self, after: int, through: int) -> list[int]:
        """Return the positions of the lines in between that are counted nowhere else."""
        return [
            record.first
            for record in self.records
            if record.line is not None
            and after < record.first <= through
            and record.first not in self.gone
        ]


@dataclass
class Stragglers:
    """Lines sent without the disk, whose fate was open when the disk came back."""

    numbering: Numbering
    tier: MemoryTier


class Holding(NamedTuple):
    """What memory holds at one moment, and how its positions are numbered."""

    numbering: Numbering
    acked: int
    records: tuple[Record, ...]
    base: int  # what is older lies on disk
    bytes: int
    max_bytes: int
    apart: tuple[Record, ...]  # sent without the disk, first of all, under numbers of their own
    loose: bool  # the disk's positions are others

    @property
    def last(self) -> int:
        """The last position."""
        return self.records[-1].last if self.records else self.base - 1


def within(records: Iterable[Record], max_bytes: int, max_lines: int) -> list[Record]:
    """Return the first records that keep to both limits as a body, but at least one line."""
    found: list[Record] = []
    lines = body = 0
    for record in records:
        if record.line is not None:
            lines += 1
            body += len(record.line) + 1
            if lines > 1 and (lines > max_lines or body > max_bytes):
                break
        found.append(record)
    return found
