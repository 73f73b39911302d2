"""What the agent has delivered, as the view needs it: an outlet that looks at what passes through.

Nothing here asks the database; the view knows what the files hold, no more.
"""

import threading
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from pg_collector.outlets import Outlet, Receipt, RemoteOutlet
from pg_collector.sample import Batch, address

SESSIONS: Final = "activity.sessions"

Row = Mapping[str, Any]


class Written(NamedTuple):
    """How much went into the files of one sampler."""

    lines: int = 0
    bytes: int = 0


class Sessions(NamedTuple):
    """The rows of one `activity.sessions` sample; `number` tells samples apart."""

    number: int
    at: str
    rows: tuple[Row, ...]


class _Line(msgspec.Struct):
    """The part of a line that is shown."""

    at: str
    c: list[str]
    r: list[list[Any]]


class Board:
    """Counts what was written, and keeps the latest sessions. The sender writes, the view reads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._written: dict[str, Written] = {}  # guarded by _lock
        self._sessions = Sessions(0, "", ())  # guarded by _lock

    def take(self, line: bytes) -> None:
        """Note a line that was delivered."""
        head = address(line)
        sessions = _rows(line) if head.set == SESSIONS else None
        with self._lock:
            before = self._written.get(head.sampler, Written())
            size = before.bytes + len(line) + 1
            self._written[head.sampler] = Written(before.lines + 1, size)
            if sessions is not None:
                at, rows = sessions
                if at == self._sessions.at:  # a further part of the same sample
                    rows = (*self._sessions.rows, *rows)
                self._sessions = Sessions(self._sessions.number + 1, at, rows)

    @property
    def written(self) -> dict[str, Written]:
        """What went into the files so far, by sampler."""
        with self._lock:
            return dict(self._written)

    @property
    def total(self) -> Written:
        """What went into the files so far, all together."""
        written = self.written.values()
        return Written(sum(one.lines for one in written), sum(one.bytes for one in written))

    @property
    def sessions(self) -> Sessions:
        """The latest sessions."""
        with self._lock:
            return self._sessions


class ShownOutlet:
    """An outlet that puts what another one has taken onto a board, too."""

    def __init__(self, inner: Outlet, board: Board) -> None:
        self.name = inner.name
        self._inner = inner
        self._board = board

    def deliver(self, batch: Batch) -> Receipt:
        """Deliver through the other outlet; raises what it raises."""
        receipt = self._inner.deliver(batch)
        for number, line in batch.numbered():
            if number <= receipt.through:
                self._board.take(line)
        return receipt

    def close(self) -> None:
        """Close the other outlet."""
        self._inner.close()


class ShownRemoteOutlet(ShownOutlet):
    """The same for one that is reached over a network."""

    def __init__(self, inner: RemoteOutlet, board: Board) -> None:
        super().__init__(inner, board)
        self._remote = inner

    def interrupt(self) -> None:
        """Let go of the other outlet's far side."""
        self._remote.interrupt()


def shown(inner: Outlet, board: Board) -> Outlet:
    """Return an outlet that puts what another one has taken onto a board, too."""
    if isinstance(inner, RemoteOutlet):
        return ShownRemoteOutlet(inner, board)
    return ShownOutlet(inner, board)


def _rows(line: bytes) -> tuple[str, tuple[Row, ...]]:
    found = _decoder.decode(line)
    return found.at, tuple(dict(zip(found.c, row, strict=True)) for row in found.r)


_decoder = msgspec.json.Decoder(_Line)
