"""What is remembered of a target for those who watch it, and how often it may be asked for them.

What is taken for a view alone comes on top of the turns, as often as somebody asks: so each thing
has a pause that grows with what it cost, and who asks meanwhile gets what is there. Pure.
"""

import math
from collections.abc import Collection, Sequence
from typing import Final

import msgspec

LEAST: Final = 1.5  # seconds between two looks; who compares asks again after two
PAUSE: Final = 20  # times what it cost the server
TEXTS_AT_ONCE: Final = 100  # look-ups of texts: any costs the server its whole file of texts
TEXTS_WANTED: Final = 1_000  # ids that wait to be looked up


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """Why something could not be had, and what helps."""

    error: str
    remedy: str = ""


class Pace:
    """When one thing may be taken anew.

    Two in a row may: figures that are differences need them. After that each is to be followed by
    its pause before there is another one.
    """

    def __init__(self) -> None:
        self.states: tuple[bytes, ...] = ()  # lines of the last look: how its sets fared
        self._ended = self._owed_until = -math.inf
        self._pause = 0.0

    def ready(self, now: float) -> bool:
        """Whether it may be taken now."""
        return now >= self._ended + LEAST and self._owed_until - now <= self._pause

    def over(self, now: float) -> bool:
        """Whether there is nothing left to remember."""
        return now >= max(self._ended + LEAST, self._owed_until)

    def ended(self, now: float, cost: float) -> None:
        """Hear that it was taken, or tried, and for how many seconds the server was waited for."""
        self._ended = now
        self._pause = PAUSE * cost
        self._owed_until = max(self._owed_until, now) + self._pause


class Watching:
    """One target. Whoever uses it holds the lock of `WatchVerbs`."""

    def __init__(self) -> None:
        self.under_way: set[tuple[str, str]] = set()  # what, sampler
        self.paces: dict[str, Pace] = {}  # of looks, by sampler
        self.later: dict[str, None] = {}  # samplers to be taken once they may be, in order
        self.own: dict[str, None] = {}  # query ids of the agent's own statements, in order
        self.batch: int | None = None  # ids that are looked up at once; None: as usual
        self._wanted: dict[str, None] = {}  # ids, in order
        self._texts_at = -math.inf  # when texts may be looked up again
        self._troubles: dict[str, tuple[Said, float]] = {}  # by sampler, and since when

    def want(self, ids: Sequence[str]) -> None:
        """Note texts that are wanted; the oldest are given up where there are too many."""
        self._wanted.update(dict.fromkeys(ids))
        while len(self._wanted) > TEXTS_WANTED:
            del self._wanted[next(iter(self._wanted))]

    def texts_due(self, now: float) -> bool:
        """Whether texts are to be looked up now."""
        return bool(self._wanted) and now >= self._texts_at

    def next_texts(self) -> tuple[str, ...]:
        """Return the ids to look up; they stay wanted until `looked_up`."""
        return tuple(self._wanted)[:TEXTS_AT_ONCE]

    def looked_up(self, asked: Collection[str], left: Collection[str]) -> None:
        """Hear what was asked for, and what of that is still to be had."""
        for one in asked:
            if one not in left:
                self._wanted.pop(one, None)

    def put_texts_off(self, now: float, pause: float) -> None:
        """Look no texts up for so many seconds."""
        self._texts_at = max(self._texts_at, now + max(LEAST, pause))

    def failed(self, sampler: str, said: Said, now: float) -> None:
        """Keep why a sampler could not be taken."""
        self._troubles[sampler] = (said, now)

    def went_well(self, sampler: str) -> None:
        """Forget why it could not."""
        self._troubles.pop(sampler, None)

    @property
    def troubles(self) -> dict[str, tuple[Said, float]]:
        """Why samplers could not be taken, and when that was."""
        return dict(self._troubles)

    def left_alone(self, now: float) -> bool:
        """Forget what is of use to who watches only; return whether nothing is left."""
        self.own.clear()
        self.later.clear()
        self._wanted.clear()
        self._troubles.clear()
        self.paces = {name: one for name, one in self.paces.items() if not one.over(now)}
        for one in self.paces.values():
            one.states = ()
        return not self.paces and not self.under_way and now >= self._texts_at
