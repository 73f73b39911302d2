"""Memory: what the C library keeps, and what Python's garbage collector looks through.

glibc gives each thread an arena of its own, and returns little of what was freed: with a dozen
threads that answer in bursts, some 8 MB of 64. One arena is enough where Python's lock lets one
thread at a time allocate. https://man7.org/linux/man-pages/man3/mallopt.3.html
"""

import ctypes
import gc
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_KEPT: Final = 64 * 1024  # bytes


def tune() -> bool:
    """Set the limits of this process, before it has threads; return whether they are set.

    Other C libraries than glibc have none, and need none.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    limits = ((_M_ARENA_MAX, 1), (_M_TRIM_THRESHOLD, _KEPT), (_M_MMAP_THRESHOLD, _KEPT))
    done = [int(mallopt(name, value)) for name, value in limits]
    return done == [1, 1, 1]


def settle() -> None:
    """Spare the garbage collector what was made until now and stays: modules, classes, parts.

    There are some 60,000 such objects; to look through them takes 25 ms each time.
    https://docs.python.org/3/library/gc.html#gc.freeze
    """
    gc.collect()
    gc.freeze()
