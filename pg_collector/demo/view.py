"""The thread that shows what the agent does, and ends it when the time is up."""

import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Protocol

from pg_collector.agent import Agent
from pg_collector.demo.watch import Picture, Watch

log = logging.getLogger(__name__)

_ENDS_WITHIN = 2.0  # seconds


class View(Protocol):
    """One way to show a picture. Drawing raises OSError when nobody looks any more."""

    every: float

    def show(self, picture: Picture) -> None:
        """Show how things stand."""

    def close(self) -> None:
        """Give back what it took."""


class Viewer:
    """Shows an agent in a thread of its own."""

    def __init__(
        self,
        agent: Agent,
        watch: Watch,
        make: Callable[[], View],
        *,
        seconds: float | None,
        alive: Callable[[], bool],
        stopping: threading.Event,
    ) -> None:
        """`make` builds the view, in its thread.

        It ends the agent after `seconds`, when `stopping` is set, and when the server is not
        `alive`, which is a failure.
        """
        self._agent = agent
        self._watch = watch
        self._make = make
        self._seconds = seconds
        self._alive = alive
        self._stopping = stopping
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="demo-view", daemon=True)
        self.failed = False

    def start(self) -> None:
        """Start to show."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, and wait for it."""
        self._ending.set()
        self._thread.join(_ENDS_WITHIN)
        if self._thread.is_alive():
            log.error("the demo's view did not end: nobody reads what it prints")

    def _run(self) -> None:
        """Be the thread: what goes wrong here must end the demo, not leave it running unseen."""
        try:
            self._show()
        except OSError as error:  # the terminal was closed, or the reader of a pipe went away
            self._agent.end(f"nobody looks any more ({error.strerror})")
            # Nobody may trip over what is still in the stream.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except Exception:
            log.exception("the demo's view failed")
            self.failed = True
            self._agent.end("the view failed")

    def _show(self) -> None:
        view = self._make()
        try:
            while not self._ending.wait(view.every):
                picture = self._watch.look()
                view.show(picture)
                if (why := self._reason(picture)) is not None:
                    self._agent.end(why)
                    return
        finally:
            view.close()

    def _reason(self, picture: Picture) -> str | None:
        """Return why the demo is to end now, or None."""
        if self._stopping.is_set():
            return "told to end"
        if self._seconds is not None and picture.running >= self._seconds:
            return "the time is up"
        if not self._alive():
            self.failed = True
            return "the demo's PostgreSQL has ended"
        return None
