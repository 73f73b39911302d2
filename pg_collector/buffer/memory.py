"""The memory tier: numbered lines in a deque, capped in bytes.

Nothing leaves before it is acknowledged, but for one case: a full buffer gives up its oldest line
for the newest one, and counts it. At any moment

    produced = delivered + buffered + quarantined + sum(lost)

holds, `account()` shows it, and the metrics `pg_collector_lines_*` say the same.
"""

import threading
from collections import Counter, deque
from collections.abc import Mapping
from typing import Final, NamedTuple

from pg_collector.clock import Clock
from pg_collector.metrics import Metrics
from pg_collector.sample import Batch, Keep

# What CPython takes for one entry beside the line's own bytes: tuple, number, moment, headers.
ENTRY_BYTES: Final = 192
QUARANTINE_SHARE: Final = 8  # refused lines may take one eighth of the cap beside it


class Account(NamedTuple):
    """Where every line went that was ever put into the buffer."""

    produced: int
    delivered: int
    buffered: int
    quarantined: int
    lost: Mapping[str, int]

    @property
    def balanced(self) -> bool:
        """Whether every line is accounted for exactly once."""
        return self.produced == (
            self.delivered + self.buffered + self.quarantined + sum(self.lost.values())
        )


class Quarantined(NamedTuple):
    """A line that the outlet refused, and its answer."""

    number: int
    reason: str
    line: bytes


class _Entry(NamedTuple):
    number: int
    keep: Keep
    since: float  # on the monotonic clock
    line: bytes

    @property
    def size(self) -> int:
        return len(self.line) + ENTRY_BYTES


class MemoryBuffer:
    """A `Buffer` that holds at most `max_bytes`, bookkeeping included. Thread-safe.

    A line that overflow takes while its batch is on its way counts as lost even if it arrives: the
    counts never promise more than was kept.
    """

    def __init__(self, max_bytes: int, metrics: Metrics, clock: Clock) -> None:
        self._max_bytes = max_bytes
        self._metrics = metrics
        self._clock = clock
        self._lock = threading.Lock()  # guards all that follows
        self._room = threading.Condition(self._lock)
        self._entries: deque[_Entry] = deque()
        self._bytes = 0
        self._set_aside: deque[Quarantined] = deque()
        self._set_aside_bytes = 0
        self._produced = 0
        self._delivered = 0
        self._lost: Counter[str] = Counter()
        self._losses = 0
        metrics.buffer_capacity_bytes.labels("memory").set(max_bytes)
        metrics.lines_buffered.set_function(lambda: len(self._entries))
        metrics.lines_quarantined.set_function(lambda: len(self._set_aside))
        metrics.buffer_memory_bytes.set_function(lambda: self._bytes)
        metrics.buffer_oldest_sample_age_seconds.set_function(self.oldest_age)

    @property
    def losses(self) -> int:
        """How many lines were lost or set aside since the start.

        Whoever compares with an earlier line must start anew when this number moves.
        """
        return self._losses

    def put(self, line: bytes, keep: Keep) -> int:
        """Take a line; return its number. A full buffer gives up its oldest lines for it."""
        with self._lock:
            self._produced += 1
            self._metrics.lines_produced_total.inc()
            entry = _Entry(self._produced, keep, self._clock.monotonic(), line)
            if entry.size > self._max_bytes:
                self._lose(1, "too_large")  # emptying the buffer would not make room
            else:
                self._entries.append(entry)
                self._bytes += entry.size
                while self._bytes > self._max_bytes:
                    self._take_oldest()
                    self._lose(1, "memory_full")
            return entry.number

    def wait_for_room(self, size: int, timeout: float) -> bool:
        """Wait until a line of `size` bytes fits without a loss; return whether it does."""
        with self._room:
            needed = size + ENTRY_BYTES
            return self._room.wait_for(lambda: self._bytes + needed <= self._max_bytes, timeout)

    def peek(self, max_bytes: int, max_lines: int) -> Batch | None:
        """Return the oldest lines whose numbers follow on one another, without taking them away.

        They take at most `max_bytes` as a body and are at most `max_lines`, but always one if
        there is any.
        """
        with self._lock:
            lines: list[bytes] = []
            first = size = 0
            for entry in self._entries:
                size += len(entry.line) + 1  # and its line break
                if not lines:
                    first = entry.number
                elif (
                    entry.number != first + len(lines)
                    or size > max_bytes
                    or len(lines) >= max_lines
                ):
                    break
                lines.append(entry.line)
        return Batch(first, first + len(lines) - 1, tuple(lines)) if lines else None

    def ack(self, through: int) -> None:
        """Forget the lines up to that number, as delivered. What is gone already stays as it is."""
        with self._lock:
            count = 0
            while self._entries and self._entries[0].number <= through:
                self._take_oldest()
                count += 1
            self._delivered += count
            self._room.notify_all()
            self._metrics.lines_delivered_total.inc(count)

    def set_aside(self, number: int, reason: str) -> None:
        """Move a line into quarantine, in memory; the oldest there makes room, and is lost."""
        with self._lock:
            entry = self._remove(number)
            if entry is None:
                return  # overflow was faster
            self._set_aside.append(Quarantined(number, reason, entry.line))
            self._set_aside_bytes += entry.size
            self._losses += 1
            while self._set_aside_bytes > self._max_bytes // QUARANTINE_SHARE:
                oldest = self._set_aside.popleft()
                self._set_aside_bytes -= len(oldest.line) + ENTRY_BYTES
                self._lose(1, "quarantine_full")

    def rewind(self, expected: int) -> None:
        """Nothing is held of what was acknowledged."""

    def renumber(self) -> None:
        """Keep the numbers: they are this process' own."""

    def quarantined(self) -> tuple[Quarantined, ...]:
        """Return what was set aside and is still here, oldest first."""
        with self._lock:
            return tuple(self._set_aside)

    def abandon(self, reason: str) -> int:
        """Give up all that is left, quarantine included; count it as lost and return how many."""
        with self._lock:
            left = len(self._entries) + len(self._set_aside)
            self._entries.clear()
            self._set_aside.clear()
            self._bytes = self._set_aside_bytes = 0
            self._lose(left, reason)
            return left

    def account(self) -> Account:
        """Return the counts of one moment."""
        with self._lock:
            return Account(
                self._produced,
                self._delivered,
                len(self._entries),
                len(self._set_aside),
                dict(self._lost),
            )

    def oldest_age(self) -> float:
        """Return the seconds that the oldest line has waited; 0 if none does."""
        with self._lock:
            if not self._entries:
                return 0.0
            return max(0.0, self._clock.monotonic() - self._entries[0].since)

    def _take_oldest(self) -> _Entry:
        entry = self._entries.popleft()
        self._bytes -= entry.size
        return entry

    def _remove(self, number: int) -> _Entry | None:
        for position, entry in enumerate(self._entries):
            if entry.number == number:
                del self._entries[position]
                self._bytes -= entry.size
                return entry
        return None

    def _lose(self, count: int, reason: str) -> None:
        if count:
            self._lost[reason] += count
            self._losses += count
            self._metrics.lines_lost_total.labels(reason).inc(count)
