"""A durable buffer at work on a real directory: its journal's thread, a sender, a far side.

Lines are those of tests/support/lines.py, numbered by the rig over all the lives that share a far
side. In the end `verify` holds the ledger against what was put: everything has arrived once and in
order, or lies in a gap and is counted.
"""

import contextlib
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Self

from pg_collector.buffer.journal import Journal
from pg_collector.buffer.spill import SpillingBuffer
from pg_collector.buffer.spool import Limits
from pg_collector.clock import SystemClock
from pg_collector.config.model import Durability
from pg_collector.errors import StoreError
from pg_collector.metrics import Metrics
from pg_collector.sample import Batch, Keep
from tests.support import oracle
from tests.support.lines import make
from tests.support.oracle import Entry, Figures, entries, verify
from tests.support.until import until

MB: Final = 1 << 20
SMALL: Final = Limits(segment_bytes=60_000, ballast=0, min_free=0.0)
RESUMES: Final = 10.0  # seconds after which a disk that is well again is used
BATCH: Final = 200_000  # bytes


class FarSide:
    """What arrived, by stream and number, over all lives; a number that it has is passed over."""

    def __init__(self) -> None:
        self.ledger: list[Entry] = []
        self.lives: list[str] = []
        self.duplicates = 0
        self.put = oracle.Journal()
        self._next: dict[str, int] = {}

    def take(self, batch: Batch) -> None:
        """Commit a batch. Raises AssertionError where numbers were skipped."""
        if batch.life not in self.lives:
            self.lives.append(batch.life)
        self.commit(batch.stream, batch.first, batch.last, batch.body)

    def commit(self, stream: str, first: int, last: int, body: bytes) -> None:
        """Commit what a batch's body brings."""
        expected = self._next.setdefault(stream, 1)
        assert first <= expected, f"{first} comes where {expected} is expected"
        for entry in entries(stream, first, body):
            if entry.last < expected:
                self.duplicates += 1
            else:
                self.ledger.append(entry._replace(first=max(entry.first, expected)))
        self._next[stream] = max(expected, last + 1)


class Rig:
    """One life of the buffer. A context: at the end it is closed, whatever happened."""

    def __init__(
        self,
        directory: Path,
        far: FarSide | None = None,
        *,
        memory_max: int = MB,
        limits: Limits = SMALL,
        durability: Durability = Durability.WAL,
    ) -> None:
        self.directory = directory
        self.far = far or FarSide()
        self.clock = SystemClock()
        self.metrics = Metrics(self.clock)
        self.buffer = SpillingBuffer(memory_max, self.metrics, self.clock, durability)
        self.journal = Journal(directory, limits, self.clock, self.buffer)
        self.buffer.journal = self.journal
        self.deaths: list[BaseException] = []
        self._over = threading.Event()
        self._sender: threading.Thread | None = None
        self._open = False

    def __enter__(self) -> Self:
        """Open the buffer and start its thread. Raises what `Journal.open` raises."""
        self.journal.open()
        self.journal.start(self._essential)
        self._open = True
        return self

    def __exit__(self, *_error: object) -> None:
        """Stop what runs; the end of a life that is not to be a good one is `crash`."""
        self._over.set()
        if self._sender is not None:
            self._sender.join(20)
        if self._open:
            self.close()

    def close(self, deadline: float = 10.0) -> int:
        """End the life well; return how many lines are lost."""
        self._open = False
        lost = self.buffer.close(deadline)
        assert not self.deaths, self.deaths
        return lost

    def put(self, count: int, pad: int | None = 500, keep: Keep = Keep.EVENT) -> None:
        """Put so many lines."""
        for _ in range(count):
            self.put_one(pad, keep)

    def put_one(self, pad: int | None = 500, keep: Keep = Keep.EVENT) -> int:
        """Put a line; return its counter."""
        put = self.far.put.put
        k = put[-1] + 1 if put else 1
        put.append(k)
        self.far.put.committed.add(k)
        self.buffer.put(make(k, pad), keep)
        return k

    def written(self) -> None:
        """Wait until everything that was put is on disk."""
        self.journal.urge()
        until(lambda: not self.buffer.due(everything=True), what="everything is written")
        assert self.journal.trouble is None

    def step(self, max_bytes: int = BATCH, max_lines: int = 500, *, ack: bool = True) -> bool:
        """Send one batch; return whether there was one. Raises StoreError."""
        batch = self.buffer.peek(max_bytes, max_lines)
        if batch is None:
            return False
        self.far.take(batch)
        if ack:
            self.buffer.ack(batch.last)
        return True

    def deliver(self, deadline: float = 20.0) -> None:
        """Send until nothing waits any more."""

        def empty() -> bool:
            return not self.step() and self.buffer.account().buffered == 0

        until(empty, deadline, "everything is delivered", not_yet=(StoreError,))

    def start_sender(self) -> None:
        """Send from a thread of its own from now on."""
        self._sender = threading.Thread(
            target=self._essential, args=(self._send,), name="sender", daemon=True
        )
        self._sender.start()

    def crash(self, image: Path) -> Path:
        """Copy what kill -9 would leave to `image`; this life then goes out of the way."""
        self.journal.call(lambda _spool: copied(self.directory, image))
        return image

    def verify(self, *, counted: bool = True) -> Figures:
        """Hold the ledger against what was put, and the gaps against the counts of this life."""
        account = self.buffer.account()
        assert account.balanced, account
        assert not self.deaths, self.deaths
        return verify(
            self.far.ledger, self.far.put, counted=dict(account.lost) if counted else None
        )

    def _send(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(StoreError):
                if self.step():
                    continue
            self._over.wait(0.05)

    def _essential(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self.deaths.append(error)
            raise


def copied(directory: Path, to: Path) -> None:
    """Copy a store's files; what only a living process uses is left out."""
    shutil.copytree(directory, to, ignore=shutil.ignore_patterns("*-shm"))


def segments(directory: Path) -> list[Path]:
    """Return the segments, oldest first."""
    return sorted(directory.glob("seg-*"))


@contextlib.contextmanager
def backlog(directory: Path, lines: int = 400, **more: object) -> Iterator[Rig]:
    """Be a life whose lines are all on disk, in several segments, and none delivered."""
    with Rig(directory, **more) as rig:  # type: ignore[arg-type]
        for _ in range(0, lines, 50):
            rig.put(min(50, lines))
            rig.written()
        yield rig
