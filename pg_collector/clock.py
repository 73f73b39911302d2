"""Time, as a thing that can be handed in.

Durations are measured on the monotonic clock, which no administrator and no NTP step moves;
timestamps that people read are UTC.
"""

import datetime as dt
import time
from typing import Protocol


class Clock(Protocol):
    """Both clocks of a machine."""

    def now(self) -> dt.datetime:
        """Return the wall clock in UTC, for timestamps."""

    def monotonic(self) -> float:
        """Return seconds that never go back, for measuring."""


class SystemClock:
    """The clocks of this machine."""

    def now(self) -> dt.datetime:
        """Return the wall clock in UTC."""
        return dt.datetime.now(dt.UTC)

    def monotonic(self) -> float:
        """Return `time.monotonic()`: unmoved by wall-clock steps."""
        return time.monotonic()


def rfc3339(moment: dt.datetime) -> str:
    """Write a UTC moment as RFC 3339 with microseconds and `Z`."""
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
