"""A TCP proxy with faults. One thread moves all bytes; every change holds when its call returns."""

import errno
import queue
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.ports import free_port
from tests.support.proxy_link import Link

_FULL = 0.2  # seconds without an answer to a SYN: the backlog is full
_READ, _WRITE = select.POLLIN, select.POLLOUT


class Mode(StrEnum):
    """What happens to connections; live ones are meant unless it says new."""

    PASS = "pass"  # noqa: S105 - not a password
    BLACKHOLE = "blackhole"  # nothing moves, nothing closes; new ones are accepted by nobody behind
    UP_ONLY = "up_only"  # the server's bytes are swallowed
    RESET = "reset"  # RST, new ones too
    REFUSE = "refuse"  # new ones get ECONNREFUSED, live ones pass
    SYNHOLE = "synhole"  # new ones get no answer to their SYN, live ones pass
    HALFCLOSE = "halfclose"  # the client sees the end, the server sees nothing


class FaultProxy:
    """Listen on `port` and pass connections to `upstream`, an address or a Unix socket's path.

    Counts: `live` client connections now, their `peak`, all `accepted`, `up_bytes` towards the
    server and `down_bytes` to the clients. Use as a context manager.
    """

    def __init__(self, upstream: tuple[str, int] | Path, host: str = "127.0.0.1") -> None:
        self.host, self.port = host, free_port(host)
        self.peak = self.accepted = 0
        self._upstream = upstream
        self._mode = Mode.PASS
        self._latency = 0.0
        self._rate = 0
        self._stall_after: int | None = None
        self._links: list[Link] = []
        self._past_bytes = [0, 0]  # of links that ended
        self._fill: list[socket.socket] = []
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._wake_in, self._wake = socket.socketpair()
        self._listener: socket.socket | None = self._listen(128)
        self._stopping = False
        self._thread = threading.Thread(
            target=self._run, name=f"fault-proxy-{self.port}", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()

    # --- what a test reads and changes

    @property
    def live(self) -> int:
        return sum(link.client_open for link in list(self._links))

    @property
    def up_bytes(self) -> int:
        return self._past_bytes[0] + sum(link.up.sent for link in list(self._links))

    @property
    def down_bytes(self) -> int:
        return self._past_bytes[1] + sum(link.down.sent for link in list(self._links))

    @property
    def mode(self) -> Mode:
        return self._mode

    def set(self, mode: Mode | str) -> None:
        """Change the mode."""
        self._do(lambda: self._change(Mode(mode)))

    def shape(self, *, latency: float = 0.0, rate: int = 0, stall_after: int | None = None) -> None:
        """Set all three at once; without arguments all are off.

        `latency` in seconds per direction; `rate` in bytes/s per direction and connection;
        `stall_after`: bytes to each client after which the server's answers stop.
        """

        def change() -> None:
            self._latency, self._rate, self._stall_after = latency, rate, stall_after

        self._do(change)

    def cut(self) -> None:
        """Reset all live connections; new ones pass as the mode says."""
        self._do(self._reset_all)

    def close(self) -> None:
        """Reset what lives, stop listening, end the thread. May be called twice."""
        if self._thread.is_alive():
            self._do(self._stop)
            self._thread.join(10)
            assert not self._thread.is_alive(), "the proxy's thread did not end"
            self._wake.close()
            self._wake_in.close()

    def _do(self, change: Callable[[], None]) -> None:
        """Run `change` in the proxy's thread and wait for it."""
        done: Future[None] = Future()

        def run() -> None:
            try:
                change()
            except Exception as error:  # noqa: BLE001 - handed to the caller
                done.set_exception(error)
            else:
                done.set_result(None)

        self._commands.put(run)
        self._wake.send(b"!")
        done.result(timeout=10)

    # --- the thread

    def _run(self) -> None:
        while not self._stopping:
            now = time.monotonic()
            poll, wanted = select.poll(), self._interests(now)
            for fd, events in wanted.items():
                poll.register(fd, events)
            ready = dict(poll.poll(self._wait_ms(now)))
            now = time.monotonic()
            for link in list(self._links):
                self._serve(link, ready, now)
            if self._listener is not None and self._listener.fileno() in ready:
                self._accept()
            if self._wake_in.fileno() in ready:
                self._obey()

    def _interests(self, now: float) -> dict[int, int]:
        """Say what to watch: a descriptor without interest would report its end forever."""
        wanted = {self._wake_in.fileno(): _READ}
        if self._listener is not None and self._mode is not Mode.SYNHOLE:
            wanted[self._listener.fileno()] = _READ
        if self._mode is not Mode.BLACKHOLE:
            for link in self._links:
                for fd, events in link.interests(now, self._stall_after).items():
                    wanted[fd] = wanted.get(fd, 0) | events
        return wanted

    def _wait_ms(self, now: float) -> float | None:
        if self._mode is Mode.BLACKHOLE:
            return None
        if any(link.server is None for link in self._links):  # accepted while nothing moved
            return 0.0
        due = [moment for link in self._links if (moment := link.next_due(now)) is not None]
        return max(0.0, min(due) - now) * 1000 + 1 if due else None

    def _serve(self, link: Link, ready: dict[int, int], now: float) -> None:
        if self._mode is Mode.BLACKHOLE:
            return
        try:
            if link.server is None:
                link.connect(self._upstream)
            link.move(
                ready, now, latency=self._latency, rate=self._rate,
                stall_after=self._stall_after, swallow=self._mode is Mode.UP_ONLY,
            )  # fmt: skip
        except OSError:  # one side is gone: the other learns it as a reset
            link.reset()
        if link.ended:
            self._forget(link)

    def _forget(self, link: Link) -> None:
        link.close()
        self._links.remove(link)
        self._past_bytes[0] += link.up.sent
        self._past_bytes[1] += link.down.sent

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            client, _ = self._listener.accept()
        except OSError as error:
            if error.errno not in {errno.EAGAIN, errno.ECONNABORTED}:
                raise
            return
        self.accepted += 1
        link = Link(client)
        if self._mode is Mode.RESET:
            link.reset()
            return
        self._links.append(link)
        self.peak = max(self.peak, self.live)
        if self._mode is Mode.HALFCLOSE:
            link.end_client()
        self._serve(link, {}, time.monotonic())

    def _obey(self) -> None:
        self._wake_in.recv(4096)
        while not self._commands.empty():
            self._commands.get()()

    # --- changes, in the thread

    def _change(self, mode: Mode) -> None:
        old, self._mode = self._mode, mode
        if mode is not old and {mode, old} & {Mode.REFUSE, Mode.SYNHOLE}:
            self._close_listener()
            if mode is Mode.SYNHOLE:
                self._listener = self._listen(0)
                self._fill_backlog()
            elif mode is not Mode.REFUSE:
                self._listener = self._listen(128)
        if mode is Mode.RESET:
            self._reset_all()
        if mode is Mode.HALFCLOSE:
            for link in self._links:
                link.end_client()

    def _reset_all(self) -> None:
        for link in list(self._links):
            link.reset()
            self._forget(link)

    def _stop(self) -> None:
        self._stopping = True
        self._reset_all()
        self._close_listener()

    def _listen(self, backlog: int) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.host, self.port))
        listener.listen(backlog)
        listener.settimeout(0.0)
        return listener

    def _fill_backlog(self) -> None:
        """Connect until the kernel stops answering: from then on it drops every SYN."""
        for _ in range(8):
            one = socket.socket()
            self._fill.append(one)
            one.settimeout(_FULL)
            try:
                one.connect((self.host, self.port))
            except TimeoutError:
                return
        raise RuntimeError("the kernel goes on answering with a full backlog")

    def _close_listener(self) -> None:
        for one in self._fill:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.close()
        self._fill.clear()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
