"""How much at once, how soon again: the numbers behind the sender's patience. Pure, clock-driven.

Three things are kept apart. `Backoff` says when to try again after a failure. `Pacing` says how
large a batch may be, and how fast a backlog may flow. `Quota` says whether so many lines may be
refused as they are.
"""

import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

from pg_collector.clock import Clock
from pg_collector.config.model import Platform

Uniform = Callable[[float, float], float]

LONGEST_RETRY_AFTER: Final = 3600.0  # seconds, whatever the far side asks for
HELD: Final = (60.0, 180.0)  # seconds between two looks at a far side that waits for a person
OUTAGE: Final = 10.0  # seconds of failures after which delivery returns gently
SMALLEST: Final = 16 * 1024  # bytes to which a batch shrinks on its own
LIMIT_HOLDS: Final = 3600.0  # seconds that a size which was refused is remembered
QUICK: Final = 1.0  # seconds; a full batch that takes less may be followed by a larger one
SLOW: Final = 2.0  # seconds; one that takes more is followed by a smaller one
FULL_SPEED: Final = 64.0  # batches a second at which the slow start ends
HOUR: Final = 3600.0
TOLERATED: Final = 0.2  # of an hour's lines may be refused
SOME: Final = 5  # lines may be in any case

_MAX_DOUBLINGS: Final = 16
_LATENCY_DRIFT: Final = 1.1


class Backoff:
    """Full jitter: agents that failed together must not return together.

    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """

    def __init__(self, longest: float = 60.0, uniform: Uniform = random.uniform) -> None:
        self._longest = longest
        self._uniform = uniform

    def pause(self, failures: int, asked: float | None = None) -> float:
        """Return the seconds after so many failures in a row before this one.

        The pause that the far side `asked` for is kept if it is longer, within an hour.
        """
        ceiling = min(self._longest, 2.0 ** min(failures, _MAX_DOUBLINGS))
        return self._at_least(self._uniform(0.0, ceiling), asked)

    def held(self, asked: float | None = None) -> float:
        """Return the seconds after an answer that only a person can change."""
        return self._at_least(self._uniform(*HELD), asked)

    def _at_least(self, seconds: float, asked: float | None) -> float:
        return max(seconds, min(asked or 0.0, LONGEST_RETRY_AFTER), 0.001)  # 0 would mean: go on


class Caps(NamedTuple):
    """What a batch may hold."""

    max_bytes: int
    max_lines: int


class Pacing:
    """The size of the next batch, and the pause before it, while all goes well.

    Without `rate_max`, in bytes a second on the wire, and `resume_delay_max`, in seconds, nothing
    is slowed down: so for files.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        max_bytes: int = 512 * 1024,
        max_lines: int = 500,
        rate_max: float = math.inf,
        resume_delay_max: float = 0.0,
        uniform: Uniform = random.uniform,
    ) -> None:
        self._clock = clock
        self._max_bytes = max_bytes
        self._max_lines = max_lines
        self._rate_max = rate_max
        self._resume_delay_max = resume_delay_max
        self._uniform = uniform
        self._bytes = max_bytes
        self._refused_size = max_bytes
        self._refused_until = -math.inf
        self._latency = QUICK
        self._draining = True  # at the start there may be a backlog
        self.limit = max_bytes  # what the far side announced; from any thread
        self._starting: _SlowStart | None = None

    @classmethod
    def of(cls, platform: Platform, clock: Clock, uniform: Uniform = random.uniform) -> Self:
        """Return the pacing that a configuration asks for."""
        return cls(
            clock,
            max_bytes=platform.batch_max_bytes,
            max_lines=platform.batch_max_lines,
            rate_max=platform.drain_rate_max,
            resume_delay_max=platform.resume_delay_max,
            uniform=uniform,
        )

    @property
    def caps(self) -> Caps:
        """What the next batch may hold."""
        return Caps(min(self._bytes, self._taken(), self.limit), self._max_lines)

    def delivered(self, body: int, sent: int, seconds: float) -> float:
        """Hear of a batch of `body` bytes, `sent` on the wire, that took so long.

        Returns the seconds to wait before the next one.
        """
        self._fit(body, seconds)
        if not self._draining:
            return 0.0
        pause = sent / self._rate_max
        if self._starting is not None:
            pause = max(pause, self._starting.interval())
            if self._starting.over:
                self._starting = None
        return max(0.0, pause - seconds)

    def resumed(self, outage: float) -> float:
        """Hear that the first batch after so many seconds of failures has arrived.

        Returns the seconds to wait before the next one.
        """
        self._draining = True
        if outage < OUTAGE:
            return 0.0
        if self._rate_max < math.inf:
            self._starting = _SlowStart()
        return self._uniform(0.0, self._resume_delay_max)

    def emptied(self) -> None:
        """Hear that nothing waits any more: from now on lines go as they come."""
        self._draining = False
        self._starting = None

    def failed(self) -> None:
        """Hear that no answer came: perhaps the batch was more than the way can take in time."""
        self._bytes = max(min(SMALLEST, self._max_bytes), self._bytes // 2)

    def too_large(self, body: int) -> None:
        """Hear that the far side does not take so many bytes at once."""
        self._refused_size = max(1, min(self._taken(), body) // 2)
        self._refused_until = self._clock.monotonic() + LIMIT_HOLDS

    def _taken(self) -> int:
        """Return how many bytes the far side takes, as far as is known."""
        known = self._clock.monotonic() < self._refused_until
        return self._refused_size if known else self._max_bytes

    def _fit(self, body: int, seconds: float) -> None:
        """Let batches grow and shrink towards one to two seconds beyond what an empty one takes."""
        drifted = max(self._latency, 0.001) * _LATENCY_DRIFT
        self._latency = min(seconds, drifted)
        beyond = seconds - self._latency
        if beyond > SLOW:
            self._bytes = max(min(SMALLEST, self._max_bytes), self._bytes // 2)
        elif beyond < QUICK and body * 2 > self._bytes:
            self._bytes = min(self._max_bytes, self._bytes * 2)


@dataclass
class _SlowStart:
    """One batch in the first second, two in the next, then four."""

    rate: float = 1.0
    batches: int = 0

    @property
    def over(self) -> bool:
        return self.rate > FULL_SPEED

    def interval(self) -> float:
        """Count a batch; return the seconds until the next."""
        seconds = 1.0 / self.rate
        self.batches += 1
        if self.batches >= self.rate:
            self.batches = 0
            self.rate *= 2
        return seconds


@dataclass
class _Minute:
    number: int
    delivered: int = 0
    refused: int = 0


class Quota:
    """How many lines may be refused: a fifth of an hour's, or a handful.

    Without a delivery time does not pass here: where everything is refused, waiting changes
    nothing.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._minutes: deque[_Minute] = deque()

    def delivered(self, count: int) -> None:
        """Count lines that were taken."""
        now = self._now()
        while self._minutes and self._minutes[0].number <= now.number - HOUR // 60:
            self._minutes.popleft()
        now.delivered += count

    def refused(self, count: int) -> None:
        """Count lines that were set aside."""
        self._now().refused += count

    def allows(self, count: int, *, beside: int) -> bool:
        """Whether so many more may be set aside, of an hour's lines and those `beside` them."""
        refused = sum(one.refused for one in self._minutes) + count
        total = sum(one.delivered for one in self._minutes) + refused + beside
        return refused <= SOME or refused <= TOLERATED * total

    def _now(self) -> _Minute:
        number = int(self._clock.monotonic() // 60)
        if not self._minutes or self._minutes[-1].number != number:
            self._minutes.append(_Minute(number))
        return self._minutes[-1]
