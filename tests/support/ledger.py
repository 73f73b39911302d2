"""What a far side keeps: every line once, in order, and the gaps; durable if it has a file."""

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec

from tests.support.oracle import Entry

URN = "urn:pg-collector:problem:"


class Stored(NamedTuple):
    """A line in the store."""

    stream: str
    number: int
    line: bytes


class LifeConflict(Exception):
    """A life of the stream that is older than the last one, or another one of the same age."""


class OutOfSequence(Exception):
    """Numbers between what is stored and what comes are missing."""

    def __init__(self, expected: int) -> None:
        super().__init__(f"expected {expected}")
        self.expected = expected


@dataclass
class Stream:
    """One stream: through which number all is known, and as what."""

    through: int = 0
    life: tuple[int, str] = (0, "")
    gaps: list[Entry] = field(default_factory=list)
    rejected: dict[int, str] = field(default_factory=dict)


class Ledger:
    """The store of a far side. Thread-safe. What `file` holds is taken over."""

    def __init__(self, file: Path | None = None) -> None:
        self._lock = threading.Lock()  # guards all that follows
        self.streams: dict[str, Stream] = {}
        self.entries: list[Entry] = []  # for oracle.verify: what was rejected is a gap there
        self.lines: list[Stored] = []
        self.duplicates = 0
        self._fd = -1
        if file is not None:
            self._open(file)

    def commit(
        self,
        stream: str,
        life: str,
        entries: Sequence[Entry],
        rejected: dict[int, str] | None = None,
    ) -> tuple[int, dict[int, str]]:
        """Store what is new of consecutive entries; return the duplicates, and what was rejected.

        Raises LifeConflict and OutOfSequence, and stores nothing then.
        """
        age, _, start = life.partition("/")
        with self._lock:
            known = self.streams.setdefault(stream, Stream())
            self._refuse_old(known, int(age), start)
            if entries[0].first > known.through + 1:
                raise OutOfSequence(known.through + 1)
            fresh = [entry for entry in entries if entry.last > known.through]
            record = _Record(stream, life, tuple(fresh), rejected or {})
            if fresh and self._fd >= 0:
                os.write(self._fd, msgspec.json.encode(record) + b"\n")
                os.fdatasync(self._fd)
            self._take(known, record)
            known.life = (int(age), start)
            duplicates = sum(entry.line is not None for entry in entries) - sum(
                entry.line is not None for entry in fresh
            )
            self.duplicates += duplicates
            first, last = entries[0].first, entries[-1].last
            return duplicates, {n: s for n, s in known.rejected.items() if first <= n <= last}

    def of(self, stream: str) -> list[Stored]:
        """Return the lines of one stream, as they were stored."""
        return [one for one in list(self.lines) if one.stream == stream]

    def check(self) -> None:
        """Fail unless each stream is complete: every number once, in order, as line or as gap."""
        for name, stream in list(self.streams.items()):
            numbers = [one.number for one in self.of(name)]
            assert numbers == sorted(set(numbers)), f"{name}: doubled, or out of order"
            covered = set(numbers) | set(stream.rejected)
            for gap in stream.gaps:
                covered |= set(range(gap.first, gap.last + 1))
            assert covered >= set(range(1, stream.through + 1)), f"{name}: numbers are missing"

    def forget(self) -> None:
        """Be a far side that lost its store."""
        with self._lock:
            self.streams.clear()
            self.lines.clear()
            self.entries.clear()

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _refuse_old(self, known: Stream, age: int, start: str) -> None:
        last_age, last_start = known.life
        if last_age and (age < last_age or (age == last_age and start != last_start)):
            raise LifeConflict

    def _take(self, known: Stream, record: "_Record") -> None:
        for entry in record.entries:
            kept = entry
            if entry.line is None:
                known.gaps.append(entry)
            elif entry.first in record.rejected:
                known.rejected[entry.first] = record.rejected[entry.first]
                kept = Entry.of_gap(entry.stream, entry.first, entry.last, "refused")
            else:
                self.lines.append(Stored(record.stream, entry.first, entry.line))
            self.entries.append(kept)
            known.through = entry.last

    def _open(self, file: Path) -> None:
        self._fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        records, whole = _read(file)
        if whole < file.stat().st_size:  # torn by a kill; it was not acknowledged
            os.ftruncate(self._fd, whole)
        for record in records:
            stream = self.streams.setdefault(record.stream, Stream())
            self._take(stream, record)
            age, _, start = record.life.partition("/")
            stream.life = (int(age), start)


class _Record(msgspec.Struct, frozen=True):
    """What one commit brings, as a line of the file."""

    stream: str
    life: str
    entries: tuple[Entry, ...]
    rejected: dict[int, str]


def _read(file: Path) -> tuple[list[_Record], int]:
    """Return the whole records of a file, and the bytes that they take."""
    content = file.read_bytes()
    whole = content.rfind(b"\n") + 1
    decoder = msgspec.json.Decoder(_Record)
    return [decoder.decode(text) for text in content[:whole].splitlines()], whole
