"""The running agent, as a bundle meets it: by its control socket, else by its HTTP server."""

import functools
import http.client
import re
import socket
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from pg_collector import control
from pg_collector.bundle.parts import LeftOut
from pg_collector.config.certificates import pinned_context
from pg_collector.config.listening import reach
from pg_collector.config.model import Http
from pg_collector.errors import AgentUnreachable, CollectorError
from pg_collector.meet import meet
from pg_collector.page_verbs import PageRequest, PageTold
from pg_collector.support_verbs import ThreadsRequest, ThreadsTold

meet(PageTold, ThreadsTold)  # parts are looked up side by side

PATIENCE: Final = 5.0  # seconds for an answer
_PEER: Final = struct.Struct("3i")  # pid, uid and gid: unix(7)
_LARGEST: Final = 16 * 1024 * 1024  # bytes of a page
_INDEX_LINE: Final = re.compile(r"[ ]{2}(/[\w/.-]*)")


class Peer:
    """What is known of the agent. `trouble` says why nobody can be asked at the socket."""

    def __init__(self, directory: Path, http: Http | None) -> None:
        """Mean the agent that has a state directory, and perhaps listens as `http` says."""
        self._directory = directory
        self.socket: Path | None = None
        self.pid: int | None = None
        self.told: ThreadsTold | None = None
        self.hangs = False
        self.trouble = "no agent answers: none runs, or it has another state_dir or environment"
        self._http = http
        self._asking = threading.Semaphore(2)  # the agent answers few at once

    @functools.cached_property
    def directory(self) -> str:
        """The state directory as requests name it. Its volume may hang."""
        return str(self._directory.resolve())

    def find(self, places: Sequence[Path]) -> None:
        """Look for the agent at its socket."""
        for path in places:
            try:
                reply = control.ask(ThreadsRequest(directory=self.directory), path, PATIENCE)
            except PermissionError:
                self.trouble = (
                    f"an agent listens at {path}, and this user may not ask it; run pgc as root or "
                    "as its user"
                )
            except AgentUnreachable as error:
                self.trouble = error.sentence()
                self.pid = _listener(path)
                self.hangs = True
            except CollectorError as error:  # one of another version does not know the question
                self.trouble = error.sentence()
                self.socket, self.pid = path, _listener(path)
                return
            else:
                if reply is not None:
                    self.told = msgspec.convert(reply.result, ThreadsTold)
                    self.socket, self.pid = path, self.told.pid
                    return

    def threads(self) -> str:
        """Return the threads and their stacks, as JSON. Raises LeftOut."""
        if self.told is None:
            raise LeftOut(self.trouble)
        return msgspec.json.encode(self.told.threads).decode()

    def ask(self, request: control.Request) -> Mapping[str, Any] | None:
        """Return what the agent answers; None where there is none. Raises CollectorError."""
        if self.socket is None:
            return None
        with self._asking:
            reply = control.ask(request, self.socket, PATIENCE)
        return reply.result if reply is not None else None

    def page(self, path: str) -> str:
        """Return a page. Raises LeftOut where there is none, or nobody who answers."""
        told = self._told(path) or self._fetched(path)
        if told.status == http.client.NOT_FOUND:
            raise LeftOut("this agent has no such page")
        return told.body

    def _told(self, path: str) -> PageTold | None:
        """Ask at the socket; None where that does not help."""
        if self.told is None:
            return None
        try:
            result = self.ask(PageRequest(path=path))
        except CollectorError as error:
            self.trouble = error.sentence()
            return None
        return msgspec.convert(result, PageTold) if result is not None else None

    def _fetched(self, path: str) -> PageTold:
        """Ask the HTTP server, without the token: who listens there now need not be the agent."""
        if self._http is None or self._http.address == "off":
            raise LeftOut(self.trouble)
        host, port = reach(self._http.address)
        try:
            connection = self._connection(host, port)
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read(_LARGEST).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise LeftOut(f"{self.trouble}; {self._http.address}: {why}") from None
        if answer.status in {http.client.UNAUTHORIZED, http.client.FORBIDDEN}:
            raise LeftOut(f"{self.trouble}; {self._http.address} answers {answer.status}")
        return PageTold(status=answer.status, body=body)

    def _connection(self, host: str, port: int) -> http.client.HTTPConnection:
        certificate = self._http.tls.cert_file if self._http is not None else None
        if certificate is None:
            return http.client.HTTPConnection(host, port, timeout=PATIENCE)
        context = pinned_context(certificate)
        return http.client.HTTPSConnection(host, port, timeout=PATIENCE, context=context)


def _listener(path: Path) -> int | None:
    """Return the process that listens at a socket: the kernel tells it even where that hangs.

    None where nobody listens, or on systems that do not tell it so.
    """
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PATIENCE)
        try:
            connection.connect(str(path))
            told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        except OSError:
            return None
    return int(_PEER.unpack(told)[0]) or None


def listed(index: str) -> Iterator[str]:
    """Yield the paths that the index page lists."""
    for line in index.splitlines():
        if found := _INDEX_LINE.match(line):
            yield found[1]
