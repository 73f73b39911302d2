"""Vitals: every part brings its own health check, and says what helps when it is unwell.

Each answer says since when the part has been in its state; `look` notes changes where nobody asks.

Three questions are answered, for three readers. *Is it healthy?* (people, alerts): the checks of
all parts. *Is it alive?* (whoever restarts it): the signs of its own threads, never the state of a
database or the platform, because a restart mends neither. *Is it ready?* (deployments): the
conditions under which it collects.
"""

import enum
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from pg_collector.clock import Clock, rfc3339
from pg_collector.metrics import Metrics

log = logging.getLogger(__name__)

# Seconds beyond what a thread announced; with what it announces, a lost one is noticed within 30 s.
PATIENCE: Final = 20.0
# Seconds after which a check that has not come back is not asked again: no other thread is lost.
TOO_LONG: Final = 0.25
REPORT_IT: Final = "Restart the agent, and report this with the log."


class State(enum.StrEnum):
    """How a part, or the whole, is."""

    OK = "ok"
    DEGRADED = "degraded"
    UNKNOWN = "unknown"  # it cannot know yet, or its check says nothing
    DOWN = "down"
    STOPPED = "stopped"  # on purpose: the end of the process, or of the subscription


class Vital(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer of one part. Without an essential part the whole is down, else degraded.

    One that does not know yet, and has no remedy, changes nothing for as long as threads have.
    `since` is when its state last changed, as far as somebody looked: RFC 3339; `Vitals` knows.
    """

    state: State
    reason: str = ""
    remedy: str = ""
    essential: bool = False
    since: str = ""


class Report(msgspec.Struct, frozen=True):
    """The answers of all parts, and what follows from them."""

    status: State
    parts: Mapping[str, Vital]

    @property
    def well(self) -> bool:
        """Whether this is worth a 200: ok or degraded."""
        return self.status in {State.OK, State.DEGRADED}


Check = Callable[[], Vital]

OK: Final = Vital(state=State.OK)
_ENDING: Final = Vital(state=State.STOPPED, reason="the agent is stopping", essential=True)
_STATUS_VALUE: Final = {State.OK: 2, State.DEGRADED: 1}
_BAD: Final = (State.STOPPED, State.DOWN, State.UNKNOWN)  # the worst first


class Pulse(msgspec.Struct, frozen=True):
    """One thread: seconds since its last sign, seconds until the next is due, whether it lives."""

    alive: bool
    age_s: float
    due_in_s: float  # below 0: overdue
    patience_s: float  # how long it may be overdue


class Heart:
    """The sign of life of one thread: of the one that gave the last sign."""

    def __init__(self, clock: Clock, patience: float) -> None:
        self._clock = clock
        self._patience = patience
        self._last = self._due = clock.monotonic()
        self._thread: threading.Thread | None = None

    def beat(self, within: float = 0.0) -> None:
        """Give a sign, and announce the next one within so many seconds."""
        self._thread = threading.current_thread()
        self._last = self._clock.monotonic()
        self._due = self._last + within

    def age(self) -> float:
        """Return the seconds since the last sign."""
        return self._clock.monotonic() - self._last

    def overdue(self) -> float:
        """Return the seconds beyond the moment for which the next sign was announced."""
        return max(0.0, self._clock.monotonic() - self._due)

    @property
    def ended(self) -> bool:
        """Whether its thread has ended."""
        return self._thread is not None and not self._thread.is_alive()

    @property
    def beats(self) -> bool:
        """Whether its thread runs, and its next sign is not long overdue."""
        return not self.ended and self._clock.monotonic() - self._due <= self._patience

    def pulse(self) -> Pulse:
        """Return the same in numbers."""
        due = self._due - self._clock.monotonic()
        return Pulse(self.beats, round(self.age(), 3), round(due, 3), self._patience)

    def vital(self) -> Vital:
        """Say down when the thread has ended, or its next sign is long overdue."""
        if self.beats:
            return Vital(state=State.OK, essential=True)
        return Vital(
            state=State.DOWN,
            reason="this thread has ended"
            if self.ended
            else f"no sign of this thread for {self.age():.0f} s",
            remedy=REPORT_IT,
            essential=True,
        )


class Vitals:
    """Where the parts of an agent register, and the endpoints ask. Thread-safe.

    Checks run in the asking thread: they look at what is known and wait for nothing. One that does
    all the same costs one thread, and is unknown to all others. `scrub` redacts every reason on its
    way out. A thread is dead `patience` seconds after the moment for
    which it announced its next sign.
    """

    def __init__(
        self,
        clock: Clock,
        metrics: Metrics,
        *,
        scrub: Callable[[str], str] = lambda text: text,
        patience: float = PATIENCE,
    ) -> None:
        self._clock = clock
        self._patience = patience
        self._metrics = metrics
        self._scrub = scrub
        self._lock = threading.Lock()  # guards the dictionaries
        self._parts: dict[str, Check] = {}
        self._conditions: dict[str, Check] = {}
        self._hearts: dict[str, Heart] = {}
        # What follows is by the check, and changed one item at a time.
        self._since: dict[str, tuple[State, float, str]] = {}
        self._under_way: dict[str, tuple[float]] = {}  # since when, on the monotonic clock
        self._failing: set[str] = set()  # told in the log already
        self._ending = False
        metrics.health_status.set_function(lambda: _STATUS_VALUE.get(self.health().status, 0))

    def register(self, name: str, check: Check) -> None:
        """Add a part to the health report, or replace it."""
        with self._lock:
            self._parts[name] = check

    def require(self, name: str, check: Check) -> None:
        """Add a condition of readiness: it holds while its check says ok or degraded."""
        with self._lock:
            self._conditions[name] = check

    def forget(self, name: str) -> None:
        """Remove a part, a condition and a thread of that name."""
        with self._lock:
            self._parts.pop(name, None)
            self._conditions.pop(name, None)
            heart = self._hearts.pop(name, None)
        for key in (name, _thread(name), _condition(name)):
            self._since.pop(key, None)
            self._failing.discard(key)
        if heart is not None:
            self._metrics.watchdog_component_age_seconds.remove(name)
            self._metrics.watchdog_component_overdue_seconds.remove(name)

    def heart(self, name: str, patience: float | None = None) -> Heart:
        """Return the heart of a thread; /livez fails once it is overdue by `patience` seconds."""
        heart = Heart(self._clock, self._patience if patience is None else patience)
        with self._lock:
            self._hearts[name] = heart
        self._metrics.watchdog_component_age_seconds.labels(name).set_function(heart.age)
        self._metrics.watchdog_component_overdue_seconds.labels(name).set_function(heart.overdue)
        return heart

    def heart_state(self, name: str) -> State:
        """Return how a thread is, by its heart; ok where there is none of that name."""
        with self._lock:
            heart = self._hearts.get(name)
        return heart.vital().state if heart is not None else State.OK

    def pulse(self) -> Mapping[str, Pulse]:
        """Return how every thread is."""
        with self._lock:
            return {name: heart.pulse() for name, heart in self._hearts.items()}

    def all_hearts_beat(self) -> bool:
        """Whether every thread lives, as `liveness` would say at greater length."""
        with self._lock:
            return all(heart.beats for heart in self._hearts.values())

    def ending(self) -> None:
        """Say from now on that the agent stops: neither healthy nor ready, but alive."""
        self._ending = True

    def look(self) -> None:
        """Note whose state has changed, though nobody asks."""
        self.health()
        self.readiness()

    def health(self) -> Report:
        """Ask every part, and every thread."""
        with self._lock:
            checks = {**self._heart_checks(), **self._parts}
        return self._report(self._ask(checks), ending=self._ending)

    def liveness(self) -> Report:
        """Ask the threads only; while the agent stops, their end is no illness."""
        if self._ending:
            return Report(State.OK, {})
        with self._lock:
            checks = self._heart_checks()
        return self._report(self._ask(checks))

    def readiness(self) -> Report:
        """Ask the conditions; all of them must hold."""
        with self._lock:
            checks = dict(self._conditions)
        parts = {
            name: msgspec.structs.replace(vital, essential=True)
            for name, vital in self._ask(checks, _condition).items()
        }
        return self._report(parts, _condition, ending=self._ending)

    def _heart_checks(self) -> dict[str, Check]:
        return {_thread(name): heart.vital for name, heart in self._hearts.items()}

    def _report(
        self,
        parts: Mapping[str, Vital],
        key: Callable[[str], str] = str,
        *,
        ending: bool = False,
    ) -> Report:
        if ending:
            parts = {name: _in_the_end(vital) for name, vital in parts.items()} | {"agent": _ENDING}
        now = self._clock.monotonic()
        dated: dict[str, Vital] = {}
        states: dict[State, bool] = {}  # whether one of the parts in it is essential
        for name, vital in parts.items():
            began, since = self._noted(key(name), vital.state)
            dated[name] = msgspec.structs.replace(vital, since=since)
            # Who has just begun, and has nothing that could be mended, says nothing of the whole.
            new = vital.state is State.UNKNOWN and now - began <= self._patience
            if vital.essential or not new or vital.remedy:
                states[vital.state] = vital.essential or states.get(vital.state, False)
        return Report(State.STOPPED if ending else _overall(states), dated)

    def _noted(self, key: str, state: State) -> tuple[float, str]:
        """Return since when a part is in its state, by both clocks: now where it is new."""
        known = self._since.get(key)
        if known is None or known[0] is not state:
            known = state, self._clock.monotonic(), rfc3339(self._clock.now())
            self._since[key] = known
        return known[1:]

    def _ask(
        self, checks: Mapping[str, Check], key: Callable[[str], str] = str
    ) -> dict[str, Vital]:
        return {name: self._answer(name, key(name), check) for name, check in checks.items()}

    def _answer(self, name: str, key: str, check: Check) -> Vital:
        """Ask one part, unless somebody else has been waiting for it for too long."""
        mine = (self._clock.monotonic(),)
        first = self._under_way.setdefault(key, mine)
        if (late := mine[0] - first[0]) > TOO_LONG:
            reason = f"its check has not come back for {late:.1f} s"
            return Vital(state=State.UNKNOWN, reason=reason, remedy=REPORT_IT)
        try:
            vital = check()
            if vital.reason or vital.remedy:
                vital = msgspec.structs.replace(
                    vital, reason=self._scrub(vital.reason), remedy=self._scrub(vital.remedy)
                )
        except Exception as error:  # noqa: BLE001  # told there; it never takes the page with it
            return self._failed(name, key, error)
        finally:
            if first is mine:
                self._under_way.pop(key, None)
        self._failing.discard(key)
        return vital

    def _failed(self, name: str, key: str, error: Exception) -> Vital:
        """Say that a check failed; in the log where it did not do so before."""
        self._metrics.panics_recovered_total.labels("health").inc()
        if key not in self._failing:
            self._failing.add(key)
            log.error("the health check of %s failed", name, exc_info=error)
        reason = f"its check failed: {type(error).__name__}"
        return Vital(state=State.UNKNOWN, reason=reason, remedy=REPORT_IT)


def _thread(name: str) -> str:
    return f"thread {name}"


def _condition(name: str) -> str:
    return f"condition {name}"


def _in_the_end(vital: Vital) -> Vital:
    """Return what to say of a part while the agent stops: that it has ended is no illness."""
    ended = vital.state is State.UNKNOWN or (vital.essential and vital.state is State.DOWN)
    return _ENDING if ended else vital


def _overall(states: Mapping[State, bool]) -> State:
    """Return the state of the whole; `states` says of each whether an essential part is in it."""
    for worst in _BAD:
        if states.get(worst):
            return worst
    return State.DEGRADED if states.keys() - {State.OK} else State.OK
