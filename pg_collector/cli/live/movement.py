"""What statements did between two samples, from what each has done since it is counted. Pure."""

import datetime as dt
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from pg_collector.cli.live.lines import Sample

Key = tuple[Any, ...]  # userid, dbid, queryid

_KEY: Final = ("userid", "dbid", "queryid", "toplevel")
_COUNTERS: Final = ("calls", "rows", "total_exec_time")
_Counters = tuple[int, int, float]


class Moved(NamedTuple):
    """What one statement did: calls, rows, and milliseconds that they took."""

    key: Key
    calls: int
    rows: int
    ms: float

    @property
    def queryid(self) -> str:
        """The id of its text."""
        return str(self.key[2])


class Movement:
    """Follows the set `statements`: full lines, and deltas that build on them."""

    def __init__(self) -> None:
        self.at: dt.datetime | None = None  # of the last sample
        self.seconds: float | None = None  # between the last two; None: there is one only
        self.moved: list[Moved] = []
        self._epoch: str | None = None
        self._state: dict[Key, _Counters] = {}

    def take(self, sample: Sample) -> bool:
        """Follow a sample; return whether it was of use: a delta needs the rows before it."""
        if self.at is not None and sample.at <= self.at:
            return True  # what came before is in what is known
        if sample.delta and (self.at is None or sample.epoch != self._epoch):
            return False
        began = self.at is None or sample.epoch != self._epoch or sample.epoch_changed
        rows = dict(_read(sample))
        if began:
            self.moved, self.seconds = [], None
        else:
            self.moved = _together(
                (key, _difference(now, self._state.get(key))) for key, now in rows.items()
            )
            self.seconds = (sample.at - self.at).total_seconds() if self.at is not None else None
        self._state = {**self._state, **rows} if sample.delta else rows
        self.at, self._epoch = sample.at, sample.epoch
        return True


def _read(sample: Sample) -> Iterable[tuple[Key, _Counters]]:
    places = [sample.columns.index(name) if name in sample.columns else None for name in _KEY]
    calls, rows, ms = (sample.columns.index(name) for name in _COUNTERS)
    for row in sample.values:
        key = tuple(None if place is None else row[place] for place in places)
        yield key, (row[calls], row[rows], row[ms])


def _difference(now: _Counters, before: _Counters | None) -> _Counters:
    """Return what was added; an entry that is new, or was counted anew, did all it counts."""
    if before is None or now[0] < before[0]:
        return now
    return now[0] - before[0], max(0, now[1] - before[1]), max(0.0, now[2] - before[2])


def _together(found: Iterable[tuple[Key, _Counters]]) -> list[Moved]:
    """Return what statements did, those of the top level and those inside others together."""
    sums: dict[Key, _Counters] = {}
    for key, (calls, rows, ms) in found:
        one = sums.get(key[:3], (0, 0, 0.0))
        sums[key[:3]] = (one[0] + calls, one[1] + rows, one[2] + ms)
    return [Moved(key, *counters) for key, counters in sums.items() if counters[0] or counters[2]]


ORDERS: Final[dict[str, Callable[[Moved], float]]] = {
    "time": lambda one: one.ms,
    "calls": lambda one: one.calls,
    "mean": lambda one: one.ms / one.calls if one.calls else 0.0,
    "rows": lambda one: one.rows,
}
