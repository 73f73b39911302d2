"""The disk tier: numbered records in segments, a cursor over them, and their accounts.

Positions here are those of the store's whole life; a stream's numbers are positions less the
stream's origin. For one thread at a time: that of `keeper`. What holds, and when, is in
docs/specs/buffer.md.
"""

import logging
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple, Self

from pg_collector.buffer.cursor import UNKNOWN, Cursor, HeadGap, State, merged
from pg_collector.buffer.held import Held
from pg_collector.buffer.place import BALLAST, Place, Removed, SegmentLost
from pg_collector.buffer.quarantine import Quarantine
from pg_collector.buffer.records import Record
from pg_collector.buffer.shelf import SEGMENT_BYTES, OnLoss, Rescue, Shelf
from pg_collector.buffer.store_trouble import translated
from pg_collector.errors import StoreDamaged, StoreError, StoreFull
from pg_collector.sample import Gap

log = logging.getLogger(__name__)

# However little the volume has free, so much may be used: what is written and sent at once fits.
FLOOR: Final = 32 * 1024 * 1024
PROBE: Final = 256 * 1024  # bytes beside those of the lines
PER_RECORD: Final = 160  # bytes that a row takes beside its line, indexes included


class Limits(NamedTuple):
    """What the disk tier may take."""

    disk_max: int = 500 * 1024 * 1024
    min_free: float = 0.05  # of the volume
    segment_bytes: int = SEGMENT_BYTES
    ballast: int = BALLAST


class Spool:
    """An open disk buffer. Every method raises StoreError, nothing else.

    `on_loss` hears of every line that is lost, once, with the reason. `rescue` is asked how many
    lines of a damaged segment are in memory, too.
    """

    def __init__(
        self, place: Place, cursor: Cursor, limits: Limits, on_loss: OnLoss, rescue: Rescue
    ) -> None:
        self.place = place
        self._cursor = cursor
        self._limits = limits
        self._shelf = Shelf(place, on_loss, rescue, segment_bytes=limits.segment_bytes)
        self._on_loss = on_loss
        self.quarantine = Quarantine(place.quarantine)
        self.promised: tuple[Gap, ...] = ()  # gaps that open leaves to be put before new lines

    @classmethod
    def open(
        cls,
        directory: Path,
        limits: Limits,
        on_loss: OnLoss,
        rescue: Rescue = lambda _first, _last: 0,
        *,
        carried: State | None = None,
    ) -> Self:
        """Take the directory and continue what is in it.

        `carried` is the state of a spool that was removed from under this process: its numbers go
        on. Raises AlreadyRunning and StateError as Place.take does.
        """
        place = Place.take(directory)
        try:
            with translated(directory):
                cursor = Cursor(directory / "cursor")
            try:
                spool = cls(place, cursor, limits, on_loss, rescue)
                spool._begin(carried)
            except BaseException:
                cursor.close()
                raise
        except BaseException:
            place.close()
            raise
        return spool

    def _begin(self, carried: State | None) -> None:
        before = self._cursor.state
        if self._cursor.fresh:
            before = carried or State(stream=self.place.stream() or uuid.uuid4())
            if carried is None and any(self.place.directory.glob("seg-*")):
                log.error("the cursor of the disk buffer is lost; what was sent may be sent again")
        elif carried is not None and carried.stream == before.stream:
            before = _since(before, carried)
        else:
            carried = None
        given_up = before.gaps[-1].through if before.gaps else 0
        unknown = self._cursor.fresh and carried is None
        known_top = None if unknown else before.top
        self._shelf.load(max(before.acked, given_up), known_top, before.taken)
        top = max(before.top, self._shelf.last, given_up, before.acked)
        if before.top < self._shelf.last:
            # The cursor is lost, or an older one was put back: what is held begins the account.
            # What was given up before it is told as ever.
            first = next(iter(self._shelf)).first
            if first - 1 > max(before.acked, given_up):
                before = before._replace(acked=first - 1)
        self._find_holes(max(before.acked, given_up) + 1, top, counted=carried is not None)
        handed_out = before.ceiling
        if handed_out > top:
            gap = Gap(top + 1, handed_out, "crash")
            self._on_loss(gap.width, gap.reason)
            self.promised = (gap,)
        taken = self._shelf.taken(max(before.acked, given_up), 0)
        life = before.life + 1
        self._save(before._replace(top=top, ceiling=handed_out, life=life, taken=taken))
        if self.place.stream() != before.stream:
            self.place.note_stream(before.stream)
        self.place.refill_ballast(self._limits.ballast)

    def _find_holes(self, first: int, top: int, *, counted: bool) -> None:
        """Note what should be there and is not; count it, unless that was done before."""
        at = first
        for end, after in (*((held.first - 1, held.last + 1) for held in self._shelf), (top, 0)):
            if counted and at <= end:
                self._shelf.note_hole(Gap(at, end, "store_truncated"))
                at = end + 1
            while at <= end:  # reading will tell it as gaps
                at = self._shelf.hole(at, end).last + 1
            at = max(at, after)

    @property
    def state(self) -> State:
        """What the cursor says."""
        return self._cursor.state

    @property
    def top(self) -> int:
        """The last position that is written, or known to be lost."""
        return max(self._cursor.state.top, self._shelf.last)

    @property
    def given_up(self) -> int:
        """Positions up to here were given up, or acknowledged."""
        gaps = self._cursor.state.gaps
        return max(self._cursor.state.acked, gaps[-1].through if gaps else 0)

    @property
    def lines(self) -> int:
        """How many lines wait here."""
        return self._shelf.lines

    @property
    def bytes(self) -> int:
        """What the segments take."""
        return self._shelf.bytes

    @property
    def held(self) -> tuple[Held, ...]:
        """The segments, oldest first."""
        return tuple(self._shelf)

    @property
    def holes(self) -> tuple[Gap, ...]:
        """Positions that are known to be gone."""
        return tuple(self._shelf.holes)

    def bytes_before(self, position: int) -> int:
        """Return what the segments take that begin before a position."""
        return sum(held.bytes for held in self._shelf if held.first < position)

    def append(
        self, records: Sequence[Record], *, above: int, below: int, force: bool = False
    ) -> None:
        """Write records behind all others; they survive a power cut once this returns.

        With `force`, older lines are thinned out and then given up where there is no room, and
        without it where only this agent's own cap is in the way: of segments that end before
        `below` (what follows lies in memory, too) and, for thinning, begin after `above` (what
        comes before is on its way out). Repeating the same records is no fault.
        """
        if not records:
            return
        need = sum(len(r.line or b"") + PER_RECORD for r in records)
        self._make_room(need, above=above, below=below, force=force)
        try:
            held = self._append_to_tail(records)
        except StoreFull:
            if not self.place.spend_ballast():
                raise
            held = self._append_to_tail(records)
        self._appended(held, records)

    def _append_to_tail(self, records: Sequence[Record]) -> Held:
        if self._shelf.look():
            raise SegmentLost(f"{self.place.directory}: the newest segment was deleted")
        held = self._shelf.tail(records[0].first)
        try:
            held.segment.append(records)
        except StoreDamaged as error:
            self._shelf.set_aside(held, error)
            raise SegmentLost(str(error)) from error
        except StoreError:
            self._shelf.cancel(held)
            raise
        return held

    def _appended(self, held: Held, records: Sequence[Record]) -> None:
        fresh = sum(r.line is not None and r.first > held.last for r in records)
        held.lines += fresh
        held.total += fresh
        held.last = max(held.last, records[-1].last)
        held.bytes = held.segment.bytes()
        state = self._cursor.state
        self._save(
            state._replace(top=max(state.top, held.last), ceiling=max(state.ceiling, held.last))
        )

    def read(self, first: int, max_lines: int, max_bytes: int) -> list[Record]:
        """Return what lies from a position on, gaps included: at least one record if any is left.

        A damaged segment is set aside on the way.
        """
        found: list[Record] = []
        at = first
        for gap in self._cursor.state.gaps:
            if gap.through >= at:
                found.append(Record(at, gap.through, None, reason=gap.reason))
                at = gap.through + 1
        lines = size = 0
        while at <= self.top and lines < max_lines and size < max_bytes:
            rows = self._rows(at, max_lines - lines, max_bytes - size, first=not lines)
            if not rows:
                break
            found += rows
            lines += sum(row.line is not None for row in rows)
            size += sum(len(row.line or b"") + 1 for row in rows)
            at = rows[-1].last + 1
        return found

    def purge(self) -> int:
        """Give up everything that waits here; a gap stays. Returns how many lines that were."""
        lines, top = self._shelf.lines, self.top
        if top > self.given_up:
            self.give_up(top, "purged", lines)
        self._shelf.complete_tail()
        self._shelf.release(top, lines, top)
        return lines

    def _rows(self, at: int, max_lines: int, max_bytes: int, *, first: bool) -> list[Record]:
        """Return rows of one segment, or the gap before it; nothing beyond the limits."""
        held = next((one for one in self._shelf if one.last >= at), None)
        if held is None or at < held.first:
            return [
                Record.of_gap(self._shelf.hole(at, self.top if held is None else held.first - 1))
            ]
        try:
            rows = held.read(at, max_lines, max_bytes)
        except StoreDamaged as error:
            if not first and at > held.first:
                return []  # what was read of it has to arrive before the rest is given up
            self._shelf.set_aside(held, error)
            return [Record.of_gap(self._shelf.hole(at, held.last))]
        if not rows:
            gap = self._missing(held, at, held.last, "store_truncated")
            self._count_missing(held, gap.reason)
            return [Record.of_gap(gap)]
        size = sum(len(row.line or b"") + 1 for _, row in rows if isinstance(row, Record))
        if len(rows) == 1 and size > max_bytes and not first:
            return []  # `read` of a segment gives at least one
        found: list[Record] = []
        whole = True
        for number, row in rows:
            if at < number:
                found.append(Record.of_gap(self._missing(held, at, number - 1, "damaged")))
                whole = False
            if isinstance(row, Record):
                found.append(row)
            else:
                log.error("line %d of the disk buffer is damaged: %s", number, row)
                found.append(Record.of_gap(self._missing(held, number, number, "damaged")))
                whole = False
            at = found[-1].last + 1
        if not whole:
            self._count_missing(held, "damaged")
        return found

    def _missing(self, held: Held, first: int, last: int, reason: str) -> Gap:
        """Return the gap for numbers that a segment should tell of."""
        held.suspect = True
        for gap in self._shelf.holes:
            if gap.first <= first <= gap.last:
                return Gap(first, last, gap.reason)
        gap = Gap(first, last, reason)
        self._shelf.note_hole(gap)
        return gap

    def _count_missing(self, held: Held, reason: str) -> None:
        """Count the lines that a segment should have and has not, wherever they were in it.

        A gap may have been damaged, too; so the numbers that are missing do not tell how many.
        """
        try:
            sound = held.segment.count(max(self.given_up, held.first - 1), held.last)
        except StoreDamaged:
            return  # reading comes to that place, and sets all of it aside
        lost = max(0, held.lines - sound)
        held.lines -= lost
        self._on_loss(lost, reason)

    def ack(self, through: int, lines: int) -> None:
        """Forget what lies up to a position: `lines` lines of this store. Needs no free space."""
        state = self._cursor.state
        if through <= state.acked:
            return
        gaps = tuple(gap for gap in state.gaps if gap.through > through)
        taken = self._shelf.taken(max(through, gaps[-1].through if gaps else 0), lines)
        try:
            self._save(
                state._replace(
                    acked=through,
                    top=max(state.top, through),
                    ceiling=max(state.ceiling, through),
                    gaps=gaps,
                    taken=taken,
                )
            )
        finally:
            # Should the newest slot of the cursor be damaged, the one before claims nothing that
            # is not there: a segment goes with the acknowledgement after its own.
            self._shelf.release(through, lines, state.acked)

    def promise(self, through: int) -> None:
        """Note that numbers up to there may leave without having been written."""
        state = self._cursor.state
        if through > state.ceiling:
            self._save(state._replace(ceiling=through))

    def give_up(self, through: int, reason: str, lines: int) -> None:
        """Put a gap at the head, in the place of `lines` lines that are somewhere else now."""
        self._put_gap(through, reason, lines)
        for held in self._shelf:
            if held.first > through:
                break
            gone = min(lines, held.lines)
            held.lines -= gone
            lines -= gone

    def rewind(self, to: int) -> None:
        """Go back to a position that was acknowledged; what is gone becomes a gap."""
        state = self._cursor.state
        held = next((one.first for one in self._shelf if one.last >= to), self.top + 1)
        gaps = state.gaps
        if held > to:
            gaps = (HeadGap(min(held - 1, state.acked), "acknowledged"), *gaps)
        self._save(state._replace(acked=to - 1, gaps=gaps, taken=UNKNOWN))

    def renumber(self, stream: uuid.UUID) -> None:
        """Take another stream: what is not acknowledged is numbered from 1."""
        self.place.note_stream(stream)
        state = self._cursor.state
        self._save(state._replace(stream=stream, origin=state.acked))

    def tend(self) -> None:
        """Look after the directory and what is in it; raises StoreError as `look` does."""
        self.look()
        self._shelf.look()
        self._shelf.sweep()
        self.place.refill_ballast(self._limits.ballast)

    def look(self) -> None:
        """Raise Removed when the directory was removed or replaced, StoreDown when it is away."""
        with translated(self.place.directory):
            intact = self.place.intact() and self._cursor.in_place()
        if not intact:
            raise Removed(
                f"{self.place.directory} was removed or replaced",
                remedy="Leave it to the agent: it makes a new one, and counts what is gone.",
            )

    def probe(self, need: int, *, force: bool) -> None:
        """Try whether `append` would take so many bytes; raises StoreError if it would not.

        More than that is asked for, so that a volume with little room is not taken for a usable one
        again and again.
        """
        self._save(self._cursor.state)
        need *= 2
        if not force and not self._beyond_cap(need) and (scarce := self._scarce(need)):
            raise scarce
        self.place.probe(need + PROBE)

    def close(self) -> None:
        """Close everything; what is here is continued next time."""
        try:
            self._shelf.close()
            state = self._cursor.state
            self._save(state._replace(ceiling=max(state.acked, self.top)))
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close everything, whatever that says."""
        self._shelf.forget()
        self._cursor.close()
        self.place.close()

    def _put_gap(self, through: int, reason: str, lines: int) -> None:
        state = self._cursor.state
        gaps = merged(state.gaps, HeadGap(through, reason))
        taken = self._shelf.taken(max(state.acked, gaps[-1].through), lines)
        state = state._replace(gaps=gaps, taken=taken)
        self._save(state)
        self._save(state)  # in both slots: what the gap covers is about to go

    def _save(self, state: State) -> None:
        with translated(self._cursor.path):
            self._cursor.save(state)

    def _make_room(self, need: int, *, above: int, below: int, force: bool) -> None:
        """Make room for so many bytes, within the cap and the free space of the volume."""
        while True:
            scarce = self._scarce(need)
            if not self._beyond_cap(need):
                if scarce is None:
                    return
                if not force:
                    raise scarce
            if not self._shrink(above=above, below=below):
                raise StoreFull(
                    f"{self.place.directory}: no room for {need} more bytes",
                    remedy="Raise buffers.disk_max, or free space on the volume.",
                )

    def _beyond_cap(self, need: int) -> bool:
        return self._shelf.bytes + need > self._limits.disk_max

    def room(self) -> int:
        """Return the bytes that may still be written: of our own cap, and of the volume."""
        used = self._shelf.bytes
        free, allowed = self._volume()
        return max(0, min(self._limits.disk_max, allowed, used + free) - used)

    def _volume(self) -> tuple[int, int]:
        """Return the bytes that the volume has free, and all that it lets the segments take."""
        free, total = self.place.free_bytes()
        floor = min(FLOOR, self._limits.disk_max)
        return free, max(floor, self._shelf.bytes + free - int(self._limits.min_free * total))

    def _scarce(self, need: int) -> StoreFull | None:
        """Return what to say where the volume has too little for so many bytes more."""
        free, allowed = self._volume()
        if self._shelf.bytes + need <= allowed:
            return None
        return StoreFull(
            f"{self.place.directory}: the volume has only {free} bytes free",
            remedy="Free space there, or lower buffers.min_free.",
        )

    def _shrink(self, *, above: int, below: int) -> bool:
        """Delete, thin out or give up one segment; return False where none may be touched."""
        if self._shelf.discard_oldest(self.given_up):
            return True
        try:
            if self._shelf.thin(above, below):
                return True
        except StoreFull:
            self.place.spend_ballast()
        oldest = self._shelf.oldest(below)
        if oldest is None:
            return self._shelf.complete_tail()
        self._put_gap(oldest.last, "disk_full", oldest.lines)
        self._shelf.drop(oldest)
        return True


def _since(copy: State, carried: State) -> State:
    """Return the state for an older copy of a store: what happened to its numbers since is true."""
    return carried._replace(
        acked=max(copy.acked, carried.acked),
        top=max(copy.top, carried.top),
        ceiling=max(copy.top, carried.ceiling),
        life=max(copy.life, carried.life),
        taken=UNKNOWN,
    )
