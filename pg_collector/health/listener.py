"""Accepts connections, and decides which of them gets one of the few threads."""

import contextlib
import itertools
import logging
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, Final

from pg_collector.config.model import Http
from pg_collector.health.address import resolve
from pg_collector.health.conversation import MAX_HEAD_BYTES, Conversation
from pg_collector.health.lobby import MOST, MOST_SECURED, Lobby
from pg_collector.health.pages import Page
from pg_collector.health.vitals import Heart

log = logging.getLogger(__name__)

MAX_THREADS: Final = 8

_POLL: Final = 5.0  # seconds between signs of life
_GLANCE: Final = 0.1  # seconds between two looks at who sits in the lobby
_CLOSE_LOOK: Final = 0.005  # seconds between two looks for a free thread, while one is wanted
_AT_ONCE: Final = 64  # connections accepted before anything else is looked at
_PATIENT: Final = 0.5  # seconds for which a client that does nothing keeps its thread in any case
_ROOM: Final = 0.7  # seconds that who has asked waits for a thread
_BREATH: Final = 0.1  # seconds without a file descriptor

Answer = Callable[[BaseHTTPRequestHandler], Page]


class Listener(HTTPServer):
    """Bounded threads; knows every connection, and since when it waits for its client."""

    request_queue_size = 1024

    def __init__(
        self,
        endpoint: tuple[str, int],
        limits: Http,
        answer: Answer,
        knock: Callable[[str], bool],
        tls: ssl.SSLContext | None,
    ) -> None:
        self.limits = limits
        self.answer = answer
        self._knock = knock
        self.heart: Heart | None = None
        self.tls = tls
        self._slots = threading.BoundedSemaphore(MAX_THREADS)
        self._numbers = itertools.count(1)
        self._ending = threading.Event()
        self._lock = threading.Lock()  # guards the three below
        self._threads_alive: set[threading.Thread] = set()
        self._waiting: dict[socket.socket, float | None] = {}  # None: it has its request
        self._telling: dict[socket.socket, float] = {}  # since when, to whom there is an answer
        self._heard: dict[socket.socket, bytes] = {}
        self.address_family, address = resolve(*endpoint)
        super().__init__(address, Conversation)
        self._selector = selectors.DefaultSelector()
        most = MOST if tls is None else MOST_SECURED
        self._lobby = Lobby(self._selector, most, limits.read_timeout)

    @property
    def crowded(self) -> bool:
        """Whether others wait for a thread."""
        return len(self._lobby) > 0

    def server_bind(self) -> None:
        """Bind, without the reverse DNS look-up of the parent class."""
        if self.address_family == socket.AF_INET6:
            only_v6 = int(self.server_address[0] != "::")
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_v6)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.socket.setblocking(False)  # noqa: FBT003  # a client may be gone before the accept
        self.server_address = self.socket.getsockname()

    def serve_forever(self, poll_interval: float = _POLL) -> None:
        """Accept, hear the lobby, and give threads to who has asked, until `wake` is called."""
        self._selector.register(self.socket, selectors.EVENT_READ)
        while not self._ending.is_set():
            if self.heart:
                self.heart.beat(poll_interval)
            seconds = _GLANCE if self.crowded else poll_interval
            for key, _ in self._selector.select(_CLOSE_LOOK if self._lobby.ready else seconds):
                if key.data is None:
                    self._accept()
                elif not self._lobby.hear(key.data):
                    self.shutdown_request(key.data.connection)
            self._give_threads()
            for visitor in self._lobby.overdue():
                self._turn_away(visitor.connection, _TOO_SLOW if visitor.heard else b"")
        self._lobby.close()
        self._selector.close()

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, address = self.socket.accept()
            except BlockingIOError:
                return
            except OSError:
                self._ending.wait(_BREATH)  # without file descriptors left, do not spin
                return
            try:
                self._let_in(connection, address)
            except OSError as error:
                log.debug("a client is gone: %s", error)
                self.shutdown_request(connection)
            except Exception:
                log.exception("a client could not be let in")
                self.shutdown_request(connection)

    def _let_in(self, connection: socket.socket, address: Any) -> None:
        """Give the client a thread or a seat, or turn it away: whom nobody knows costs neither."""
        if not self._knock(address[0]):
            self._turn_away(connection, _FORBIDDEN)
            return
        if not self.crowded and self._slots.acquire(blocking=False):
            self._give_thread(connection, address)
            return
        left = self._lobby.enter(self.secured(connection), address)
        if left is not None:
            self._turn_away(left.connection, _BUSY)

    def _give_threads(self) -> None:
        """Give threads to those in the lobby who have asked, in their order."""
        while self._lobby.ready and self._slots.acquire(blocking=False):
            visitor = self._lobby.take()
            self._heard[visitor.connection] = visitor.heard
            self._give_thread(visitor.connection, visitor.address)
        if self._lobby.ready:
            self._hang_up_on_the_slowest()
        for visitor in self._lobby.weary(_ROOM):
            self._turn_away(visitor.connection, _BUSY)

    def _give_thread(self, connection: socket.socket, address: Any) -> None:
        """Serve a connection in a thread; one of the slots is taken for it."""
        thread = threading.Thread(
            target=self._serve,
            args=(connection, address),
            name=f"http-{next(self._numbers)}",
            daemon=True,
        )
        with self._lock:
            self._threads_alive.add(thread)
        try:
            thread.start()
        except RuntimeError:  # the system gives none
            with self._lock:
                self._threads_alive.discard(thread)
            self._slots.release()
            self._heard.pop(connection, None)
            self._turn_away(connection, _BUSY)

    def secured(self, connection: socket.socket) -> socket.socket:
        """Return the connection, to be encrypted by a handshake if TLS is configured."""
        tls = self.tls
        if tls is None or isinstance(connection, ssl.SSLSocket):
            return connection
        return tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)

    def heard(self, connection: socket.socket) -> bytes:
        """Return what was read of a connection before it got a thread."""
        return self._heard.pop(connection, b"")

    def waits(self, connection: socket.socket) -> None:
        """Note that a connection begins to wait for a request."""
        with self._lock:
            self._waiting[connection] = time.monotonic()
            self._telling.pop(connection, None)

    def asks(self, connection: socket.socket) -> None:
        """Note that its request is there."""
        with self._lock:
            self._waiting[connection] = None

    def tells(self, connection: socket.socket) -> None:
        """Note that the client is to take its answer now."""
        with self._lock:
            self._telling[connection] = time.monotonic()

    def gone(self, connection: socket.socket) -> None:
        """Forget a connection."""
        with self._lock:
            self._waiting.pop(connection, None)
            self._telling.pop(connection, None)

    def wake(self) -> None:
        """Refuse new clients; the accepting thread notices at once, not at its next poll."""
        self._ending.set()
        _hang_up(self.socket)

    def end(self, patience: float) -> None:
        """End all conversations: those without a request at once, the others after a moment."""
        deadline = time.monotonic() + patience
        with self._lock:
            threads = list(self._threads_alive)
            for connection, since in self._waiting.items():
                if since is not None:
                    _hang_up(connection)
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            for connection in self._waiting:
                _hang_up(connection)
        for thread in threads:
            thread.join(_BREATH / MAX_THREADS)

    def _serve(self, request: socket.socket, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError as error:
            log.debug("a client is gone: %s", error)
        except Exception:
            log.exception("a conversation failed")
        finally:
            self.shutdown_request(request)
            with self._lock:
                self._threads_alive.discard(threading.current_thread())
            self._slots.release()

    def _hang_up_on_the_slowest(self) -> None:
        now = time.monotonic()
        with self._lock:
            slow = [(since, c) for c, since in self._waiting.items() if since is not None]
            slow += [(since, c) for c, since in self._telling.items()]
            if slow:
                since, connection = min(slow, key=lambda pair: pair[0])
                if now - since >= _PATIENT:
                    _hang_up(connection)

    def _turn_away(self, request: socket.socket, answer: bytes) -> None:
        with contextlib.suppress(OSError):
            request.setblocking(False)  # noqa: FBT003  # the standard library's own
            if self.tls is None or isinstance(request, ssl.SSLSocket):
                request.send(answer)
            request.recv(MAX_HEAD_BYTES)  # closing with unread bytes would take the answer back
        self.shutdown_request(request)


def _refusal(status: HTTPStatus, words: str, *headers: str) -> bytes:
    body = f"{words}\n"
    lines = (
        f"HTTP/1.1 {status.value} {status.phrase}",
        *("Content-Type: text/plain", *headers, "Cache-Control: no-store", "Connection: close"),
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join((*lines, "", body)).encode()


_BUSY: Final = _refusal(
    HTTPStatus.SERVICE_UNAVAILABLE, "all connections are taken", "Retry-After: 1"
)
_TOO_SLOW: Final = _refusal(HTTPStatus.REQUEST_TIMEOUT, "the request did not come in time")
_FORBIDDEN: Final = _refusal(HTTPStatus.FORBIDDEN, "this address is not on the list")


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it may be gone already
        connection.shutdown(socket.SHUT_RDWR)
