"""The agent's HTTP server: health and numbers, for probes, Prometheus and people.

A few threads serve it, and nobody can hold them: a request must arrive within the read timeout as a
whole, an answer must be taken within the write timeout, and when all threads are taken, the client
that has kept one waiting longest without a request loses it.
"""

import contextlib
import hmac
import itertools
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from pg_collector.config.certificates import server_context
from pg_collector.config.files import Unreadable, read_secret
from pg_collector.config.model import Http, IpAllowlist
from pg_collector.errors import ConfigurationError, StateError
from pg_collector.health.address import parse_address, remedy, resolve
from pg_collector.health.conversation import MAX_HEAD_BYTES, METHODS, Conversation
from pg_collector.health.guests import FORWARDED, Guests, Seldom
from pg_collector.health.pages import Page, Pages, text
from pg_collector.health.vitals import Heart, Vitals
from pg_collector.metrics import Metrics
from pg_collector.trust import Stamp, stamp

log = logging.getLogger(__name__)
audit = logging.getLogger("pg_collector.audit")

MAX_THREADS: Final = 8

_POLL: Final = 5.0  # seconds between signs of life
_END: Final = 1.0  # second for the accepting thread's end
_PATIENT: Final = 0.5  # seconds for which a client without a request keeps its thread in any case
_ROOM: Final = 0.1  # seconds that a client waits for a thread
_GOODBYE: Final = 0.3  # seconds for the last answers

Answer = Callable[[BaseHTTPRequestHandler], Page]


class HealthServer:
    """Serves the pages on `http.address`; `off` serves nothing.

    Raises ConfigurationError if the address, the token file or the certificate cannot be used.
    """

    def __init__(
        self,
        http: Http,
        vitals: Vitals,
        metrics: Metrics,
        *,
        version: Mapping[str, str],
        allowlist: IpAllowlist = IpAllowlist(),  # noqa: B008  # it is frozen
    ) -> None:
        self._http = http
        self._guests = Guests(http, allowlist)
        self._turned_away = Seldom(_refused)
        self._endpoint = None if http.address == "off" else parse_address(http.address)
        self._pages = Pages(vitals, metrics, version)
        self._metrics = metrics
        self._vitals = vitals
        self._token = _token(http)
        self._stamps = _stamps(http)
        self._tls = _tls(http)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port that it listens on, or None."""
        return self._server.server_address[:2] if self._server else None  # type: ignore[return-value]

    def admit(self, allowlist: IpAllowlist) -> None:
        """Let others in from the next request on."""
        self._guests = Guests(self._http, allowlist)

    def renew(self) -> None:
        """Show another certificate from the next connection on, where its file was replaced."""
        stamps = _stamps(self._http)
        if stamps == self._stamps or self._server is None:
            return
        try:
            self._server.tls = _tls(self._http)
        except ConfigurationError as error:  # of a pair, one file may be there before the other
            log.warning(
                "the certificate stays as it was: %s", error, extra={"remedy": error.remedy}
            )
            return
        self._stamps = stamps
        log.info("the certificate of the HTTP endpoint was replaced")

    def start(self) -> None:
        """Listen, and serve from a thread of its own. Raises StateError if it cannot listen."""
        if self._endpoint is None:
            return
        try:
            self._server = _Server(self._endpoint, self._http, self._answer, self._knock, self._tls)
        except OSError as error:
            raise StateError(
                f"cannot listen on {self._http.address}: {error.strerror or error}",
                remedy=remedy(error, self._endpoint[1]),
            ) from error
        self._server.heart = self._vitals.heart("http")
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL,), name="http", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop within a second, whatever clients do."""
        if self._server is None or self._thread is None:
            return
        self._server.wake()
        # The server's own end waits for its thread without a bound, and that may be stuck.
        ending = threading.Thread(target=self._server.shutdown, name="http-stop", daemon=True)
        ending.start()
        ending.join(_END)
        self._server.server_close()
        self._server.end(_GOODBYE)
        self._server = self._thread = None

    def _knock(self, peer: str) -> bool:
        welcome = self._guests.may_knock(peer)
        if not welcome:
            self._refuse(peer, "address")
        return welcome

    def _refuse(self, peer: str, reason: str) -> None:
        self._metrics.http_requests_refused_total.labels(reason).inc()
        self._turned_away.note(f"{peer}: {reason}")

    def _answer(self, request: BaseHTTPRequestHandler) -> Page:
        forwarded = request.headers.get_all(FORWARDED, [])
        peer = request.client_address[0]
        if not self._guests.may_enter(peer, forwarded):
            self._refuse(peer, "address")
            return text(HTTPStatus.FORBIDDEN, "this address is not on the list")
        if request.command not in METHODS:
            return text(HTTPStatus.METHOD_NOT_ALLOWED, "GET and HEAD only")
        if self._token and not hmac.compare_digest(_bearer(request), self._token):
            self._refuse(peer, "token")
            return text(HTTPStatus.UNAUTHORIZED, "a bearer token is needed: http.token_file has it")
        try:
            return self._pages.get(request.path, request.headers.get("Accept", ""))
        except Exception:
            self._metrics.panics_recovered_total.labels("health").inc()
            log.exception("a page failed")
            return text(HTTPStatus.INTERNAL_SERVER_ERROR, "this page failed; the log says why")


class _Server(ThreadingHTTPServer):
    """Bounded threads; knows every connection, and since when it waits for a request."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

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
        self._lock = threading.Lock()  # guards the two below
        self._threads_alive: set[threading.Thread] = set()
        self._waiting: dict[socket.socket, float | None] = {}  # None: it has its request
        self.address_family, address = resolve(*endpoint)
        super().__init__(address, Conversation)

    def server_bind(self) -> None:
        """Bind, without the reverse DNS look-up of the parent class."""
        if self.address_family == socket.AF_INET6:
            only_v6 = int(self.server_address[0] != "::")
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_v6)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.socket.setblocking(False)  # noqa: FBT003  # a client may be gone before the accept
        self.server_address = self.socket.getsockname()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept; without file descriptors left, do not spin."""
        try:
            return self.socket.accept()
        except OSError:
            self._ending.wait(_ROOM)
            raise

    def service_actions(self) -> None:
        """Give a sign of life."""
        if self.heart:
            self.heart.beat(_POLL)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the client a thread, or turn it away: whom nobody knows costs no thread."""
        if not self._knock(client_address[0]):
            self._turn_away(request, _FORBIDDEN)
            return
        if not self._slots.acquire(blocking=False):
            self._hang_up_on_the_slowest()
            if not self._slots.acquire(timeout=_ROOM):
                self._turn_away(request, _BUSY)
                return
        thread = threading.Thread(
            target=self._serve,
            args=(request, client_address),
            name=f"http-{next(self._numbers)}",
            daemon=True,
        )
        with self._lock:
            self._threads_alive.add(thread)
        thread.start()

    def secured(self, connection: socket.socket) -> socket.socket:
        """Return the connection, to be encrypted by a handshake if TLS is configured."""
        tls = self.tls
        if tls is None:
            return connection
        return tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)

    def waits(self, connection: socket.socket) -> None:
        """Note that a connection begins to wait for a request."""
        with self._lock:
            self._waiting[connection] = time.monotonic()

    def asks(self, connection: socket.socket) -> None:
        """Note that its request is there."""
        with self._lock:
            self._waiting[connection] = None

    def gone(self, connection: socket.socket) -> None:
        """Forget a connection."""
        with self._lock:
            self._waiting.pop(connection, None)

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
            thread.join(_ROOM / MAX_THREADS)

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
            waiting = [(since, c) for c, since in self._waiting.items() if since is not None]
            if waiting:
                since, connection = min(waiting, key=lambda pair: pair[0])
                if now - since >= _PATIENT:
                    _hang_up(connection)

    def _turn_away(self, request: socket.socket, answer: bytes) -> None:
        with contextlib.suppress(OSError):
            request.setblocking(False)  # noqa: FBT003  # the standard library's own
            if self.tls is None:
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
_FORBIDDEN: Final = _refusal(HTTPStatus.FORBIDDEN, "this address is not on the list")


def _refused(who: str, times: int) -> None:
    audit.info("a request was not let in: %s", who, extra={"times": times})


def _token(http: Http) -> bytes | None:
    if http.token_file is None:
        return None
    try:
        return read_secret(http.token_file).encode()
    except Unreadable as error:
        raise ConfigurationError(f"http.token_file {error}", remedy=error.remedy) from None


def _tls(http: Http) -> ssl.SSLContext | None:
    if http.tls.cert_file is None:
        return None
    try:
        return server_context(http.tls.cert_file, http.tls.key_file)
    except Unreadable as error:
        raise ConfigurationError(
            f"http.tls (cert_file, key_file): {error}", remedy=error.remedy
        ) from error


def _stamps(http: Http) -> list[Stamp | None]:
    found: list[Stamp | None] = []
    for file in (http.tls.cert_file, http.tls.key_file):
        try:
            found.append(stamp(file) if file is not None else None)
        except OSError:
            found.append(None)
    return found


def _bearer(request: BaseHTTPRequestHandler) -> bytes:
    scheme, _, token = str(request.headers.get("Authorization", "")).partition(" ")
    return token.strip().encode() if scheme.lower() == "bearer" else b""


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it may be gone already
        connection.shutdown(socket.SHUT_RDWR)
