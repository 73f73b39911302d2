"""Memory: what the C library keeps, and what Python's garbage collector looks through.

glibc gives each thread an arena of its own, and returns little of what was freed: with a dozen
threads that answer in bursts, some 8 MB of 64. One arena is enough where Python's lock lets one
thread at a time allocate. https://man7.org/linux/man-pages/man3/mallopt.3.html
"""

import ctypes
import gc
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_KEPT: Final = 64 * 1024  # bytes
_OLDEST: Final = 2  # generation of what outlived two collections


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

    From now on, what a full collection frees goes back to the system.
    """
    gc.collect()
    gc.freeze()
    trim = _trim()
    if trim is not None:
        trim(0)
        gc.callbacks.append(partial(_collected, trim))


def _trim() -> Callable[[int], int] | None:
    """Return glibc's malloc_trim, which takes 0.3 ms: half a megabyte lies in its heap unused.

    https://man7.org/linux/man-pages/man3/malloc_trim.3.html
    """
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return None
    return found


def _collected(trim: Callable[[int], int], phase: str, info: Mapping[str, int]) -> None:
    if phase == "stop" and info["generation"] == _OLDEST:
        trim(0)
