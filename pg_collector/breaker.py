"""Circuit breakers: leave a far side alone that fails again and again, then try it carefully.

pybreaker counts and holds the state. It is told outcomes only, after the fact: its own `call` would
hold a lock while the work runs, its `calling` lets everybody in at once while half-open, and its
clock is the wall clock. So admission, the single probe and the time until it stand here.
https://github.com/danielfm/pybreaker
"""

import contextlib
import enum
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Final, NoReturn

import pybreaker

from pg_collector.clock import Clock
from pg_collector.errors import (
    BreakerOpen,
    CollectorError,
    DeliveryError,
    SamplerError,
    TargetError,
)
from pg_collector.metrics import Metrics

log = logging.getLogger(__name__)

# Errors that the far side itself caused. Where they do not count as failures, it answered.
ANSWERS: Final = (DeliveryError, SamplerError, TargetError)
PROBING: Final = 1.0  # seconds after which to ask again while another thread's probe runs


class State(enum.StrEnum):
    """Closed lets everything pass, open nothing, half-open one attempt at a time."""

    CLOSED = pybreaker.STATE_CLOSED
    HALF_OPEN = pybreaker.STATE_HALF_OPEN
    OPEN = pybreaker.STATE_OPEN


_VALUE: Final = {State.CLOSED: 0, State.HALF_OPEN: 1, State.OPEN: 2}


class Breaker:
    """Guards one far side. Thread-safe; no lock is held while the guarded work runs.

    `failures` outcomes of the classes `counts` in a row open it; after `reset` seconds one attempt
    is let through, which closes it or opens it for as long again. Other errors of the far side
    prove that it lives, and count as a success; errors of our own say nothing of it.
    `on_change` hears every new state, in the thread that caused it; its failure is survived.
    """

    def __init__(
        self,
        component: str,
        *,
        failures: int,
        reset: float,
        counts: tuple[type[Exception], ...],
        metrics: Metrics,
        clock: Clock,
        on_change: Callable[[State], None] = lambda _state: None,
    ) -> None:
        self.component = component
        self._counts = counts
        self._metrics = metrics
        self._clock = clock
        self._on_change = on_change
        self._lock = threading.Lock()  # guards all that follows
        self._circuit = pybreaker.CircuitBreaker(
            fail_max=failures, reset_timeout=reset, throw_new_error_on_trip=False
        )
        self._opened_at = 0.0  # on the monotonic clock
        self._probing = False
        self._reason = self._remedy = ""
        metrics.circuit_breaker_state.labels(component).set_function(lambda: _VALUE[self.state])

    @property
    def state(self) -> State:
        """The present state; reading it waits for nobody."""
        return State(self._circuit.current_state)

    @property
    def reset(self) -> float:
        """Seconds from opening to the next attempt."""
        return self._circuit.reset_timeout

    @property
    def trouble(self) -> BreakerOpen | None:
        """Why it lets nothing pass, as `guard` would say it now; None while it is closed."""
        if self.state is State.CLOSED:
            return None
        with self._lock:
            return self._refusal()

    def adjust(self, *, failures: int, reset: float) -> None:
        """Take other limits from now on; the state stays."""
        with self._lock:
            self._circuit.fail_max = failures
            self._circuit.reset_timeout = reset

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Let the work in the `with` block pass, and learn from how it ends.

        Raises BreakerOpen without running it while the breaker is open, and while another thread's
        probe runs; else what the work raises.
        """
        probe = self._admit()
        try:
            yield
        except self._counts as error:
            self._learn(error, probe=probe, failed=True)
            raise
        except ANSWERS:
            self._learn(None, probe=probe, failed=False)
            raise
        except BaseException:
            if probe:
                self._give_back()
            raise
        else:
            self._learn(None, probe=probe, failed=False)

    def _admit(self) -> bool:
        """Return whether the caller's attempt is the probe; raise BreakerOpen if it may not try."""
        with self._lock:
            if self.state is State.CLOSED:
                return False
            if self._probing or self._left() > 0:
                raise self._refusal()
            self._probing = True
            self._circuit.half_open()
        self._announce(State.HALF_OPEN)
        return True

    def _learn(self, error: Exception | None, *, probe: bool, failed: bool) -> None:
        with self._lock:
            before = self.state
            if probe:
                self._probing = False
            elif before is not State.CLOSED:
                return  # it began before the breaker opened, and tells nothing new
            if error is not None:
                self._reason = str(error)
                self._remedy = error.remedy if isinstance(error, CollectorError) else ""
            with contextlib.suppress(_Failed):
                self._circuit.call(_fail if failed else _succeed)
            after = self.state
            if after is State.OPEN:
                self._opened_at = self._clock.monotonic()
        if after is not before:
            self._announce(after, new=not probe)

    def _give_back(self) -> None:
        """End a probe that learnt nothing: the next attempt is the probe."""
        with self._lock:
            self._probing = False
            self._circuit.open()
        self._announce(State.OPEN)

    def _left(self) -> float:
        return self._opened_at + self.reset - self._clock.monotonic()

    def _refusal(self) -> BreakerOpen:
        # The message stays the same as long as the reason does: it is told once.
        retry_in = max(self._left(), PROBING if self._probing else 0.0)
        return BreakerOpen(self._reason, remedy=self._remedy, retry_in=retry_in)

    def _announce(self, state: State, *, new: bool = False) -> None:
        extra = {"component": self.component, "reason": self._reason}
        if state is State.CLOSED:
            log.info("circuit breaker closed", extra=extra)
        elif state is State.OPEN and new:  # a probe that failed is no news
            log.warning("circuit breaker opened", extra={**extra, "remedy": self._remedy})
        try:
            self._on_change(state)
        except Exception:
            # The work has its outcome already: whoever listens must not turn it into another one.
            self._metrics.panics_recovered_total.labels("breaker").inc()
            log.exception("who listens to the breaker of %s failed", self.component)


class _Failed(Exception):
    """What pybreaker sees of a failure: the error itself went to the caller already."""


def _fail() -> NoReturn:
    raise _Failed


def _succeed() -> None:
    """Be a success for pybreaker to count."""
