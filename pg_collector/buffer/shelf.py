"""The segments of the disk buffer in their order, and what happens to whole ones.

The newest is open: `seg-<first>`. A segment that is complete is closed and gets a name that tells
what is in it, `seg-<first>-<last>-<lines>-<level>`, so that starting need not open it. `tmp-…` is
one that is being thinned, `old-…` the one that it replaces.
"""

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from pg_collector.buffer.cursor import UNKNOWN
from pg_collector.buffer.held import COMPLETE, Held, named
from pg_collector.buffer.place import Place
from pg_collector.buffer.records import Record
from pg_collector.buffer.segment import Segment
from pg_collector.buffer.store_trouble import translated
from pg_collector.buffer.thinning import LEVELS, given_up, without
from pg_collector.errors import StoreDamaged, StoreError
from pg_collector.folders import sync_folder
from pg_collector.sample import Gap

log = logging.getLogger(__name__)

SEGMENT_BYTES: Final = 8 * 1024 * 1024
KEPT_DAMAGED: Final = 4  # damaged segments that are kept to be looked at

_ALL: Final = 1 << 40


OnLoss = Callable[[int, str], None]  # how many lines, to what
Rescue = Callable[[int, int], int]  # from and to which number: how many lines are safe elsewhere


class Shelf:
    """All segments, oldest first. For one thread."""

    def __init__(
        self,
        place: Place,
        on_loss: OnLoss,
        rescue: Rescue,
        *,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        self._place = place
        self._on_loss = on_loss
        self._rescue = rescue
        self._segment_bytes = segment_bytes
        self._held: list[Held] = []
        self._garbage: list[Path] = []  # acknowledged, and not yet deleted
        self.holes: list[Gap] = []  # numbers known to be gone, in order

    def load(self, after: int, top: int | None, taken: int) -> None:
        """Find the segments; those without a number beyond `after` are deleted.

        `top` is the last number that is known to have been written; None where nobody knows.
        `taken` are the lines up to `after` of the segment in which that lies; or UNKNOWN.
        A damaged one is set aside. Raises StoreError where the volume, not a segment, is at fault.
        """
        self._tidy()
        paths = sorted(self._place.directory.glob("seg-*"))
        firsts = [int(path.name[4:20]) for path in paths if path.name[4:20].isdigit()]
        for path in paths:
            until = min((n - 1 for n in firsts if path.name < f"seg-{n:016d}"), default=top)
            held = self._recognised(path, after, until, taken)
            if held is None:
                continue
            if held.last <= after:
                self._discard(held)
            else:
                self._held.append(held)
        for held in self._held[:-1]:
            self._complete(held)

    def __iter__(self) -> Iterator[Held]:
        """Yield the segments, oldest first."""
        return iter(tuple(self._held))

    @property
    def bytes(self) -> int:
        """What all segments take."""
        return sum(held.bytes for held in self._held)

    @property
    def lines(self) -> int:
        """How many lines are not yet acknowledged."""
        return sum(held.lines for held in self._held)

    @property
    def last(self) -> int:
        """The last number that is held; 0 without any."""
        return self._held[-1].last if self._held else 0

    def tail(self, first: int) -> Held:
        """Return the segment that is appended to, a new one from `first` on where that is due."""
        last = self._held[-1] if self._held else None
        if last is not None and not last.complete:
            if last.bytes < self._segment_bytes:
                return last
            self._complete(last)
        segment = Segment(self._place.directory / f"seg-{first:016d}")
        try:
            segment.open()
        except StoreError:
            segment.forget()
            shutil.rmtree(segment.path, ignore_errors=True)
            raise
        held = Held(segment, first, first - 1, 0, 0, bytes=segment.bytes())
        self._held.append(held)
        return held

    def cancel(self, held: Held) -> None:
        """Drop a segment again that never got a row."""
        if held in self._held and held.last < held.first:
            self._held.remove(held)
            self._discard(held)

    def taken(self, position: int, lines: int) -> int:
        """Return what `load` takes, after `lines` more lines up to a position."""
        for held in self._held:
            if held.last > position or not held.complete:  # that one may still grow
                before = held.total - held.lines
                return before + min(max(0, lines), held.lines) if held.first <= position else 0
            lines -= held.lines
        return 0

    def release(self, through: int, lines: int, gone: int) -> None:
        """Hear that `lines` lines up to a number arrived; delete what lies up to `gone`."""
        for held in self._held:
            if held.last > through:
                held.lines = max(0, held.lines - max(0, lines))
                break
            lines -= held.lines
            held.lines = 0
        while self.discard_oldest(gone):
            pass
        self.holes = [gap for gap in self.holes if gap.last > through]

    def discard_oldest(self, through: int) -> bool:
        """Delete the oldest segment if all its numbers are acknowledged; return whether it was."""
        head = self._held[0] if self._held else None
        if head is None or head.last > through:
            return False
        if not head.complete:
            # It goes on being written to; and its numbers stay proven, whatever cursor is read.
            return False
        self._discard(self._held.pop(0))
        return True

    def look(self) -> bool:
        """Set a segment aside whose files were deleted while it is written to; tell of that."""
        for held in self:
            if not held.segment.in_place():
                self.set_aside(held, StoreDamaged(f"{held.segment.path} was deleted"))
                return True
        return False

    def sweep(self) -> None:
        """Delete what could not be deleted before."""
        left, self._garbage = self._garbage, []
        for path in left:
            self._delete(path)

    def set_aside(self, held: Held, why: StoreError) -> None:
        """Move a damaged segment out of the way; lines that nobody else has are lost."""
        last = max(held.first, held.last)
        lost = max(0, held.lines - self._rescue(held.first, last))
        log.error(
            "a segment of the disk buffer is damaged: %s",
            why,
            extra={"lines_lost": lost, "kept_at": str(self._place.quarantine)},
        )
        self._held.remove(held)
        self.note_hole(Gap(held.first, last, "damaged"))
        self._on_loss(lost, "damaged")
        held.segment.forget()
        self._keep(held.segment.path, held.name)

    def _keep(self, path: Path, name: str) -> None:
        """Move a damaged segment where it can be looked at; of many, the oldest are deleted."""
        with contextlib.suppress(OSError):
            path.rename(self._place.quarantine / f"seg-{name}")
        kept = sorted(self._place.quarantine.glob("seg-*"))
        for one in kept[:-KEPT_DAMAGED]:
            self._delete(one)

    def hole(self, first: int, last: int) -> Gap:
        """Return the gap over numbers that are not there; counts what was not known before."""
        for gap in self.holes:
            if gap.first <= first <= gap.last:
                return Gap(first, min(last, gap.last), gap.reason)
            if first < gap.first <= last:
                last = gap.first - 1
        gap, lines = self._explained(first, last)
        self.note_hole(gap)
        self._on_loss(lines, gap.reason)
        return gap

    def _explained(self, first: int, last: int) -> tuple[Gap, int]:
        """Return the gap at `first`, and its lines: an earlier life may have set them aside."""
        for path in sorted(self._place.quarantine.glob("seg-*")):
            if found := COMPLETE.fullmatch(path.name):
                begin, end, lines, _ = map(int, found.groups())
                if begin <= first <= end:
                    gap = Gap(first, min(last, end), "damaged")
                    return gap, min(lines, gap.width)
                if first < begin <= last:
                    last = begin - 1
        gap = Gap(first, last, "store_truncated")
        return gap, gap.width

    def note_hole(self, gap: Gap) -> None:
        """Remember numbers that are gone and counted."""
        self.holes.append(gap)
        self.holes.sort()

    def thin(self, above: int, below: int) -> bool:
        """Thin out the next segment of those that lie between two numbers.

        Returns whether that gave room. Raises StoreError where it cannot be rewritten.
        """
        for level in range(1, LEVELS + 1):
            chosen = [
                held
                for held in self._held
                if held.complete and above < held.first and held.last < below and held.level < level
            ]
            if any(self._thin(held, level) for held in chosen):
                return True
        return False

    def oldest(self, below: int) -> Held | None:
        """Return the segment to give up next; None where none ends before number `below`."""
        head = self._held[0] if self._held else None
        return head if head is not None and head.complete and head.last < below else None

    def drop(self, held: Held) -> None:
        """Give up a segment: its lines are lost."""
        log.warning("the disk buffer is full: %d of its oldest lines are given up", held.lines)
        self._held.remove(held)
        self._on_loss(held.lines, "disk_full")
        self._discard(held)

    def complete_tail(self) -> bool:
        """Close the newest segment and name it, so that it can be given up; False without one."""
        if not self._held or self._held[-1].complete:
            return False
        self._complete(self._held[-1])
        return True

    def close(self) -> None:
        """Close what is open. Raises StoreError."""
        for held in self._held:
            held.segment.close()

    def forget(self) -> None:
        """Close what is open, whatever that says."""
        for held in self._held:
            held.segment.forget()

    def _recognised(self, path: Path, after: int, until: int | None, taken: int) -> Held | None:
        held = named(path, until)
        if held is None:
            return None
        first, last, segment = held.first, held.last, held.segment
        if held.complete and not first <= after < last:
            held.bytes = segment.bytes()
            return held
        # Should a look show nothing better.
        held.lines = min(held.lines, last - max(first - 1, min(after, last)))
        if held.complete and taken != UNKNOWN:
            held.lines = max(0, held.total - taken)
        try:
            known = held.complete or until is not None
            survey = segment.survey(first, last if known else _ALL, after)
        except StoreDamaged as error:
            if not held.lines:  # it was being made, or deleted, when the agent ended
                self._discard(held)
                return None
            self._held.append(held)
            self.set_aside(held, error)
            return None
        if survey is None:
            self._discard(held)
            return None
        if held.shown_by(survey) or not held.complete or taken == UNKNOWN:
            held.first, held.last, held.total, held.lines, _ = survey
        held.bytes = segment.bytes()
        return held

    def _complete(self, held: Held) -> None:
        held.segment.close()
        path = held.segment.path.with_name(f"seg-{held.name}")
        if path != held.segment.path:
            with translated(path):
                held.segment.path.rename(path)
                sync_folder(path.parent)
        held.segment = Segment(path)
        held.complete = True
        held.bytes = held.segment.bytes()

    def _thin(self, held: Held, level: int) -> bool:
        """Rewrite a segment without the lines of a level; return whether it became smaller."""
        try:
            rows = held.read(held.first, _ALL, _ALL)
        except StoreDamaged as error:
            self.set_aside(held, error)
            return True
        held.level = level
        records = [one for _, one in rows if isinstance(one, Record)]
        gone = given_up(((r.first, r.keep, r.line) for r in records if r.line is not None), level)
        if not gone:
            return False
        kept = without(held.first, held.last, records, gone)
        lines = sum(record.line is not None for record in kept)
        thinner = Held(
            held.segment, held.first, held.last, lines, lines, level=level, complete=True
        )
        path = self._place.directory / f"tmp-{thinner.name}"
        fresh = Segment(path)
        try:
            fresh.append(kept)
            fresh.close()
        except StoreError:
            fresh.forget()
            shutil.rmtree(path, ignore_errors=True)
            raise
        lost = held.lines - lines
        thinner.segment = self._replace(held, path, thinner.name)
        thinner.bytes = thinner.segment.bytes()
        freed = held.bytes - thinner.bytes
        self._held[self._held.index(held)] = thinner
        self._on_loss(len(gone), "thinned")
        self._on_loss(max(0, lost - len(gone)), "damaged")
        return freed > 0

    def _replace(self, held: Held, fresh: Path, name: str) -> Segment:
        path = held.segment.path
        aside = path.with_name(f"old-{path.name}")
        target = path.with_name(f"seg-{name}")
        with translated(path):
            path.rename(aside)
            fresh.rename(target)
            sync_folder(path.parent)
        if held.suspect:
            self._keep(aside, held.name)
        self._delete(aside)
        return Segment(target)

    def _discard(self, held: Held) -> None:
        held.segment.forget()
        if held.suspect:
            self._keep(held.segment.path, held.name)
        self._delete(held.segment.path)

    def _delete(self, path: Path) -> None:
        try:
            shutil.rmtree(path)
        except FileNotFoundError:
            return
        except OSError:
            self._garbage.append(path)

    def _tidy(self) -> None:
        """Finish what a crash interrupted: a thinned segment counts once its old one is aside."""
        with translated(self._place.directory):
            folder = self._place.directory
            for fresh in folder.glob("tmp-*"):
                found = COMPLETE.fullmatch(fresh.name)
                first = found[1] if found else ""
                if first and not list(folder.glob(f"seg-{first}*")):
                    fresh.rename(folder / fresh.name.replace("tmp-", "seg-", 1))
                else:
                    shutil.rmtree(fresh)
            for aside in folder.glob("old-*"):
                shutil.rmtree(aside)
            sync_folder(folder)
