"""Processes whose hours take seconds: their clocks run N times faster, their waits N times shorter.

    fast = FastTime(500)
    subprocess.run(command, env=fast.environment())
    fast.wall(), fast.monotonic()                 # what these processes read just now

All processes of one `FastTime` agree on the time, also those that start later. What is fast and
what is not stands in fasttime.c; above all other processes are not, so every time limit towards a
server must allow N times its real latency. The kernel's 40 ms of delayed acknowledgement count,
too: an HTTP server of a test needs TCP_NODELAY (`disable_nagle_algorithm` of StreamRequestHandler),
else every answer takes 40 ms times N. With it, jobs and requests keep their pace up to x1000.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path

from tests.support.preload import compiled


class FastTime:
    """A time that agrees with the real one now, and runs `factor` times faster from here on."""

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self._wall = time.time_ns()
        self._monotonic = time.monotonic_ns()

    def environment(self, base: Mapping[str, str] = os.environ) -> dict[str, str]:
        """Return the environment of a fast process. Raises `LabMissing` without a compiler."""
        library = str(compiled(Path(__file__).with_name("fasttime.c")))
        return {
            **base,
            "LD_PRELOAD": " ".join(filter(None, (library, base.get("LD_PRELOAD")))),
            "FASTTIME": repr(self.factor),
            "FASTTIME_ORIGIN": f"{self._wall}:{self._monotonic}",
        }

    def wall(self) -> float:
        """Return the seconds since 1970 that a fast process reads now."""
        return (self._wall + (time.time_ns() - self._wall) * self.factor) / 1e9

    def monotonic(self) -> float:
        """Return the seconds on the monotonic clock that a fast process reads now."""
        return (self._monotonic + (time.monotonic_ns() - self._monotonic) * self.factor) / 1e9

    def real(self, seconds: float) -> float:
        """Return how many real seconds that many fast ones take."""
        return seconds / self.factor
