"""Delivery: the sender in its thread, the outlet that it serves, the breaker between them."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from pg_collector import checks
from pg_collector.breaker import Breaker
from pg_collector.buffer.spill import SpillingBuffer
from pg_collector.clock import Clock
from pg_collector.config.model import Config, Platform
from pg_collector.errors import Unreachable
from pg_collector.health import vitals
from pg_collector.health.vitals import Vitals
from pg_collector.lifetime import Ending, Lifetime
from pg_collector.metrics import Metrics
from pg_collector.outlets import Outlet, RemoteOutlet
from pg_collector.pacing import Backoff, Pacing
from pg_collector.sender import Sender

log = logging.getLogger(__name__)

DRAIN: Final = 3.0  # seconds at the end for the last lines to be delivered
FORCED: Final = 1.0  # seconds after that, once the outlet was told to let go
FILE_LINGER: Final = 0.5  # seconds between two looks at an empty buffer: a file costs nothing


class Delivery:
    """What stands between the buffer and an outlet. One thread at a time: `sender`."""

    def __init__(
        self,
        buffer: SpillingBuffer,
        metrics: Metrics,
        clock: Clock,
        *,
        vitals: Vitals,
        life: Lifetime,
        ending: Ending,
    ) -> None:
        self._buffer = buffer
        self._metrics = metrics
        self._clock = clock
        self._vitals = vitals
        self._life = life
        self._ending = ending
        self._running: _Running | None = None
        self._batch_bytes: int | None = None  # what the platform takes at once; None: not told
        self.sender: Sender | None = None  # the one at work, or the last that was
        self.breaker: Breaker | None = None  # before its outlet; None: files need none

    @contextlib.contextmanager
    def to(self, outlet: Outlet, config: Config) -> Iterator[None]:
        """Deliver to an outlet as long as the block lasts, and at its end what is left."""
        self._start(outlet, config)
        try:
            yield
        finally:
            self._end()

    def exchange(self, outlet: Outlet, config: Config) -> None:
        """Deliver to another outlet from now on; what was on its way is delivered there, too."""
        running = self._running
        if running is not None:
            self._running = None
            running.let_go()
            if not running.joined(FORCED):
                self._life.end("the sender does not let go of its outlet", failed=True)
                return
        self._start(outlet, config)

    def cut_at(self, batch_bytes: int) -> None:
        """Let no batch be larger than that, now and with later outlets."""
        self._batch_bytes = batch_bytes
        if self.sender is not None:
            self.sender.cut_at(batch_bytes)

    def hurry(self) -> None:
        """Have what waits written and sent now. From any thread."""
        sender = self.sender
        if sender is None:
            return
        sender.urge()
        if self._buffer.journal is not None:  # what is not on disk yet cannot be sent before
            self._buffer.journal.urge(sender.urge)

    def _start(self, outlet: Outlet, config: Config) -> None:
        remote = isinstance(outlet, RemoteOutlet)
        breaker = self._breaker(config) if remote else None
        self._running = _Running(self._buffer, outlet, self._life, self._ending, self._clock)
        sender = Sender(
            self._buffer,
            outlet,
            self._running.stopping,
            self._metrics,
            clock=self._clock,
            pacing=(Pacing.of if remote else _unhurried)(config.platform, self._clock),
            backoff=Backoff(config.platform.retry_max),
            breaker=breaker,
            linger=config.platform.linger if remote else FILE_LINGER,
            # An attempt may wait for another token, which takes as long again.
            attempt_max=2 * config.platform.timeout.total if remote else 0.0,
            beat=self._vitals.heart("sender").beat,
        )
        if self._batch_bytes is not None:
            sender.cut_at(self._batch_bytes)
        self.sender, self.breaker = sender, breaker
        self._buffer.delivering = lambda: sender.trouble is None
        self._vitals.register("output", partial(checks.output, outlet.name, sender, self._buffer))
        self._running.start(sender)

    def _breaker(self, config: Config) -> Breaker:
        limits = config.breakers.platform
        return Breaker(
            "platform",
            failures=limits.failures,
            reset=limits.reset,
            counts=(Unreachable,),
            metrics=self._metrics,
            clock=self._clock,
        )

    def _end(self) -> None:
        running, self._running = self._running, None
        if running is None:
            return
        running.stop()
        stuck = self._vitals.heart_state("sender") is vitals.State.DOWN
        if self._ending.wait(running.joined, FORCED if stuck else DRAIN):
            return
        running.let_go()
        if not self._ending.wait(running.joined, FORCED):
            log.error("the output hangs; what it was given may come again")


class _Running:
    """A sender's thread, from its start to its end."""

    def __init__(
        self,
        buffer: SpillingBuffer,
        outlet: Outlet,
        life: Lifetime,
        ending: Ending,
        clock: Clock,
    ) -> None:
        self.stopping = threading.Event()
        self._buffer = buffer
        self._outlet = outlet
        self._life = life
        self._ending = ending
        self._clock = clock
        self._let_go = False
        self._sender: Sender | None = None
        self._thread: threading.Thread | None = None

    def start(self, sender: Sender) -> None:
        """Start the thread."""
        self._sender = sender
        work: Callable[[], None] = partial(self._send, sender)
        self._thread = threading.Thread(target=work, name="sender", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Let the thread end after the delivery that is under way."""
        self.stopping.set()
        if self._sender is not None:
            self._sender.urge()

    def let_go(self) -> None:
        """End a delivery that is under way."""
        self._let_go = True
        self.stop()
        if isinstance(self._outlet, RemoteOutlet):
            self._outlet.interrupt()

    def joined(self, seconds: float) -> bool:
        """Wait for the end of the thread; return whether it came."""
        if self._thread is not None:
            self._thread.join(seconds)
        return self._thread is None or not self._thread.is_alive()

    def _send(self, sender: Sender) -> None:
        well = self._life.essential(sender.run)
        # Here, so that an output that hangs holds this thread and not the end of the process.
        if well and not self._let_go and not self._ending.hurried and sender.trouble is None:
            self._buffer.write_down()  # what is not on disk cannot be sent
            sender.drain(self._clock.monotonic() + DRAIN)
        self._outlet.close()


def _unhurried(platform: Platform, clock: Clock) -> Pacing:
    """Return the pacing of local files: no rate, no delay."""
    return Pacing(clock, max_bytes=platform.batch_max_bytes, max_lines=platform.batch_max_lines)
