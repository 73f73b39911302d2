"""A lane: the one session of a target that one worker at a time may use.

Two lanes per target are all the connections there ever are: a lane opens a session only after the
old one's socket is closed, and never sooner than its back-off allows. What both lanes learn about
the server, a breaker keeps: once it is open, it says when one of them may try again.
"""

import itertools
import math
import random
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

from pg_collector.clock import Clock, SystemClock
from pg_collector.config.model import Database
from pg_collector.errors import (
    BreakerOpen,
    LoginRefused,
    SessionUnfinished,
    TargetDown,
    TargetError,
    TargetRefused,
)
from pg_collector.pg import conninfo
from pg_collector.pg.auth.login import Login, Plain, Sign
from pg_collector.pg.session import LEAVE_WITHIN, Session, prepared
from pg_collector.resolve import Resolver
from pg_collector.trust import Stamp, stamp
from pg_collector.wire import Wire

LIFETIME = 2 * 3600.0  # seconds; the catalog caches of the server's backend never shrink
LIFETIME_JITTER = 0.1
STEADY = 60.0  # a session that lived this long ends a row of failures
DOWN = (1.0, 60.0)  # seconds of back-off: first, longest
ROOM = 0.02  # seconds until the server is asked for a place again, growing
REFUSED = (120.0, 600.0)
# At the start of a session these may concern its database alone: its limit of connections, a lock
# on its catalogs, a statement that took too long there. Of the server the own database tells.
_OF_ONE_DATABASE = frozenset(("53300", "55P03", "57014"))
_FULL = "53300"


Stamps = dict[Path, Stamp | None]


class Guard(Protocol):
    """What an attempt to connect must pass: the target's circuit breaker."""

    @property
    def reset(self) -> float:
        """Seconds for which it stays open; no lane waits longer by itself."""

    def guard(self) -> AbstractContextManager[None]:
        """Let an attempt pass, and learn from how it ends; raises BreakerOpen."""


class Unguarded:
    """Lets every attempt pass."""

    reset = math.inf

    def guard(self) -> AbstractContextManager[None]:
        """Let it pass."""
        return nullcontext()


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
        login: Login | None = None,
        clock: Clock | None = None,
        breaker: Guard | None = None,
        on_change: Callable[[bool], None] | None = None,
    ) -> None:
        self.name = name
        self._database = database
        self._relations = relations
        self._stopping = stopping
        self._login: Login = login or Plain(database.postgres)
        self._clock = clock or SystemClock()
        self._breaker: Guard = breaker or Unguarded()
        self._on_change = on_change
        self._resolver = Resolver()
        self._lock = threading.Lock()  # of _wire and _closed
        self._wire: Wire | None = None
        self._closed = False
        self._session: Session | None = None
        self._place: str | None = None  # the database of the session; None: the target's own
        self._lineage = object()
        self._well_since: float | None = None  # the first success after the last failure
        self._lifetime = LIFETIME
        self._failures = 0
        self._not_before = 0.0
        self._let_go_at = -math.inf  # when a process of the server was left that may have a place
        self._last: TargetError | None = None
        self.between = False  # whether it left a session that was well, and all went well since
        self.preparing = 0.0  # seconds spent before a server was asked, all in all
        self.weakness = ""  # of the last route: what somebody on the way could do
        self._named: tuple[Path, ...] | None = None  # files that logging in depends on
        self._files: Stamps = {}  # as they were before the last attempt

    @property
    def connected(self) -> bool:
        """Whether a session stands, as far as is known."""
        session = self._session
        return session is not None and session.alive

    def is_in(self, dbname: str) -> bool:
        """Whether a session stands in that database, as far as is known."""
        return self.connected and self._place == dbname

    def session(self, dbname: str | None = None) -> Session:
        """Return the live session, or open one; with `dbname` in another database of the server.

        There is one at a time: the one in another database is closed first.

        Raises `TargetDown` or `TargetRefused`: without touching the network while the last failure
        is younger than its back-off. With `dbname`, `TargetRefused` says that this database alone
        is not to be had: the lane does not back off. Raises `ConfigurationError`.
        """
        if self._stopping.is_set() or self._closed:
            raise TargetDown(f"{self._database.name}: the agent is stopping")
        session = self._session
        lasts = session is not None and session.alive and session.age < self._lifetime
        if session is not None and lasts and self._place == dbname:
            return session
        if session is not None:
            if not session.alive:
                self.drop(TargetDown(f"{self._database.name}: the session was lost"))
            else:
                # The role may have no more places than there are lanes.
                self.between = True
                self._end(session, follows=lasts, gone=session.leave())
        try:
            self._wait_is_over(dbname)
            return self._let_in(dbname)
        except BreakerOpen as error:
            raise self._left_alone(error) from None
        finally:
            if self._session is None:
                self._no_longer_between()

    def drop(self, error: TargetError) -> None:
        """Close the session after `error`; the next one comes after the back-off."""
        session = self._session
        if session is None:
            return
        well_since = self._well_since
        if well_since is not None and self._clock.monotonic() - well_since >= STEADY:
            self._failures = 0
        self._end(session)
        self._failed(error)

    def come_back(self) -> None:
        """Close a session in another database than the target's own; in the thread of the lane.

        Nobody can drop that database, or take it for a template, as long as a session is there.
        """
        session = self._session
        if session is not None and self._place is not None:
            self.between = session.alive
            self._end(session, follows=session.alive, gone=session.leave())

    def rest(self) -> None:
        """Close the session until it is needed again; in the thread of the lane."""
        session = self._session
        if session is not None:
            self._end(session)
        self._no_longer_between()

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

    def _let_in(self, dbname: str | None) -> Session:
        """Log in, and once more where what was shown may just have been too old."""
        wire, sign, route = self._ready(dbname)
        try:
            return self._attempt(wire, route, dbname)
        except LoginRefused as error:
            if not self._login.refused(sign):
                self._refused(error, dbname)
                raise
        wire, sign, route = self._ready(dbname)
        try:
            return self._attempt(wire, route, dbname)
        except LoginRefused as error:
            self._login.refused(sign)
            self._refused(error, dbname)
            raise

    def _ready(self, dbname: str | None) -> tuple[Wire, Sign, conninfo.Route]:
        """Get all that an attempt needs. What goes wrong here is nobody's fault at the server.

        So it says nothing to the server's breaker, concerns every database, and is waited after.
        """
        wire = Wire()
        with self._lock:
            if self._closed:
                wire.cut()
            self._wire = wire
        if self._named is None:
            self._named = conninfo.files(self._database)
        self._files = _stamps(self._named)
        began = self._clock.monotonic()
        try:
            sign = self._login.prepare(wire)
            route = prepared(self._database, sign, dbname)
        except TargetError as error:
            self._failed(error)
            if dbname is not None and isinstance(error, TargetRefused):
                raise TargetDown(str(error), remedy=error.remedy) from error
            raise
        finally:
            self.preparing += self._clock.monotonic() - began
        self.weakness = conninfo.weakness(route)
        return wire, sign, route

    def _attempt(self, wire: Wire, route: conninfo.Route, dbname: str | None) -> Session:
        """Ask the server. Raises LoginRefused before anything follows from it."""
        try:
            with self._breaker.guard():
                return self._open_in_turn(dbname, wire, route)
        except LoginRefused:
            raise
        except TargetError as error:
            self._refused(error, dbname)
            raise

    def _refused(self, error: TargetError, dbname: str | None) -> None:
        """Back off after an attempt that failed, unless it concerns one visited database."""
        if dbname is None or not isinstance(error, TargetRefused):
            self._failed(error)

    def _open_in_turn(self, dbname: str | None, wire: Wire, route: conninfo.Route) -> Session:
        """Open it; a want of places is no answer while the lane's last process may hold one.

        A process that refused, or that was left without a wait, counts until it has ended.
        """
        until = self._let_go_at + LEAVE_WITHIN
        pauses = (ROOM * 2.0**number for number in itertools.count())
        while True:
            try:
                return self._open(dbname, wire, route)
            except TargetError as error:
                if error.sqlstate != _FULL:
                    self._let_go_at = self._clock.monotonic()
                    raise
                if self._clock.monotonic() >= until or self._stopping.wait(next(pauses)):
                    raise

    def _open(self, dbname: str | None, wire: Wire, route: conninfo.Route) -> Session:
        try:
            session = Session.open(
                self._database,
                relations=self._relations,
                route=route,
                clock=self._clock,
                dbname=dbname,
                lane=self.name,
                wire=wire,
                resolver=self._resolver,
            )
        except TargetDown as error:
            if dbname is None or not _concerns_one_database(error):
                raise
            raise TargetRefused(str(error), remedy=error.remedy, sqlstate=error.sqlstate) from error
        session.lineage = self._lineage
        if self._well_since is None:
            self._well_since = self._clock.monotonic()
        self._session, self._place = session, dbname
        self.between = False
        self._lifetime = LIFETIME * random.uniform(1 - LIFETIME_JITTER, 1 + LIFETIME_JITTER)  # noqa: S311
        self._last = None
        self._tell(connected=True)
        return session

    def _end(self, session: Session, *, follows: bool = False, gone: bool = False) -> None:
        """Close it; `follows`: the next goes on where it left off; `gone`: its process, too."""
        if not follows:
            self._lineage = object()
        self._session = None
        session.close()
        if not gone:
            self._let_go_at = self._clock.monotonic()
        self._tell(connected=False)

    def _failed(self, error: TargetError) -> None:
        if isinstance(error, TargetRefused):
            first, longest = REFUSED
        else:
            first, longest = DOWN[0], min(DOWN[1], self._breaker.reset)
        delay = min(first * 2.0 ** min(self._failures, 16), longest)
        self._failures += 1
        self._well_since = None
        self._last = error
        # Half of it is certain, the rest is chance: agents must not come back all at once.
        self._not_before = self._clock.monotonic() + delay * random.uniform(0.5, 1.0)  # noqa: S311

    def _wait_is_over(self, dbname: str | None) -> None:
        left = self._not_before - self._clock.monotonic()
        if left <= 0 or self._last is None:
            return
        if self._files != _stamps(self._files):
            return  # somebody replaced a certificate, or a password: it may be well now
        if dbname is not None:  # what refused was the target's own: nobody has asked this one
            raise _again(self._last, left, TargetDown)
        raise _again(self._last, left)

    def _left_alone(self, error: BreakerOpen) -> TargetError:
        """Return what this lane has to say while the breaker is open: what it said before."""
        if isinstance(self._last, TargetDown):
            return _again(self._last, error.retry_in)
        return TargetDown(str(error), remedy=error.remedy, retry_in=error.retry_in)

    def _no_longer_between(self) -> None:
        if self.between:
            self.between = False
            self._tell(connected=False)

    def _tell(self, *, connected: bool) -> None:
        if self._on_change is not None:
            self._on_change(connected)


def _concerns_one_database(error: TargetDown) -> bool:
    return isinstance(error, SessionUnfinished) or error.sqlstate in _OF_ONE_DATABASE


def _stamps(files: Iterable[Path]) -> Stamps:
    return {path: stamp(path) for path in files}


def _again(
    error: TargetError, retry_in: float, kind: type[TargetError] | None = None
) -> TargetError:
    """Return the same error once more, with the seconds until it is worth another attempt."""
    kind = kind or type(error)
    return kind(str(error), remedy=error.remedy, sqlstate=error.sqlstate, retry_in=retry_in)
