"""One connection of the agent's HTTP server, from the first byte to the last."""

import contextlib
import logging
import re
import socket
import ssl
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from typing import Any, Final, Protocol, cast

from pg_collector.config.model import Http
from pg_collector.health.pages import Page, text

log = logging.getLogger(__name__)

MAX_HEAD_BYTES: Final = 8192  # request line and headers together
METHODS: Final = ("GET", "HEAD")

_LINGER: Final = 0.1  # seconds
_HEAD_END: Final = re.compile(rb"\r?\n\r?\n")
# Not everybody ends a line at a CR alone, or takes what is indented for part of the line above:
# what a proxy passed on as one header may be two here, or two one (RFC 9112, 2.2 and 5.2).
_AMBIGUOUS: Final = re.compile(rb"\r(?!\n)|\n[ \t]")


def head_end(heard: bytes) -> int:
    """Return where a request's head ends in what was read so far, or 0."""
    found = _HEAD_END.search(heard)
    return found.end() if found else 0


class House(Protocol):
    """The server, as a conversation sees it."""

    limits: Http

    @property
    def crowded(self) -> bool:
        """Whether others wait for a thread."""

    def secured(self, connection: socket.socket) -> socket.socket:
        """Return the connection, to be encrypted by a handshake if TLS is configured."""

    def heard(self, connection: socket.socket) -> bytes:
        """Return what was read of a connection before it got a thread."""

    def answer(self, request: BaseHTTPRequestHandler) -> Page:
        """Answer a request that was read. Never raises."""

    def waits(self, connection: socket.socket) -> None:
        """Note that a connection begins to wait for a request."""

    def asks(self, connection: socket.socket) -> None:
        """Note that its request is there."""

    def tells(self, connection: socket.socket) -> None:
        """Note that the client is to take its answer now."""

    def gone(self, connection: socket.socket) -> None:
        """Forget a connection."""


class Conversation(BaseHTTPRequestHandler):
    """One connection: reads each head as a whole, answers it as a whole."""

    server_version = "pg-collector"
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        """Begin; with TLS, shake hands within the read timeout."""
        self._house = cast("House", self.server)
        self._limits = self._house.limits
        self._unread = self._house.heard(self.request)
        self.connection = self._house.secured(self.request)
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
        self.command = self.requestline = ""
        self.wfile = BytesIO()
        self._house.waits(self.connection)
        head = self._read_head()
        self._house.asks(self.connection)
        if head is not None:
            self._reply(head)
        self._send(self.wfile.getvalue())

    def _reply(self, head: bytes) -> None:
        if len(head) > MAX_HEAD_BYTES:
            self.send_error(431 if head.index(b"\n") < MAX_HEAD_BYTES else 414)
            return
        if _AMBIGUOUS.search(head):
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        self.rfile = BytesIO(head)
        self.raw_requestline = self.rfile.readline()
        if not self.parse_request():
            return  # it has called send_error
        if self.request_version == "HTTP/0.9":
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        if self.headers.defects:  # the rest was not read, and may hold what decides
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        if {"content-length", "transfer-encoding"} & {name.lower() for name in self.headers}:
            self.close_connection = True  # nobody reads that body
        if self._house.crowded:
            self.close_connection = True  # the next one's turn
        self._write(self._house.answer(self))

    def _read_head(self) -> bytes | None:
        """Return a request's head; None if there is none, and what to say is in `wfile`."""
        deadline = time.monotonic() + self._limits.read_timeout
        while not (end := head_end(self._unread)):
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
        head, self._unread = self._unread[:end], self._unread[end:]
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
        self._house.tells(self.connection)
        self.connection.settimeout(self._limits.write_timeout)
        self.connection.sendall(data)  # the timeout is that of the whole call
        if self.close_connection:
            self._linger()

    def _linger(self) -> None:
        """Read what is still coming for a moment: closing at once would take the answer back."""
        left = 0.0 if self._house.crowded else _LINGER
        deadline = time.monotonic() + left
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            while True:
                self.connection.settimeout(left)  # 0: what is there already
                if not self.connection.recv(64 * 1024) or left <= 0:
                    return
                left = max(0.0, deadline - time.monotonic())
