"""A clock that moves when told to."""

import datetime as dt


class HandClock:
    """Both clocks of a machine, moved by hand; `step` moves the wall clock alone."""

    def __init__(self) -> None:
        self.wall = dt.datetime(2026, 11, 22, 18, 0, tzinfo=dt.UTC)
        self.seconds = 1000.0

    def now(self) -> dt.datetime:
        return self.wall

    def monotonic(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds
        self.wall += dt.timedelta(seconds=seconds)

    def step(self, seconds: float) -> None:
        self.wall += dt.timedelta(seconds=seconds)
