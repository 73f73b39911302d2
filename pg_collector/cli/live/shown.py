"""Everything that is shown at one moment. Values only."""

import datetime as dt
from typing import NamedTuple

from pg_collector.cli.live.board import Board
from pg_collector.status import Status, TargetStatus
from pg_collector.watch_verbs import Watched


class Shown(NamedTuple):
    """Everything that is shown."""

    board: Board
    now: float  # by the clock that the board was told
    wall: dt.datetime
    watched: Watched | None = None
    status: Status | None = None
    cpu: float | None = None  # of the agent, as a part of one core
    trouble: str = ""  # why the agent cannot be asked
    zoom: str = ""  # a key of SUBJECTS
    order: str = "time"
    paused: bool = False
    help: bool = False
    interval: float = 2.0
    scroll: int = 0

    @property
    def target(self) -> TargetStatus | None:
        """How the agent says that the target is."""
        targets = self.status.targets if self.status is not None else ()
        return next((one for one in targets if one.name == self.board.target), None)


def sentence(text: str, remedy: str) -> str:
    """Return what is wrong and what helps."""
    return f"{text}. {remedy}" if remedy else text
