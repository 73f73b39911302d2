"""A platform for tests: a real HTTP(S) server that keeps a ledger and answers as it is told.

In a test `with FarSide() as far:`, as a process of its own

    python -m tests.support.far_side --port 0 --ledger FILE [--certificate FILE --key FILE]

which prints its port and takes orders below `/-/`: GET /-/state, POST /-/script (a list of the
fields of `Answer`), POST /-/always (one of them, or null).
"""

import argparse
import contextlib
import gzip
import signal
import socket
import ssl
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, NamedTuple, Self, cast

import msgspec
from backports import zstd

from tests.support.ledger import URN, Ledger, LifeConflict, OutOfSequence
from tests.support.oracle import Entry, entries
from tests.support.pki import Leaf
from tests.support.ports import free_port

Document = dict[str, Any]
KEYS: Final = b'{"keys": [], "version": 1, "signed": []}'  # what GET gives, without a word

_UNPACK: Mapping[str, Callable[[bytes], bytes]] = {
    "zstd": zstd.decompress,
    "gzip": gzip.decompress,
    "identity": bytes,
}


@dataclass(frozen=True)
class Answer:
    """How to answer one request; without a word, as a well platform does.

    With a `status` that is the answer; with `commit` too, what was sent is stored before. Times are
    in seconds.
    """

    status: int | None = None
    problem: str = ""  # the name of a problem document
    fields: Mapping[str, Any] = field(default_factory=dict)  # of it
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    commit: bool = False
    delay: float = 0.0
    cut_after: int | None = None  # bytes of the answer, then the end
    reset: bool = False  # the end is a RST
    drip: float = 0.0  # from byte to byte
    drip_after: int = 0  # bytes at full speed before
    continues: bool = False  # 100 Continue for ever
    echo: bool = False  # the problem document repeats what was asked, credentials and all
    unread: bool = False  # answer before the body was read, and close
    alter: Callable[[Document], Document] = lambda document: document  # the acknowledgement


@dataclass
class Rules:
    """What the far side takes at all."""

    tokens: frozenset[str] | None = None
    encodings: frozenset[str] = frozenset(("zstd", "gzip", "identity"))
    max_bytes: int | None = None  # of an inflated body: 413
    poison: Callable[[bytes], bool] | None = None  # a batch with such a line is refused
    poison_status: int = 400
    rejects: Callable[[bytes], bool] | None = None  # such a line is left out


class Seen(NamedTuple):
    """A request that was read, and the status of the answer, whatever became of it."""

    at: float  # on the monotonic clock
    key: str
    headers: Mapping[str, str]
    size: int  # on the wire
    status: int
    client: tuple[str, int]


class FarSide:
    """The server. Everything may be changed at any time; `script` goes before `always`."""

    def __init__(
        self,
        *,
        tls: Leaf | None = None,
        client_ca: Path | None = None,
        client_crl: Path | None = None,
        ledger: Path | None = None,
        port: int = 0,
        host: str = "127.0.0.1",
    ) -> None:
        self.ledger = Ledger(ledger)
        self.rules = Rules()
        self.script: deque[Answer] = deque()
        self.always: Answer | None = None
        self.silent = False  # accept connections, read nothing
        self.seen: list[Seen] = []
        self.stopping = threading.Event()
        self.tls = _context(tls, client_ca, client_crl) if tls else None
        self._address = (host, port or free_port(host))
        self._scheme = "https" if tls else "http"
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self.up()

    @property
    def port(self) -> int:
        return self._address[1]

    @property
    def url(self) -> str:
        return f"{self._scheme}://{self._address[0]}:{self.port}"

    def answer(self, *answers: Answer) -> None:
        """Give these answers to the next requests."""
        self.script.extend(answers)

    def present(self, tls: Leaf) -> None:
        """Show another certificate from now on, to new connections."""
        self.tls = _context(tls, None)

    def up(self) -> None:
        """Listen, on the same port as before."""
        if self._server is not None:
            return
        self.stopping.clear()
        self._server = _Server(self._address, self)
        self._address = cast("tuple[str, int]", self._server.server_address[:2])
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="far-side", daemon=True
        )
        self._thread.start()

    def down(self) -> None:
        """Close everything, as a crash would; the ledger stays."""
        self.stopping.set()
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join(10)
            self._server.cut()
            self._server.server_close()
            self._server = None

    def cut(self) -> None:
        """Reset the connections that live; listen on."""
        if self._server is not None:
            self._server.cut()

    def hang(self) -> None:
        """Answer nobody from now on; those who come find a connection that is silent."""
        self.silent = True
        self.cut()

    @property
    def hanging(self) -> bool:
        """Whether somebody waits for it in vain."""
        return self.silent and self._server is not None and self._server.busy

    def resume(self) -> None:
        """Be well again; who waited in vain is hung up on."""
        self.silent = False

    def statuses(self) -> list[int]:
        """Return the answers given so far."""
        return [one.status for one in list(self.seen)]

    def arrivals(self) -> list[Entry]:
        """Return what was committed, stream by stream, lines and gaps in their order."""
        found: list[Entry] = []
        for name, stream in self.ledger.streams.items():
            arrived = [Entry.of_line(name, one.number, one.line) for one in self.ledger.of(name)]
            arrived += [Entry.of_gap(name, gap.first, gap.last, gap.reason) for gap in stream.gaps]
            arrived += [Entry.of_gap(name, n, n, "rejected") for n in stream.rejected]
            found += sorted(arrived, key=lambda entry: entry.first)
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.down()
        self.ledger.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], far: FarSide) -> None:
        self.far = far
        self._links: set[socket.socket] = set()
        self._lock = threading.Lock()  # guards the links
        super().__init__(address, _Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._links.add(request)
        if self.far.silent:
            while not self.far.stopping.wait(0.05):
                if not self.far.silent:
                    break
            return
        if self.far.tls is not None:
            request.settimeout(30)
            with (
                contextlib.suppress(OSError),
                self.far.tls.wrap_socket(request, server_side=True) as s,
            ):
                with self._lock:
                    self._links.add(s)
                super().finish_request(s, client_address)
            return
        super().finish_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._links.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        kind = sys.exc_info()[0]
        if kind is None or not issubclass(kind, OSError):
            super().handle_error(request, client_address)

    @property
    def busy(self) -> bool:
        return bool(self._links)

    def cut(self) -> None:
        with self._lock:
            links, self._links = self._links, set()
        for link in links:
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        far = self.server.far
        if not self.path.startswith("/-/"):
            answer = far.script.popleft() if far.script else far.always or Answer()
            well = replace(answer, status=200, body=KEYS)
            self._play(well if answer.status is None else answer, b"")
            return
        ledger = far.ledger
        through = {name: stream.through for name, stream in ledger.streams.items()}
        state = {"through": through, "lines": len(ledger.lines), "duplicates": ledger.duplicates}
        self._send(200, msgspec.json.encode({**state, "requests": len(self.server.far.seen)}))

    def do_POST(self) -> None:
        far = self.server.far
        if self.path.startswith("/-/"):
            self._obey(msgspec.json.decode(self._body()))
            return
        answer = far.script.popleft() if far.script else far.always or Answer()
        body = b"" if answer.unread else self._body()
        try:
            self._play(answer, body)
        except (OSError, ValueError):  # ValueError: written to a closed file
            self.close_connection = True

    def _note(self, size: int, status: int) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        key = headers.get("idempotency-key", "")
        client = self.client_address[:2]
        self.server.far.seen.append(Seen(time.monotonic(), key, headers, size, status, client))

    def _obey(self, order: Any) -> None:
        if self.path == "/-/script":
            self.server.far.answer(*(Answer(**one) for one in order))
        else:
            self.server.far.always = Answer(**order) if order else None
        self._send(200, b"{}")

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    # --- the answer

    def _play(self, answer: Answer, body: bytes) -> None:
        self.server.far.stopping.wait(answer.delay)
        while answer.continues and not self.server.far.stopping.wait(0.02):
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        status = answer.status or 0
        fields = dict(answer.fields)
        if answer.echo:
            told = f"{self.headers.get('Authorization')} {body.decode('utf-8', 'replace')}"
            fields |= {"title": told, "detail": told}
        content = _problem(status, answer.problem, fields)
        if answer.status is None or answer.commit:
            done, document = self._deliver(body)
            status = answer.status or done
            if answer.status is None:
                content = msgspec.json.encode(answer.alter(document) if done == 200 else document)
        self._note(len(body), status)  # before anybody can ask
        self._send(status, content if answer.body is None else answer.body, answer)

    def _send(self, status: int, content: bytes, how: Answer | None = None) -> None:
        how = how or Answer()
        kind = "application/json" if status == 200 else "application/problem+json"
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Date": formatdate(usegmt=True),
            **how.headers,
        }
        if how.unread:
            headers["Connection"] = "close"
        text = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value)
        whole = f"HTTP/1.1 {status} So\r\n{text}\r\n".encode() + content
        whole = whole if how.cut_after is None else whole[: how.cut_after]
        self._write(whole, how)
        if how.cut_after is not None or how.unread or how.reset or not headers["Content-Length"]:
            self.close_connection = True
        if how.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def _write(self, whole: bytes, how: Answer) -> None:
        if not how.drip:
            self.wfile.write(whole)
            return
        self.wfile.write(whole[: how.drip_after])
        for byte in whole[how.drip_after :]:
            if self.server.far.stopping.wait(how.drip):
                return
            self.wfile.write(bytes((byte,)))

    def _deliver(self, body: bytes) -> tuple[int, Document]:
        """Be a well platform: return status and document."""
        rules = self.server.far.rules
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if rules.tokens is not None and token not in rules.tokens:
            return 401, _document(401, "token-expired")
        encoding = self.headers.get("Content-Encoding", "identity")
        if encoding not in rules.encodings:
            return 415, _document(415, "unsupported-encoding")
        inflated = _UNPACK[encoding](body)
        if rules.max_bytes is not None and len(inflated) > rules.max_bytes:
            return 413, _document(413, "too-large")
        return self._entries(inflated)

    def _entries(self, inflated: bytes) -> tuple[int, Document]:
        stream, _, span = self.headers["Idempotency-Key"].rpartition("/")
        first, _, last = span.partition("-")
        try:
            found = entries(stream, int(first), inflated)
        except (ValueError, KeyError, msgspec.DecodeError) as error:
            return 400, _document(400, "malformed", detail=str(error))
        if not found or found[-1].last != int(last):
            return 400, _document(400, "malformed", detail=f"ends not at {last}")
        poison = self.server.far.rules.poison
        if poison and any(e.line and poison(e.line) for e in found):
            status = self.server.far.rules.poison_status
            return status, _document(status, "invalid-line", detail="a line is no good")
        return self._commit(stream, int(first), int(last), found)

    def _commit(
        self, stream: str, first: int, last: int, found: list[Entry]
    ) -> tuple[int, Document]:
        far = self.server.far
        rejects = far.rules.rejects
        bad = {e.first: "no good" for e in found if rejects and e.line and rejects(e.line)}
        try:
            duplicates, rejected = far.ledger.commit(stream, self.headers["Pgc-Life"], found, bad)
        except LifeConflict:
            return 409, _document(409, "stream-conflict")
        except OutOfSequence as gap:
            return 409, _document(409, "sequence-gap", expected=gap.expected)
        return 200, {
            "stream": stream,
            "first": first,
            "last": last,
            "ack_through": last,
            "duplicates": duplicates,
            "rejected": [
                {"seq": seq, "code": "invalid-line", "detail": said}
                for seq, said in rejected.items()
            ],
            "policy_etag": "e1",
            "commands_pending": False,
        }


def _problem(status: int, problem: str, fields: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(_document(status, problem, **fields))


def _document(status: int, problem: str, **fields: Any) -> Document:
    """Return a problem document (RFC 9457)."""
    kind = f"{URN}{problem}" if problem else "about:blank"
    return {"type": kind, "title": problem.replace("-", " "), "status": status} | fields


def _context(tls: Leaf, client_ca: Path | None, client_crl: Path | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate, tls.key)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    if client_crl is not None:
        context.load_verify_locations(client_crl)
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    return context


def main() -> None:
    """Be a process of its own until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--ledger", type=Path)
    parser.add_argument("--certificate", type=Path)
    parser.add_argument("--key", type=Path)
    parser.add_argument("--token")
    options = parser.parse_args()
    tls = Leaf(options.certificate, options.key, 0) if options.certificate else None
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    with FarSide(tls=tls, ledger=options.ledger, host=options.host, port=options.port) as far:
        if options.token:
            far.rules.tokens = frozenset((options.token,))
        print(far.port, flush=True)  # noqa: T201  # whoever started it reads this
        signal.sigwait(signals)


if __name__ == "__main__":
    main()
