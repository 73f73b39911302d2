"""The newest lines of the targets that somebody watches, in memory, while somebody watches.

It stands between the turns and the buffer: what it shows is what leaves, masked and encoded. While
nobody watches, it holds nothing, and a line passes it at the price of one look.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from pg_collector.buffer import Intake
from pg_collector.clock import Clock
from pg_collector.sample import Keep

HOLDS: Final = 30.0  # seconds after the last question
ROOM: Final = 4 * 1024 * 1024  # bytes of all lines together
ENTRY_BYTES: Final = 256  # what one takes beside its own bytes

# The sets that are shown; the others are not kept.
SETS: Final = frozenset(
    (
        *("activity.sessions", "activity.counts", "activity.server"),
        *("locks", "locks.blocking", "database"),
        *("statements", "statements.info", "query_text"),
        *("replication", "replication.server", "slots", "wal_receiver", "wal_receiver.replay"),
        *("vacuum.workers", "vacuum.progress", "sampler_state", "server"),
    )
)
_SEEN_ONCE: Final = frozenset(("query_text", "sampler_state"))  # none replaces the one before


class _Head(msgspec.Struct):
    target: str
    set: str
    delta: bool = False
    part: tuple[int, int] | None = None


class _Entry(NamedTuple):
    number: int
    target: str
    set: str
    line: bytes

    @property
    def size(self) -> int:
        return len(self.line) + ENTRY_BYTES


class Seen(NamedTuple):
    """Lines of a target in the order in which they came, and the number of the last one.

    `lost`: some before them were given up, for want of room or because nobody had asked for long.
    """

    last: int
    lines: tuple[bytes, ...]
    lost: bool


class Mirror:
    """Takes lines for a buffer, and remembers some of them."""

    def __init__(self, buffer: Intake, clock: Clock) -> None:
        self._buffer = buffer
        self._clock = clock
        self._lock = threading.Lock()  # guards all that follows
        self._until: dict[str, float] = {}  # by target that is watched
        self._entries: deque[_Entry] = deque()
        self._bytes = 0
        self._last = 0
        self._given_up: dict[str, int] = {}  # the last number of each target that is missing

    @property
    def losses(self) -> int:
        """Those of the buffer."""
        return self._buffer.losses

    def put(self, line: bytes, keep: Keep) -> int:
        """Hand a line on to the buffer; remember it where its target is watched."""
        number = self._buffer.put(line, keep)
        if self._until:
            self.show(line)
        return number

    def wait_for_room(self, size: int, timeout: float) -> bool:
        """Wait until the buffer has room."""
        return self._buffer.wait_for_room(size, timeout)

    def show(self, line: bytes) -> None:
        """Remember a line where its target is watched, in the place of what it makes obsolete."""
        head = _heads.decode(line)
        if head.set not in SETS:
            return
        with self._lock:
            if head.target not in self._until:
                return
            first = head.part is None or head.part[0] == 1
            if first and not head.delta and head.set not in _SEEN_ONCE:
                self._keep(lambda one: (one.target, one.set) != (head.target, head.set))
            self._last += 1
            entry = _Entry(self._last, head.target, head.set, line)
            self._entries.append(entry)
            self._bytes += entry.size
            while self._bytes > ROOM:
                gone = self._entries.popleft()
                self._bytes -= gone.size
                self._given_up[gone.target] = gone.number

    def watch(self, target: str) -> bool:
        """Remember the lines of a target from now on, until nobody asks; return whether it is new.

        To be called again within `HOLDS` seconds.
        """
        with self._lock:
            new = target not in self._until
            if new:
                self._given_up[target] = self._last
            self._until[target] = self._clock.monotonic() + HOLDS
            return new

    def since(self, target: str, after: int) -> Seen:
        """Return what came of a target after a number."""
        with self._lock:
            found = [one for one in self._entries if one.target == target and one.number > after]
            lost = after < self._given_up.get(target, self._last)
            return Seen(self._last, tuple(one.line for one in found), lost)

    def rest(self) -> tuple[str, ...]:
        """Let go of the targets that nobody watches any more, and return them. To be called often.

        The room is free again at once.
        """
        if not self._until:
            return ()
        now = self._clock.monotonic()
        with self._lock:
            gone = tuple(name for name, until in self._until.items() if now >= until)
            for name in gone:
                del self._until[name]
                self._given_up.pop(name, None)
            if gone:
                self._keep(lambda one: one.target not in gone)
            return gone

    @property
    def bytes(self) -> int:
        """What it takes in memory."""
        return self._bytes

    def _keep(self, wanted: Callable[[_Entry], bool]) -> None:
        """Forget the entries that are not wanted. With the lock."""
        self._entries = deque(one for one in self._entries if wanted(one))
        self._bytes = sum(one.size for one in self._entries)


_heads = msgspec.json.Decoder(_Head)
