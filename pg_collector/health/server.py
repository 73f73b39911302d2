"""The agent's HTTP server: health and numbers, for probes, Prometheus and people.

A few threads serve it, and nobody can hold them: a request must arrive within the read timeout as a
whole, an answer must be taken within the write timeout, and when all threads are taken, the client
that has kept one waiting longest without a request loses it.
"""

import contextlib
import errno
import hmac
import itertools
import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any, Final, cast

from pg_collector.config.model import Http
from pg_collector.errors import ConfigurationError, StateError
from pg_collector.health.pages import Page, Pages, text
from pg_collector.health.vitals import Heart, Vitals
from pg_collector.metrics import Metrics

log = logging.getLogger(__name__)

MAX_THREADS: Final = 8
MAX_HEAD_BYTES: Final = 8192  # request line and headers together
METHODS: Final = ("GET", "HEAD")

_POLL: Final = 0.5  # seconds between looks at whether to stop
_PATIENT: Final = 0.5  # seconds for which a client without a request keeps its thread in any case
_ROOM: Final = 0.1  # seconds that a client waits for a thread
_GOODBYE: Final = 0.3  # seconds for the last answers
_HEAD_END: Final = re.compile(rb"\r?\n\r?\n")
_ADDRESS: Final = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^:\[\]]*)):(?P<port>\d{1,5})")


class HealthServer:
    """Serves the pages on `http.address`; `off` serves nothing.

    Raises ConfigurationError if the address, the token file or the certificate cannot be used.
    """

    def __init__(
        self, http: Http, vitals: Vitals, metrics: Metrics, *, version: Mapping[str, str]
    ) -> None:
        self._http = http
        self._endpoint = None if http.address == "off" else parse_address(http.address)
        self._pages = Pages(vitals, metrics, version)
        self._metrics = metrics
        self._vitals = vitals
        self._token = _token(http)
        self._tls = _tls(http)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port that it listens on, or None."""
        return self._server.server_address[:2] if self._server else None  # type: ignore[return-value]

    def start(self) -> None:
        """Listen, and serve from a thread of its own. Raises StateError if it cannot listen."""
        if self._endpoint is None:
            return
        try:
            self._server = _Server(self._endpoint, self)
        except OSError as error:
            raise StateError(
                f"cannot listen on {self._http.address}: {error.strerror or error}",
                remedy=_remedy(error, self._endpoint[1]),
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
        self._server.shutdown()
        self._thread.join(_POLL)
        self._server.server_close()
        self._server.end(_GOODBYE)
        self._server = self._thread = None

    def answer(self, request: "_Conversation") -> Page:
        """Answer a request that was read. Never raises."""
        if request.command not in METHODS:
            return text(HTTPStatus.METHOD_NOT_ALLOWED, "GET and HEAD only")
        if self._token and not hmac.compare_digest(_bearer(request), self._token):
            return text(HTTPStatus.UNAUTHORIZED, "a bearer token is needed: http.token_file has it")
        try:
            return self._pages.get(request.path, request.headers.get("Accept", ""))
        except Exception:
            self._metrics.panics_recovered_total.labels("health").inc()
            log.exception("a page failed")
            return text(HTTPStatus.INTERNAL_SERVER_ERROR, "this page failed; the log says why")

    def secured(self, connection: socket.socket) -> socket.socket:
        """Return the connection, to be encrypted by a handshake if TLS is configured."""
        if self._tls is None:
            return connection
        return self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)

    @property
    def limits(self) -> Http:
        """The timeouts."""
        return self._http


class _Server(ThreadingHTTPServer):
    """Bounded threads; knows every connection, and since when it waits for a request."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, endpoint: tuple[str, int], owner: HealthServer) -> None:
        self.owner = owner
        self.heart: Heart | None = None
        self._slots = threading.BoundedSemaphore(MAX_THREADS)
        self._numbers = itertools.count(1)
        self._ending = threading.Event()
        self._lock = threading.Lock()  # guards the two below
        self._threads_alive: set[threading.Thread] = set()
        self._waiting: dict[socket.socket, float | None] = {}  # None: it has its request
        self.address_family, address = _resolve(*endpoint)
        super().__init__(address, _Conversation)

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
        """Give the client a thread, or turn it away."""
        if not self._slots.acquire(blocking=False):
            self._hang_up_on_the_slowest()
            if not self._slots.acquire(timeout=_ROOM):
                self._turn_away(request)
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

    def end(self, patience: float) -> None:
        """End all conversations: those without a request at once, the others after a moment."""
        deadline = time.monotonic() + patience
        self._ending.set()
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

    def _turn_away(self, request: socket.socket) -> None:
        body = b"all connections are taken\n"
        head = (
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nRetry-After: 1\r\n"
            f"Cache-Control: no-store\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        with contextlib.suppress(OSError):
            request.setblocking(False)  # noqa: FBT003  # the standard library's own
            request.send(head.encode() + body)
            request.recv(MAX_HEAD_BYTES)  # closing with unread bytes would take the answer back
        self.shutdown_request(request)


class _Conversation(BaseHTTPRequestHandler):
    """One connection: reads each head as a whole, answers it as a whole."""

    server_version = "pg-collector"
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        """Begin; with TLS, shake hands within the read timeout."""
        self._house = cast("_Server", self.server)
        self._limits = self._house.owner.limits
        self._unread = b""
        self.connection = self._house.owner.secured(self.request)
        self._house.waits(self.connection)
        try:
            self.connection.settimeout(self._limits.read_timeout)
            if isinstance(self.connection, ssl.SSLSocket):
                self.connection.do_handshake()
        except BaseException:
            self.finish()
            raise

    def finish(self) -> None:
        """End; the server closes what TLS did not take over."""
        self._house.gone(self.connection)
        if self.connection is not self.request:
            self.connection.close()

    def handle_one_request(self) -> None:
        """Read one request and answer it."""
        self.close_connection = True
        self.wfile = BytesIO()
        self._house.waits(self.connection)
        head = self._read_head()
        self._house.asks(self.connection)
        if head is not None:
            self.rfile = BytesIO(head)
            self.raw_requestline = self.rfile.readline()
            if self.parse_request():
                if {"content-length", "transfer-encoding"} & {k.lower() for k in self.headers}:
                    self.close_connection = True  # nobody reads that body
                self._write(self._house.owner.answer(self))
        self._send(self.wfile.getvalue())

    def _read_head(self) -> bytes | None:
        """Return a request's head; None if there is none, and what to say is in `wfile`."""
        deadline = time.monotonic() + self._limits.read_timeout
        while not (end := _HEAD_END.search(self._unread)):
            if len(self._unread) > MAX_HEAD_BYTES:
                line_ended = b"\n" in self._unread
                self.send_error(431 if line_ended else 414)
                return None
            try:
                self.connection.settimeout(max(0.001, deadline - time.monotonic()))
                chunk = self.connection.recv(MAX_HEAD_BYTES)
            except TimeoutError:
                if self._unread:
                    self.send_error(408)
                return None
            if not chunk:
                return None
            self._unread = (self._unread + chunk).lstrip(b"\r\n")
        head, self._unread = self._unread[: end.end()], self._unread[end.end() :]
        return head

    def _write(self, page: Page) -> None:
        self.send_response(page.status)
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(len(page.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if page.status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", ", ".join(METHODS))
        if page.status == HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page.body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what was no proper request; the parent class calls this, too."""
        del message, explain  # they quote the request
        self.close_connection = True
        self.command = self.command if hasattr(self, "command") else ""
        self.request_version = self.protocol_version
        status = HTTPStatus(code)
        self._write(text(status, status.phrase))

    def handle_expect_100(self) -> bool:
        """Ask for no body."""
        return True

    def version_string(self) -> str:
        """Return the name alone."""
        return self.server_version

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the parent's name
        """Log requests for who debugs, and nobody else."""
        log.debug(format, *args)

    def _send(self, data: bytes) -> None:
        if not data:
            return
        self.connection.settimeout(self._limits.write_timeout)
        self.connection.sendall(data)  # the timeout is that of the whole call
        if self.close_connection:
            self._linger()

    def _linger(self) -> None:
        """Read what is still coming for a moment: closing at once would take the answer back."""
        deadline = time.monotonic() + _ROOM
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            while (left := deadline - time.monotonic()) > 0:
                self.connection.settimeout(left)
                if not self.connection.recv(64 * 1024):
                    return


def parse_address(address: str) -> tuple[str, int]:
    """Split `127.0.0.1:8080`, `[::1]:8080` or `:8080` (every interface) into host and port.

    Raises ConfigurationError for anything else.
    """
    found = _ADDRESS.fullmatch(address)
    if not found or int(found["port"]) > 0xFFFF:
        raise ConfigurationError(
            f"http.address {address!r} is not an address",
            remedy="Write it as 127.0.0.1:8080, [::1]:8080, :8080 for every interface, or off.",
        )
    return found["v6"] or found["host"], int(found["port"])


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    if not host:
        if socket.has_dualstack_ipv6():
            return socket.AF_INET6, ("::", port)
        return socket.AF_INET, ("0.0.0.0", port)  # noqa: S104  # every interface was asked for
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = found[0]
    return family, cast("tuple[str, int]", address[:2])


def _remedy(error: OSError, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Stop what listens there (ss -ltnp sport = :{port}), or set http.address."
    if error.errno in {errno.EACCES, errno.EPERM}:
        return "Ports below 1024 need a privilege: set http.address to a higher one."
    return "Set http.address to an address of this machine, or to off."


def _token(http: Http) -> bytes | None:
    if http.token_file is None:
        return None
    try:
        token = http.token_file.read_bytes().strip()
    except OSError as error:
        raise ConfigurationError(
            f"http.token_file {http.token_file} cannot be read: {error.strerror}"
        ) from error
    if not token:
        raise ConfigurationError(f"http.token_file {http.token_file} is empty")
    return token


def _tls(http: Http) -> ssl.SSLContext | None:
    if http.tls.cert_file is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(http.tls.cert_file, http.tls.key_file)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigurationError(
            f"http.tls.cert_file {http.tls.cert_file} cannot be used: {error}",
            remedy="It holds the certificate chain as PEM; http.tls.key_file holds its key.",
        ) from error
    return context


def _bearer(request: BaseHTTPRequestHandler) -> bytes:
    scheme, _, token = str(request.headers.get("Authorization", "")).partition(" ")
    return token.strip().encode() if scheme.lower() == "bearer" else b""


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it may be gone already
        connection.shutdown(socket.SHUT_RDWR)
