"""What one thread waits on and another may end: a socket, or a look-up.

A session belongs to one thread. `cut` is the one thing that others may do to it: it shuts down a
duplicate of the socket, which wakes the waiting thread at once. Closing the socket from outside
could close a stranger's that got the same number; cancelling needs the network that may be gone.
"""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class WireCut(Exception):
    """Somebody cut the wire; nothing may be waited for on it any more."""


class Wire:
    """The link of one session, from its first look-up to its end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: int | None = None
        self._wake: Callable[[], None] | None = None
        self._cut = False

    @property
    def is_cut(self) -> bool:
        """Whether `cut` was called."""
        return self._cut

    def cut(self) -> None:
        """Free the thread that waits on this wire now, and refuse every later wait. Any thread."""
        with self._lock:
            self._cut = True
            if self._held is not None:
                _shut_down(self._held)
            if self._wake is not None:
                self._wake()

    @contextmanager
    def holding(self, fileno: int) -> Iterator[None]:
        """Make the socket `fileno` one that `cut` shuts down, while the block waits on it.

        The duplicate lives no longer than the block, so that libpq's close really closes.
        Raises `WireCut`.
        """
        duplicate = os.dup(fileno)
        try:
            with self._lock:
                if self._cut:
                    raise WireCut
                self._held = duplicate
            yield
        finally:
            with self._lock:
                self._held = None
                os.close(duplicate)

    @contextmanager
    def waking(self, wake: Callable[[], None]) -> Iterator[None]:
        """Make `cut` call `wake`, while the block waits for something that is no socket.

        Raises `WireCut`.
        """
        with self._lock:
            if self._cut:
                raise WireCut
            self._wake = wake
        try:
            yield
        finally:
            with self._lock:
                self._wake = None


def _shut_down(fileno: int) -> None:
    with socket.socket(fileno=os.dup(fileno)) as link:
        try:
            link.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # not connected, or the far side was faster: nothing waits on it
