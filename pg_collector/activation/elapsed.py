"""How much time has passed, over restarts and reboots, whatever is done to the wall clock."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Moment(NamedTuple):
    """What the clocks say: which boot of the machine, seconds since then, seconds since 1970."""

    boot: str
    uptime: float
    wall: float

    def until(self, later: "Moment") -> float:
        """Return the seconds to a later moment.

        Within a boot that is what the machine counted, suspended or not; over a reboot the wall
        clock has to do, as far as it went forward.
        """
        if self.boot and self.boot == later.boot:
            return max(0.0, later.uptime - self.uptime)
        return max(0.0, later.wall - self.wall)


Moments = Callable[[], Moment]


def now() -> Moment:
    """Return the present moment. Without Linux' boot id the wall clock alone counts."""
    try:
        boot = _BOOT_ID.read_text("ascii").strip()
        uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
    except (OSError, AttributeError):
        boot, uptime = "", time.monotonic()
    return Moment(boot, uptime, time.time())
