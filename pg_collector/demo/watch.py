"""What the view shows of a running agent: its turns, its next runs, its trouble."""

import datetime as dt
import time
from typing import Final, NamedTuple

from pg_collector.agent import Agent
from pg_collector.demo.feed import Board, Sessions, Written
from pg_collector.turn import Outcome

TARGET: Final = "demo"


class SamplerState(NamedTuple):
    """One sampler: seconds since its last turn and until its next, and what the last one gave."""

    name: str
    every: float
    outcome: Outcome | None
    ago: float | None
    due: float | None
    news: bool  # this turn was not seen before


class Delivery(NamedTuple):
    """How it stands with the platform."""

    state: str  # of the device
    plan: str
    delivered: int  # lines that it has
    waiting: int  # lines in the buffer
    trouble: str  # why they wait; empty where they do not

    @property
    def sentence(self) -> str:
        """The same in words."""
        told = f"{self.delivered} lines stored, {self.waiting} in the buffer"
        if self.trouble:
            return f"away ({self.state}): {told}; {self.trouble}"
        return f"{self.state}, plan {self.plan}: {told}"


class Picture(NamedTuple):
    """Everything that is shown, at one moment."""

    running: float  # seconds
    samplers: tuple[SamplerState, ...]
    total: Written
    sessions: Sessions
    trouble: str | None
    delivery: Delivery | None = None  # to the platform, where there is one


class Watch:
    """Looks at an agent from outside. One thread uses it."""

    def __init__(self, agent: Agent, board: Board) -> None:
        self._agent = agent
        self._board = board
        self._began = time.monotonic()
        self._seen: dict[str, tuple[Outcome, float]] = {}

    def look(self) -> Picture:
        """Return how things stand."""
        target = self._agent.targets[TARGET]
        turns = target.turns
        now = time.monotonic()
        samplers = []
        for job in self._agent.layout.jobs:
            turn = turns.get(job.sampler)
            outcome = turn.last if turn is not None else None
            news = outcome is not None and self._is_news(job.sampler, outcome, now)
            seen = self._seen.get(job.sampler)
            samplers.append(
                SamplerState(
                    job.sampler,
                    job.every,
                    outcome,
                    now - seen[1] if seen is not None else None,
                    _seconds_until(self._agent.scheduler.next_run(job.id)),
                    news,
                )
            )
        board = self._board
        trouble = target.trouble
        return Picture(
            now - self._began,
            tuple(samplers),
            board.total,
            board.sessions,
            trouble.sentence() if trouble is not None else None,
            self._delivery(),
        )

    def _delivery(self) -> Delivery | None:
        agent = self._agent
        if agent.uplink.identity is None:
            return None
        account, grant = agent.buffer.account(), agent.uplink.identity.grant()
        sender = agent.delivery.sender
        trouble = sender.trouble if sender is not None else None
        return Delivery(
            agent.uplink.identity.standing().state,
            grant.plan if grant is not None else "none",
            account.delivered,
            account.buffered,
            trouble.message if trouble is not None else "",
        )

    def _is_news(self, sampler: str, outcome: Outcome, now: float) -> bool:
        seen = self._seen.get(sampler)
        if seen is not None and seen[0] is outcome:
            return False
        self._seen[sampler] = (outcome, now)
        return True


def _seconds_until(moment: dt.datetime | None) -> float | None:
    if moment is None:
        return None
    return max(0.0, (moment - dt.datetime.now(dt.UTC)).total_seconds())


def size(count: int) -> str:
    """Return bytes for people: `812 B`, `34.5 kB`, `1.2 MB`."""
    if count < _KB:
        return f"{count} B"
    if count < _MB:
        return f"{count / _KB:.1f} kB"
    return f"{count / _MB:.1f} MB"


_KB: Final = 1_000
_MB: Final = 1_000_000
