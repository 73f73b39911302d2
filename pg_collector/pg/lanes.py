"""A lane: the one session of a target that one worker at a time may use.

Two lanes per target are all the connections there ever are: a lane opens a session only after the
old one's socket is closed, and never sooner than its back-off allows.
"""

import random
import threading
from collections.abc import Callable

from pg_collector.clock import Clock, SystemClock
from pg_collector.config.model import Database
from pg_collector.errors import TargetDown, TargetError, TargetRefused
from pg_collector.pg.resolve import Resolver
from pg_collector.pg.session import Session
from pg_collector.pg.wire import Wire

LIFETIME = 2 * 3600.0  # seconds; the catalog caches of the server's backend never shrink
LIFETIME_JITTER = 0.1
STEADY = 60.0  # a session that lived this long ends a row of failures
DOWN = (1.0, 60.0)  # seconds of back-off: first, longest
REFUSED = (120.0, 600.0)


class Lane:
    """One session of one target, opened when needed; reconnects with back-off and jitter.

    For one thread at a time; `interrupt`, `close` and `connected` are for every thread.
    `on_change` hears True and False as the session comes and goes.
    """

    def __init__(
        self,
        database: Database,
        name: str,
        *,
        relations: frozenset[str],
        stopping: threading.Event,
        password: Callable[[], str] | None = None,
        clock: Clock | None = None,
        on_change: Callable[[bool], None] | None = None,
    ) -> None:
        self.name = name
        self._database = database
        self._relations = relations
        self._stopping = stopping
        self._password = password
        self._clock = clock or SystemClock()
        self._on_change = on_change
        self._resolver = Resolver()
        self._lock = threading.Lock()  # of _wire and _closed
        self._wire: Wire | None = None
        self._closed = False
        self._session: Session | None = None
        self._lifetime = LIFETIME
        self._failures = 0
        self._not_before = 0.0
        self._last: TargetError | None = None

    @property
    def connected(self) -> bool:
        """Whether a session stands, as far as is known."""
        session = self._session
        return session is not None and session.alive

    def session(self) -> Session:
        """Return the live session, or open one.

        Raises `TargetDown` or `TargetRefused`: without touching the network while the last failure
        is younger than its back-off. Raises `ConfigurationError`.
        """
        if self._stopping.is_set() or self._closed:
            raise TargetDown(f"{self._database.name}: the agent is stopping")
        session = self._session
        if session is not None and session.alive and session.age < self._lifetime:
            return session
        if session is not None:
            if not session.alive:
                self.drop(TargetDown(f"{self._database.name}: the session was lost"))
            else:
                self._end(session)
        self._wait_is_over()
        try:
            return self._open()
        except TargetError as error:
            self._failed(error)
            raise

    def drop(self, error: TargetError) -> None:
        """Close the session after `error`; the next one comes after the back-off."""
        session = self._session
        if session is None:
            return
        if session.age >= STEADY:
            self._failures = 0
        self._end(session)
        self._failed(error)

    def interrupt(self) -> None:
        """Free the thread that opens or uses the session now; the session is lost."""
        with self._lock:
            wire = self._wire
        if wire is not None:
            wire.cut()

    def close(self) -> None:
        """Interrupt what is under way, close the session, and open none any more."""
        with self._lock:
            self._closed = True
        self.interrupt()
        session = self._session
        if session is not None:
            self._end(session)

    def _open(self) -> Session:
        wire = Wire()
        with self._lock:
            if self._closed:
                wire.cut()
            self._wire = wire
        session = Session.open(
            self._database,
            relations=self._relations,
            password=self._password,
            clock=self._clock,
            lane=self.name,
            wire=wire,
            resolver=self._resolver,
        )
        self._session = session
        self._lifetime = LIFETIME * random.uniform(1 - LIFETIME_JITTER, 1 + LIFETIME_JITTER)  # noqa: S311
        self._last = None
        self._tell(connected=True)
        return session

    def _end(self, session: Session) -> None:
        self._session = None
        session.close()
        self._tell(connected=False)

    def _failed(self, error: TargetError) -> None:
        first, longest = REFUSED if isinstance(error, TargetRefused) else DOWN
        delay = min(first * 2.0 ** min(self._failures, 16), longest)
        self._failures += 1
        self._last = error
        # Half of it is certain, the rest is chance: agents must not come back all at once.
        self._not_before = self._clock.monotonic() + delay * random.uniform(0.5, 1.0)  # noqa: S311

    def _wait_is_over(self) -> None:
        left = self._not_before - self._clock.monotonic()
        if left <= 0 or self._last is None:
            return
        raise type(self._last)(
            str(self._last),
            remedy=self._last.remedy,
            sqlstate=self._last.sqlstate,
            retry_in=left,
        )

    def _tell(self, *, connected: bool) -> None:
        if self._on_change is not None:
            self._on_change(connected)
