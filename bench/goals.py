"""What the agent is to cost at most, and what it did in a run."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

Figures = Mapping[str, Any]
Runs = Mapping[tuple[str, str], Figures]  # by database and contestant


class Goal(NamedTuple):
    """One promise: what must hold, what is aimed at, and how it is read off the runs."""

    name: str
    unit: str
    must: float
    aim: float
    measured: Callable[[Runs], float]


class Outcome(NamedTuple):
    """A promise and what became of it."""

    goal: Goal
    value: float

    @property
    def word(self) -> str:
        """How it went."""
        if self.value <= self.goal.aim:
            return "as aimed at"
        return "holds" if self.value <= self.goal.must else "**falls short**"


def outcomes(runs: Iterable[Figures]) -> list[Outcome]:
    """Return what can be told of the promises; those whose runs are missing are left out."""
    named = {(str(run["size"]), str(run["who"])): run for run in runs}
    found = []
    for goal in GOALS:
        try:
            found.append(Outcome(goal, goal.measured(named)))
        except KeyError:
            continue
    return found


def _cpu_by_floor(size: str) -> Callable[[Runs], float]:
    def ratio(runs: Runs) -> float:
        floor = runs[size, "floor"]["cpu_s_per_cycle"]
        return float(runs[size, "agent 15s"]["cpu_s_per_cycle"]) / float(floor)

    return ratio


def _of(size: str, who: str, *path: str, scale: float = 1.0) -> Callable[[Runs], float]:
    def figure(runs: Runs) -> float:
        found: Any = runs[size, who]
        for name in path:
            found = found[name]
        return float(found) * scale

    return figure


_RSS: Final = ("memory_mb", "rss_p99")
_BACKEND: Final = ("server", "backend_cpu_s_per_cycle")
GOALS: Final = (
    Goal("agent CPU each 15 s, medium", "times the floor", 2.5, 1.5, _cpu_by_floor("medium")),
    Goal("agent CPU each 15 s, large", "times the floor", 2.5, 1.5, _cpu_by_floor("large")),
    Goal("agent CPU at the defaults, medium", "s/min", 0.15, 0.08,
         _of("medium", "agent defaults", "cpu_s_per_minute")),
    Goal("agent CPU at the defaults, large", "s/min", 0.25, 0.15,
         _of("large", "agent defaults", "cpu_s_per_minute")),
    Goal("agent CPU, fast, medium", "% of a core", 4.0, 2.0,
         _of("medium", "agent fast", "core_share", scale=100.0)),
    Goal("RSS p99 each 15 s, medium", "MB", 64, 56, _of("medium", "agent 15s", *_RSS)),
    Goal("RSS p99 each 15 s, large", "MB", 72, 60, _of("large", "agent 15s", *_RSS)),
    Goal("RSS p99, fast, medium", "MB", 64, 56, _of("medium", "agent fast", *_RSS)),
    Goal("RSS p99, fast, large", "MB", 72, 60, _of("large", "agent fast", *_RSS)),
    Goal("backend CPU each 15 s, medium", "s/cycle", 0.05, 0.03,
         _of("medium", "agent 15s", *_BACKEND)),
    Goal("backend CPU each 15 s, large", "s/cycle", 0.15, 0.10,
         _of("large", "agent 15s", *_BACKEND)),
    Goal("bytes sent each 15 s, medium", "kB/cycle", 15, 5,
         _of("medium", "agent 15s", "bytes_per_cycle", scale=0.001)),
    Goal("bytes sent, seldom, medium", "kB/min", 28, 14,
         _of("medium", "agent seldom", "bytes_per_cycle", scale=0.004)),
    Goal("bytes sent, seldom, large", "kB/min", 155, 80,
         _of("large", "agent seldom", "bytes_per_cycle", scale=0.004)),
    Goal("lateness p99 at 1 s, medium", "ms", 150, 50,
         _of("medium", "agent fast", "lateness_ms", "p99")),
    Goal("RSS p99 of 100 small targets", "MB", 200, 128,
         _of("small", "agent 100 targets", *_RSS)),
    Goal("start to first sample, medium", "s", 2.0, 1.2,
         _of("medium", "agent 15s", "first_sample_s")),
    Goal("slowest statement, large", "ms", 1000, 500,
         _of("large", "agent 15s", "server", "slowest_ms")),
)  # fmt: skip
