"""Vitals: every part brings its own health check, and says what helps when it is unwell.

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

from pg_collector.clock import Clock
from pg_collector.metrics import Metrics

log = logging.getLogger(__name__)

# Seconds beyond what a thread announced; with what it announces, a lost one is noticed within 30 s.
PATIENCE: Final = 20.0


class State(enum.StrEnum):
    """How a part, or the whole, is."""

    OK = "ok"
    DEGRADED = "degraded"
    DOWN = "down"
    STOPPED = "stopped"  # on purpose: the end of the process, or of the subscription


class Vital(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer of one part. Without an essential part the whole is down, else degraded."""

    state: State
    reason: str = ""
    remedy: str = ""
    essential: bool = False


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
_STATUS_VALUE: Final = {State.OK: 2, State.DEGRADED: 1, State.DOWN: 0, State.STOPPED: 0}


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

    def vital(self) -> Vital:
        """Say down when the thread has ended, or its next sign is long overdue."""
        if self.beats:
            return Vital(state=State.OK, essential=True)
        return Vital(
            state=State.DOWN,
            reason="this thread has ended"
            if self.ended
            else f"no sign of this thread for {self.age():.0f} s",
            remedy="Restart the agent, and report this with the log.",
            essential=True,
        )


class Vitals:
    """Where the parts of an agent register, and the endpoints ask. Thread-safe.

    Checks run in the asking thread: they look at what is known and wait for nothing. `scrub`
    redacts every reason on its way out. A thread is dead `patience` seconds after the moment for
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
        self._ending = False
        metrics.health_status.set_function(lambda: _STATUS_VALUE[self.health().status])

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

    def all_hearts_beat(self) -> bool:
        """Whether every thread lives, as `liveness` would say at greater length."""
        with self._lock:
            return all(heart.beats for heart in self._hearts.values())

    def ending(self) -> None:
        """Say from now on that the agent stops: neither healthy nor ready, but alive."""
        self._ending = True

    def health(self) -> Report:
        """Ask every part, and every thread."""
        with self._lock:
            checks = {**self._heart_checks(), **self._parts}
        return self._report(checks)

    def liveness(self) -> Report:
        """Ask the threads only; while the agent stops, their end is no illness."""
        if self._ending:
            return Report(State.OK, {})
        with self._lock:
            checks = self._heart_checks()
        parts = self._ask(checks)
        return Report(_overall(parts), parts)

    def readiness(self) -> Report:
        """Ask the conditions; all of them must hold."""
        with self._lock:
            checks = dict(self._conditions)
        parts = {
            name: msgspec.structs.replace(vital, essential=True)
            for name, vital in self._ask(checks).items()
        }
        return self._ended(parts) or Report(_overall(parts), parts)

    def _heart_checks(self) -> dict[str, Check]:
        return {f"thread {name}": heart.vital for name, heart in self._hearts.items()}

    def _report(self, checks: Mapping[str, Check]) -> Report:
        parts = self._ask(checks)
        return self._ended(parts) or Report(_overall(parts), parts)

    def _ended(self, parts: dict[str, Vital]) -> Report | None:
        if not self._ending:
            return None
        agent = Vital(state=State.STOPPED, reason="the agent is stopping", essential=True)
        return Report(State.STOPPED, {**parts, "agent": agent})

    def _ask(self, checks: Mapping[str, Check]) -> dict[str, Vital]:
        return {name: self._answer(name, check) for name, check in checks.items()}

    def _answer(self, name: str, check: Check) -> Vital:
        try:
            vital = check()
            if not vital.reason and not vital.remedy:
                return vital
            return msgspec.structs.replace(
                vital, reason=self._scrub(vital.reason), remedy=self._scrub(vital.remedy)
            )
        except Exception as error:
            self._metrics.panics_recovered_total.labels("health").inc()
            log.exception("the health check of %s failed", name)
            return Vital(state=State.DOWN, reason=f"its check failed: {type(error).__name__}")


def _overall(parts: Mapping[str, Vital]) -> State:
    essential = {vital.state for vital in parts.values() if vital.essential}
    for worst in (State.STOPPED, State.DOWN):
        if worst in essential:
            return worst
    if all(vital.state is State.OK for vital in parts.values()):
        return State.OK
    return State.DEGRADED
