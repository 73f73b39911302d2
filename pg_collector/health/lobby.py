"""Where connections wait that have no thread: their heads are read here, by one thread for all.

A client costs a thread only once it has asked. So those that are silent, or drip, keep nobody out,
however many they are. Who asks how the agent is goes before who asks for anything longer.
"""

import contextlib
import re
import selectors
import socket
import ssl
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

from pg_collector.health.conversation import MAX_HEAD_BYTES, head_end

MOST: Final = 256  # connections
MOST_SECURED: Final = 64  # each of them holds OpenSSL's buffers, too
_PROBE: Final = re.compile(rb"(?:GET|HEAD) /(?:healthz?|livez|readyz)[ ?]")


class Visitor:
    """A connection, what it has sent, and since when it waits: to be heard, then for a thread."""

    __slots__ = ("address", "connection", "heard", "since")

    def __init__(self, connection: socket.socket, address: Any, since: float) -> None:
        self.connection = connection
        self.address = address
        self.heard = b""
        self.since = since


class Lobby:
    """The connections without a thread, oldest first. Not thread-safe: the server's loop has it.

    most: how many there may be.
    patience: seconds in which a head must be there.
    """

    def __init__(self, selector: selectors.BaseSelector, most: int, patience: float) -> None:
        self._selector = selector
        self._most = most
        self._patience = patience
        self._silent: dict[Visitor, None] = {}  # the order is that of their coming
        # Their heads are complete, or too long: probes, and the others.
        self._ready: tuple[deque[Visitor], deque[Visitor]] = (deque(), deque())

    def __len__(self) -> int:
        return len(self._silent) + sum(map(len, self._ready))

    @property
    def ready(self) -> bool:
        """Whether somebody has asked, and has no thread."""
        return any(self._ready)

    def enter(self, connection: socket.socket, address: Any) -> Visitor | None:
        """Take a connection in; return whom that leaves no room.

        That is the oldest of those who have not asked, or of those who have asked for no probe,
        whichever are more; the newcomer where all have asked for one.
        """
        visitor = Visitor(connection, address, time.monotonic())
        gone = None
        if len(self) >= self._most:
            others = self._ready[1]
            if not self._silent and not others:
                return visitor
            if len(others) > len(self._silent):
                gone = others.popleft()
            else:
                gone = next(iter(self._silent))
                self._forget(gone)
        connection.setblocking(False)  # noqa: FBT003  # the standard library's own
        self._silent[visitor] = None
        self._selector.register(connection, selectors.EVENT_READ, visitor)
        return gone

    def hear(self, visitor: Visitor) -> bool:
        """Read what a connection has sent; False where it has ended."""
        if visitor not in self._silent:  # it had to leave before its turn came
            return True
        try:
            heard = self._read(visitor)
        except (BlockingIOError, ssl.SSLWantReadError):
            self._listen(visitor, selectors.EVENT_READ)
            return True
        except ssl.SSLWantWriteError:
            self._listen(visitor, selectors.EVENT_WRITE)
            return True
        except (OSError, ValueError):  # of a connection that is no longer one
            heard = False
        self._forget(visitor)
        if heard:
            visitor.since = time.monotonic()
            self._ready[0 if _PROBE.match(visitor.heard) else 1].append(visitor)
        return heard

    def take(self) -> Visitor:
        """Remove who is to get the next thread. There must be somebody `ready`."""
        probes, others = self._ready
        return (probes or others).popleft()

    def weary(self, patience: float) -> Iterator[Visitor]:
        """Yield those who have asked and got no thread for so many seconds; they are forgotten."""
        latest = time.monotonic() - patience
        for waiting in self._ready:
            while waiting and waiting[0].since <= latest:
                yield waiting.popleft()

    def overdue(self) -> Iterator[Visitor]:
        """Yield those whose heads did not come in time; they are forgotten."""
        latest = time.monotonic() - self._patience
        while self._silent and (oldest := next(iter(self._silent))).since <= latest:
            self._forget(oldest)
            yield oldest

    def close(self) -> None:
        """Close every connection."""
        for visitor in (*self._silent, *self._ready[0], *self._ready[1]):
            with contextlib.suppress(OSError):
                visitor.connection.close()

    def _read(self, visitor: Visitor) -> bool:
        """Read until the head is there (True) or the connection has ended (False)."""
        while len(visitor.heard) <= MAX_HEAD_BYTES and not head_end(visitor.heard):
            chunk = visitor.connection.recv(MAX_HEAD_BYTES)  # with TLS the handshake, too
            if not chunk:
                return False
            visitor.heard = (visitor.heard + chunk).lstrip(b"\r\n")
        return True

    def _listen(self, visitor: Visitor, events: int) -> None:
        if self._selector.get_key(visitor.connection).events != events:
            self._selector.modify(visitor.connection, events, visitor)

    def _forget(self, visitor: Visitor) -> None:
        self._selector.unregister(visitor.connection)
        del self._silent[visitor]
