"""One read-only session that never waits long and leaves nothing behind.

What it is allowed is fixed at its start, through startup options, so that no statement of ours
changes a setting that a pooler could hand on. Specification: docs/specs/sessions.md.
"""

import datetime as dt
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Self, TypeVar

import psycopg

from pg_collector.clock import Clock, SystemClock, rfc3339
from pg_collector.config.model import Database
from pg_collector.errors import SamplerError, TargetDown, TargetError, TargetRefused
from pg_collector.pg import conninfo, facts, tls, trouble
from pg_collector.pg.auth import methods
from pg_collector.pg.auth.login import Sign
from pg_collector.pg.connection import Connection
from pg_collector.pg.dial import dial
from pg_collector.resolve import Resolver
from pg_collector.sample import Answer, Facts
from pg_collector.wire import Wire

OLDEST = 12  # the first major version that is supported

MOMENT_HOLDS = 1.0  # seconds
CLOSE_WITHIN = 2.0  # seconds that `close` waits for another thread to let go
LEAVE_WITHIN = 1.0  # seconds that `leave` waits for the server to let go

T = TypeVar("T")

Params = Mapping[str, Any] | None


def prepared(database: Database, sign: Sign, dbname: str | None = None) -> conninfo.Route:
    """Work out the route of a session, as far as no server is asked.

    Raises `ConfigurationError`, and `TargetRefused` for files that cannot be used.
    """
    route = conninfo.route(database, sign=sign, dbname=dbname)
    tls.refuse_unusable(route)
    return route


class Moment(NamedTuple):
    """When a turn was taken, by the server's own clock, and in which of its two roles."""

    at: str  # RFC 3339 in UTC, microseconds
    in_recovery: bool


class Session:
    """A session of one target, for one thread at a time. Only `interrupt` may come from others.

    `facts` is what the server is; `stale` says that an error showed it is no longer that.
    """

    def __init__(
        self,
        database: Database,
        connection: Connection,
        *,
        relations: frozenset[str],
        route: conninfo.Route,
        clock: Clock,
    ) -> None:
        self.stale = False
        self.facts: Facts
        # The same for sessions that follow each other without a break: what was sent on one is a
        # base for what is sent on the next.
        self.lineage = object()
        self._postgres = database.postgres
        self._connection = connection
        self._relations = relations
        self._route = route
        self._clock = clock
        self._opened = clock.monotonic()
        self._pid = connection.pgconn.backend_pid
        self._in_use = threading.Lock()  # while libpq works: closing then would crash it
        self._stream: _Stream[Any] | None = None
        self._moment: tuple[Moment | None, float] = None, 0.0  # and when it was asked for

    @classmethod
    def open(
        cls,
        database: Database,
        *,
        relations: frozenset[str],
        route: conninfo.Route | None = None,
        clock: Clock | None = None,
        dbname: str | None = None,
        lane: str = "fast",
        wire: Wire | None = None,
        resolver: Resolver | None = None,
    ) -> Self:
        """Open a session and read the facts, columns for these `relations`.

        `route` is what `prepared` gave, as for the database `dbname` of the same server; by default
        it is made here. `lane` goes into messages. `wire` lets another thread end the attempt,
        `resolver` keeps good addresses between attempts. Raises `TargetDown`, `TargetRefused`,
        `ConfigurationError`.
        """
        postgres = database.postgres
        wire = wire or Wire()
        if route is None:
            sign = methods.login(database).prepare(wire)
            route = prepared(database, sign, dbname)
        connection = dial(
            route,
            postgres.connect_timeout,
            wire=wire,
            resolver=resolver or Resolver(),
        )
        session = cls(
            database, connection, relations=relations, route=route, clock=clock or SystemClock()
        )
        try:
            session._greet(lane)
        except BaseException:
            session.close()
            raise
        return session

    # --- asking

    def moment(self) -> Moment:
        """Return the server's time and role; after a promotion the facts are read again.

        Turns that follow each other within MOMENT_HOLDS ask once: the time is reckoned from there.
        Raises `SamplerError`, `TargetDown`.
        """
        now = self._clock.monotonic()
        moment, asked_at = self._moment
        if moment is not None and now - asked_at < MOMENT_HOLDS:
            return moment._replace(at=_later(moment.at, now - asked_at))
        ((at, in_recovery),) = next(self.stream(_MOMENT)).rows
        moment = Moment(at, in_recovery)
        self._moment = moment, now
        if in_recovery != self.facts.in_recovery:
            self.refresh()
        return moment

    def fetch(self, sql: str, params: Params = None, *, timeout: float | None = None) -> Answer:
        """Run one statement and return all of its rows, ready for JSON.

        `timeout` in seconds shortens the configured query_timeout. Raises `SamplerTimeout`,
        `SamplerUnavailable`, another `SamplerError`, or `TargetDown` when the session is lost.
        """
        with self._statement(timeout) as connection:
            cursor = connection.execute(sql.encode(), params)
            if cursor.description is None:
                return Answer((), [])
            columns = tuple(column.name for column in cursor.description)
            return Answer(columns, cursor.fetchall())

    def stream(
        self, sql: str, params: Params = None, *, timeout: float | None = None, chunk: int = 500
    ) -> Iterator[Answer]:
        """Run one statement and yield its rows in chunks, in constant memory.

        The bound covers the whole answer, with what the caller does between two chunks. Any
        other call on the session ends the stream: its next chunk raises `SamplerError` then.
        Nothing is yielded where there is no row. Raises as `fetch` does.
        """
        self._settle()
        self._stream = stream = _Stream(self._chunks(sql, params, timeout, chunk), self._in_use)
        return stream

    def copy(self, sql: str, *, timeout: float | None = None) -> Iterator[list[bytes]]:
        """Run one query and yield its rows in chunks, each row a line of COPY's text format.

        Nothing is parsed: for many rows of which few are looked at. What `stream` says of bounds
        and other calls holds here, too; a stream that is cut off costs the session.
        """
        self._settle()
        self._stream = stream = _Stream(self._lines(sql, timeout), self._in_use)
        return stream

    def refresh(self) -> None:
        """Read the facts again. Raises `SamplerError`, `TargetDown`; the old ones stay then."""
        self.facts = facts.read(self.fetch, self._relations)
        self.stale = False

    # --- its life

    @property
    def alive(self) -> bool:
        """Whether it can be asked, as far as is known without asking."""
        return not self._connection.closed and not self._connection.wire.is_cut

    @property
    def age(self) -> float:
        """Seconds since it was opened."""
        return self._clock.monotonic() - self._opened

    @property
    def backend_pid(self) -> int:
        """The process of the server behind it."""
        return self._pid

    @property
    def waited(self) -> float:
        """Seconds that its statements took so far, as seen from here."""
        return self._connection.waited

    def close(self) -> None:
        """End it, without waiting for the far side. From another thread: `interrupt` it first.

        Where the thread that uses it does not let go, it stays open for that one to close.
        """
        self._end(self._connection.close)

    def leave(self) -> bool:
        """End it, and wait a moment until another session may take its place on the server.

        Returns whether it may.
        """
        gone = False

        def close() -> None:
            nonlocal gone
            gone = self._connection.leave(LEAVE_WITHIN)

        self._end(close)
        return gone

    def interrupt(self) -> None:
        """Free the thread that waits on this session, now. The session is lost. Any thread."""
        self._connection.wire.cut()

    # --- within

    def _end(self, close: Callable[[], None]) -> None:
        if self._in_use.acquire(timeout=CLOSE_WITHIN):
            try:
                close()
                self._settle()
            finally:
                self._in_use.release()

    def _greet(self, lane: str) -> None:
        """Refuse what is too old or behind a pooler, then read the facts."""
        version = self._connection.pgconn.server_version
        if version // 10_000 < OLDEST:
            raise TargetRefused(
                f"{self._route.target}: PostgreSQL {version // 10_000} is too old",
                remedy=f"PostgreSQL {OLDEST} and later are supported",
            )
        try:
            self._refuse_poolers(facts.identify(self.fetch))
            self.refresh()
        except SamplerError as error:
            raise TargetDown(
                f"{self._route.target}: the {lane} session cannot be prepared: {error}",
                remedy=error.remedy,
                sqlstate=error.sqlstate,
            ) from error

    def _refuse_poolers(self, identity: facts.Identity) -> None:
        if identity.backend_pid != self._pid:
            raise trouble.pooled(
                f"{self._route.target}: a connection pooler answers: the backend's process id is "
                f"not the one that the connection was told"
            )
        ours = conninfo.settings(self._postgres)
        seen = {
            "default_transaction_read_only": identity.read_only,
            "search_path": identity.search_path,
            "TimeZone": self._status("TimeZone"),
            "IntervalStyle": self._status("IntervalStyle"),
            "DateStyle": self._status("DateStyle").partition(",")[0],
        }
        for name, value in seen.items():
            if value != ours[name]:
                raise _not_taken(self._route.target, name, value)
        if identity.statement_timeout == "0":
            raise _not_taken(self._route.target, "statement_timeout", "0")

    def _status(self, name: str) -> str:
        value = self._connection.pgconn.parameter_status(name.encode())
        return value.decode("utf-8", "replace") if value is not None else ""

    @contextmanager
    def _statement(self, timeout: float | None) -> Iterator[Connection]:
        """Bound what the block asks, and translate what goes wrong."""
        with self._in_use:
            self._settle()
            with self._translating():
                yield self._bounded(timeout)

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise self._ours(error) from error

    def _ours(self, error: psycopg.Error) -> SamplerError | TargetError:
        if error.sqlstate in trouble.STALE:
            self.stale = True
        role = self._route.params["user"]
        return trouble.statement_failed(error, alive=self.alive, role=role, scrub=self._route.scrub)

    def _bounded(self, timeout: float | None) -> Connection:
        """Set the deadline of what follows."""
        usual = self._postgres.query_timeout
        seconds = usual if timeout is None else min(timeout, usual)
        connection = self._connection
        connection.deadline = time.monotonic() + seconds
        # Where the server's own limit comes later than ours, it must be told to stop.
        connection.cancel_first = seconds < conninfo.statement_timeout(usual)
        return connection

    def _settle(self) -> None:
        """End a stream that nobody read to its end."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.cut()

    def _lines(self, sql: str, timeout: float | None) -> Generator[list[bytes], None, None]:
        with self._translating():
            yield from self._bounded(timeout).copied(sql.encode())

    def _chunks(
        self, sql: str, params: Params, timeout: float | None, chunk: int
    ) -> Generator[Answer, None, None]:
        with self._translating():
            for columns, rows in self._bounded(timeout).answered(sql, params, chunk):
                yield Answer(columns, rows)


class _Stream(Iterator[T]):
    """The chunks of one answer, until the session is used for something else."""

    def __init__(self, chunks: Generator[T, None, None], in_use: threading.Lock) -> None:
        self._chunks = chunks
        self._in_use = in_use
        self._ended = self._cut = False

    def __next__(self) -> T:
        if self._cut:
            raise SamplerError("the answer was cut off: the session was used for something else")
        try:
            with self._in_use:
                return next(self._chunks)
        except BaseException:
            self._ended = True
            raise

    def cut(self) -> None:
        """Stop in the middle, if it is there."""
        self._cut = not self._ended
        self._chunks.close()


def _later(at: str, seconds: float) -> str:
    return rfc3339(dt.datetime.fromisoformat(at) + dt.timedelta(seconds=seconds))


def _not_taken(target: str, name: str, value: str) -> TargetRefused:
    variable = {"TimeZone": "PGTZ", "DateStyle": "PGDATESTYLE"}.get(name, "")
    if variable and variable in os.environ:
        return TargetRefused(
            f"{target}: the environment variable {variable} overrides the session's {name}",
            remedy=f"Unset {variable} for the agent",
        )
    return trouble.pooled(
        f"{target}: {name} is {value!r} although the session asked otherwise: a connection pooler "
        "dropped the startup options"
    )


_MOMENT = "SELECT /* pgc:moment */ clock_timestamp(), pg_is_in_recovery()"
