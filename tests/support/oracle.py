"""The oracle: holds what a far side has against what a program promised.

The far side's ledger is a list of entries in the order of their arrival: a line with its number, or
a gap with its reason. The program's journal says which counters (see lines.py) were put into its
buffer, and which of them it then promised to keep. `verify` raises AssertionError at the first
thing that may not be, with the entries around it; else it returns figures.

What must hold: every promised line has arrived, is still held, or lies in a gap; nothing arrived
twice; numbers of a stream follow each other without a hole, counters grow with them; a stream that
another one followed never comes back; every payload is, byte for byte, what was made.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from tests.support.lines import check, excerpt

_AROUND: Final = 3  # entries shown on either side


class Entry(NamedTuple):
    """A line (`first` = `last`) or a gap, as the far side committed it."""

    stream: str
    first: int
    last: int
    line: bytes | None = None
    reason: str = ""

    @classmethod
    def of_line(cls, stream: str, number: int, line: bytes) -> "Entry":
        return cls(stream, number, number, line)

    @classmethod
    def of_gap(cls, stream: str, first: int, last: int, reason: str) -> "Entry":
        return cls(stream, first, last, None, reason)

    @property
    def width(self) -> int:
        return self.last - self.first + 1

    def __str__(self) -> str:
        where = f"{self.stream} {self.first}"
        if self.line is None:
            return f"{where}-{self.last} gap ({self.reason})"
        return f"{where} {excerpt(self.line)}"


def entries(stream: str, first: int, body: bytes) -> list[Entry]:
    """Return what a batch's body (newline-delimited JSON) brings, `first` being its first number.

    Raises ValueError where a gap is not at its place.
    """
    found: list[Entry] = []
    number = first
    for line in body.splitlines():
        if line.startswith(b'{"gap":'):
            gap = msgspec.json.decode(line)["gap"]
            if gap["from"] != number:
                raise ValueError(f"a gap from {gap['from']} in the place of {number}")
            found.append(Entry.of_gap(stream, number, gap["to"], gap["reason"]))
        else:
            found.append(Entry.of_line(stream, number, line))
        number = found[-1].last + 1
    return found


@dataclass
class Journal:
    """The counters that a program put, in order, and those that it promised to keep."""

    put: list[int] = field(default_factory=list)
    committed: set[int] = field(default_factory=set)

    @classmethod
    def read(cls, path: Path) -> "Journal":
        """Read lines `put 17` and `committed 17`; a last line that was cut short is left out."""
        journal = cls()
        for line in path.read_text().splitlines(keepends=True):
            if not line.endswith("\n"):
                break
            word, number = line.split()
            if word == "put":
                journal.put.append(int(number))
            elif word == "committed":
                journal.committed.add(int(number))
            else:
                raise ValueError(f"{path.name}: neither put nor committed: {line!r}")
        return journal


class Figures(NamedTuple):
    """What a run came to, in lines."""

    put: int
    committed: int
    delivered: int
    held: int  # committed, not arrived, still in the program's buffer
    told: int  # committed, not arrived, in a gap
    unpromised: int  # put, never committed, not arrived
    gaps: Mapping[str, int]  # numbers in gaps by reason
    streams: int


def verify(
    ledger: Sequence[Entry],
    journal: Journal,
    *,
    held: Iterable[int] = (),
    counted: Mapping[str, int] | None = None,
    whole: bool = True,
    returning: bool = False,
    ours: Callable[[bytes], bool] = lambda _line: True,
) -> Figures:
    """Hold the ledger against the journal; return figures or raise AssertionError.

    `held` are counters known to be in the buffer or its quarantine still. `counted` are the
    program's own counts of lost lines by reason: the gaps must come to the same. With `whole` every
    stream must begin at number 1; with `returning` one may come back after another one. Of lines
    that are not `ours` only the numbers are looked at.
    """
    arrived = _Arrivals(whole=whole, returning=returning, ours=ours)
    for at, entry in enumerate(ledger):
        try:
            arrived.take(entry)
        except ValueError as error:
            raise AssertionError(f"{error}\n{_around(ledger, at)}") from error
    figures = _settled(arrived, ledger, journal, frozenset(held))
    if counted is not None and dict(figures.gaps) != {k: n for k, n in counted.items() if n}:
        raise AssertionError(f"gaps say {dict(figures.gaps)}, the program counted {dict(counted)}")
    return figures


class _Arrivals:
    """Looks at entries one by one; ValueError when one may not follow the others."""

    def __init__(self, *, whole: bool, returning: bool, ours: Callable[[bytes], bool]) -> None:
        self._whole = whole
        self._returning = returning
        self._ours = ours
        self._next: dict[str, int] = {}
        self._stream = ""
        self.where: dict[int, int] = {}  # the position in the ledger of every counter
        self.gaps: Counter[str] = Counter()
        self.room: list[tuple[int, int]] = [(-1, 0)]  # (counter, width of the gaps after it)
        self._position = 0

    @property
    def streams(self) -> int:
        return len(self._next)

    def take(self, entry: Entry) -> None:
        self._follow(entry)
        if entry.line is None:
            self.gaps[entry.reason] += entry.width
            counter, width = self.room[-1]
            self.room[-1] = (counter, width + entry.width)
        elif self._ours(entry.line):
            self._line(check(entry.line))
        self._position += 1

    def _follow(self, entry: Entry) -> None:
        """Check the numbers of the stream."""
        if entry.first > entry.last or (entry.line is None and not entry.reason):
            raise ValueError("not an entry: a gap without numbers or reason")
        back = entry.stream != self._stream and entry.stream in self._next
        if back and not self._returning:
            raise ValueError("order: a stream came back after another one")
        begins = 1 if self._whole else entry.first
        expected = self._next.get(entry.stream, begins)
        if entry.first < expected:
            raise ValueError(f"number {entry.first} came twice, or late: {expected} was next")
        if entry.first > expected:
            raise ValueError(f"numbers {expected} to {entry.first - 1} are missing without a gap")
        self._stream = entry.stream
        self._next[entry.stream] = entry.last + 1

    def _line(self, counter: int) -> None:
        if counter in self.where:
            raise ValueError(f"duplicate: line {counter} came at entry {self.where[counter]}, too")
        if counter <= self.room[-1][0]:
            raise ValueError(f"order: line {counter} came after line {self.room[-1][0]}")
        self.where[counter] = self._position
        self.room.append((counter, 0))


def _settled(
    arrived: _Arrivals, ledger: Sequence[Entry], journal: Journal, held: frozenset[int]
) -> Figures:
    """Check that every counter arrived, is held, or lies in a gap that has room for it."""
    put = frozenset(journal.put)
    for counter, at in arrived.where.items():
        if counter not in put:
            raise AssertionError(f"line {counter} was never put\n{_around(ledger, at)}")
    if twice := held & arrived.where.keys():
        raise AssertionError(f"held though they arrived: {_some(twice)}")
    if stray := journal.committed - put:
        raise AssertionError(f"the journal promises what it never put: {_some(stray)}")
    missing = sorted(journal.committed - arrived.where.keys() - held)
    told = _in_gaps(missing, arrived, ledger)
    return Figures(
        put=len(put),
        committed=len(journal.committed),
        delivered=len(arrived.where),
        held=len(held & journal.committed),
        told=told,
        unpromised=len(put - journal.committed - arrived.where.keys() - held),
        gaps=dict(arrived.gaps),
        streams=arrived.streams,
    )


def _in_gaps(missing: Sequence[int], arrived: _Arrivals, ledger: Sequence[Entry]) -> int:
    """Check that between two lines that arrived no more are missing than the gaps there cover."""
    rest = deque(missing)
    ends = [counter for counter, _ in arrived.room[1:]] + [None]
    for (before, room), end in zip(arrived.room, ends, strict=True):
        here = []
        while rest and (end is None or rest[0] < end):
            here.append(rest.popleft())
        if len(here) > room:
            at = arrived.where.get(before, 0)
            raise AssertionError(
                f"lost: {_some(here)} ({len(here)} committed lines) after line {before}, "
                f"where gaps cover {room}\n{_around(ledger, at)}"
            )
    return len(missing)


def _some(counters: Iterable[int]) -> str:
    ordered = sorted(counters)
    more = f" and {len(ordered) - 10} more" if len(ordered) > 10 else ""
    return ", ".join(map(str, ordered[:10])) + more


def _around(ledger: Sequence[Entry], at: int) -> str:
    """Show an entry and its neighbours."""
    first = max(0, at - _AROUND)
    return "\n".join(
        f"{'>' if first + n == at else ' '} entry {first + n}: {entry}"
        for n, entry in enumerate(ledger[first : at + _AROUND + 1])
    )
