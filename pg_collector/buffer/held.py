"""A segment on the shelf, and what its name tells of it."""

import re
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Final

from pg_collector.buffer.records import Record
from pg_collector.buffer.segment import Segment, Survey
from pg_collector.errors import StoreDamaged

_OPEN: Final = re.compile(r"seg-(\d{16})")
COMPLETE: Final = re.compile(r"(?:seg|tmp)-(\d{16})-(\d{16})-(\d+)-(\d)")


@dataclass
class Held:
    """A segment, and what is known of it without looking.

    `lines` are those that are neither acknowledged nor given up, `total` all of them.
    """

    segment: Segment
    first: int
    last: int
    lines: int
    total: int
    _: KW_ONLY
    level: int = 0
    complete: bool = False
    bytes: int = 0
    suspect: bool = False  # a row of it is damaged: it is kept to be looked at

    @property
    def name(self) -> str:
        """What it is called when complete."""
        return f"{self.first:016d}-{self.last:016d}-{self.total}-{self.level}"

    def shown_by(self, survey: Survey) -> bool:
        """Whether a look shows what the name of a complete segment tells."""
        return survey.whole and survey[:3] == (self.first, self.last, self.total)

    def read(
        self, first: int, max_lines: int, max_bytes: int
    ) -> list[tuple[int, Record | StoreDamaged]]:
        """Return rows as `Segment.read` does, but none that reaches beyond the last number."""
        rows = self.segment.read(first, max_lines, max_bytes)
        return [
            (number, row)
            for number, row in rows
            if number <= self.last and (isinstance(row, StoreDamaged) or row.last <= self.last)
        ]


def named(path: Path, until: int | None) -> Held | None:
    """Return what a segment's name tells; None where that is no segment.

    The name of one that is not complete tells where it begins; it is taken to end at `until`, and
    to hold one line where nobody knows.
    """
    segment = Segment(path)
    if found := COMPLETE.fullmatch(path.name):
        first, last, lines, level = map(int, found.groups())
        return Held(segment, first, last, lines, lines, level=level, complete=True)
    if found := _OPEN.fullmatch(path.name):
        first = int(found[1])
        last = first if until is None else max(first - 1, until)
        return Held(segment, first, last, last - first + 1, last - first + 1)
    return None
