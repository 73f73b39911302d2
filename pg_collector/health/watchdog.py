"""The watchdog: a thread that nothing works without must not be dead in a living process.

It asks the hearts of all threads (`vitals`) and says so when one has stopped. It also keeps the end
of the process in time: where the main thread itself hangs in it, somebody else has to act. And it
has the changes of all parts noted: since when they are as they are. That asks the checks of all
parts, any of which may hang: so it is done in a thread beside, which holds up nothing here.
"""

import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable
from typing import Final

from pg_collector.clock import Clock
from pg_collector.health.vitals import State, Vitals

log = logging.getLogger(__name__)

EVERY: Final = 3.0  # seconds between two looks
AGAIN: Final = 1.0  # the same while a thread seems to be lost
LOOKS: Final = 3  # in a row before a thread counts as lost
STOOD_STILL: Final = 5.0  # seconds beyond the pause: the process slept, nobody is at fault
NOTED_WITHIN: Final = 0.25  # seconds that the changes of all parts are waited for

Essential = Callable[[Callable[[], None]], object]


class Watchdog:
    """Looks at every heart, in a thread of its own."""

    def __init__(
        self,
        vitals: Vitals,
        clock: Clock,
        on_dead: Callable[[str], None],
        *,
        on_well: Callable[[], None] = lambda: None,
        on_noted: Callable[[], None] = lambda: None,
        every: float = EVERY,
    ) -> None:
        """`on_dead` is told once, in the watchdog's thread, what is lost and why.

        `on_well` is called there after each look, `every` seconds apart, that found no thread lost:
        it must not wait for anybody. After it `on_noted` is, in a thread beside, once the changes
        of all parts are noted: it may.
        """
        self._on_well = on_well
        self._on_noted = on_noted
        self._every = every
        self._vitals = vitals
        self._clock = clock
        self._on_dead = on_dead
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._essential: Essential = lambda work: work()
        self._noting: threading.Thread | None = None
        self._wishes: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._noted = threading.Event()  # whether nobody is at it
        self._noted.set()
        self._due = clock.monotonic()  # when the next look is
        self._lost: Counter[str] = Counter()  # looks in a row that found it so
        self._told = False
        self._beat: Callable[[float], None] = lambda _within: None
        self._end_by: tuple[float, Callable[[], None]] | None = None

    def start(self, essential: Essential = lambda work: work()) -> None:
        """Begin to look; `essential` runs the work of its threads."""
        self._essential = essential
        self._beat = self._vitals.heart("watchdog").beat
        self._thread = threading.Thread(
            target=essential, args=(self._run,), name="watchdog", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(self._every)
        if self._noting is not None:
            self._wishes.put(None)
            self._noting.join(NOTED_WITHIN)

    def end_within(self, seconds: float, last_resort: Callable[[], None]) -> None:
        """Call `last_resort` once unless `stop` comes within so many seconds.

        Safe in a signal handler.
        """
        self._end_by = (self._clock.monotonic() + seconds, last_resort)

    def step(self) -> float:
        """Look once; return the seconds until the next look."""
        self._beat(EVERY)
        now = self._clock.monotonic()
        self._look(forgive=now - self._due > STOOD_STILL)
        self._end_in_time(now)
        if well := not self._lost and not self._told:
            _survived(self._on_well)
        self._note(self._on_noted if well else lambda: None)
        now = self._clock.monotonic()
        pause = self._pause(now)
        self._due = now + pause
        return pause

    def _run(self) -> None:
        while not self._stopping.wait(self.step()):
            pass

    def _look(self, *, forgive: bool) -> None:
        if not self._lost and self._vitals.all_hearts_beat():
            return
        parts = self._vitals.liveness().parts
        down = {name: vital for name, vital in parts.items() if vital.state is State.DOWN}
        self._lost = Counter({name: 0 if forgive else self._lost[name] + 1 for name in down})
        lost = [name for name, looks in self._lost.items() if looks >= LOOKS]
        if lost and not self._told:
            self._told = True
            why = "; ".join(f"{name}: {down[name].reason}" for name in lost)
            self._on_dead(why)  # first: what hangs may be the disk of the log
            log.critical("a part that nothing works without is lost: %s", why)

    def _end_in_time(self, now: float) -> None:
        if self._end_by is None:
            return
        by, last_resort = self._end_by
        if now >= by:
            self._end_by = None
            last_resort()

    def _note(self, then: Callable[[], None]) -> None:
        """Have the changes of all parts noted, unless somebody is still at it since before.

        The thread for it stays: to start one costs forty times as much as what it does.
        """
        if not self._noted.is_set() or not self._has_notes():
            return
        self._noted.clear()
        self._wishes.put(then)
        self._noted.wait(NOTED_WITHIN)

    def _has_notes(self) -> bool:
        """Start the thread that notes, if there is none; return whether there is one."""
        if self._noting is None:
            notes = threading.Thread(
                target=self._essential, args=(self._notes,), name="watchdog-notes", daemon=True
            )
            try:
                notes.start()
            except RuntimeError:  # the system has no thread for it now
                return False
            self._noting = notes
        return True

    def _notes(self) -> None:
        while (then := self._wishes.get()) is not None:
            _survived(self._vitals.look)
            _survived(then)
            self._noted.set()

    def _pause(self, now: float) -> float:
        pause = min(AGAIN, self._every) if self._lost else self._every
        if self._end_by is None:
            return pause
        return min(pause, max(0.0, self._end_by[0] - now))


def _survived(work: Callable[[], None]) -> None:
    """Do what no thread may be lost for."""
    try:
        work()
    except MemoryError:
        raise  # nothing that follows can be trusted
    except Exception:
        log.exception("what the watchdog tells of all parts failed")
