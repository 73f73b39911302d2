"""waitress with what it lacks here: TLS, problem documents of its own errors, an end in order."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import ClientDisconnected, HTTPChannel
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask

from pg_collector.errors import StateError
from pg_collector.platform.problems import CONTENT_TYPE, of_status
from pg_collector.platform.router import HangUp, Router

CONNECTIONS: Final = 200
HEADER_BYTES: Final = 16 * 1024
IDLE_SECONDS: Final = 75  # after which a connection that does nothing is closed

_POLL: Final = 1.0  # seconds
_LAST_TASKS: Final = 5.0  # seconds for requests under way when it ends
_LAST_WORDS: Final = 0.5  # seconds for their answers


class WebServer:
    """Serves a router on one address, until `stop`. Raises StateError if it cannot listen."""

    def __init__(
        self,
        router: Router,
        host: str,
        port: int,
        *,
        threads: int,
        max_body: int,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._stopping = False
        self._map: dict[int, Any] = {}
        shown = f"[{host}]" if ":" in host else host
        try:
            adjustments = Adjustments(
                listen=f"{shown or '*'}:{port}",
                threads=threads,
                ident="pg-collector",
                connection_limit=CONNECTIONS,
                channel_timeout=IDLE_SECONDS,
                cleanup_interval=10,
                max_request_header_size=HEADER_BYTES,
                max_request_body_size=max_body,
                recv_bytes=64 * 1024,
                log_socket_errors=False,
                url_scheme="https" if tls else "http",
            )
            self._server = _Server(_hanging_up(router), adjustments, self._map, tls)
        except (OSError, ValueError) as error:
            raise StateError(
                f"cannot listen on {shown}:{port}: {error}", remedy="Give it another --listen."
            ) from error
        scheme = "https" if tls else "http"
        address = self._server.socket.getsockname()
        self.url = (
            f"{scheme}://{f'[{address[0]}]' if ':' in address[0] else address[0]}:{address[1]}"
        )

    def run(self) -> None:
        """Serve until `stop`; then end what is under way, and close."""
        while not self._stopping:
            wasyncore.loop(timeout=_POLL, use_poll=True, map=self._map, count=1)
        self._server.accepting = False
        ending = threading.Thread(
            target=self._server.task_dispatcher.shutdown,
            kwargs={"timeout": _LAST_TASKS},
            name="waitress-end",
            daemon=True,
        )
        ending.start()
        deadline = time.monotonic() + _LAST_TASKS + _LAST_WORDS
        while (ending.is_alive() or self._speaking()) and time.monotonic() < deadline:
            wasyncore.loop(timeout=0.05, use_poll=True, map=self._map, count=1)
        wasyncore.close_all(self._map, ignore_all=True)

    def stop(self) -> None:
        """End `run`, from a signal handler or another thread."""
        self._stopping = True
        with contextlib.suppress(OSError):  # it has ended
            self._server.pull_trigger()

    def _speaking(self) -> bool:
        return any(one.total_outbufs_len for one in self._server.active_channels.values())


class _ErrorTask(ErrorTask):  # type: ignore[misc]  # waitress has no types
    def execute(self) -> None:
        code = self.request.error.code
        problem = of_status(code, HTTPStatus(code).description or HTTPStatus(code).phrase)
        body = problem.body()
        self.status = f"{code} {HTTPStatus(code).phrase}"
        self.response_headers.append(("Content-Type", CONTENT_TYPE))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class _Channel(HTTPChannel):  # type: ignore[misc]
    error_task_class = _ErrorTask


class _TlsChannel(_Channel):
    """A channel on a TLS socket that does not block; the first reading does the handshake."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._tls_lock = threading.Lock()  # reading and writing share a state in OpenSSL
        super().__init__(*args, **kwargs)

    def handle_read(self) -> None:
        try:
            with self._tls_lock:
                data = self.socket.recv(self.adj.recv_bytes)
                # What OpenSSL has read already wakes no poll.
                while left := self.socket.pending():
                    data += self.socket.recv(left)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError:
            self.handle_close()
            return
        if data:
            self.last_activity = time.time()
            self.received(data)
        else:
            self.handle_close()

    def send(self, data: bytes, do_close: bool = True) -> int:  # noqa: FBT001, FBT002
        try:
            with self._tls_lock:
                return int(self.socket.send(data))
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0
        except OSError:
            if do_close:
                self.handle_close()
            return 0


class _Server(TcpWSGIServer):  # type: ignore[misc]
    def __init__(
        self,
        application: object,
        adjustments: Any,
        sockets: dict[int, Any],
        tls: ssl.SSLContext | None,
    ) -> None:
        self._context = tls
        self.channel_class = _Channel if tls is None else _TlsChannel
        super().__init__(application, map=sockets, adj=adjustments)

    def accept(self) -> tuple[socket.socket, Any] | None:
        found: tuple[socket.socket, Any] | None = super().accept()
        if found is None or self._context is None:
            return found
        connection, address = found
        try:
            connection.setblocking(False)  # noqa: FBT003
            secured = self._context.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        except OSError:  # it is gone already
            connection.close()
            return None
        return secured, address


def _hanging_up(router: Router) -> Callable[..., Any]:
    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        try:
            return router(environ, start_response)
        except HangUp:
            raise ClientDisconnected from None

    return application
