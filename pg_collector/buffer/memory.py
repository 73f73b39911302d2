"""The memory tier: numbered records in a deque, in order and without a hole between them."""

from collections import deque
from collections.abc import Iterator
from itertools import takewhile
from typing import Final

from pg_collector.buffer.records import Record
from pg_collector.buffer.thinning import LEVELS, given_up

# What CPython takes for one record beside the line's own bytes: tuple, numbers, times, headers.
ENTRY_BYTES: Final = 256


def size(record: Record) -> int:
    """Return the bytes that a record takes in memory."""
    return len(record.line or b"") + ENTRY_BYTES


class MemoryTier:
    """Records from position `base` on. Its owner's lock guards it."""

    def __init__(self, base: int) -> None:
        self.base = base
        self.bytes = 0
        self._records: deque[Record] = deque()

    def __len__(self) -> int:
        """Return how many records are here, gaps included."""
        return len(self._records)

    @property
    def end(self) -> int:
        """The position after the last record."""
        return self._records[-1].last + 1 if self._records else self.base

    @property
    def head(self) -> Record | None:
        """The oldest record."""
        try:
            return self._records[0]
        except IndexError:
            return None

    def add(self, record: Record, *, fixed: int = 0) -> None:
        """Put a record at the end; it begins where the last one ended.

        Gaps of one reason become one, but for those that begin up to position `fixed`.
        """
        before = self._records[-1] if self._records else None
        if before is not None and before.first > fixed and _joins(before, record):
            self._records[-1] = before._replace(last=record.last)
            return
        self._records.append(record)
        self.bytes += size(record)

    def take_oldest(self) -> Record:
        """Take the oldest record away."""
        record = self._records.popleft()
        self.bytes -= size(record)
        self.base = record.last + 1
        return record

    def forget(self, through: int) -> None:
        """Take away what lies up to a position; a gap that goes beyond it is cut."""
        while self._records and self._records[0].last <= through:
            self.take_oldest()
        if self._records and self._records[0].first <= through:
            self._records[0] = self._records[0]._replace(first=through + 1)
            self.base = through + 1

    def until(self, through: int) -> Iterator[Record]:
        """Yield the records that begin up to a position, oldest first."""
        return takewhile(lambda record: record.first <= through, self._records)

    def after(self, position: int) -> list[Record]:
        """Return the records that begin after a position, oldest first."""
        found = list(takewhile(lambda record: record.first > position, reversed(self._records)))
        found.reverse()
        return found

    def put_first(self, record: Record) -> None:
        """Put a record before everything else; it ends where the oldest record begins."""
        self._records.appendleft(record)
        self.bytes += size(record)
        self.base = record.first

    def give_up(self, position: int, reason: str) -> Record | None:
        """Put a gap in the place of a line, and return the line; None if it is not here."""
        for index, record in enumerate(self._records):
            if record.first == position and record.line is not None:
                self._records[index] = record._replace(line=None, reason=reason)
                self.bytes -= len(record.line)
                return record
        return None

    def shrink(self, to_bytes: int, *, above: int, fixed: int) -> tuple[set[int], set[int]]:
        """Give lines up until the rest fits: resolution first, then the oldest.

        Lines up to position `above` are spared while others remain to be thinned out, those up to
        `fixed` always. Returns the positions of the lines that were thinned, and of the oldest
        that went.
        """
        thinned: set[int] = set()
        for level in range(1, LEVELS + 1):
            if self.bytes <= to_bytes:
                return thinned, set()
            lines = (
                (record.first, record.keep, record.line)
                for record in self._records
                if record.line is not None and record.first > max(above, fixed)
            )
            gone = given_up(lines, level)
            self._replace(gone, "thinned", fixed)
            thinned |= gone
        return thinned, self._give_up_oldest(self.bytes - to_bytes, fixed)

    def _give_up_oldest(self, excess: int, fixed: int) -> set[int]:
        """Make one gap of the oldest records, so that many bytes are free; return their lines."""
        lines: set[int] = set()
        spared = [self.take_oldest() for _ in range(sum(1 for _ in self.until(fixed)))]
        first, free = self.base, -ENTRY_BYTES
        while self._records and free < excess:
            record = self.take_oldest()
            free += size(record)
            if record.line is not None:
                lines.add(record.first)
        if self.base > first:
            self.put_first(Record(first, self.base - 1, None, reason="memory_full"))
        for record in reversed(spared):
            self.put_first(record)
        return lines

    def rebase(self, base: int) -> None:
        """Let the records begin at another position."""
        by = base - self.base
        moved = [
            record._replace(first=record.first + by, last=record.last + by)
            for record in self._records
        ]
        self._records = deque(moved)
        self.base = base

    def _replace(self, chosen: set[int], reason: str, fixed: int) -> None:
        before, self._records, self.bytes = self._records, deque(), 0
        for record in before:
            if record.line is not None and record.first in chosen:
                self.add(record._replace(line=None, reason=reason), fixed=fixed)
            else:
                self.add(record, fixed=fixed)


def _joins(before: Record, record: Record) -> bool:
    return before.line is None and record.line is None and before.reason == record.reason
