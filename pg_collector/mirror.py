"""The newest lines of the targets that somebody watches, in memory, while somebody watches.

It stands between the turns and the buffer: what it shows is what leaves, masked and encoded. While
nobody watches, it holds nothing, and a line passes it at the price of one look.
"""

import threading
from collections import deque
from collections.abc import Collection
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


_HEAD_WITHIN: Final = 1024  # bytes from a line's start that its set and its target are in
_ROWS_AFTER: Final = 16 * 1024  # bytes of a head, at most


class _Head(msgspec.Struct):
    target: str
    delta: bool = False
    part: tuple[int, int] | None = None


class _Entry(NamedTuple):
    number: int
    line: bytes

    @property
    def size(self) -> int:
        return len(self.line) + ENTRY_BYTES


class Seen(NamedTuple):
    """Lines of a target in the order in which they came, and the number of the last one.

    `lost`: some before them were given up, for want of room or because nobody had asked for long.
    `more`: others follow at once.
    """

    last: int
    lines: tuple[bytes, ...]
    lost: bool
    more: bool = False


class Mirror:
    """Takes lines for a buffer, and remembers some of them."""

    def __init__(self, buffer: Intake, clock: Clock) -> None:
        self._buffer = buffer
        self._clock = clock
        self._lock = threading.Lock()  # guards all that follows
        self._until: dict[str, float] = {}  # by target that is watched
        self._marks: tuple[tuple[str, bytes], ...] = ()  # of these, and how a line names each
        self._entries: dict[tuple[str, str], deque[_Entry]] = {}  # by target and set
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
        if self._marks:
            self.show(line)
        return number

    def wait_for_room(self, size: int, timeout: float) -> bool:
        """Wait until the buffer has room."""
        return self._buffer.wait_for_room(size, timeout)

    def show(self, line: bytes) -> None:
        """Remember a line where its target is watched, in the place of what it makes obsolete."""
        marks = self._marks
        target = next((name for name, mark in marks if line.find(mark, 0, _HEAD_WITHIN) > 0), None)
        if target is None or (set_name := _set_of(line)) not in SETS:
            return
        head = _head_of(line)
        if head.target != target:
            return
        first = head.part is None or head.part[0] == 1
        with self._lock:
            if target not in self._until:
                return
            if first and not head.delta and set_name not in _SEEN_ONCE:
                self._forget((target, set_name))
            self._last += 1
            entry = _Entry(self._last, line)
            self._entries.setdefault((target, set_name), deque()).append(entry)
            self._bytes += entry.size
            while self._bytes > ROOM:
                self._give_up_oldest()

    def watch(self, target: str) -> bool:
        """Remember the lines of a target from now on, until nobody asks; return whether it is new.

        To be called again within `HOLDS` seconds.
        """
        with self._lock:
            new = target not in self._until
            if new:
                self._given_up[target] = self._last
            self._until[target] = self._clock.monotonic() + HOLDS
            if new:
                self._mark()
            return new

    def since(
        self, target: str, after: int, *, held: Collection[str] = (), most: int = ROOM
    ) -> Seen:
        """Return what came of a target after a number, and before that what is `held` of samplers.

        It ends with the line that passes `most` bytes.
        """
        with self._lock:
            found = sorted(
                one
                for (name, set_name), entries in self._entries.items()
                if name == target
                for one in entries
                if one.number > after or _sampler(set_name) in held
            )
            lost = after < self._given_up.get(target, self._last)
            last = self._last
        size = count = 0
        while count < len(found) and size < most:
            size += len(found[count].line)
            count += 1
        more = count < len(found)
        lines = tuple(one.line for one in found[:count])
        return Seen(found[count - 1].number if more else last, lines, lost, more)

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
                self._mark()
            for key in [key for key in self._entries if key[0] in gone]:
                self._forget(key)
            return gone

    def _mark(self) -> None:
        """Note how lines name the targets that are watched. With the lock."""
        names = ((name, msgspec.json.encode(name)) for name in self._until)
        self._marks = tuple((name, b',"target":' + encoded + b",") for name, encoded in names)

    def _forget(self, key: tuple[str, str]) -> None:
        """Forget all lines of a target's set. With the lock."""
        self._bytes -= sum(one.size for one in self._entries.pop(key, ()))

    def _give_up_oldest(self) -> None:
        """Forget the oldest line of all. With the lock."""
        key = min(self._entries, key=lambda one: self._entries[one][0].number)
        gone = self._entries[key].popleft()
        if not self._entries[key]:
            del self._entries[key]
        self._bytes -= gone.size
        self._given_up[key[0]] = max(gone.number, self._given_up.get(key[0], 0))


def _set_of(line: bytes) -> str:
    """Return the name of a line's set, without a look at the rest."""
    _, _, behind = line[:_HEAD_WITHIN].partition(b'"set":"')
    return behind.partition(b'"')[0].decode()


def _head_of(line: bytes) -> _Head:
    """Read the head of a line alone: rows may be many."""
    ends = line.find(b',"c":[', 0, _ROWS_AFTER)
    return _heads.decode(line if ends < 0 else line[:ends] + b"}")


def _sampler(set_name: str) -> str:
    return "statements" if set_name == "query_text" else set_name.partition(".")[0]


_heads = msgspec.json.Decoder(_Head)
