"""A proxy for HTTP: CONNECT and absolute URLs, with a login, or with a status of its own."""

import base64
import contextlib
import select
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit


class HttpProxy:
    """Listens on `port`. `status` answers everything itself; `login` is `user:password`."""

    def __init__(self, *, login: str = "", status: int = 0) -> None:
        self.login = login
        self.status = status
        self.asked: list[str] = []
        self._links: list[socket.socket] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_CONNECT(self) -> None:
                proxy.asked.append(self.path)
                if self._refused():
                    return
                host, _, port = self.path.rpartition(":")
                with socket.create_connection((host, int(port)), 5) as behind:
                    self.send_response(200)
                    self.end_headers()
                    proxy._links += [self.connection, behind]
                    _splice(self.connection, behind)
                self.close_connection = True

            def do_POST(self) -> None:
                proxy.asked.append(self.path)
                if self._refused():
                    return
                body = self.rfile.read(int(self.headers["Content-Length"]))
                url = urlsplit(self.path)
                with socket.create_connection((url.hostname or "", url.port or 80), 5) as behind:
                    kept = {n: v for n, v in self.headers.items() if n != "Proxy-Authorization"}
                    head = "".join(f"{n}: {v}\r\n" for n, v in kept.items())
                    text = f"POST {url.path} HTTP/1.1\r\n{head}Connection: close\r\n\r\n"
                    behind.sendall(text.encode() + body)
                    while piece := behind.recv(65536):
                        self.wfile.write(piece)
                self.close_connection = True

            def _refused(self) -> bool:
                wanted = "Basic " + base64.b64encode(proxy.login.encode()).decode()
                status = proxy.status
                if proxy.login and self.headers.get("Proxy-Authorization") != wanted:
                    status = 407
                if status:
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                return bool(status)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="http-proxy", daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """With the login, if there is one."""
        return f"http://{self.login + '@' if self.login else ''}127.0.0.1:{self.port}"

    def die(self) -> None:
        """Stop listening, and cut what passes through."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
        for link in self._links:
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self.die()


def _splice(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            for ready in select.select([one, other], [], [], 30)[0]:
                piece = ready.recv(65536)
                if not piece:
                    return
                (other if ready is one else one).sendall(piece)
