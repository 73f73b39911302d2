"""The demo's outage: the platform crashes, the buffer fills; it comes back, the buffer drains."""

import logging
import threading
from typing import Final, NamedTuple

from pg_collector.demo.far import Far
from pg_collector.demo.server import Interrupted
from pg_collector.errors import StateError

log = logging.getLogger(__name__)

_ENDS_WITHIN: Final = 30.0  # seconds
USUAL_BEGIN: Final = 8.0  # seconds after the start
USUAL_LENGTH: Final = 6.0


class Times(NamedTuple):
    """When it begins, in seconds after the start, and how long it lasts."""

    begin: float
    length: float

    @classmethod
    def within(cls, seconds: float | None, length: float | None) -> "Times":
        """Return what fits into a demo of so many seconds (None: no end), `length` if it may."""
        wanted = USUAL_LENGTH if length is None else length
        if seconds is None:
            return cls(USUAL_BEGIN, wanted)
        begin = min(USUAL_BEGIN, 0.35 * seconds)
        return cls(begin, min(wanted, max(0.0, 0.3 * seconds)) if length is None else wanted)


class Outage:
    """A thread that takes the platform away, once, and brings it back."""

    def __init__(self, far: Far, times: Times) -> None:
        self._far = far
        self._times = times
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="demo-outage", daemon=True)

    def start(self) -> None:
        """Let its time run."""
        if self._times.length > 0:
            self._thread.start()

    def stop(self) -> None:
        """Let it be over; the platform runs afterwards, if it can."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(_ENDS_WITHIN)

    def _run(self) -> None:
        if self._over.wait(self._times.begin):
            return
        log.warning("the demo takes its platform away for %g s", self._times.length)
        try:
            self._far.take_away()
            self._over.wait(self._times.length)
            self._far.start()
        except Interrupted:
            log.info("ended during the outage")
        except StateError as error:
            log.error("%s", error)
