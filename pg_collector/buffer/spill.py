"""The buffer between sampling and sending: memory in front, the disk behind it, one order.

Every line has a position. The disk holds positions up to `written`, memory the newest ones, and
both overlap: what is on disk and still fits in memory is read from memory. At any moment

    produced = delivered + buffered + quarantined + sum(lost)

holds, `account()` shows it, and the metrics `pg_collector_lines_*` say the same. What each
durability promises is in docs/specs/buffer.md.
"""

import contextlib
import logging
import math
import threading
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Final

from pg_collector.buffer.accounts import Account, Accounts
from pg_collector.buffer.flight import Flight, Holding, Numbering, Stragglers, within
from pg_collector.buffer.journal import Journal
from pg_collector.buffer.memory import ENTRY_BYTES, MemoryTier, size
from pg_collector.buffer.quarantine import Refusal
from pg_collector.buffer.records import Record
from pg_collector.buffer.spool import Spool
from pg_collector.clock import Clock, rfc3339
from pg_collector.config.model import Durability
from pg_collector.errors import StoreDown, StoreError
from pg_collector.metrics import Metrics
from pg_collector.sample import Batch, Gap, Keep

log = logging.getLogger(__name__)

QUARANTINE_SHARE: Final = 8  # without a disk, refused lines may take one eighth of the memory cap
SPILL_AGE: Final = 5.0  # seconds that `overflow` keeps a line in memory while nothing is delivered
LOOSE_AFTER: Final = 5.0  # seconds of a disk in trouble before lines are sent without it
GROUP_BYTES: Final = 1024 * 1024  # written at once
UNREADABLE_AFTER: Final = 30.0  # seconds of trouble before newer lines overtake unreadable ones
ACK_WITHIN: Final = 2.0  # seconds that an acknowledgement waits for the disk
GLANCE: Final = 0.005  # seconds that who only looks waits for who changes something
PROMISED: Final = 1000  # numbers that `overflow` promises ahead of using them


class SpillingBuffer:
    """A `Buffer` of two tiers. Thread-safe; one thread peeks, acks and what belongs to that."""

    def __init__(
        self,
        memory_max: int,
        metrics: Metrics,
        clock: Clock,
        durability: Durability = Durability.MEMORY,
    ) -> None:
        self._max_bytes = memory_max
        self._clock = clock
        self._durability = durability
        self.journal: Journal | None = None
        self.delivering: Callable[[], bool] = lambda: True  # whether delivery is well
        self._start = uuid.uuid4()
        self._lock = threading.Lock()  # guards all that follows
        self._room = threading.Condition(self._lock)
        self._tier = MemoryTier(1)
        self._stragglers: Stragglers | None = None
        self._numbering = self._own_numbering(0)
        self._loose = True  # the numbers are of this process only: no disk, or none that works
        self._acked = 0
        self._written = 0
        self._writing = 0  # positions up to here are being written: they are what they are
        self._exposed = 0  # positions up to here may have arrived somewhere
        self._resent = 0  # positions up to here were counted as delivered before
        self._promised = 0
        self._late = 0  # acknowledged lines that the disk has not heard of
        self._left_at = 0, 0  # acknowledged and used of the disk's stream, when it was left
        self._pinned = 0  # what is in memory up to here is not on disk any more
        self._flight: Flight | None = None
        self._refused: list[Refusal] = []  # quarantine, where there is no disk for it
        self._unwritten = 0  # bytes that memory alone has
        self._urged = False  # the journal was told that they are many
        self._backlog = False
        self._disk_head_created = 0.0  # 0: not known
        self._oldest_age = 0.0  # when somebody looked last
        self._began_at = clock.monotonic()
        self._bytes_put = 0
        self._accounts = Accounts(metrics)
        self._lag = metrics.delivery_lag_seconds
        metrics.buffer_capacity_bytes.labels("memory").set(self._max_bytes)
        metrics.buffer_memory_bytes.set_function(lambda: self.memory_bytes)
        metrics.buffer_oldest_sample_age_seconds.set_function(self.oldest_age)

    @property
    def memory_bytes(self) -> int:
        """What its lines take in memory, bookkeeping included."""
        return self._tier.bytes

    @property
    def memory_max(self) -> int:
        """What they may take."""
        return self._max_bytes

    # What the runner calls.

    @property
    def losses(self) -> int:
        """How many lines were lost or set aside since the start.

        Whoever compares with an earlier line must start anew when this number moves.
        """
        return self._accounts.losses

    def put(self, line: bytes, keep: Keep) -> int:
        """Take a line; return its number. A full buffer gives up what matters least for it."""
        return self._add(line, keep, self._accounts.produce)[1]

    def _add(self, line: bytes, keep: Keep, count: Callable[[int], None]) -> tuple[int, int]:
        """Take a line that `count` accounts for; return its position and its number."""
        with self._lock:
            position = self._tier.end
            count(1)
            self._bytes_put += len(line)
            now, wall = self._clock.monotonic(), self._clock.now().timestamp()
            record = Record(position, position, line, keep, created=wall, since=now)
            if size(record) > self._max_bytes:  # emptying the buffer would not make room
                gap = record._replace(line=None, reason="too_large")
                self._tier.add(gap, fixed=self._fixed())
                self._accounts.lose(1, "too_large")
                stirs = True
            else:
                stirs = not self._unwritten
                self._tier.add(record)
                self._unwritten += size(record)
                self._make_room()
            urgent = self._unwritten > self._max_bytes // 2 and not self._urged
            self._urged = self._urged or urgent
            number = position - self._numbering.origin
        if self.journal is not None and (urgent or stirs):
            (self.journal.urge if urgent else self.journal.stir)()
        self._tell_backlog()
        return position, number

    def wait_for_room(self, size: int, timeout: float) -> bool:
        """Wait until a line of `size` bytes fits without a loss; return whether it does."""
        with self._room:
            needed = size + ENTRY_BYTES
            return self._room.wait_for(lambda: self._unwritten + needed <= self._max_bytes, timeout)

    # What the sender calls.

    def peek(self, max_bytes: int, max_lines: int) -> Batch | None:
        """Return the oldest lines, and the gaps between them, without taking them away.

        They take at most `max_bytes` as a body and are at most `max_lines`, but always one if
        there is any. Raises StoreError where they lie on a disk that does not answer.
        """
        with self._lock:
            numbering, records = self._from_memory(max_bytes, max_lines)
            if records is not None:
                return self._took_off(numbering, records)
            first = self._acked + 1
        records = self._from_disk(first, max_bytes, max_lines)
        with self._lock:
            lines = (record.created for record in records if record.line is not None)
            self._disk_head_created = next(lines, self._disk_head_created)
            return self._took_off(self._numbering, records)

    def ack(self, through: int) -> None:
        """Forget the lines up to that number, as delivered. What is gone already stays as it is."""
        flight = self._flight
        if flight is None:
            return
        position = flight.settled(through)
        with self._lock:
            stragglers = self._stragglers
            if stragglers is not None and stragglers.numbering is flight.numbering:
                stragglers.tier.forget(position)
                if not len(stragglers.tier):
                    self._stragglers = None
                self._tell_lag(flight)
                self._accounts.deliver(len(flight.lines(0, position)))
                return
            if flight.numbering is not self._numbering or position <= self._acked:
                return
            self._tell_lag(flight)
            if self._loose or self.journal is None:
                self._acked_in_memory(flight, position, given_up=0)
                return
            journal, written = self.journal, self._written
        given_up = self._ack_on_disk(journal, flight, position, written)
        with self._lock:
            self._acked_in_memory(flight, position, given_up=given_up)
            self._written = max(self._written, position)
        self._tell_backlog()

    def set_aside(self, number: int, reason: str) -> None:
        """Move a line of the batch into quarantine; a gap takes its place."""
        flight = self._flight
        position = flight.position(number) if flight is not None else 0
        record = flight.line(position) if flight is not None else None
        if flight is None or record is None or record.line is None:
            return
        refusal = Refusal(
            stream=flight.numbering.stream,
            number=number,
            reason=reason,
            at=rfc3339(self._clock.now()),
            line=record.line.decode("utf-8", "replace"),
        )
        self._keep_refusal(refusal)
        with self._lock:
            flight.gone.add(position)
            stragglers = self._stragglers
            if stragglers is not None and stragglers.numbering is flight.numbering:
                stragglers.tier.give_up(position, "refused")
                return
            self._tier.give_up(position, "refused")
            on_disk = not self._loose and position <= self._written
        if on_disk and position == flight.first_line() and self.journal is not None:
            self.journal.call(lambda spool: spool.give_up(position, "refused", 1))

    def rewind(self, expected: int) -> None:
        """Go back to a line that was acknowledged before; what is gone of it becomes a gap."""
        with self._lock:
            position = expected + self._numbering.origin
            if not self._numbering.origin < position <= self._acked or self._stragglers:
                return
            gap = Record(position, self._acked, None, reason="acknowledged")
            self._resent = max(self._resent, self._acked)
            journal = None if self._loose else self.journal
            if journal is None:
                self._tier.put_first(gap)
                self._acked = position - 1
                return
        journal.call(lambda spool: spool.rewind(position))
        with self._lock:
            self._acked = position - 1

    def renumber(self) -> None:
        """Take a new stream: what waits is numbered from 1."""
        with self._lock:
            if self._stragglers is not None:
                self._stragglers.numbering = self._own_numbering(self._stragglers.tier.base - 1)
                return
            journal = None if self._loose else self.journal
            if journal is None:
                self._numbering = self._own_numbering(self._acked)
                return
        stream = uuid.uuid4()
        journal.call(lambda spool: spool.renumber(stream))
        with self._lock:
            self._numbering = Numbering(str(stream), self._acked, self._numbering.life)

    # What the journal calls, in its thread.

    @property
    def group_bytes(self) -> int:
        """How many bytes are written at once."""
        return min(GROUP_BYTES, self._max_bytes // 4)

    def due(self, *, everything: bool) -> Sequence[Record]:
        """Return records to write to disk now, in order; `everything` before the end."""
        with self._lock:
            if self._loose:
                return ()
            fresh = self._tier.after(max(self._written, self._acked))
            if self._durability is Durability.OVERFLOW and not everything:
                fresh = self._overdue(fresh)
            found: list[Record] = []
            room = self.group_bytes
            for record in fresh:
                room -= size(record)
                if found and room < 0:
                    break
                found.append(record)
            self._writing = found[-1].last if found else 0
            return found

    @property
    def waits(self) -> bool:
        """Whether anything is not on disk, nor delivered, yet."""
        return self._unwritten > 0

    def to_promise(self) -> int:
        """Return the position up to which numbers may leave without having been written."""
        if self._durability is not Durability.OVERFLOW or self._loose:
            return 0
        with self._lock:
            if self._tier.end + PROMISED // 2 <= self._promised:
                return 0
            return self._tier.end + PROMISED

    def promised(self, through: int) -> None:
        """Hear that the promise is on disk."""
        self._promised = max(self._promised, through)

    def spared(self) -> tuple[int, int, bool]:
        """Return what Spool.append takes: above, below, and whether there is no other way."""
        with self._lock:
            pressed = self._unwritten > self._max_bytes * 3 // 4
            return max(self._acked, self._exposed), self._tier.base, pressed

    def written(self, through: int) -> None:
        """Hear that records up to there are on disk; 0 if they could not be written."""
        with self._lock:
            self._writing = 0
            self._written = max(self._written, through)
            self._make_room()
            self._recount()
        self._tell_backlog()

    def lost(self, count: int, reason: str) -> None:
        """Count lines of the disk that are lost."""
        with self._lock:
            self._accounts.lose(count, reason)

    def rescue(self, first: int, last: int) -> int:
        """Keep what memory has of a damaged part of the disk; return how many lines that are.

        The newest are written again; older ones stay in memory until they are delivered.
        """
        with self._lock:
            if self._loose:
                return 0
            if last >= self._written:
                self._written = max(
                    self._acked, min(self._written, max(first, self._tier.base) - 1)
                )
            else:
                self._pinned = max(self._pinned, last)
            self._recount()
            return sum(
                record.line is not None and record.first >= first
                for record in self._tier.until(last)
            )

    def found(self, spool: Spool, opened: Mapping[str, int] | None) -> None:
        """Go on with the disk: what memory holds goes behind what is there.

        `opened` is given when the spool was opened anew: what was lost in it before.
        """
        refused = len(spool.quarantine) if opened is not None else 0  # this asks the disk
        with self._lock:
            another = self._loose or str(spool.state.stream) != self._numbering.stream
            if opened is not None:
                twice = 0 if another else self._found_again(spool.top)
                self._accounts.inherit(
                    waiting=spool.lines - twice, quarantined=refused, lost=opened
                )
            if another:
                self._join(spool)
        self._tell_backlog()

    def removed(self, spool: Spool) -> int:
        """Hear that the directory is gone; return the position up to which lines are lost.

        What memory still holds of them is written again.
        """
        with self._lock:
            gone = self._accounts.quarantined - len(self._refused)
            self._accounts.lose_quarantined(gone, "store_truncated")
            if self._loose:
                self._accounts.lose(spool.lines, "store_truncated")
                return spool.top
            first = max(self._tier.base, self._acked + 1)
            kept = sum(r.line is not None for r in self._tier.until(self._written))
            self._accounts.lose(max(0, spool.lines - kept), "store_truncated")
            if self._flight is not None:
                self._flight.gone.update(self._flight.lines(0, first - 1))
            self._written = first - 1
            self._recount()
            return first - 1

    # The end, and what people ask.

    def write_down(self) -> None:
        """Write what waits in memory to disk now, where there is one that takes it."""
        if self.journal is not None:
            try:
                self.journal.flush()
            except StoreError as error:
                log.warning("not everything could be written to disk: %s", error)

    def close(self, deadline: float) -> int:
        """Write what memory holds to disk, within so many seconds; return how many lines are lost.

        Without a disk, or with one that does not take them, everything that is left is.
        """
        if self.journal is not None:
            self.journal.stop(deadline)
        with self._lock:
            stuck = self._tier.after(
                self._acked if self._loose else max(self._written, self._acked)
            )
            left = sum(record.line is not None for record in stuck)
            if self._stragglers is not None:
                records = self._stragglers.tier.after(0)
                left += sum(record.line is not None for record in records)
            self._accounts.lose(left, "shutdown")
            refused = len(self._refused)
            self._refused.clear()
            self._accounts.lose_quarantined(refused, "shutdown")
            return left + refused

    def account(self) -> Account:
        """Return the counts of one moment."""
        with self._lock:
            return self._accounts.account()

    def glimpse(self) -> Account:
        """Return the counts without waiting for anybody: of one moment, or nearly so."""
        with self._glance():
            return self._accounts.account()

    def quarantined(self) -> tuple[Refusal, ...]:
        """Return the refused lines that are kept. Raises StoreError."""
        found: list[Refusal] = []
        if self.journal is not None:
            found += self.journal.call(lambda spool: [one for _, one in spool.quarantine])
        with self._lock:
            return (*found, *self._refused)

    # What people do with it, through upkeep.py.

    def holding(self) -> Holding:
        """Return what memory holds, and how its positions are numbered."""
        with self._lock:
            return Holding(
                self._numbering, self._acked, tuple(self._tier.after(0)), self._tier.base,
                self._tier.bytes, self._max_bytes, () if self._stragglers is None
                else tuple(self._stragglers.tier.after(0)), self._loose,
            )  # fmt: skip

    def requeue(self, line: bytes) -> int:
        """Put a line from quarantine behind all others; return its position."""
        return self._add(line, Keep.EVENT, self._accounts.requeue)[0]

    def safe(self, position: int) -> bool:
        """Whether a line is where a crash does not reach it: on disk, or delivered."""
        with self._lock:
            return position <= max(self._acked, 0 if self._loose else self._written)

    def discard_refused(self, count: int, names: Collection[str], reason: str) -> int:
        """Forget refused lines of memory; return how many.

        They and `count` more, which were on disk, are lost for a reason; without one they are
        counted elsewhere.
        """
        with self._lock:
            kept = [one for one in self._refused if one.name not in names]
            gone = len(self._refused) - len(kept)
            self._refused = kept
            if reason:
                self._accounts.lose_quarantined(count + gone, reason)
            return gone

    def oldest_age(self) -> float:
        """Return the seconds that the oldest line has waited; 0 if none does."""
        with self._glance() as held:
            if held:
                self._oldest_age = self._age()
            return self._oldest_age  # or what it was when somebody looked last

    def _age(self) -> float:
        """Return the same; with the lock held."""
        if not self._accounts.buffered:
            return 0.0
        head = self._tier.head
        if head is not None and (self._loose or head.first <= self._acked + 1):
            lines = (r for r in self._tier.until(self._tier.end) if r.line is not None)
            oldest = next(lines, None)  # a gap has no age
            return max(0.0, self._clock.monotonic() - oldest.since) if oldest else 0.0
        if not self._disk_head_created:
            return 0.0  # nobody has read it from there yet
        return max(0.0, self._clock.now().timestamp() - self._disk_head_created)

    def seconds_remaining(self) -> float:
        """Return for how long the buffer has room, at the pace of this life so far.

        Memory has to do while the disk cannot be used.
        """
        with self._glance():
            seconds = self._clock.monotonic() - self._began_at
            pace = self._bytes_put / seconds if seconds > 0 else 0.0
            room = float(self._max_bytes - self._tier.bytes)
        if self.journal is not None and not self.disk_at_fault:
            room = max(room, float(self.journal.room))
        return room / pace if pace else math.inf

    @property
    def fill(self) -> float:
        """How full it is, from 0 to 1: the disk, or memory while that has to do."""
        journal = self.journal
        if journal is None or self.disk_at_fault:
            return self._unwritten / self._max_bytes
        return journal.fill

    @property
    def disk_at_fault(self) -> bool:
        """Whether there is a disk that cannot be used, or keeps everybody waiting."""
        journal = self.journal
        if journal is None:
            return False
        return journal.trouble is not None or journal.busy_for > ACK_WITHIN

    def given_up(self) -> tuple[int, int]:
        """Return how many lines a full buffer gave up so far: thinned out, and the oldest."""
        lost = self._accounts.lost
        return lost["thinned"], lost["disk_full"] + lost["memory_full"]

    @contextlib.contextmanager
    def _glance(self) -> Iterator[bool]:
        """Look at what may change meanwhile, rather than wait for long.

        Yields whether it cannot change: otherwise nothing may be looked through item by item.
        """
        held = self._lock.acquire(timeout=GLANCE)
        try:
            yield held
        finally:
            if held:
                self._lock.release()

    @property
    def backlog(self) -> bool:
        """Whether there is more than memory holds."""
        return self._backlog

    def backlog_from(self) -> int:
        """Return the position from which on memory holds everything."""
        return self._tier.base

    # All that follows but `_from_disk`, `_ack_on_disk`, `_keep_refusal`, `_tell_backlog` is called
    # with the lock held.

    def _from_memory(self, max_bytes: int, max_lines: int) -> tuple[Numbering, list[Record] | None]:
        """Return what can be sent from memory; None where the disk has to be asked."""
        if self._stragglers is not None:
            stragglers = self._stragglers
            records = within(stragglers.tier.after(0), max_bytes, max_lines)
            return stragglers.numbering, records
        if self._should_loosen():
            self._loosen()
        first = self._acked + 1
        if not self._loose and first < self._tier.base:
            return self._numbering, None
        ready = self._tier.until(self._tier.end)
        if not self._loose and self._durability is Durability.WAL:
            ready = self._tier.until(self._written)
        elif not self._loose:  # a gap that reaches beyond the promise waits for the next one
            limit = max(self._written, self._promised)
            ready = takewhile(lambda record: record.last <= limit, self._tier.until(limit))
        records = within(ready, max_bytes, max_lines)
        return self._numbering, [record for record in records if record.last >= first]

    def _from_disk(self, first: int, max_bytes: int, max_lines: int) -> list[Record]:
        journal = self.journal
        if journal is None:
            return []
        try:
            return journal.call(lambda spool: spool.read(first, max_lines, max_bytes))
        except StoreError as error:
            if journal.troubled_for < UNREADABLE_AFTER:
                raise
            log.error("what is on disk cannot be read; newer lines go first: %s", error)
            with self._lock:
                self._loosen()
            return []

    def _took_off(self, numbering: Numbering, records: Sequence[Record]) -> Batch | None:
        if not records:
            return None
        self._flight = Flight(numbering, records)
        if numbering is self._numbering:
            self._exposed = max(self._exposed, records[-1].last)
        return numbering.batch(records)

    def _tell_lag(self, flight: Flight) -> None:
        """Tell how old the oldest line is of a batch that has arrived."""
        oldest = flight.oldest
        if oldest is None:
            return
        if oldest.since:
            self._lag.observe(self._clock.monotonic() - oldest.since)
        else:
            self._lag.observe(max(0.0, self._clock.now().timestamp() - oldest.created))

    def _acked_in_memory(self, flight: Flight, position: int, *, given_up: int) -> None:
        delivered = flight.lines(max(given_up, self._resent), position)
        flight.gone.update(delivered)
        self._acked = position
        self._tier.forget(position)
        self._accounts.deliver(len(delivered))
        self._recount()

    def _ack_on_disk(self, journal: Journal, flight: Flight, position: int, written: int) -> int:
        """Move the cursor; return up to which position lines had been given up before."""
        resent = self._resent

        def ack(spool: Spool) -> int:
            given_up = spool.given_up
            lines = flight.lines(max(given_up, resent), min(position, written))
            spool.ack(position, len(lines) + self._late)
            self._late = 0
            return given_up

        try:
            return journal.call(ack, ACK_WITHIN)
        except StoreError as error:
            # It was delivered; should the agent die now, it is delivered again.
            log.warning("the disk buffer's cursor could not be moved: %s", error)
            self._late += len(flight.lines(resent, min(position, written)))
            return 0

    def _keep_refusal(self, refusal: Refusal) -> None:
        added, gone = 1, 0
        try:
            if self.journal is None:
                raise StoreDown("there is no disk buffer")
            added, gone = self.journal.call(lambda spool: spool.quarantine.add(refusal))
        except StoreError:
            with self._lock:
                self._refused.append(refusal)
                room = self._max_bytes // QUARANTINE_SHARE
                while sum(len(one.line) + ENTRY_BYTES for one in self._refused) > room:
                    self._refused.pop(0)
                    gone += 1
        with self._lock:
            self._accounts.set_aside(added)
            self._accounts.lose_quarantined(gone, "quarantine_full")

    def _overdue(self, fresh: list[Record]) -> list[Record]:
        """Return what `overflow` writes: the older half when memory fills, or what waits long."""
        if self._tier.bytes > self._max_bytes * 3 // 4:
            half = self._tier.bytes // 2
            chosen: list[Record] = []
            for record in fresh:
                if half <= 0:
                    break
                half -= size(record)
                chosen.append(record)
            return chosen
        if self.delivering():
            return []
        now = self._clock.monotonic()
        return [record for record in fresh if now - record.since > SPILL_AGE]

    def _should_loosen(self) -> bool:
        journal = self.journal
        if self._loose or journal is None or journal.troubled_for < LOOSE_AFTER:
            return False
        # What may still be sent under the stream of the disk goes first.
        return self._acked >= max(self._written, self._promised) and len(self._tier) > 0

    def _loosen(self) -> None:
        """Give what memory alone holds the numbers of a stream that no disk knows."""
        self._left_at = self._acked, max(self._acked, self._exposed, self._promised)
        self._tier.forget(self._written)
        origin = self._tier.base - 1
        self._numbering = self._own_numbering(origin)
        self._loose = True
        self._acked = self._exposed = origin
        self._recount()
        log.warning("lines are sent without having been written to disk")

    def _found_again(self, through: int) -> int:
        """Hear that an older copy of the store goes up to there; return what memory has of it."""
        again = [r for r in self._tier.until(through) if r.first > self._written and r.line]
        self._written = max(self._written, min(through, self._tier.end - 1))
        return len(again)

    def _join(self, spool: Spool) -> None:
        """Put what memory holds behind what the disk holds; what is on its way stays apart."""
        if self._exposed > self._acked:
            apart = MemoryTier(self._tier.base)
            for record in list(self._tier.until(self._exposed)):
                apart.add(record)
            self._tier.forget(self._exposed)
            self._stragglers = Stragglers(self._numbering, apart)
        state = spool.state
        acked, used = self._left_at
        acked = max(acked, state.acked)
        written = max(spool.top, acked)
        # Numbers that were promised are not used again, were they sent or not.
        unused = [Gap(written + 1, used, "unused")] if used > written else []
        gaps = [*unused, *spool.promised]
        spool.promised = ()
        self._tier.rebase(written + 1 + sum(gap.width for gap in gaps))
        for gap in reversed(gaps):
            self._tier.put_first(Record.of_gap(gap))
        self._numbering = Numbering(str(state.stream), state.origin, f"{state.life}/{self._start}")
        self._acked, self._written = acked, written
        self._exposed = self._resent = self._late = 0
        self._promised = state.ceiling
        self._loose = False
        self._recount()

    def _own_numbering(self, origin: int) -> Numbering:
        return Numbering(str(uuid.uuid4()), origin, f"1/{self._start}")

    def _recount(self) -> None:
        """Count anew what memory alone has; whoever waits for room looks again."""
        if self._loose or self.journal is None:
            self._unwritten = self._tier.bytes
        else:
            fresh = self._tier.after(max(self._written, self._acked))
            self._unwritten = sum(size(record) for record in fresh)
        self._urged = False
        self._room.notify_all()

    def _make_room(self) -> None:
        """Keep to the cap: let go what is on disk, too; else give up what matters least."""
        on_disk = 0 if self._loose else self._written
        while self._tier.bytes > self._max_bytes:
            head = self._tier.head
            if head is None or head.last > on_disk or head.first <= self._pinned:
                break
            self._tier.take_oldest()
        if self._tier.bytes <= self._max_bytes:
            return
        thinned, oldest = self._tier.shrink(
            self._max_bytes * 7 // 8, above=self._exposed, fixed=self._fixed()
        )
        self._recount()
        if self._flight is not None:
            self._flight.gone |= thinned | oldest
        self._accounts.lose(len(thinned), "thinned")
        self._accounts.lose(len(oldest), "memory_full")

    def _fixed(self) -> int:
        """Return up to which position the disk has, or is getting, what memory holds."""
        return 0 if self._loose else max(self._written, self._writing)

    def _tell_backlog(self) -> None:
        """Say when the disk begins to hold more than memory does, and when that is over."""
        with self._lock:
            if self._loose or self.journal is None:
                now = False
            elif self._durability is Durability.WAL:
                now = self._acked + 1 < self._tier.base
            else:
                now = self._acked < self._written
            before, self._backlog = self._backlog, now
        if now and not before:
            log.info("disk buffer activated", extra={"directory": self._directory()})
        elif before and not now:
            log.info("disk buffer drained", extra={"directory": self._directory()})

    def _directory(self) -> str:
        return str(self.journal.directory) if self.journal is not None else ""
