"""What a set remembers between two turns: which rows it sent, which keys it knows.

They hold hashes and counters only, about 150 bytes a row, and no text.
"""

import heapq
import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

from pg_collector.samplers._sampler import BUCKETS

_NOTHING: Final = "0"  # the sum of a bucket without rows
LEAST_BATCH = 20  # values that are asked for at once, however slow that is
FULL_EVERY = 900.0  # seconds: a full line follows at least that often (docs/specs/samples.md)
CROWD: Final = 1_000  # what went away and is remembered does no harm where all is less than this


class Changes:
    """Tells the rows of a large set that changed since the last line.

    One turn is `begin`, `changed` for every row, and `commit` once the line is in the buffer; a
    turn that fails in between leaves the memory as it was.
    """

    def __init__(self, key: Sequence[int], counter: int | None) -> None:
        """`key` and `counter` are positions in the row."""
        self._key = tuple(key)
        self._counter = counter
        self._seen: dict[int, tuple[int, float]] = {}
        self._next: dict[int, tuple[int, float]] = {}
        self._full_at = -math.inf
        self._base: str | None = None
        self._full = True
        self._fell = 0

    def begin(self, now: float, *, full: bool) -> str | None:
        """Start a turn; return the `at` of the full line it builds on, None if it is one itself."""
        self._full = full or self._base is None or now - self._full_at >= FULL_EVERY
        self._next = {}
        self._fell = 0
        return None if self._full else self._base

    @property
    def full(self) -> bool:
        """Whether this turn's line is to be a full one."""
        return self._full

    @property
    def size(self) -> int:
        """How many rows it remembers."""
        return len(self._seen)

    def expire(self) -> None:
        """Have the next line be a full one: too much went away since the last."""
        self._full_at = -math.inf

    def changed(self, row: Sequence[Any]) -> bool:
        """Remember the row; return whether it has to be sent."""
        key = hash(tuple(row[position] for position in self._key))
        counter = 0.0 if self._counter is None else row[self._counter]
        now = (hash(tuple(row)), counter)
        self._next[key] = now
        before = self._seen.get(key)
        if before is not None and counter < before[1]:
            self._fell += 1
        return self._full or now != before

    @property
    def reset(self) -> bool:
        """Whether this turn's rows tell that counting began anew since the turn before.

        Most rows went away or fell: evictions, and entries that come back, are a few per cent. Of
        sets that hold only the worst of their kind, without a counter, rows come and go.
        """
        if self._counter is None:
            return False
        gone = sum(key not in self._next for key in self._seen)
        return gone + self._fell > len(self._seen) / 2

    def commit(self, now: float, at: str) -> None:
        """Remember this turn: its line is in the buffer. Rows that went away are forgotten."""
        self._seen, self._next = self._next, {}
        if self._full:
            self._full_at = now
            self._base = at


class Moved(Changes):
    """Tells the same by a probe, which brings only the buckets of rows in which something moved.

    `look` takes them, after `begin`; what the rows themselves then bring is all to be sent.
    """

    def __init__(self) -> None:
        super().__init__((), None)
        self._moved: dict[int, float] = {}  # by id
        self._moved_next: dict[int, float] = {}
        self._sums = [_NOTHING] * BUCKETS
        self._sums_next: dict[int, str] = {}
        self._visible = self._visible_next = 0  # rows
        self._total = 0
        self._reset = False

    @property
    def sums(self) -> str:
        """What the buckets came to in the turn before, as an array; in a full turn nothing."""
        return "{" + ",".join(() if self._full else self._sums) + "}"

    def look(self, rows: Iterable[tuple[int, str, int, int, int, float]]) -> tuple[list[int], int]:
        """Take the rows of the probe; return the ids of what moved, and how many rows all are.

        Where nothing moved, nothing came: there are as many as before.
        """
        self._sums_next = {}
        self._visible_next = self._visible
        now: dict[int, float] = {}
        for bucket, came_to, self._visible_next, self._total, one, moved in rows:
            self._sums_next[bucket] = came_to
            now[one] = now.get(one, 0.0) + moved  # entries of several roles share an id
        before, self._moved_next = self._moved, now
        gone = self._visible + len(now.keys() - before.keys()) - self._visible_next
        fell = sum(moved < before.get(one, 0.0) for one, moved in now.items())
        self._reset = gone + fell > self._visible / 2
        ids = [one for one, moved in now.items() if self._full or moved != before.get(one)]
        return ids, self._total

    def changed(self, row: Sequence[Any]) -> bool:  # noqa: ARG002  # the probe has told
        """Say yes: only what moved is asked for."""
        return True

    @property
    def reset(self) -> bool:
        """Whether this turn's probe tells that counting began anew since the turn before."""
        return self._reset

    def commit(self, now: float, at: str) -> None:
        """Remember this turn: its line is in the buffer. What went away stays until a full one.

        That one comes sooner where most of what is remembered went away.
        """
        if self._full:
            self._sums = [_NOTHING] * BUCKETS
            self._moved = {}
        self._moved.update(self._moved_next)
        self._moved_next = {}
        super().commit(now, at)
        for bucket, total in self._sums_next.items():
            self._sums[bucket] = total
        self._visible = self._visible_next
        if _crowded(len(self._moved), self._visible):
            self.expire()


class Chosen:
    """Which objects of many a set is about, chosen anew now and then.

    One turn is `begin`, `take` where that says so, and `commit` once the line is in the buffer.
    """

    def __init__(self, every: float) -> None:
        """`every` is in seconds."""
        self._every = every
        self._ids: list[int] = []
        self._at = -math.inf
        self._next: tuple[list[int], float] | None = None

    def begin(self, now: float, turn: float) -> bool:
        """Start a turn; return whether it is time to choose. `turn`: seconds between two turns.

        Half a turn of tolerance: a turn may have waited for its lane.
        """
        self._next = None
        return now - self._at >= self._every - turn / 2

    def take(self, ids: list[int], now: float) -> None:
        """Take a new choice."""
        self._next = ids, now

    @property
    def ids(self) -> list[int]:
        """What is chosen."""
        return self._ids if self._next is None else self._next[0]

    @property
    def size(self) -> int:
        """How many objects it remembers."""
        return len(self._ids)

    def commit(self) -> None:
        """Remember this turn."""
        if self._next is not None:
            self._ids, self._at = self._next
            self._next = None

    def forget(self) -> None:
        """Choose anew in the next turn."""
        self._at = -math.inf


class Ranks(Chosen):
    """Tells which objects of many moved most since they were chosen before.

    One turn is `begin`, `choose` where that says so, `moved` for each row of what is chosen, and
    `commit`. The first choice, which knows of no moves, holds for one turn only. About 100 bytes an
    object.
    """

    def __init__(self, every: float) -> None:
        """`every` is in seconds."""
        super().__init__(every)
        self._before: set[bytes] = set()
        self._now: set[bytes] | None = None
        self._fell = 0
        self._rows: dict[int, int] = {}
        self._rows_next: dict[int, int] = {}

    def begin(self, now: float, turn: float) -> bool:
        """Start a turn; return whether it is time to choose, as `Chosen` does."""
        self._now = None
        self._fell = 0
        self._rows_next = {}
        return super().begin(now, turn)

    @property
    def size(self) -> int:
        """How many objects it remembers."""
        return len(self._before)

    @property
    def total(self) -> int:
        """How many objects there were when they were chosen."""
        return len(self._before if self._now is None else self._now)

    @property
    def reset(self) -> bool:
        """Whether most measures fell: counting began anew."""
        return self._fell > len(self._before) / 2

    def choose(self, chunks: Iterable[Sequence[bytes]], top: int, now: float) -> None:
        """Take the keys of the `top` objects that moved most; those that rest are not among them.

        Each line has an object's key and its measure. An object that is new, or was reset, moved
        by all it counts.
        """
        self._now = after = _gathered(chunks)
        before = dict(map(_measured, self._before - after))
        first = not self._before
        moves: list[tuple[int, int]] = []
        self._fell = 0
        for key, measure in map(_measured, after - self._before):
            last = before.get(key, 0)
            self._fell += measure < last
            moved = measure - last if measure >= last else measure
            if moved:
                moves.append((moved, key))
        ids = [key for _, key in heapq.nlargest(top, moves)]
        self.take(ids, -math.inf if first else now)

    def moved(self, row: Sequence[Any]) -> bool:
        """Remember a row, which starts with its key; return whether it was not so before."""
        key, now = row[0], hash(tuple(row))
        self._rows_next[key] = now
        return self._rows.get(key) != now

    def commit(self) -> None:
        """Remember this turn. Objects that went away are forgotten."""
        super().commit()
        self._rows, self._rows_next = self._rows_next, {}
        if self._now is not None:
            self._before, self._now = self._now, None

    def forget(self) -> None:
        """Choose anew in the next turn, and take every row as one that moved."""
        super().forget()
        self._rows = {}


def _gathered(chunks: Iterable[Sequence[bytes]]) -> set[bytes]:
    found: set[bytes] = set()
    for chunk in chunks:
        found.update(chunk)
    return found


def _measured(line: bytes) -> tuple[int, int]:
    key, _, measure = line.partition(b"\t")
    return int(key), int(measure)


class Known:
    """Remembers which keys were looked up, and which of them are of the agent's own making."""

    def __init__(self, refresh: float, batch: int) -> None:
        """Count a key as new after `refresh` seconds; `batch` bounds what is asked at once."""
        self._refresh = refresh
        self._batch = self._most = batch
        self._known: dict[int, float] = {}
        self._own: set[int] = set()
        self._wanted: dict[int, Any] = {}
        self._seen: set[int] = set()
        self._partly = False
        self._complete = False  # whether all rows of the turn were shown

    def begin(self, *, partly: bool) -> None:
        """Begin a turn; `partly`: only rows that moved are shown, the others are as they were."""
        self._partly = partly
        self._complete = False
        if not partly:
            self._wanted.clear()
            self._seen.clear()

    def note(self, key: tuple[Any, ...], value: object, now: float) -> bool:
        """See a key; `value` is what to ask for. Return whether it is of our own making."""
        hashed = hash(key)
        self._seen.add(hashed)
        if hashed in self._own:
            self._wanted.pop(hashed, None)
            return True
        if now - self._known.get(hashed, -math.inf) >= self._refresh:
            self._wanted[hashed] = value
        return False

    def end(self) -> None:
        """End a turn: all of its rows were shown."""
        self._complete = True

    def crowded(self, rows: int) -> bool:
        """Whether most keys are of rows that went away, where there are so many rows."""
        return _crowded(len(self._known) + len(self._wanted) + len(self._own), rows)

    def wanted(self) -> list[Any]:
        """Return what to ask for now, without doubles, at most `batch` of them."""
        return list(dict.fromkeys(self._wanted.values()))[: self._batch]

    def shrink(self) -> bool:
        """Ask for half as many from now on; return False where that would be too few."""
        if self._batch < 2 * LEAST_BATCH:
            return False
        self._batch //= 2
        return True

    def fit(self, taken: int, *, all_fitted: bool) -> None:
        """Ask for as many next time as could be taken this time, or for twice as many if all."""
        wanted = self._batch * 2 if all_fitted else taken
        self._batch = max(LEAST_BATCH, min(wanted, self._most))

    def forget(self) -> None:
        """Know nothing any more, but what is of our own making."""
        self._known.clear()

    def found(self, key: tuple[Any, ...], *, own: bool) -> None:
        """Note the answer for a key."""
        if own:
            self._own.add(hash(key))

    def commit(self, asked: Collection[Any], now: float, left: Collection[int] = ()) -> None:
        """Remember what was asked: the answers are in the buffer, or there were none.

        `left` are the hashes of keys whose answer was left behind for want of room. Keys of rows
        that went away are forgotten where all rows were shown.
        """
        for hashed, value in tuple(self._wanted.items()):
            if value in asked and hashed not in left:
                self._known[hashed] = now
                del self._wanted[hashed]
        if self._complete and not self._partly:
            self._known = {key: at for key, at in self._known.items() if key in self._seen}
            self._own &= self._seen
        self._complete = False
        self._seen.clear()


def _crowded(kept: int, there: int) -> bool:
    return kept > max(2 * there, CROWD)
