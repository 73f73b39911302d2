"""The owner of the disk tier: one thread that opens, writes, reads and tends the spool.

Everything that touches the disk happens in it, in the order in which it was asked for: that gives
the store one connection, and keeps a slow disk out of the way of sampling. A disk that cannot be
used is a state, not an end: lines stay in memory meanwhile, and it is tried again.
"""

import concurrent.futures
import contextlib
import logging
import os
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, Protocol, TypeVar

from pg_collector.buffer.cursor import State
from pg_collector.buffer.place import Removed, SegmentLost
from pg_collector.buffer.records import Record
from pg_collector.buffer.spool import Limits, Spool
from pg_collector.buffer.store_trouble import LOOK
from pg_collector.clock import Clock
from pg_collector.errors import StoreDown, StoreError

log = logging.getLogger(__name__)

T = TypeVar("T")

COMMIT_EVERY: Final = 0.5  # seconds; what was put before is on disk within twice that
TEND_EVERY: Final = 5.0
RETRY_FIRST: Final = 1.0
RETRY_LONGEST: Final = 5.0
SEGMENTS_LOST: Final = 3  # damaged one after the other, then the disk has a rest
ANSWER_WITHIN: Final = 10.0  # seconds that someone waits for the disk


class Source(Protocol):
    """What the journal serves: the buffer. Its methods are called in the journal's thread."""

    @property
    def group_bytes(self) -> int:
        """How many bytes `due` returns at most, unless one record is larger."""

    def due(self, *, everything: bool) -> Sequence[Record]:
        """Return the records to write now, some of them if they are many."""

    def spared(self) -> tuple[int, int, bool]:
        """Return what Spool.append takes: above, below, and whether there is no other way."""

    def written(self, through: int) -> None:
        """Hear that records up to there are on disk; 0 if they could not be written."""

    @property
    def backlog(self) -> bool:
        """Whether the disk has lines that memory does not hold."""

    @property
    def waits(self) -> bool:
        """Whether anything is not on disk yet; when that begins, it calls `stir`."""

    def lost(self, count: int, reason: str) -> None:
        """Hear of lines that are lost."""

    def to_promise(self) -> int:
        """Return up to which position lines may leave unwritten; what is promised stays so."""

    def promised(self, through: int) -> None:
        """Hear that this is on disk."""

    def rescue(self, first: int, last: int) -> int:
        """Hear that what is on disk from one to the other is damaged; return how many remain."""

    def found(self, spool: Spool, opened: Mapping[str, int] | None) -> None:
        """Hear that the spool works again; `opened`: it was opened, with so many lines lost."""

    def removed(self, spool: Spool) -> int:
        """Hear that the directory is gone; return up to which position lines are lost."""


class Journal:
    """The thread, and the spool that it owns."""

    def __init__(
        self,
        directory: Path,
        limits: Limits,
        clock: Clock,
        source: Source,
        *,
        beat: Callable[[float], None] = lambda _within: None,
    ) -> None:
        self.directory = directory
        self._limits = limits
        self._clock = clock
        self._source = source
        self.beat = beat
        self.bytes = 0  # what the spool takes on disk
        self._room = limits.disk_max
        self._before_memory = 0  # of it, segments that begin before what memory holds
        self._spool: Spool | None = None  # used in the thread; before it starts, by who starts it
        self._carried: State | None = None
        self._trouble: StoreError | None = None
        self._troubled_since = 0.0
        self._retry = RETRY_FIRST
        self._retry_at = 0.0
        self._tended_at = 0.0
        self._busy_since: float | None = None
        self._next = 0.0  # when the next step is due; used in the thread
        self._waiting: list[Callable[[], None]] = []  # for the end of that step; the same
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()

    @property
    def backlog_bytes(self) -> int:
        """What the spool takes for lines that wait and lie in no memory; in whole segments."""
        return self._before_memory if self._source.backlog else 0

    @property
    def trouble(self) -> StoreError | None:
        """Why the disk cannot be used now; None if it can."""
        return self._trouble

    @property
    def troubled_for(self) -> float:
        """For how many seconds the disk has not been usable."""
        return self._clock.monotonic() - self._troubled_since if self._trouble else 0.0

    @property
    def busy_for(self) -> float:
        """For how many seconds the disk has not been done with anything, while the thread is at it.

        However much there is to write, each part that was written begins it anew.
        """
        since = self._busy_since
        return self._clock.monotonic() - since if since is not None else 0.0

    @property
    def fill(self) -> float:
        """What part of its own cap the spool has taken, from 0 to 1."""
        return self.bytes / self._limits.disk_max

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def capacity(self) -> int:
        """The bytes that the spool may take."""
        return self._limits.disk_max

    @property
    def room(self) -> int:
        """The bytes that the spool may still take: of its own cap, and of what the volume has."""
        return self._room if self._trouble is None else 0

    def open(self) -> None:
        """Open the spool, in the thread that starts the agent.

        Raises AlreadyRunning and StateError. What else is wrong is a trouble: memory has to do.
        """
        try:
            self._open()
        except StoreError as error:
            self._troubled(error)

    def start(self, essential: Callable[[Callable[[], None]], object]) -> None:
        """Start the thread; `essential` runs it, and hears of its death."""
        self._thread = threading.Thread(
            target=essential, args=(self.run,), name="journal", daemon=True
        )
        self._thread.start()

    def run(self) -> None:
        """Be the thread, until `stop`."""
        while True:
            with self._at_the_disk():
                pause = self.step()
            waiting, self._waiting = self._waiting, []
            for then in waiting:
                then()
            self.beat(pause + ANSWER_WITHIN)
            if self._stopping.is_set():
                return
            self._next = self._clock.monotonic() + pause
            self._serve()

    def _serve(self) -> None:
        """Do what is asked for until the next step is due."""
        while (left := self._next - self._clock.monotonic()) > 0:
            try:
                command = self._commands.get(timeout=left)
            except queue.Empty:
                return
            with self._at_the_disk():
                command()
            self._next = min(self._next, self._clock.monotonic() + COMMIT_EVERY)

    @contextlib.contextmanager
    def _at_the_disk(self) -> Iterator[None]:
        self._busy_since = self._clock.monotonic()
        try:
            yield
        finally:
            self._busy_since = None

    def _disk_answered(self) -> None:
        if self._busy_since is not None:
            self._busy_since = self._clock.monotonic()

    def step(self) -> float:
        """Write what is due and look after the directory; return the seconds until the next."""
        if self._inherited:
            return COMMIT_EVERY
        now = self._clock.monotonic()
        if self._trouble is not None and now < self._retry_at and not self._stopping.is_set():
            return min(COMMIT_EVERY, self._retry_at - now)
        try:
            self._work(now)
        except Removed as error:
            self._removed(error)
        except StoreError as error:
            self._troubled(error)
        else:
            self._well()
        if self._stopping.is_set():
            self._let_go()
            return 0.0
        if self._trouble is not None or self._source.waits:
            return COMMIT_EVERY
        return TEND_EVERY

    def _work(self, now: float) -> None:
        if self._spool is None:
            self._open()
        elif self._trouble is not None:
            self._spool.look()
            _, _, pressed = self._source.spared()
            self._spool.probe(self._source.group_bytes, force=pressed or self._stopping.is_set())
            self._source.found(self._spool, None)
        self._commit()
        if self._stopping.is_set():
            self._close()
        elif now - self._tended_at >= TEND_EVERY:
            self._tended_at = now
            self._opened().tend()

    def call(self, work: Callable[[Spool], T], timeout: float = ANSWER_WITHIN) -> T:
        """Have something done with the spool, in its thread, and return what it returns.

        Raises StoreError, also where the disk does not answer within `timeout` seconds; what was
        asked may then still happen.
        """
        if self._inherited:
            raise StoreDown("the disk buffer belongs to the process that opened it")
        if self._thread is None or self._thread is threading.current_thread():
            return work(self._opened())
        answer: concurrent.futures.Future[T] = concurrent.futures.Future()

        def command() -> None:
            if answer.set_running_or_notify_cancel():
                try:
                    answer.set_result(work(self._opened()))
                except BaseException as error:
                    answer.set_exception(error)
                    if not isinstance(error, Exception):
                        raise

        self._commands.put(command)
        try:
            return answer.result(timeout)
        except concurrent.futures.TimeoutError:
            answer.cancel()
            raise StoreDown(
                f"{self.directory}: the disk did not answer within {timeout:g} s", remedy=LOOK
            ) from None

    def flush(self) -> None:
        """Write everything that waits in memory, now. Raises StoreError."""
        self.call(lambda _spool: self._commit(everything=True))

    def urge(self, then: Callable[[], None] = lambda: None) -> None:
        """Write what is due at once, and call `then` in its thread when that has been tried."""
        self._commands.put(partial(self._hurry, then))

    def stir(self) -> None:
        """Write what is due within COMMIT_EVERY, with what comes until then."""
        self._commands.put(lambda: None)

    def _hurry(self, then: Callable[[], None]) -> None:
        self._waiting.append(then)
        self._next = 0.0

    def stop(self, deadline: float) -> bool:
        """Write everything, close, end the thread; return whether it did within the seconds."""
        self._stopping.set()
        if self._inherited:
            return False
        self.urge()
        if self._thread is None:
            self.step()
            return True
        self._thread.join(deadline)
        return not self._thread.is_alive()

    @property
    def _inherited(self) -> bool:
        """Whether this process is a fork of the one that opened the spool: it must keep off."""
        return os.getpid() != self._pid

    def _open(self) -> None:
        before: Counter[str] = Counter()
        told = self._source.lost

        def on_loss(count: int, reason: str) -> None:
            if self._spool is None:
                before[reason] += count
            else:
                told(count, reason)

        rescue = self._source.rescue
        spool = Spool.open(self.directory, self._limits, on_loss, rescue, carried=self._carried)
        self._spool, self._carried = spool, None
        self._tended_at = self._clock.monotonic()
        self._source.found(spool, before)

    def _opened(self) -> Spool:
        if self._spool is None:
            trouble = self._trouble
            raise StoreDown(
                str(trouble or f"{self.directory} is closed"),
                remedy=trouble.remedy if trouble else "",
            )
        return self._spool

    def _commit(self, *, everything: bool = False) -> None:
        spool = self._opened()
        if (through := self._source.to_promise()) > 0:
            spool.promise(through)
            self._source.promised(through)
            self._disk_answered()
        segments_lost = 0
        everything = everything or self._stopping.is_set()
        while records := self._source.due(everything=everything):
            above, below, pressed = self._source.spared()
            force = pressed or self._stopping.is_set()
            through = 0
            try:
                spool.append(records, above=above, below=below, force=force)
                through = records[-1].last
                self._disk_answered()
            except SegmentLost:
                segments_lost += 1
                if segments_lost > SEGMENTS_LOST:
                    raise
            finally:
                self._source.written(through)
        self.bytes, self._room = spool.bytes, spool.room()
        self._before_memory = spool.bytes_before(self._source.spared()[1])

    def _close(self) -> None:
        spool, self._spool = self._spool, None
        if spool is not None:
            spool.close()

    def _let_go(self) -> None:
        """Close what could not be closed well: the volume may be waiting for that."""
        spool, self._spool = self._spool, None
        if spool is not None:
            spool.abandon()

    def _removed(self, error: StoreError) -> None:
        """Begin anew in a fresh directory, with the numbers going on."""
        log.error("%s", error, extra={"remedy": error.remedy})
        spool, self._spool = self._opened(), None
        through = self._source.removed(spool)
        self._carried = spool.state._replace(top=through, ceiling=through)
        spool.abandon()
        self._troubled(error)
        self._retry_at = 0.0

    def _troubled(self, error: StoreError) -> None:
        now = self._clock.monotonic()
        before = self._trouble
        if before is None:
            self._troubled_since = now
            self._retry = RETRY_FIRST
        if before is None or str(before) != str(error):
            log.error("the disk buffer cannot be used: %s", error, extra={"remedy": error.remedy})
        self._trouble = error
        self._retry_at = now + self._retry
        self._retry = min(RETRY_LONGEST, 2 * self._retry)

    def _well(self) -> None:
        if self._trouble is not None:
            log.info("the disk buffer works again", extra={"after_s": round(self.troubled_for, 1)})
            self._trouble = None
