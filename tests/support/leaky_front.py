"""A proxy between agent and platform that talks: it adds headers, and may repeat all it heard."""

import http.client
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

_ENOUGH = 2048  # bytes of a body that are repeated: a longer answer is not read


class LeakyFront:
    """Passes requests of absolute URLs on. `headers` are added to every answer.

    While there is a `hostile` status it answers itself with that: a problem document, or with
    `portal` a page, that repeats the request and `says` more.
    """

    def __init__(self, headers: dict[str, str], says: str = "") -> None:
        self.headers = headers
        self.says = says
        self.hostile = 0
        self.portal = False
        self.heard: list[dict[str, str]] = []  # headers, in lower case
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def _pass(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                heard = {name.lower(): value for name, value in self.headers.items()}
                front.heard.append(heard)
                if front.hostile:
                    self._repeat(heard, body)
                    return
                url = urlsplit(self.path)
                kept = {n: v for n, v in self.headers.items() if not n.lower().startswith("proxy-")}
                behind = http.client.HTTPConnection(url.hostname or "", url.port, timeout=10)
                try:
                    behind.request(self.command, url.path, body or None, kept)
                    answer = behind.getresponse()
                    content = answer.read()
                finally:
                    behind.close()
                kind = answer.headers.get("Content-Type", "application/json")
                etag = answer.headers.get("ETag", "")
                self._send(answer.status, content, kind, {"ETag": etag} if etag else {})

            def _repeat(self, heard: dict[str, str], body: bytes) -> None:
                first = {n: v for n, v in heard.items() if n.endswith("authorization")}
                bare = " ".join(one.rpartition(" ")[2] for one in first.values())
                told = f"{front.says} {bare} {json.dumps(first | heard)} {body[:_ENOUGH]!r}"
                if front.portal:
                    page = f"<html><title>{front.says}</title>{told}</html>"
                    self._send(200, page.encode(), "text/html", {})
                    return
                problem = {"type": "about:blank", "title": told, "status": front.hostile,
                           "detail": told, "instance": told}  # fmt: skip
                content = json.dumps(problem).encode()
                self._send(front.hostile, content, "application/problem+json", {})

            def _send(self, status: int, content: bytes, kind: str, more: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in {**front.headers, **more}.items():
                    self.send_header(name, value)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_DELETE = _pass  # noqa: N815  # names of the library

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *_: Any) -> None:
                """A connection that was reset is none of the test's."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="leaky-front", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
