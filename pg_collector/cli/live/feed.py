"""Asks the agent again and again, and keeps what it says on boards."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from pg_collector import control
from pg_collector.cli import agent_access
from pg_collector.cli.live import sessions
from pg_collector.cli.live.board import Board
from pg_collector.control import AgentRequest, Reply
from pg_collector.errors import AgentUnreachable, CollectorError
from pg_collector.status import Status, StatusRequest
from pg_collector.watch_verbs import Watched, WatchRequest

SAMPLERS: Final = (
    *("activity", "locks", "database", "statements"),
    *("replication", "slots", "wal_receiver", "vacuum"),
)
COMPARED: Final = ("database", "statements")  # of these two samples are needed
SECOND_AFTER: Final = 2.0  # seconds from the first to the second of these
SOON: Final = 0.2  # seconds between two questions while an answer is awaited
AWAITED: Final = 4.0  # seconds for which it is
SETTLED: Final = 1.0  # of these, once there is something of everything
AGAIN: Final = 10.0  # seconds between two attempts to have the rows anew that deltas build on
STATUS_EVERY: Final = 5.0
ANSWER_WITHIN: Final = 10.0
TEXTS: Final = 40  # statements whose texts are wanted


class Link:
    """The agent that runs here, wherever its socket lies; of several, the one that can answer."""

    def __init__(self, places: Callable[[], Sequence[Path]], state_dir: Path | None = None) -> None:
        """With a configured `state_dir` no other agent than that directory's is meant."""
        self._places = places
        self._state_dir = str(state_dir.resolve()) if state_dir is not None else ""
        self._found: Path | None = None

    def ask(self, request: AgentRequest) -> Reply:
        """Ask the first that has an answer.

        Raises CollectorError with its words where none has, AgentUnreachable where none runs,
        PermissionError.
        """
        request = msgspec.structs.replace(request, state_dir=self._state_dir)
        trouble: CollectorError | PermissionError | None = None
        known = [self._found] if self._found is not None else []
        for path in dict.fromkeys((*known, *self._places())):
            try:
                reply = control.ask(request, path, ANSWER_WITHIN)
            except PermissionError as error:
                trouble = trouble or PermissionError(error.errno, error.strerror, str(path))
            except CollectorError as error:
                trouble = trouble or error
            else:
                if reply is not None:
                    self._found = path
                    return reply
        self._found = None
        if trouble is not None:
            raise trouble
        raise agent_access.nobody()


class Feed:
    """What is known of the agent's targets. `lock` guards all that is public."""

    def __init__(self, link: Link, target: str | None, interval: float) -> None:
        self.lock = threading.RLock()
        self.board = Board(target or "")
        self.watched: Watched | None = None
        self.status: Status | None = None
        self.cpu: float | None = None
        self.trouble = ""
        self.failure: Exception | None = None
        self.interval = interval
        self.paused = False
        self.order = "time"
        self._link = link
        self._target = target
        self._boards: dict[str, Board] = {}
        self._after: int | None = None
        self._look: set[str] = set(SAMPLERS)
        self._second_at = math.inf  # when a second sample is to be had
        self._looked_at = -math.inf
        self._status_at = -math.inf
        self._asked: set[str] = set()  # texts
        self._soon_until = 0.0  # until when an answer is awaited
        self._away_since: float | None = None
        self._news = threading.Event()

    def choose(self, target: str) -> None:
        """Watch another target of the agent from now on."""
        with self.lock:
            if target == self.board.target:
                return
            self._target = target
            self.board = self._boards.setdefault(target, Board(target))
            self._begin()
        self._news.set()

    def sample_now(self) -> None:
        """Have every sampler that is shown taken now, for this view alone."""
        with self.lock:
            self._look = set(SAMPLERS)
            self._soon_until = time.monotonic() + AWAITED
        self._news.set()

    def hurry(self) -> None:
        """Look at once."""
        self._news.set()

    def run(self, stopping: threading.Event, seen: Callable[[], None]) -> None:
        """Be the thread that asks; `seen` hears of each answer. A fault of ours is `failure`."""
        try:
            while not stopping.is_set():
                if not self.paused:
                    self.step()
                    seen()
                self._news.wait(self.delay())
                self._news.clear()
        except Exception as error:  # noqa: BLE001  # who draws has the terminal, and raises it
            self.failure = error
            seen()

    def delay(self) -> float:
        """Return the seconds until the next question."""
        now = time.monotonic()
        with self.lock:
            if self.paused:
                return 3600.0
            if self._away_since is not None:
                return max(1.0, self.interval)
            if self.watched is not None and self.watched.more:
                return 0.0
            until_second = max(0.0, self._second_at - now)
            return min(SOON if now < self._soon_until else self.interval, until_second)

    def step(self) -> None:
        """Ask once. What goes wrong is `trouble`."""
        try:
            self.ask()
        except PermissionError as error:
            self._away(f"{error.filename}: an agent listens there, and you may not ask it")
        except AgentUnreachable as error:
            self._away(error.sentence())
        except CollectorError as error:
            with self.lock:
                self.trouble = error.sentence()
        else:
            with self.lock:
                self.trouble, self._away_since = "", None

    def ask(self) -> None:
        """Ask once. Raises CollectorError, PermissionError."""
        request = self._request()
        reply = self._link.ask(request)
        try:
            watched = msgspec.convert(reply.result, Watched)
        except msgspec.ValidationError as error:
            raise CollectorError(
                f"the answer is not understood: {error}",
                remedy="If the agent is of another version than pgc, restart it.",
            ) from None
        now = time.monotonic()
        with self.lock:
            if self._target is not None and watched.target != self._target:
                return  # another one was chosen meanwhile
            if self.watched is not None and watched.stream != self.watched.stream:
                self._forget()
                return
            self._take(watched, reply, now)
        if now - self._status_at >= min(STATUS_EVERY, max(1.0, self.interval)):
            self._ask_status(now)

    def _request(self) -> WatchRequest:
        now = time.monotonic()
        with self.lock:
            look, self._look = self._look, set()
            if look:
                self._looked_at = now
                self.board.states.clear()
            if now >= self._second_at:
                look = look | set(COMPARED)
                self._second_at = math.inf
            texts = self._wanted_texts()
            if look or texts:
                self._soon_until = now + AWAITED
            return WatchRequest(
                target=self._target,
                after=self._after,
                look=tuple(sorted(look, key=SAMPLERS.index)),
                texts=texts,
            )

    def _wanted_texts(self) -> tuple[str, ...]:
        """Return the ids of shown statements whose text was not asked for."""
        shown = sessions.statements(self.board, self.order)[:TEXTS]
        wanted = [one for one in sessions.without_text(shown) if one not in self._asked]
        self._asked.update(wanted)
        return tuple(wanted)

    def _take(self, watched: Watched, reply: Reply, now: float) -> None:
        if self._target is None:
            self._target = watched.target
            self.board = self._boards.setdefault(watched.target, Board(watched.target))
        self.watched = watched
        self._after = watched.last
        self.board.own = frozenset(watched.own)
        had = self.board.samples.keys() & set(COMPARED)
        self.board.take(reply.lines, now)
        if (self.board.samples.keys() & set(COMPARED)) - had:
            self._second_at = now + SECOND_AFTER
        if self.complete and self.texts_are_there:
            self._soon_until = min(self._soon_until, now + SETTLED)
        if (watched.lost or self.board.incomplete) and now - self._looked_at >= AGAIN:
            self._look = set(SAMPLERS)
            self._news.set()

    def _complete(self) -> bool:
        """Whether each sampler that is at work has given something, or said why not."""
        if self.watched is None:
            return False
        told = {sampler for sampler, _ in self.board.states} | self.watched.troubles.keys()
        missing = (
            name
            for name in SAMPLERS
            if name in self.watched.every and name not in told and self.board.sampler(name) is None
        )
        return next(missing, None) is None

    @property
    def complete(self) -> bool:
        """Whether there is a first sample of everything, and a second of what is compared."""
        with self.lock:
            if not self._complete() or self.watched is None:
                return False
            if "" in self.watched.troubles:
                return True
            second = {
                "statements": self.board.movement.seconds is not None,
                "database": "database" in self.board.before,
            }
            return all(
                there or name not in self.watched.every or name not in self.board.samples
                for name, there in second.items()
            )

    @property
    def texts_are_there(self) -> bool:
        """Whether each shown statement has its text, or is one of the agent's own."""
        with self.lock:
            shown = sessions.statements(self.board, self.order)[:TEXTS]
            return not sessions.without_text(shown)

    def _ask_status(self, now: float) -> None:
        self._status_at = now
        try:
            found = msgspec.convert(
                self._link.ask(StatusRequest(again=self.status is not None)).result, Status
            )
        except (CollectorError, msgspec.ValidationError):
            return  # an agent of another version: the header does without
        with self.lock:
            before, self.status = self.status, found
            if before is not None and before.process.pid == found.process.pid:
                passed = found.process.uptime_s - before.process.uptime_s
                used = found.process.cpu_s - before.process.cpu_s
                self.cpu = used / passed if passed > 0 else self.cpu

    def _away(self, why: str) -> None:
        with self.lock:
            if self._away_since is None:
                self._away_since = time.monotonic()
            seconds = time.monotonic() - self._away_since
            self.trouble = f"The agent cannot be asked for {seconds:.0f} s now, trying again: {why}"
            self.status = self.cpu = None

    def _begin(self) -> None:
        """Watch from the start: whole rows first."""
        self._after = None
        self._look = set(SAMPLERS)
        self._asked.clear()
        self._second_at = math.inf

    def _forget(self) -> None:
        """Know nothing any more: the agent is another one."""
        self._boards.clear()
        self.board = Board(self._target or "")
        if self._target is not None:
            self._boards[self._target] = self.board
        self.watched, self.status, self.cpu = None, None, None
        self._begin()
        self._news.set()
