"""The sender: moves batches from the buffer to the outlet, one at a time, oldest first."""

import contextlib
import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, NamedTuple, Protocol

from pg_collector.buffer import Buffer
from pg_collector.clock import Clock
from pg_collector.errors import (
    BreakerOpen,
    Busy,
    CollectorError,
    Deferred,
    Held,
    Refused,
    SequenceGap,
    StoreError,
    StreamConflict,
    TooLarge,
    Unexpected,
    Unreachable,
)
from pg_collector.metrics import Metrics
from pg_collector.outlets import Outlet, Receipt
from pg_collector.pacing import OUTAGE, Backoff, Pacing, Quota
from pg_collector.privacy.scrub import without_credentials
from pg_collector.sample import Batch

log = logging.getLogger(__name__)

LEAST_LINGER: Final = 0.05  # seconds, or an empty buffer would be asked without end
NOTICE_LASTS: Final = 3600.0  # seconds that a change of the stream is told in the health report

# The reasons of `output_errors_total`; a class that is not here counts as its parent.
_KINDS: Final = (
    (Unreachable, "unreachable"),
    (Busy, "busy"),
    (Held, "held"),
    (Unexpected, "unexpected"),
    (Deferred, "deferred"),
    (SequenceGap, "conflict"),
    (StreamConflict, "conflict"),
    (TooLarge, "too_large"),
    (Refused, "refused"),
    (StoreError, "store"),
)
_ASK: Final = "Look at one with `pgc buffer quarantine`, and ask who runs the far side."


class Guard(Protocol):
    """What the sender needs of a circuit breaker."""

    def guard(self) -> AbstractContextManager[None]:
        """Let the work in the block pass; raises BreakerOpen where nothing may."""


class Trouble(NamedTuple):
    """Why nothing is delivered just now."""

    message: str
    remedy: str
    since: float  # on the monotonic clock
    attempts: int
    of_the_buffer: bool = False  # the outlet is not at fault


class Delivered(NamedTuple):
    """The last batch that arrived, `at` on the monotonic clock; `sent` are bytes on the wire."""

    at: float
    lines: int
    bytes: int
    sent: int


class Step(NamedTuple):
    """What became of one attempt: whether the buffer holds less now, and the pause that follows.

    A `firm` pause was asked for, or keeps a rate: nobody can cut it short.
    """

    moved: bool
    pause: float
    firm: bool = True


class Sender:
    """Delivers what a buffer holds to an outlet; the buffer forgets only what the outlet has.

    `linger` is the pause, in seconds, after the buffer was found empty: LEAST_LINGER at least. The
    sender calls `beat` with the seconds that it will be silent: after every step, and before each
    attempt where one may take `attempt_max` seconds. While `breaker` lets nothing pass, nothing is
    tried. Who sets `stopping` calls `urge`, too, where a pause may be under way.
    """

    def __init__(
        self,
        buffer: Buffer,
        outlet: Outlet,
        stopping: threading.Event,
        metrics: Metrics,
        *,
        clock: Clock,
        pacing: Pacing | None = None,
        backoff: Backoff | None = None,
        breaker: Guard | None = None,
        linger: float = 5.0,
        attempt_max: float = 0.0,
        beat: Callable[[float], None] = lambda _within: None,
    ) -> None:
        self._buffer = buffer
        self._outlet = outlet
        self._stopping = stopping
        self._metrics = metrics
        self._clock = clock
        self._pacing = pacing or Pacing(clock)
        self._backoff = backoff or Backoff()
        self._breaker = breaker
        self._linger = max(linger, LEAST_LINGER)
        self._attempt_max = attempt_max
        self._beat = beat
        self._quota = Quota(clock)
        self._trouble: Trouble | None = None
        self._notice: Trouble | None = None
        self.tried = False  # whether an attempt has come to its end, well or not, or was needless
        self._conflicts = 0  # in a row
        self.delivered: Delivered | None = None  # the last; None: nothing so far
        self._sync: _Sync | None = None
        self._synced = False  # whether the buffer was found empty since the start
        self._stream = ""
        self._urged = threading.Event()
        self._firm = False  # whether the pause after the last attempt is
        # After a refusal the line at fault is at or before `_suspect`; so few lines are tried.
        self._suspect = 0
        self._few = 1
        self._disputed = 0  # the last line of the largest batch that was refused
        metrics.introduce_output(outlet.name)
        self._success_total = metrics.output_success_total.labels(outlet.name)
        self._seconds = metrics.output_duration_seconds.labels(outlet.name)

    @property
    def trouble(self) -> Trouble | None:
        """Why the last attempt failed; None if it did not. For the health check."""
        return self._trouble

    @property
    def notice(self) -> Trouble | None:
        """What people should know although lines arrive; None after an hour."""
        notice = self._notice
        if notice is None or self._clock.monotonic() - notice.since > NOTICE_LASTS:
            return None
        return notice

    def run(self) -> None:
        """Be the sender thread, until told to stop."""
        while True:
            pause = self.step()
            self._beat(pause)
            if self._rest(pause):
                return

    def step(self) -> float:
        """Try one batch; return how many seconds to wait before the next. Never raises."""
        attempt = self._attempt()
        self.tried = True
        self._firm = attempt.firm
        return attempt.pause

    def cut_at(self, batch_bytes: int) -> None:
        """Let no batch be larger than that. From any thread."""
        self._pacing.limit = batch_bytes

    def urge(self) -> None:
        """Let the next attempt come now, unless the far side asked for a pause. From any thread."""
        self._urged.set()

    def drain(self, deadline: float) -> bool:
        """Deliver what is left, until the monotonic clock shows `deadline` or the outlet defers.

        For the end, in the place of `run`: without any pause. Returns whether the buffer is empty.
        """
        while self._clock.monotonic() < deadline:
            if not self._attempt().moved:
                break
        try:
            return self._buffer.peek(1, 1) is None
        except StoreError:
            return False

    def _rest(self, pause: float) -> bool:
        """Wait so many seconds, or until somebody urges; return whether the end has come."""
        end = self._clock.monotonic() + pause
        while not self._stopping.is_set():
            left = end - self._clock.monotonic()
            if left <= 0:
                return False
            urged = self._urged.wait(left)
            self._urged.clear()
            if urged and not self._firm:
                return self._stopping.is_set()
        return True

    def _attempt(self) -> Step:
        try:
            max_bytes, max_lines = self._pacing.caps
            few = min(self._few, max_lines) if self._suspect else max_lines
            batch = self._buffer.peek(max_bytes, few)
            if batch is None:
                self._emptied()
                return Step(moved=False, pause=self._linger, firm=False)
            if batch.stream != self._stream:  # numbers of another one say nothing of this one
                self._stream = batch.stream
                self._suspect = self._disputed = 0
            return self._deliver(batch)
        except StoreError as error:
            # The lines are where they are; the buffer says in its own health what is the matter.
            return self._hold(error)
        except Exception as error:  # the thread must outlive any bug below it
            self._metrics.panics_recovered_total.labels("sender").inc()
            log.exception("delivery failed unexpectedly")
            return self._hold(Deferred(f"{type(error).__name__}: {error}"), kind="error")

    def _deliver(self, batch: Batch) -> Step:
        if self._attempt_max:
            self._beat(self._attempt_max)
        began = self._clock.monotonic()
        try:
            with self._breaker.guard() if self._breaker else contextlib.nullcontext():
                receipt = self._outlet.deliver(batch)
        except BreakerOpen as reason:
            return self._leave_alone(reason)
        except Deferred as reason:
            if isinstance(reason, Unreachable):
                self._pacing.failed()
            return self._hold(reason)
        except Refused as reason:
            return self._narrow(batch, reason)
        except SequenceGap as reason:
            return self._rewind(batch, reason)
        except StreamConflict as reason:
            return self._renumber(reason)
        return self._take(batch, receipt, self._clock.monotonic() - began)

    def _take(self, batch: Batch, receipt: Receipt, seconds: float) -> Step:
        through, rejected = receipt.through, receipt.rejected
        if not batch.first <= through <= batch.last:
            said = f"{self._outlet.name} acknowledged {through} of {batch.first}-{batch.last}"
            return self._hold(Unexpected(said))
        taken = sum(number <= through for number, _ in batch.numbered()) - len(rejected)
        if rejected and not self._quota.allows(len(rejected), beside=taken):
            return self._hold(_too_many(f"line {min(rejected)}: {rejected[min(rejected)]}"))
        for number, reason in rejected.items():
            log.warning("%s rejected line %d: %s", self._outlet.name, number, reason)
            self._buffer.set_aside(number, without_credentials(reason))
        self._buffer.ack(through)
        self._quota.refused(len(rejected))
        self._quota.delivered(taken)
        return Step(moved=True, pause=self._delivered(batch, receipt, taken, seconds))

    def _delivered(self, batch: Batch, receipt: Receipt, lines: int, seconds: float) -> float:
        """Note a success; return the pause after it."""
        name, now = self._outlet.name, self._clock.monotonic()
        self._success_total.inc()
        self._seconds.observe(seconds)
        self._metrics.output_last_success_timestamp_seconds.labels(name).set(
            self._clock.now().timestamp()
        )
        body = sum(len(line) + 1 for line in batch.lines)
        sent = receipt.sent or body
        self.delivered = Delivered(now, lines, body, sent)
        pause = self._pacing.delivered(body, sent, seconds)
        if self._trouble:
            log.info("delivery resumed after %d failed attempts", self._trouble.attempts)
            outage = now - self._trouble.since
            pause = max(pause, self._pacing.resumed(outage))
            self._sync = _Sync(now, after_outage=outage >= OUTAGE)
            self._trouble = None
        if self._sync is None:
            self._sync = _Sync(now)
        self._sync.lines += lines
        self._sync.batches += 1
        self._conflicts = 0
        # The line at fault is still ahead, in what remains of the suspects: half of it is next.
        remaining = max(0, self._suspect - receipt.through)
        self._few = max(1, remaining // 2)
        if not remaining:
            self._suspect = 0
        return pause

    def _emptied(self) -> None:
        """Say that a backlog is delivered, once."""
        self._pacing.emptied()
        sync, self._sync = self._sync, None
        if sync is None or self._trouble:
            return
        took = self._clock.monotonic() - sync.since
        of_the_start = not self._synced and sync.batches > 1
        if sync.after_outage or of_the_start or took >= OUTAGE:
            log.info(
                "sync complete: %d lines in %.1f s", sync.lines, took,
                extra={"lines": sync.lines, "seconds": round(took, 3)},
            )  # fmt: skip
        self._synced = True

    def _narrow(self, batch: Batch, reason: Refused) -> Step:
        """Halve a refused batch until it is one line, and set that one aside."""
        if len(batch.lines) > 1:
            self._count(reason)
            self._answered()
            if isinstance(reason, TooLarge):
                self._pacing.too_large(len(batch.body))
            else:
                self._suspect = batch.last
                self._disputed = max(self._disputed, batch.last)
                self._few = len(batch.lines) // 2
            return Step(moved=True, pause=0.0)
        if not batch.lines:  # gaps alone, of which nothing can be set aside
            return self._hold(Held(f"gaps are refused: {reason}", remedy=_ASK))
        ((number, _),) = batch.numbered()
        if not self._quota.allows(1, beside=max(0, self._disputed - number)):
            return self._hold(_too_many(str(reason)))
        self._count(reason)
        self._answered()
        log.warning("%s refused line %d: %s", self._outlet.name, number, reason.sentence())
        self._buffer.set_aside(number, without_credentials(str(reason)))
        self._quota.refused(1)
        self._suspect = 0
        return Step(moved=True, pause=0.0)

    def _rewind(self, batch: Batch, reason: SequenceGap) -> Step:
        """Go back to the line that is expected; once, or there is no end to it."""
        self._conflicts += 1
        if self._conflicts > 1 or not 0 < reason.expected < batch.first:
            said = f"{reason} (line {reason.expected} is expected, {batch.first} was sent)"
            return self._hold(Unexpected(f"unexpected answer: {said}", remedy=reason.remedy))
        self._count(reason)
        log.warning(
            "%s expects line %d, not %d: back to it",
            self._outlet.name,
            reason.expected,
            batch.first,
        )
        self._buffer.rewind(reason.expected)
        return Step(moved=True, pause=0.0)

    def _renumber(self, reason: StreamConflict) -> Step:
        """Take a new stream; once, or there is no end to it."""
        self._conflicts += 1
        if self._conflicts > 1:
            return self._hold(Held(f"every stream is in conflict: {reason}", remedy=_ASK))
        self._count(reason)
        self._buffer.renumber()
        self._notice = Trouble(
            "another agent sent under this one's stream; lines go on under a new one",
            "Was this machine cloned, or restored? Give each its own state directory.",
            self._clock.monotonic(),
            1,
        )
        log.warning("%s. %s", self._notice.message, self._notice.remedy)
        return Step(moved=True, pause=0.0)

    def _leave_alone(self, reason: BreakerOpen) -> Step:
        """Wait as long as the breaker says: that is no attempt."""
        if self._trouble is None:
            self._trouble = Trouble(str(reason), reason.remedy, self._clock.monotonic(), 0)
        return Step(moved=False, pause=max(reason.retry_in, 0.001))

    def _hold(self, reason: CollectorError, kind: str | None = None) -> Step:
        """Keep the batch; return the pause before the next attempt."""
        self._count(reason, kind)
        before = self._trouble
        attempts = before.attempts if before else 0
        since = before.since if before else self._clock.monotonic()
        said = without_credentials(str(reason))  # a far side may say anything
        stored = isinstance(reason, StoreError)
        self._trouble = Trouble(said, reason.remedy, since, attempts + 1, stored)
        if before is None or before.message != said:
            log.warning("delivery is held up: %s", reason.sentence())
        asked = reason.retry_after if isinstance(reason, Deferred) else None
        held = isinstance(reason, Held)
        pause = self._backoff.held(asked) if held else self._backoff.pause(attempts, asked)
        return Step(moved=False, pause=pause, firm=asked is not None)

    def _answered(self) -> None:
        """Forget the trouble before: whoever refuses is there."""
        if self._trouble:
            log.info("delivery goes on after %d failed attempts", self._trouble.attempts)
            self._trouble = None

    def _count(self, reason: CollectorError, kind: str | None = None) -> None:
        kind = kind or next((word for each, word in _KINDS if isinstance(reason, each)), "error")
        self._metrics.output_errors_total.labels(self._outlet.name, kind).inc()


class _Sync:
    """A backlog on its way."""

    def __init__(self, since: float, *, after_outage: bool = False) -> None:
        self.since = since  # on the monotonic clock
        self.after_outage = after_outage
        self.lines = self.batches = 0


def _too_many(reason: str) -> Held:
    return Held(
        f"more than a fifth of an hour's lines would go into quarantine: {reason}", remedy=_ASK
    )
