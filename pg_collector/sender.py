"""The sender: moves batches from the buffer to the outlet, one at a time, oldest first."""

import logging
import random
import threading
from collections.abc import Callable
from typing import Final, NamedTuple

from pg_collector.buffer import Buffer
from pg_collector.clock import Clock
from pg_collector.errors import Deferred, Refused
from pg_collector.metrics import Metrics
from pg_collector.outlets import Outlet
from pg_collector.sample import Batch

log = logging.getLogger(__name__)

LONGEST_RETRY_AFTER: Final = 3600.0  # whatever the far side asks for
_MAX_DOUBLINGS: Final = 16


class Trouble(NamedTuple):
    """Why nothing is delivered just now."""

    message: str
    remedy: str
    since: float  # on the monotonic clock
    attempts: int


class Sender:
    """Delivers what a buffer holds to an outlet; the buffer forgets only what the outlet has.

    `linger` is the pause, in seconds, after the buffer was found empty; `longest_pause` bounds the
    back-off. After every step the sender calls `beat` with the seconds that it will be silent.
    """

    def __init__(
        self,
        buffer: Buffer,
        outlet: Outlet,
        stopping: threading.Event,
        metrics: Metrics,
        *,
        clock: Clock,
        linger: float = 5.0,
        max_bytes: int = 512 * 1024,
        max_lines: int = 500,
        longest_pause: float = 60.0,
        beat: Callable[[float], None] = lambda _within: None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._buffer = buffer
        self._outlet = outlet
        self._stopping = stopping
        self._metrics = metrics
        self._clock = clock
        self._linger = linger
        self._max_bytes = max_bytes
        self._max_lines = max_lines
        self._longest_pause = longest_pause
        self._beat = beat
        self._uniform = uniform
        self._trouble: Trouble | None = None
        # After a refusal the line at fault is at or before `_suspect`; so few lines are tried.
        self._suspect = 0
        self._few = max_lines
        metrics.introduce_output(outlet.name)

    @property
    def trouble(self) -> Trouble | None:
        """Why the last attempt failed; None if it did not. For the health check."""
        return self._trouble

    def run(self) -> None:
        """Be the sender thread, until told to stop."""
        while True:
            pause = self.step()
            self._beat(pause)
            if self._stopping.wait(pause):
                return

    def step(self) -> float:
        """Try one batch; return how many seconds to wait before the next. Never raises."""
        try:
            batch = self._buffer.peek(self._max_bytes, self._limit())
            if batch is None:
                return self._linger
            return self._deliver(batch)
        except Exception as error:  # the thread must outlive any bug below it
            self._metrics.panics_recovered_total.labels("sender").inc()
            log.exception("delivery failed unexpectedly")
            return self._hold("error", Deferred(f"{type(error).__name__}: {error}"))

    def drain(self, deadline: float) -> bool:
        """Deliver what is left, until the monotonic clock shows `deadline` or the outlet defers.

        For the end, in the place of `run`. Returns whether the buffer is empty.
        """
        while self._clock.monotonic() < deadline:
            if self.step() > 0:
                break
        return self._buffer.peek(1, 1) is None

    def _limit(self) -> int:
        return self._few if self._suspect else self._max_lines

    def _deliver(self, batch: Batch) -> float:
        try:
            through = self._outlet.deliver(batch).through
        except Deferred as reason:
            return self._hold("deferred", reason)
        except Refused as reason:
            return self._narrow(batch, reason)
        if not batch.first <= through <= batch.last:
            said = f"{self._outlet.name} acknowledged {through} of {batch.first}-{batch.last}"
            return self._hold("error", Deferred(said))
        self._buffer.ack(through)
        self._delivered(through)
        return 0.0

    def _delivered(self, through: int) -> None:
        name = self._outlet.name
        self._metrics.output_success_total.labels(name).inc()
        self._metrics.output_last_success_timestamp_seconds.labels(name).set(
            self._clock.now().timestamp()
        )
        if self._trouble:
            log.info("delivery resumed after %d failed attempts", self._trouble.attempts)
            self._trouble = None
        # The line at fault is still ahead, in what remains of the suspects: half of it is next.
        remaining = max(0, self._suspect - through)
        self._few = max(1, remaining // 2)
        if not remaining:
            self._suspect = 0

    def _narrow(self, batch: Batch, reason: Refused) -> float:
        """Halve a refused batch until it is one line, and set that one aside."""
        self._count_error("refused")
        self._trouble = None  # it answers
        if len(batch.lines) > 1:
            self._suspect = batch.last
            self._few = len(batch.lines) // 2
            return 0.0
        log.warning("%s refused line %d: %s", self._outlet.name, batch.first, reason.sentence())
        self._buffer.set_aside(batch.first, str(reason))
        self._suspect = 0
        return 0.0

    def _hold(self, kind: str, reason: Deferred) -> float:
        """Keep the batch; return the pause before the next attempt."""
        self._count_error(kind)
        before = self._trouble
        attempts = before.attempts if before else 0
        since = before.since if before else self._clock.monotonic()
        self._trouble = Trouble(str(reason), reason.remedy, since, attempts + 1)
        if before is None or before.message != str(reason):
            log.warning("delivery is held up: %s", reason.sentence())
        # Full jitter: agents that failed together must not return together.
        ceiling = min(self._longest_pause, 2.0 ** min(attempts, _MAX_DOUBLINGS))
        asked = min(reason.retry_after or 0.0, LONGEST_RETRY_AFTER)
        return max(self._uniform(0.0, ceiling), asked, 0.001)  # 0 would mean: go on

    def _count_error(self, kind: str) -> None:
        self._metrics.output_errors_total.labels(self._outlet.name, kind).inc()
