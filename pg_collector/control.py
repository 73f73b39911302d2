"""The local control socket: a command asks the running agent instead of opening a third session.

One request and one reply a connection, each a line of JSON. Who may ask, the socket's mode decides
(0660: the agent's user and group). There is one verb so far: `sample`.
"""

import contextlib
import logging
import os
import socket
import socketserver
import stat
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from pg_collector.errors import AgentUnreachable, CollectorError, StateError

log = logging.getLogger(__name__)

SOCKET_NAME: Final = "pgc.sock"
REQUEST_MAX: Final = 64 * 1024  # bytes
REPLY_MAX: Final = 64 * 1024 * 1024  # bytes
TIMEOUT: Final = 30.0  # seconds, for either side
CONNECTIONS: Final = 4  # served at once; further ones wait in the kernel's queue


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a command asks. Without a target the agent's first one is meant.

    With `explain` the answer is the SQL that would be asked.
    """

    verb: Literal["sample"] = "sample"
    samplers: tuple[str, ...]
    target: str | None = None
    explain: bool = False


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent answers: lines, or an error with its remedy."""

    lines: tuple[str, ...] = ()
    error: str | None = None
    remedy: str = ""


def candidates(environ: Mapping[str, str], state_dir: Path | None) -> list[Path]:
    """Return where the socket may lie, best first; agent and commands look in the same order."""
    places: list[Path] = []
    if environ.get("RUNTIME_DIRECTORY"):
        places.append(Path(environ["RUNTIME_DIRECTORY"].partition(":")[0]))
    places.append(Path("/run/pg-collector"))
    if environ.get("XDG_RUNTIME_DIR"):
        places.append(Path(environ["XDG_RUNTIME_DIR"]) / "pg-collector")
    places.append(state_dir or state_directory(environ))
    return [place / SOCKET_NAME for place in places]


def place(environ: Mapping[str, str], state_dir: Path | None) -> Path:
    """Return where the agent puts its socket: the first directory that it can write to or make."""
    paths = candidates(environ, state_dir)
    return next((path for path in paths if _usable(path.parent)), paths[-1])


def state_directory(environ: Mapping[str, str]) -> Path:
    """Return the directory for what outlasts a run, where the configuration names none."""
    if environ.get("STATE_DIRECTORY"):
        return Path(environ["STATE_DIRECTORY"].partition(":")[0])
    system = Path("/var/lib/pg-collector")
    if os.access(system, os.W_OK):
        return system
    home = environ.get("XDG_STATE_HOME") or str(Path(environ.get("HOME", "/")) / ".local/state")
    return Path(home) / "pg-collector"


def _usable(directory: Path) -> bool:
    if directory.exists():
        return os.access(directory, os.W_OK)
    return os.access(directory.parent, os.W_OK)


class ControlServer:
    """Listens on the socket in a thread of its own."""

    def __init__(self, answer: Callable[[Request], list[bytes]], path: Path) -> None:
        """`answer` returns lines, or raises CollectorError."""
        self._path = path
        self._answer = answer
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Bind the socket, mode 0660; raise StateError where that cannot be done."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
            _remove_stale(self._path)
            mask = os.umask(0o117)
            try:
                self._server = _Server(str(self._path), self._answer)
            finally:
                os.umask(mask)
        except OSError as error:
            raise StateError(
                f"cannot listen on {self._path}: {error.strerror or error}",
                remedy="Another agent may be running, or the directory belongs to someone else.",
            ) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.2,), name="control", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Close the socket and remove it."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join(1.0)
            self._path.unlink(missing_ok=True)


def ask(request: Request, path: Path, timeout: float = TIMEOUT) -> Reply:
    """Ask the agent behind a socket.

    Raises AgentUnreachable where nobody answers, and CollectorError with the agent's own words
    where it answers with an error.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            connection.connect(str(path))
            connection.sendall(msgspec.json.encode(request) + b"\n")
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as stream:
                reply = msgspec.json.decode(stream.read(REPLY_MAX), type=Reply)
    except (OSError, msgspec.DecodeError) as error:
        raise AgentUnreachable(f"the agent at {path} does not answer: {error}") from error
    if reply.error is not None:
        raise CollectorError(reply.error, remedy=reply.remedy)
    return reply


def _remove_stale(path: Path) -> None:
    """Remove a socket that nobody listens on; raise OSError if someone does, or it is no socket."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(17, "it exists and is not a socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
            else:
                raise FileExistsError(98, "an agent listens there")


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = CONNECTIONS

    def __init__(self, path: str, answer: Callable[[Request], list[bytes]]) -> None:
        self.answer = answer
        self.places = threading.BoundedSemaphore(CONNECTIONS)
        super().__init__(path, _Connection)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self.places.acquire(timeout=1.0):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        threading.current_thread().name = "control-connection"
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.places.release()

    def handle_error(self, *_: Any) -> None:
        log.debug("a control connection broke off: %s", sys.exception())


class _Connection(socketserver.StreamRequestHandler):
    timeout = TIMEOUT
    server: _Server

    def handle(self) -> None:
        try:
            request = msgspec.json.decode(self.rfile.readline(REQUEST_MAX), type=Request)
            lines = self.server.answer(request)
            reply = Reply(lines=tuple(line.decode() for line in lines))
        except msgspec.MsgspecError as error:
            reply = Reply(error=f"not a request: {error}")
        except CollectorError as error:
            reply = Reply(error=str(error), remedy=error.remedy)
        self.wfile.write(msgspec.json.encode(reply))
