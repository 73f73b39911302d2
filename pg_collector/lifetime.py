"""The life of the process: what its main thread waits for, why it ends, how long that may take."""

import contextlib
import logging
import os
import queue
import resource
import select
import weakref
from collections.abc import Callable
from typing import Final

from pg_collector.clock import Clock

log = logging.getLogger(__name__)

LOOKS_EVERY: Final = 60.0  # seconds: the main thread's longest silence, whatever happens
SLICE: Final = 0.05  # seconds after which a wait looks whether it is still wanted


def leave_no_core() -> None:
    """Let a crash leave no core file: raw texts and passwords would be in it.

    The hard limit stays: who looks for a fault may ask for one with `prlimit --core`.
    """
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))


class Ending:
    """The time that an orderly stop may take, spent in order; a second signal gives up the rest.

    `begin` and `hurry` may be called in a signal handler, and from any thread: they set one value
    each and take no lock.
    """

    def __init__(self, clock: Clock, budget: float) -> None:
        """Nothing ends yet. `budget` is in seconds, from `begin` on."""
        self._clock = clock
        self._budget = budget
        self._began_at: float | None = None
        self._hurried = False

    @property
    def begun(self) -> bool:
        """Whether the process ends."""
        return self._began_at is not None

    @property
    def hurried(self) -> bool:
        """Whether nothing is waited for any more."""
        return self._hurried

    @property
    def left(self) -> float:
        """Seconds of the budget that are left; all of it before the end begins."""
        if self._began_at is None:
            return self._budget
        return max(0.0, self._began_at + self._budget - self._clock.monotonic())

    def begin(self) -> None:
        """Let the budget run from now on; later calls change nothing."""
        if self._began_at is None:
            self._began_at = self._clock.monotonic()

    def hurry(self) -> None:
        """Let every wait end now."""
        self._hurried = True

    def wait(self, look: Callable[[float], bool], seconds: float) -> bool:
        """Call `look` with short times to wait until it returns True; return whether it did.

        Ends after `seconds`, with the budget, or when hurried, whichever comes first.
        """
        deadline = self._clock.monotonic() + min(seconds, self.left)
        while True:
            left = 0.0 if self._hurried else deadline - self._clock.monotonic()
            if look(min(SLICE, max(0.0, left))):
                return True
            if left <= 0:
                return False


class Lifetime:
    """From the start to the reason of the end. Any thread, and a signal handler, may end it."""

    def __init__(self, ending: Ending) -> None:
        self.failed = False  # whether it ends because a part was lost
        self.when_ending: Callable[[], None] | None = None  # called once, as the end begins
        self.routine: Callable[[], None] = lambda: None  # done in the main thread now and then
        self._ending = ending
        self._why = ""
        # Work for the main thread; None is the end. `put` is reentrant, as a handler needs it:
        # https://docs.python.org/3/library/queue.html#simplequeue-objects
        self._posted: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # A byte written to the rope wakes the main thread, which looks for work.
        self._bell, self.rope = os.pipe()
        for end in (self._bell, self.rope):
            os.set_blocking(end, False)
            weakref.finalize(self, os.close, end)

    def post(self, work: Callable[[], None]) -> None:
        """Have `work` done in the main thread, unless the end comes first."""
        self._post(work)

    def wait(self) -> int:
        """Be the main thread: do what is posted, until the end; return the exit code, 0 or 1."""
        while True:
            try:
                work = self._posted.get_nowait()
            except queue.Empty:
                self.routine()
                self._sleep()
                continue
            if work is None:
                break
            work()
        log.info("stopping: %s", self._why)
        return 1 if self.failed else 0

    def _sleep(self) -> None:
        """Wait until the bell is rung. What was posted before, or comes meanwhile, rings it."""
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        poll.poll(LOOKS_EVERY * 1000)
        with contextlib.suppress(BlockingIOError):
            os.read(self._bell, 4096)

    def _post(self, work: Callable[[], None] | None) -> None:
        self._posted.put(work)
        with contextlib.suppress(BlockingIOError):  # full of what nobody has heard yet
            os.write(self.rope, b"\0")

    def end(self, why: str, *, failed: bool = False) -> None:
        """Let `wait` return."""
        self.failed = self.failed or failed
        self._why = self._why or why
        self.begin_to_end()
        self._post(None)

    def begin_to_end(self) -> None:
        """Let the time of the end run; later calls change nothing."""
        if not self._ending.begun:
            self._ending.begin()
            if self.when_ending is not None:
                self.when_ending()

    def essential(self, work: Callable[[], None]) -> bool:
        """Do the work of a thread that nothing works without: its death ends the process.

        Returns whether the work came to its own end.
        """
        try:
            work()
        except BaseException:
            self.end("a part died", failed=True)
            log.exception("a part that nothing works without died")
            return False
        return True
