"""One proxied connection: two sockets, a flow of bytes in each direction."""

import errno
import os
import select
import socket
import struct
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

_LIMIT = 1 << 18  # bytes held per direction before reading stops
_CHUNK = 1 << 16


@dataclass
class Flow:
    """Bytes in one direction, with the moment from which each piece may be sent."""

    held: deque[tuple[float, bytes]] = field(default_factory=deque)
    size: int = 0
    sent: int = 0
    free_at: float = 0.0  # when the rate allows the next piece
    ended: bool = False  # the source sent its end
    finished: bool = False  # the end was passed on

    def put(self, piece: bytes, now: float, latency: float, rate: int) -> None:
        if rate:
            self.free_at = max(now, self.free_at) + len(piece) / rate
            now = self.free_at
        self.held.append((now + latency, piece))
        self.size += len(piece)

    def sendable(self, now: float, limit: int | None) -> bool:
        may = limit is None or self.sent < limit
        return bool(self.held) and self.held[0][0] <= now and may

    def send(self, sink: socket.socket, now: float, limit: int | None) -> None:
        """Send what is due, up to `limit` bytes over the whole life."""
        while self.sendable(now, limit):
            due, piece = self.held[0]
            part = piece if limit is None else piece[: limit - self.sent]
            try:
                count = sink.send(part)
            except BlockingIOError:
                return
            self.sent += count
            self.size -= count
            if count == len(piece):
                self.held.popleft()
            else:
                self.held[0] = (due, piece[count:])


class Link:
    """A client connection and, once made, the one to the server."""

    def __init__(self, client: socket.socket) -> None:
        client.settimeout(0.0)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.client = client
        self.server: socket.socket | None = None
        self.up, self.down = Flow(), Flow()
        self._connecting = False
        self._reset = False

    @property
    def client_open(self) -> bool:
        """Whether the client is still there; its end shows even while nobody reads."""
        if self.up.ended or self._reset:
            return False
        poll = select.poll()
        poll.register(self.client, select.POLLRDHUP)
        return not poll.poll(0)

    @property
    def ended(self) -> bool:
        return self._reset or (self.up.finished and self.down.finished and self.down.ended)

    def connect(self, upstream: tuple[str, int] | Path) -> None:
        """Begin to connect to the server. Raises OSError."""
        unix = isinstance(upstream, Path)
        self.server = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
        self.server.settimeout(0.0)
        code = self.server.connect_ex(str(upstream) if isinstance(upstream, Path) else upstream)
        if code not in {0, errno.EINPROGRESS}:
            raise OSError(code, os.strerror(code))
        self._connecting = code != 0

    def interests(self, now: float, stall_after: int | None) -> dict[int, int]:
        """Return the poll events that this link waits for, by file descriptor."""
        wanted: dict[int, int] = {}
        if not self.up.ended and self.up.size < _LIMIT:
            wanted[self.client.fileno()] = select.POLLIN
        if self.down.sendable(now, stall_after) and not self.down.finished:
            wanted[self.client.fileno()] = wanted.get(self.client.fileno(), 0) | select.POLLOUT
        if self.server is not None:
            events = 0
            if not self._connecting and not self.down.ended and self.down.size < _LIMIT:
                events |= select.POLLIN
            if self._connecting or self.up.sendable(now, None):
                events |= select.POLLOUT
            if events:
                wanted[self.server.fileno()] = events
        return wanted

    def next_due(self, now: float) -> float | None:
        """Return when a held piece becomes due; None when none is waiting for its time."""
        times = [flow.held[0][0] for flow in (self.up, self.down) if flow.held]
        return min((moment for moment in times if moment > now), default=None)

    def move(
        self, ready: dict[int, int], now: float, *, latency: float, rate: int,
        stall_after: int | None, swallow: bool,
    ) -> None:  # fmt: skip
        """Read what is there and send what is due. Raises OSError when a side is gone."""
        assert self.server is not None
        if self._connecting and self.server.fileno() in ready:
            code = self.server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
            self._connecting = False
        if self.client.fileno() in ready:
            self._read(self.client, self.up, now, latency, rate, swallow=False)
        if self._connecting:
            return
        if self.server.fileno() in ready:
            gone = swallow or self.down.finished
            self._read(self.server, self.down, now, latency, rate, swallow=gone)
        self.up.send(self.server, now, None)
        if not self.down.finished:
            self.down.send(self.client, now, stall_after)
        self._pass_ends(swallow=swallow)

    @staticmethod
    def _read(
        source: socket.socket, flow: Flow, now: float, latency: float, rate: int, *, swallow: bool
    ) -> None:
        """Read until nothing is left: an end behind the last bytes is seen at once, too."""
        chunk = max(1, min(_CHUNK, rate // 20)) if rate else _CHUNK
        while not flow.ended and flow.size < _LIMIT:
            try:
                piece = source.recv(chunk)
            except BlockingIOError:
                return
            if not piece:
                flow.ended = True
            elif not swallow:
                flow.put(piece, now, latency, rate)

    def _pass_ends(self, *, swallow: bool) -> None:
        assert self.server is not None
        if self.up.ended and not self.up.held and not self.up.finished:
            self.up.finished = True
            self.server.shutdown(socket.SHUT_WR)
        # With answers swallowed the client must not learn the server's end either.
        if self.down.ended and not self.down.held and not swallow:
            self.end_client()

    def end_client(self) -> None:
        """Send the client an end; what the server says from now on is dropped."""
        if not self.down.finished:
            self.down.finished = True
            self.down.held.clear()
            self.down.size = 0
            try:
                self.client.shutdown(socket.SHUT_WR)
            except OSError as error:
                if error.errno != errno.ENOTCONN:  # the client was faster
                    raise

    def reset(self) -> None:
        """Close both sides with RST."""
        self._reset = True
        for side in (self.client, self.server):
            if side is not None and side.fileno() >= 0:
                if side.family == socket.AF_INET:
                    side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                side.close()

    def close(self) -> None:
        self.client.close()
        if self.server is not None:
            self.server.close()
