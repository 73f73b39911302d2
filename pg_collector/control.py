"""The local control socket: a command asks the running agent.

One request and one reply a connection, each a line of JSON. Who may ask, the socket's mode decides
(0660: the agent's user and group). A verb is a subclass of `Request`, and an answer that the agent
registers for it. Several agents may run on a host, each with a socket of its own; a request for a
target names the connection that it means, and an agent that has another one says so.
"""

import contextlib
import errno
import hashlib
import logging
import os
import socket
import socketserver
import stat
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, TypeVar, Union

import msgspec

from pg_collector.config.model import Database
from pg_collector.errors import AgentUnreachable, CollectorError, ConfigurationError, TargetError
from pg_collector.folders import state_home
from pg_collector.meet import meet
from pg_collector.pg import conninfo

log = logging.getLogger(__name__)

T = TypeVar("T")
audit = logging.getLogger("pg_collector.audit")

_asking = threading.local()  # `who`: whom a connection's thread answers

_PEER: Final = struct.Struct("3i")  # pid, uid and gid of who is connected: unix(7)

SOCKET_NAME: Final = "pgc.sock"
REQUEST_MAX: Final = 64 * 1024  # bytes
REPLY_MAX: Final = 64 * 1024 * 1024  # bytes
TIMEOUT: Final = 30.0  # seconds, for either side
ANSWER_WITHIN: Final = (
    20.0  # seconds that the agent takes for a request: less than who waits for it
)
CONNECTIONS: Final = 4  # served at once; further ones wait in the kernel's queue
POLL: Final = 5.0  # seconds between two signs of life; each costs a tenth of a millisecond
END: Final = 1.0  # seconds for the thread's end

_OTHER_VERSION: Final = "If the agent is of another version than pgc, restart it."
_CHUNK: Final = 64 * 1024  # bytes read at once


class Request(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="verb"
):
    """What a command asks; each subclass is a verb, and its fields are the verb's arguments."""

    if_silent: ClassVar[str] = (
        "Its log says why, and pgc bundle where its threads are. Try again in a moment."
    )

    @property
    def repeats(self) -> bool:
        """Whether it goes on with one that is in the audit log already."""
        return False


class AgentRequest(Request, frozen=True, kw_only=True):
    """Concerns an agent as a whole: the one of a state directory, links resolved; empty: any."""

    state_dir: str = ""


class SampleRequest(Request, frozen=True, kw_only=True, tag="sample"):
    """Samplers (none: all) of a target and its `fingerprint`.

    With `explain` the answer is the SQL that would be asked.
    """

    if_silent: ClassVar[str] = (
        "Its log says why. Try again in a moment, or name fewer samplers; --dsn opens a session of "
        "its own instead."
    )

    samplers: tuple[str, ...]
    target: str
    connection: str
    explain: bool = False


class NamesRequest(Request, frozen=True, kw_only=True, tag="names"):
    """The names of one kind that a target's session sees; the target as in `SampleRequest`."""

    target: str
    connection: str
    kind: str


class ExamineRequest(Request, frozen=True, kw_only=True, tag="examine"):
    """What a target's session shows of its server; the target as in `SampleRequest`.

    The result is an `Examination`, or under `trouble` a `Trouble`: why there is no session.
    """

    target: str
    connection: str


class ReloadRequest(AgentRequest, frozen=True, kw_only=True, tag="reload"):
    """Read and check the configuration anew, and let it hold."""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent answers.

    `done` comes with lines, or with what else the verb gives as `result`; `failed`, `invalid` (the
    configuration) and `unavailable` (try again later) with an error and its remedy; `stranger`
    means that the target is another agent's.
    """

    status: Literal["done", "failed", "invalid", "unavailable", "stranger"] = "done"
    lines: tuple[str, ...] = ()
    result: Mapping[str, Any] | None = None
    error: str = ""
    remedy: str = ""


meet(Reply)  # commands ask in several threads

# What answers each verb; an answer may raise CollectorError.
Answers = Mapping[type[Request], Callable[[Any], Reply]]
STRANGER: Final = Reply(status="stranger", error="another agent's target")


def fingerprint(database: Database) -> str:
    """Return what tells one connection from another: its hosts, its ports and its database.

    They are taken as libpq fills them in, from the service file and the environment as well. No
    password is in it. Raises ConfigurationError where the connection string cannot be used.
    """
    route = conninfo.route(database)
    there = msgspec.json.encode((route.endpoints, route.params["dbname"]))
    return hashlib.blake2b(there, digest_size=16).hexdigest()


def candidates(environ: Mapping[str, str], state_dir: Path | None) -> list[Path]:
    """Return where the socket may lie, best first; agent and commands look in the same order."""
    places = [state_dir] if state_dir is not None else []
    if environ.get("RUNTIME_DIRECTORY"):
        places.append(Path(environ["RUNTIME_DIRECTORY"].partition(":")[0]))
    places.append(Path("/run/pg-collector"))
    if environ.get("XDG_RUNTIME_DIR"):
        places.append(Path(environ["XDG_RUNTIME_DIR"]) / "pg-collector")
    places.append(state_directory(environ))
    return [place / SOCKET_NAME for place in dict.fromkeys(places)]


def state_directory(environ: Mapping[str, str]) -> Path:
    """Return the directory for what outlasts a run, where the configuration names none."""
    if environ.get("STATE_DIRECTORY"):
        return Path(environ["STATE_DIRECTORY"].partition(":")[0])
    system = Path("/var/lib/pg-collector")
    if os.access(system, os.W_OK):
        return system
    return state_home(environ) / "pg-collector"


class ControlServer:
    """Listens on a socket in a thread of its own. Nothing but commands needs it."""

    def __init__(
        self,
        answers: Answers,
        paths: Sequence[Path],
        beat: Callable[[float], None] = lambda _within: None,
        *,
        state_dir: Path | None = None,
    ) -> None:
        """`paths` are tried in this order.

        `state_dir` is the agent's: to who means another one it is a stranger.
        The listening thread calls `beat` with the seconds that it will be silent.
        """
        self.path: Path | None = None
        self._paths = paths
        self._answers = answers
        self._beat = beat
        self._state_dir = str(state_dir.resolve()) if state_dir is not None else ""
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Bind the first path that can be used, mode 0660; without one, warn and do without."""
        refused = []
        for path in self._paths:
            try:
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
                _remove_stale(path)
                self._server = _Server(str(path), self._answers, self._beat, self._state_dir)
            except OSError as error:
                refused.append(f"{path}: {error.strerror or error}")
            else:
                self._serve(self._server, path)
                return
        log.warning(
            "no control socket: no command of pgc can ask this agent; SIGHUP reloads it",
            extra={
                "refused": refused,
                "remedy": "To have one, set state_dir to a directory that the agent may write to.",
            },
        )

    def stop(self) -> None:
        """Close the socket and remove it."""
        if self._server is None or self._thread is None or self.path is None:
            return
        with contextlib.suppress(OSError):  # the thread notices at once, not at its next poll
            self._server.socket.shutdown(socket.SHUT_RDWR)
        # The server's own end waits for its thread without a bound, and that may be stuck.
        ending = threading.Thread(target=self._server.shutdown, name="control-stop", daemon=True)
        ending.start()
        ending.join(END)
        self._server.server_close()
        self._thread.join(END)
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("cannot remove %s: %s", self.path, error.strerror)
        self._server = self._thread = self.path = None

    def _serve(self, server: "_Server", path: Path) -> None:
        self.path = path
        self._thread = threading.Thread(
            target=server.serve_forever, args=(POLL,), name="control", daemon=True
        )
        self._thread.start()
        log.info("commands reach the agent at %s", path)


def ask(request: Request, path: Path, timeout: float = TIMEOUT) -> Reply | None:
    """Ask the agent behind a socket, and return what it gives.

    Returns None where nobody listens, where the target is another agent's, and where the socket
    lies in a directory that one may not enter. Raises PermissionError where someone may listen and
    may not be asked, AgentUnreachable where an agent listens and does not answer within `timeout`
    seconds, ConfigurationError where the agent says so of its configuration, and CollectorError
    with its own words where it answers with another error.
    """
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            return None
    except OSError:
        return None  # it is not there, or not for us to see
    try:
        reply = _conversation(request, path, timeout)
    except PermissionError:
        raise
    except OSError as error:
        raise AgentUnreachable(
            f"the agent at {path} does not answer: {error}", remedy=request.if_silent
        ) from error
    except msgspec.MsgspecError as error:
        raise AgentUnreachable(
            f"the answer of the agent at {path} is not understood: {error}", remedy=_OTHER_VERSION
        ) from error
    if reply is None or reply.status == "stranger":
        return None
    if reply.status == "unavailable":
        raise AgentUnreachable(reply.error, remedy=reply.remedy)
    if reply.status == "invalid":
        raise ConfigurationError(reply.error, remedy=reply.remedy)
    if reply.status == "failed":
        raise CollectorError(reply.error, remedy=reply.remedy)
    return reply


def told(reply: Reply, kind: type[T]) -> T:
    """Return what an answer holds. Raises CollectorError where it is none that is known here."""
    try:
        return msgspec.convert(reply.result, kind)
    except msgspec.ValidationError as error:
        raise CollectorError(
            f"the agent's answer is not understood: {error}",
            remedy=_OTHER_VERSION,
        ) from None


def _conversation(request: Request, path: Path, timeout: float) -> Reply | None:
    """Send the request and read the reply; return None where nobody listens."""
    deadline = time.monotonic() + timeout
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except BlockingIOError as error:  # so a full queue is told on a Unix socket
            raise TimeoutError("it is busy with other commands, or it hangs") from error
        try:
            connection.sendall(msgspec.json.encode(request) + b"\n")
            connection.shutdown(socket.SHUT_WR)
            answer = _all_of(connection, deadline)
        except ConnectionError:
            if not _nobody_listens(path):
                raise
            return None  # it was just ending
        return msgspec.json.decode(answer, type=Reply)


def _nobody_listens(path: Path) -> bool:
    """Say whether a socket is one that nobody listens on any more. Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return True
    return False


def _all_of(connection: socket.socket, deadline: float) -> bytes:
    """Read to the end. Raises OSError when that is too late, too long, or nothing."""
    found = bytearray()
    while len(found) <= REPLY_MAX:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        connection.settimeout(left)
        chunk = connection.recv(_CHUNK)
        if not chunk:
            break
        found += chunk
    if len(found) > REPLY_MAX:
        raise OSError(f"the reply is longer than {REPLY_MAX} bytes")
    if not found:
        raise ConnectionResetError("it closed the connection")
    return bytes(found)


def _remove_stale(path: Path) -> None:
    """Remove a socket that nobody listens on; raise OSError if someone does, or it is no socket."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "it exists and is not a socket")
        if not _nobody_listens(path):
            raise FileExistsError(errno.EADDRINUSE, "another agent listens there")
        path.unlink()


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = CONNECTIONS

    def __init__(
        self, path: str, answers: Answers, beat: Callable[[float], None], state_dir: str
    ) -> None:
        self.answers = answers
        self.state_dir = state_dir
        self.requests = msgspec.json.Decoder(Union[tuple(answers)])  # noqa: UP007  # made of values
        self._beat = beat
        self.places = threading.BoundedSemaphore(CONNECTIONS)
        super().__init__(path, _Connection)

    def server_bind(self) -> None:
        # Linux makes the file with the descriptor's mode, less the umask: it is never wider. To
        # change the umask would touch what other threads write at this moment.
        os.fchmod(self.socket.fileno(), 0o660)
        super().server_bind()
        Path(str(self.server_address)).chmod(0o660)

    def serve_forever(self, poll_interval: float = POLL) -> None:
        self._beat(poll_interval)  # the first look for a connection may be that long
        if self.socket.fileno() >= 0:  # otherwise it was stopped meanwhile
            super().serve_forever(poll_interval)

    def service_actions(self) -> None:
        self._beat(POLL)

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
        error = sys.exception()
        if isinstance(error, OSError):
            log.debug("a control connection broke off: %s", error)
        else:
            log.error("a command could not be answered", exc_info=error)


def _verb(request: Request) -> str:
    return str(type(request).__struct_config__.tag)


def who() -> dict[str, int]:
    """Return pid and uid of whom this thread answers, where the system tells."""
    found: dict[str, int] = getattr(_asking, "who", {})
    return found


def _who(connection: socket.socket) -> dict[str, int]:
    """Return pid and uid of who is connected, where the system tells."""
    if not hasattr(socket, "SO_PEERCRED"):
        return {}
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    pid, uid, _ = _PEER.unpack(told)
    return {"pid": pid, "uid": uid}


class _Connection(socketserver.StreamRequestHandler):
    timeout = TIMEOUT
    server: _Server

    def handle(self) -> None:
        encoded = msgspec.json.encode(self._reply())
        if len(encoded) > REPLY_MAX:
            reply = Reply(
                status="failed",
                error=f"the answer has {len(encoded)} bytes; {REPLY_MAX} are allowed",
                remedy="Name fewer samplers.",
            )
            encoded = msgspec.json.encode(reply)
        self.wfile.write(encoded)

    def _question(self) -> bytes:
        """Read a line within the timeout as a whole: who drips would hold one of few places."""
        deadline = time.monotonic() + self.timeout
        found = bytearray()
        while b"\n" not in found and len(found) < REQUEST_MAX:
            self.connection.settimeout(max(0.001, deadline - time.monotonic()))
            chunk = self.connection.recv(_CHUNK)
            if not chunk:
                break
            found += chunk
        self.connection.settimeout(self.timeout)
        return bytes(found.partition(b"\n")[0][:REQUEST_MAX])

    def _reply(self) -> Reply:
        try:
            request = self.server.requests.decode(self._question())
            _asking.who = _who(self.connection)
            if isinstance(request, AgentRequest) and request.state_dir not in {
                "",
                self.server.state_dir,
            }:
                return STRANGER
            if not request.repeats:
                audit.info("local command: %s", _verb(request), extra=who())
            return self.server.answers[type(request)](request)
        except msgspec.MsgspecError as error:
            return Reply(status="failed", error=f"not a request: {error}", remedy=_OTHER_VERSION)
        except (TargetError, AgentUnreachable) as error:
            return Reply(status="unavailable", error=str(error), remedy=error.remedy)
        except ConfigurationError as error:
            return Reply(status="invalid", error=str(error), remedy=error.remedy)
        except CollectorError as error:
            return Reply(status="failed", error=str(error), remedy=error.remedy)
