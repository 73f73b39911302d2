"""How much of a server's time sampling may take, and which sampler gives way. Pure, thread-safe.

What a turn costs is the time that the agent waited for the server: on a server that is busy it
grows, and sampling becomes rarer just then. docs/specs/sampling.md says what holds.
"""

import threading
from typing import Final, NamedTuple

MOST: Final = 64  # times as seldom as asked for, at most
LONGEST: Final = 3_600.0  # seconds between two turns, where it was the budget that made them rare
RECOVERS_BELOW: Final = 0.7  # of the budget: what a sampler would take then, too
SETTLES: Final = 3  # turns after a change before another one
_NEWEST: Final = 0.3  # weight of the newest turn in the mean


class Slowed(NamedTuple):
    """A sampler whose turns have become rarer, or more frequent again."""

    sampler: str
    every: float  # seconds between two turns from now on
    factor: int  # times what was asked for; 1: as asked for
    share: float  # of one core that all samplers together took before


class Pace(NamedTuple):
    """How a sampler's turns come: `factor` times as seldom as asked for.

    So many turns that are due are left out before the next one that takes place.
    """

    factor: int = 1
    left_out: int = 0


class _Load:
    """One sampler: what a turn takes, and how often there is one."""

    def __init__(self) -> None:
        self.seconds: float | None = None  # of the server, a turn, on average
        self.first = True  # the first turn does what is done once only, and tells nothing
        self.every = 1.0
        self.factor = 1
        self.turns = 0  # that tell something, since the factor changed
        self.left_out = 0

    @property
    def share(self) -> float:
        return (self.seconds or 0.0) / (self.every * self.factor)


class Budget:
    """The budget of one target. `share` is a part of one core; None: no limit."""

    def __init__(self, share: float | None) -> None:
        self._lock = threading.Lock()  # guards all that follows
        self._share = share
        self._loads: dict[str, _Load] = {}

    def adjust(self, share: float | None) -> None:
        """Take another limit from now on."""
        with self._lock:
            if share == self._share:
                return
            self._share = share
            if share is None:
                for load in self._loads.values():
                    load.factor = 1

    def factor(self, sampler: str) -> int:
        """Return how many times as seldom as asked for a sampler has its turns."""
        with self._lock:
            load = self._loads.get(sampler)
            return 1 if load is None else load.factor

    def pace(self, sampler: str) -> Pace:
        """Return how a sampler's turns come."""
        with self._lock:
            load = self._loads.get(sampler)
            if load is None:
                return Pace()
            return Pace(load.factor, max(0, load.factor - 1 - load.left_out))

    def due(self, sampler: str) -> bool:
        """Whether a turn that was asked for takes place; of some, only each so many does."""
        with self._lock:
            load = self._loads.get(sampler)
            if load is None or load.left_out + 1 >= load.factor:
                if load is not None:
                    load.left_out = 0
                return True
            load.left_out += 1
            return False

    def spent(self, sampler: str, every: float, seconds: float) -> Slowed | None:
        """Note what a turn took of the server's time; return which sampler is slowed, if one is.

        `every` is the interval that was asked for.
        """
        with self._lock:
            load = self._loads.setdefault(sampler, _Load())
            load.every = every
            if load.first:
                load.first = False
                return None
            before = seconds if load.seconds is None else load.seconds
            load.seconds = before + _NEWEST * (seconds - before)
            load.turns += 1
            if self._share is None:
                return None
            total = sum(one.share for one in self._loads.values())
            if total > self._share:
                return self._slow_down(total)
            return self._speed_up(sampler, load, total)

    def forget(self, samplers: frozenset[str]) -> None:
        """Forget all samplers but these: the others are not at work any more."""
        with self._lock:
            for gone in self._loads.keys() - samplers:
                del self._loads[gone]

    def _slow_down(self, total: float) -> Slowed | None:
        """Let the dearest sampler give way, unless it has just done so."""
        able = [
            (load.share, name)
            for name, load in self._loads.items()
            if load.factor < MOST and load.every * load.factor * 2 <= max(LONGEST, load.every)
        ]
        if not able:
            return None
        _, name = max(able)
        load = self._loads[name]
        if load.turns < SETTLES:
            return None
        return self._turned(name, load, load.factor * 2, total)

    def _speed_up(self, name: str, load: _Load, total: float) -> Slowed | None:
        """Let a sampler be more frequent again where there is room for that."""
        room = self._share is not None and total + load.share <= RECOVERS_BELOW * self._share
        if load.factor == 1 or not room or load.turns < SETTLES:
            return None
        return self._turned(name, load, load.factor // 2, total)

    @staticmethod
    def _turned(name: str, load: _Load, factor: int, total: float) -> Slowed:
        load.factor = factor
        load.turns = 0
        load.left_out = 0
        return Slowed(name, load.every * factor, factor, total)
