"""A managed PostgreSQL's front: TLS, a password in clear text, and somebody else who judges it.

That is how RDS, Cloud SQL and Azure take their tokens. Behind it stands a real server, which trusts
the front. https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

import contextlib
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, Self

from tests.support.pki import Leaf

SSL_REQUEST: Final = 80877103
GSS_REQUEST: Final = 80877104
CANCEL_REQUEST: Final = 80877102
_CLEAR_TEXT: Final = b"R" + struct.pack("!II", 8, 3)

# Why a user with this password is not let in; None lets in.
Judge = Callable[[str, str], str | None]


class Tried(NamedTuple):
    """An attempt to log in."""

    user: str
    password: str
    fault: str | None


class IamFront:
    """Listens on loopback, or on a Unix socket as the Cloud SQL Auth Proxy does (`folder`)."""

    def __init__(
        self,
        upstream: tuple[str, int],
        judge: Judge,
        *,
        tls: Leaf | None = None,
        folder: Path | None = None,
        sqlstate: str = "28000",
        words: str = "PAM authentication failed for user",
    ) -> None:
        self.tried: list[Tried] = []
        self.judge = judge
        self._upstream = upstream
        self._sqlstate, self._words = sqlstate, words
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if tls else None
        if tls and self._context:
            self._context.load_cert_chain(tls.certificate, tls.key)
        self.port = 5432
        if folder is not None:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(folder / ".s.PGSQL.5432"))
            self._listener.listen()
        else:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.port = self._listener.getsockname()[1]
        self._links: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._run, name="iam-front", daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """End every connection: the agent has to log in again."""
        for link in tuple(self._links):
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
        self.cut()

    def _run(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(
                target=self._serve, args=(client,), name="iam-link", daemon=True
            ).start()

    def _serve(self, client: socket.socket) -> None:
        link = client
        try:
            code, body = _startup(link)
            while code in {SSL_REQUEST, GSS_REQUEST}:
                if code == SSL_REQUEST and self._context is not None:
                    link.sendall(b"S")
                    link = self._context.wrap_socket(link, server_side=True)
                else:
                    link.sendall(b"N")
                code, body = _startup(link)
            self._links.add(link)
            with socket.create_connection(self._upstream, 5) as server:
                if code == CANCEL_REQUEST or self._let_in(link, body):
                    server.settimeout(None)
                    server.sendall(struct.pack("!II", len(body) + 8, code) + body)
                    _splice(link, server)
        except (OSError, EOFError, struct.error):
            return  # whoever came has left
        finally:
            self._links.discard(link)
            link.close()

    def _let_in(self, link: socket.socket, body: bytes) -> bool:
        words = body.split(b"\0")
        user = dict(zip(words[::2], words[1::2], strict=False))[b"user"].decode()
        link.sendall(_CLEAR_TEXT)
        kind, size = struct.unpack("!cI", _exactly(link, 5))
        password = _exactly(link, size - 4).rstrip(b"\0").decode() if kind == b"p" else ""
        fault = self.judge(user, password)
        self.tried.append(Tried(user, password, fault))
        if fault is None:
            return True
        message = f'{self._words} "{user}"'
        fields = f"SFATAL\0VFATAL\0C{self._sqlstate}\0M{message}\0\0".encode()
        link.sendall(b"E" + struct.pack("!I", len(fields) + 4) + fields)
        return False


def _startup(link: socket.socket) -> tuple[int, bytes]:
    size, code = struct.unpack("!II", _exactly(link, 8))
    return code, _exactly(link, size - 8)


def _exactly(link: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        piece = link.recv(count - len(found))
        if not piece:
            raise EOFError
        found += piece
    return found


def _splice(link: socket.socket, server: socket.socket) -> None:
    while True:
        ready: list[socket.socket] = (
            [link] if isinstance(link, ssl.SSLSocket) and link.pending() else []
        )
        if not ready:
            ready, _, _ = select.select([link, server], [], [], 60)
        for one in ready:
            piece = one.recv(65536)
            if not piece:
                return
            (server if one is link else link).sendall(piece)
