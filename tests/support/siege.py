"""Many clients at once that mean no good, in one thread, and what the besieged process takes."""

import contextlib
import enum
import os
import resource
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Self

_TICK = 0.05  # seconds between two bytes of a drip
_FILES = 4096


class Figures(NamedTuple):
    """What a process takes: kB that are resident, open files, threads."""

    resident_kb: int
    files: int
    threads: int


def figures(pid: int) -> Figures:
    """Read them. Raises KeyError where the process has ended."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    files = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208  # no entry is looked at
    return Figures(int(status["VmRSS"].split()[0]), files, int(status["Threads"]))


class Way(enum.Enum):
    """What a client does beside keeping its connection."""

    SEND = "sends its words, reads what comes, and stays"
    DRIP = "sends its words a byte at a time"
    DEAF = "sends its words, and reads nothing"


class Client(NamedTuple):
    """One kind of clients: where they come from, what they do, with which bytes."""

    source: str
    way: Way = Way.SEND
    words: bytes = b""


class _Link:
    """One connection of a client."""

    def __init__(self, client: Client, where: tuple[str, int]) -> None:
        self.client = client
        self.up = False
        self.heard = b""
        self._sent = 0
        self.socket = socket.socket()
        if client.way is Way.DEAF:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.bind((client.source, 0))
        self.socket.setblocking(False)  # noqa: FBT003  # the standard library's own
        self.socket.connect_ex(where)

    def send(self, some: int) -> None:
        """Send so many of the words that are left."""
        with contextlib.suppress(OSError):
            self._sent += self.socket.send(self.client.words[self._sent : self._sent + some])

    def ended(self) -> bool:
        """Read what is there; say whether the server has closed."""
        try:
            heard = self.socket.recv(65536)
        except BlockingIOError:
            return False
        except OSError:
            return True
        self.heard = self.heard or heard[:12]
        return not heard


class Siege:
    """Holds the connections of many clients; whichever the server closes is opened anew at once.

    A context manager. `answers` counts what they heard, by source address and first words; in the
    end that of those who are still connected, too.
    """

    def __init__(self, where: tuple[str, int], clients: Mapping[Client, int]) -> None:
        self.answers: Counter[tuple[str, str]] = Counter()
        self.fewest = 0  # connections held at any time since all are
        self._where = where
        self._clients = clients
        self._links: set[_Link] = set()
        self._selector = selectors.DefaultSelector()
        self._complete = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="siege")

    def __enter__(self) -> Self:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES, max(hard, _FILES)))
        self._thread.start()
        assert self._complete.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for link in self._links:
            if link.heard:
                self._note(link)
            link.socket.close()
        self._selector.close()

    def _run(self) -> None:
        for client, count in self._clients.items():
            for _ in range(count):
                self._open(client)
        self.fewest = len(self._links)
        self._complete.set()
        tick = time.monotonic()
        while not self._stop.is_set():
            for key, events in self._selector.select(_TICK):
                self._look(key.data, events)
            self.fewest = min(self.fewest, len(self._links))
            if time.monotonic() >= tick:
                tick += _TICK
                for link in self._links:
                    if link.up and link.client.way is Way.DRIP:
                        link.send(1)

    def _open(self, client: Client) -> None:
        link = _Link(client, self._where)
        self._links.add(link)
        self._selector.register(link.socket, selectors.EVENT_WRITE, link)

    def _look(self, link: _Link, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            link.up = True
            if link.client.way is not Way.DRIP:
                link.send(len(link.client.words))
            if link.client.way is Way.DEAF:
                self._selector.unregister(link.socket)
            else:
                self._selector.modify(link.socket, selectors.EVENT_READ, link)
        elif link.ended():
            self._note(link)
            self._selector.unregister(link.socket)
            link.socket.close()
            self._links.discard(link)
            self._open(link.client)

    def _note(self, link: _Link) -> None:
        self.answers[link.client.source, link.heard.decode("latin-1") or "nothing"] += 1
