"""What people do with a buffer: ask how it is, read what waits, look after its quarantine.

All of it goes through the buffer that an agent has open, or that a command opened in its place.
"""

import contextlib
import os
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Final, NamedTuple

from pg_collector.buffer.flight import Holding
from pg_collector.buffer.held import Held
from pg_collector.buffer.memory import ENTRY_BYTES
from pg_collector.buffer.quarantine import Refusal
from pg_collector.buffer.records import Record
from pg_collector.buffer.report import DiskReport, MemoryReport, QuarantineReport, Report
from pg_collector.buffer.segment import Segment
from pg_collector.buffer.spill import SpillingBuffer
from pg_collector.buffer.spool import Spool
from pg_collector.buffer.view import PAGE_BYTES, Finding, examined, walk
from pg_collector.errors import CollectorError, StoreDown, StoreError, StoreFull

GROUPS: Final = 4  # refused lines are put back in groups of a quarter of the memory buffer
LOOK_WITHIN: Final = 2.0  # seconds that a report waits for the disk
ROOM_WITHIN: Final = 5.0  # seconds that a line waits for room in memory


class Page(NamedTuple):
    """Some of what waits, oldest first. `last` is the position to go on from; None: that was all.

    `apart` are lines before all others, of another stream. Without the disk (`partial`) only what
    memory holds is known.
    """

    stream: str
    origin: int
    through: int
    last: int | None
    records: Sequence[Record]
    apart: Sequence[Record] = ()
    partial: bool = False


class Examined(NamedTuple):
    """What is wrong with a segment, and the position to go on from; None where there was none."""

    findings: Sequence[Finding]
    last: int | None
    bytes: int


class Upkeep:
    """The buffer of a running agent, for people. Thread-safe."""

    def __init__(self, buffer: SpillingBuffer) -> None:
        self._buffer = buffer
        self._one_at_a_time = threading.Lock()  # guards the quarantine against two commands

    @property
    def directory(self) -> str:
        """Where the disk buffer lies, links resolved; empty without one."""
        journal = self._buffer.journal
        return str(journal.directory.resolve()) if journal is not None else ""

    def report(self, trouble: CollectorError | None = None) -> Report:
        """Say how the buffer is; `trouble` is that of the delivery."""
        buffer, held = self._buffer, self._buffer.holding()
        journal, account = buffer.journal, self._buffer.account()
        trouble = (journal.trouble if journal is not None else None) or trouble
        seconds = buffer.seconds_remaining()
        waits = held.acked < held.last
        segments, damaged, free = self._on_disk()
        return Report(
            running=True,
            directory=self.directory,
            pid=os.getpid(),
            stream=held.numbering.stream,
            life=held.numbering.life,
            first=held.acked + 1 - held.numbering.origin if waits else None,
            last=held.last - held.numbering.origin if waits else None,
            lines=account.buffered,
            oldest_age_s=buffer.oldest_age(),
            seconds_remaining=seconds if seconds < float("inf") else None,
            memory=MemoryReport(
                lines=sum(one.line is not None for one in (*held.apart, *held.records)),
                bytes=held.bytes,
                capacity_bytes=held.max_bytes,
            ),
            disk=None
            if journal is None
            else DiskReport(
                segments=segments,
                bytes=journal.bytes,
                backlog_bytes=journal.backlog_bytes,
                capacity_bytes=journal.capacity,
                free_bytes=free,
            ),
            quarantine=QuarantineReport(lines=account.quarantined, segments=damaged),
            lost=dict(account.lost),
            trouble=str(trouble) if trouble is not None else "",
            remedy=trouble.remedy if trouble is not None else "",
        )

    def refusals(self) -> tuple[Refusal, ...]:
        """Return the refused lines, oldest first. Raises StoreError."""
        return self._buffer.quarantined()

    @property
    def handled(self) -> int:
        """How many lines have come and gone: what was put before has left when this reaches it."""
        account = self._buffer.account()
        return account.produced - account.buffered

    @property
    def produced(self) -> int:
        """How many lines have come."""
        return self._buffer.account().produced

    def page(self, after: int | None = None, through: int | None = None) -> Page:
        """Return what waits beyond a position, gaps included; nothing is changed by it.

        The first page says how far it goes (`through`): lines that come later are not of it. What
        is delivered between two pages becomes a gap, `acknowledged`. Raises StoreError.
        """
        held = self._buffer.holding()
        start = held.acked if after is None else after
        end = held.last if through is None else min(through, held.last)
        journal = self._buffer.journal
        if journal is not None and not held.loose and max(start, held.acked) + 1 < held.base:
            records = journal.call(lambda spool: _some(_from_disk(spool, start)))
        else:
            records = _some(_from_memory(held, start))
        records = [one._replace(last=min(one.last, end)) for one in records if one.first <= end]
        arrived = records[0].first - 1 if records else min(held.acked, end)
        if arrived > start:
            records.insert(0, Record(start + 1, arrived, None, reason="acknowledged"))
        last = records[-1].last if records else None
        return Page(
            held.numbering.stream,
            held.numbering.origin,
            end,
            last if last is not None and last < end else None,
            records,
            held.apart if after is None else (),
            partial=held.loose and journal is not None,
        )

    def examine(self, after: int | None = None) -> Examined:
        """Read the first segment that ends beyond a position (None: the oldest), changing nothing.

        Raises StoreError.
        """
        journal = self._buffer.journal
        if journal is None:
            return Examined((), None, 0)
        return journal.call(lambda spool: _examined(spool, after or 0))

    def requeue(self, names: Collection[str] | None) -> int:
        """Put refused lines (None: all) behind everything else, as new ones; return how many.

        Raises CollectorError where one is not there, StoreError where they cannot be kept safe: the
        rest then stays in quarantine.
        """
        with self._one_at_a_time:
            chosen = _chosen(self._buffer.quarantined(), names)
            for group in _groups(chosen, self._buffer.holding().max_bytes // GROUPS):
                self._requeue(group)
            return len(chosen)

    def discard(self, names: Collection[str] | None) -> int:
        """Delete refused lines (None: all), counted as lost; return how many. Raises as above."""
        with self._one_at_a_time:
            chosen = {one.name for one in _chosen(self._buffer.quarantined(), names)}
            return self._removed(chosen, "purged")

    def purge(self) -> int:
        """Give up everything that waits, declared as a gap; return how many lines that were.

        For a command that opened the buffer in the place of an agent. Raises StoreError.
        """
        journal = self._buffer.journal
        if journal is None:
            return 0
        journal.flush()
        lines = journal.call(Spool.purge)
        self._buffer.lost(lines, "purged")
        return lines

    def _on_disk(self) -> tuple[int, int, int]:
        """Return how many segments there are, damaged ones, and the free bytes of the volume."""
        journal = self._buffer.journal
        if journal is None:
            return 0, 0, 0

        def look(spool: Spool) -> tuple[int, int, int]:
            damaged = len(spool.quarantine.segments)
            return len(spool.held), damaged, spool.place.free_bytes()[0]

        try:
            return journal.call(look, LOOK_WITHIN)
        except StoreError:  # its trouble says so
            return 0, 0, 0

    def _requeue(self, refusals: Sequence[Refusal]) -> None:
        """Put some back; they leave quarantine once they are safe elsewhere."""
        put: set[str] = set()
        position = 0
        try:
            for refusal in refusals:
                line = refusal.line.encode()
                if not self._buffer.wait_for_room(len(line), ROOM_WITHIN):
                    raise StoreFull(
                        "the memory buffer has no room",
                        remedy="Wait until lines are delivered or written to disk, then go on.",
                    )
                position = self._buffer.requeue(line)
                put.add(refusal.name)
        finally:
            if put:
                self._settle(put, position)

    def _settle(self, names: set[str], position: int) -> None:
        """Let lines that were put back leave quarantine."""
        if self._buffer.journal is not None:
            self._buffer.journal.flush()
            if not self._buffer.safe(position):
                raise StoreDown(
                    "the lines wait again, and are in quarantine still: they are not on disk yet",
                    remedy="pgc buffer quarantine list shows which; purge them once they arrived.",
                )
        self._removed(names, "")

    def _removed(self, names: set[str], reason: str) -> int:
        """Take lines out of quarantine; return how many were there."""
        journal = self._buffer.journal

        def remove(spool: Spool) -> int:
            return sum(spool.quarantine.remove(name) for name in names)

        count = journal.call(remove) if journal is not None and journal.trouble is None else 0
        return count + self._buffer.discard_refused(count, names, reason)


def _examined(spool: Spool, after: int) -> Examined:
    held = next((one for one in spool.held if one.last > max(after, spool.given_up)), None)
    if held is None:
        return Examined((), None, 0)
    findings = tuple(examined(held, _as_it_is))
    return Examined(findings, held.last, held.segment.bytes())


def _from_disk(spool: Spool, after: int) -> Iterator[Record]:
    return walk(spool.state, spool.held, after, spool.top, opened=_as_it_is, holes=spool.holes)


def _as_it_is(held: Held) -> AbstractContextManager[Segment]:
    return contextlib.nullcontext(held.segment)


def _from_memory(held: Holding, after: int) -> Iterator[Record]:
    for record in held.records:
        if record.last > after:
            yield record._replace(first=max(record.first, after + 1))


def _some(records: Iterator[Record]) -> list[Record]:
    """Return the first records, about so many bytes as one reads at once."""
    found: list[Record] = []
    size = 0
    for record in records:
        found.append(record)
        size += len(record.line or b"")
        if size >= PAGE_BYTES:
            break
    return found


def _groups(refusals: Sequence[Refusal], max_bytes: int) -> Iterator[list[Refusal]]:
    """Yield all, in order, in groups of at most so many bytes, but at least one."""
    group: list[Refusal] = []
    size = 0
    for one in refusals:
        size += len(one.line) + ENTRY_BYTES
        if group and size > max_bytes:
            yield group
            group, size = [], len(one.line) + ENTRY_BYTES
        group.append(one)
    if group:
        yield group


def _chosen(refusals: Sequence[Refusal], names: Collection[str] | None) -> list[Refusal]:
    if names is None:
        return list(refusals)
    there = {refusal.name: refusal for refusal in refusals}
    for name in names:
        if name not in there:
            raise CollectorError(
                f"no line {name} in quarantine", remedy="pgc buffer quarantine list names them."
            )
    return [there[name] for name in dict.fromkeys(names)]
