"""A psycopg connection of which every wait has an end.

psycopg has no limit of its own once a session stands, and libpq's `connect_timeout` counts per
address; here one absolute deadline covers an attempt, and one covers a statement. On the way the
far side can go silent, drip a byte at a time, or stop in the middle of a TLS handshake: the wait
ends at the deadline all the same, and the connection with it, because the wire's state is unknown.
"""

import ctypes
import math
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, TypeVar

import psycopg
from psycopg import generators, pq
from psycopg.abc import PQGen
from psycopg.adapt import AdaptersMap
from psycopg.waiting import Wait

from pg_collector.pg.loaders import ADAPTERS
from pg_collector.pg.prepared import OUTDATED, Params, Prepared, Statement
from pg_collector.wire import Wire, WireCut

T = TypeVar("T")

COPY_CHUNK = 1_000  # rows
CANCEL_WITHIN = 0.4  # seconds: a second connection, a few bytes
_POLL_EVENTS = {
    pq.PollingStatus.READING: select.POLLIN,
    pq.PollingStatus.WRITING: select.POLLOUT,
}
_DEFAULT, _VERBOSE = 1, 2  # PGVerbosity in libpq-fe.h


class ConnectFailed(Exception):
    """libpq gave up; the text is its own, in its verbose form where that could be had."""


class ConnectTimeout(Exception):
    """The attempt did not end before its deadline; the text says in which phase it was."""


class SessionTimeout(ConnectTimeout):
    """The log-in began, and the session did not before the deadline.

    The server's process may wait for a lock on the database, as while that is copied; it notices
    only then that nobody is there any more.
    """


class DeadlineExceeded(psycopg.OperationalError):
    """The server did not answer in time; the connection is closed."""


class Interrupted(psycopg.OperationalError):
    """Another thread ended the wait; the connection is closed."""


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that gives up at `deadline` (of `time.monotonic`), whatever it waits for."""

    deadline = math.inf
    cancel_first = False  # at the deadline the server may be well and still at work: stop it
    waited = 0.0  # seconds that statements took the server, as far as we waited for it
    wire: Wire
    prepared: Prepared

    @property
    def adapters(self) -> AdaptersMap:
        """Loaders whose values are ready for JSON."""
        return ADAPTERS

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        """Run libpq's generator to its end, but no longer than the deadline.

        Raises `DeadlineExceeded` or `Interrupted`, the connection is closed then; with
        `cancel_first` also `QueryCanceled`, and the connection is at rest.
        """
        began = time.monotonic()
        left = max(self.deadline - began, 0.0)
        if timeout is not None:
            left = min(left, timeout)
        try:
            with self.wire.holding(self.pgconn.socket):
                return super().wait(
                    gen, interval=max(interval, 1.0), timeout=left if left < math.inf else None
                )
        except psycopg.errors._WaitTimeout:  # noqa: SLF001  # the name psycopg documents for wait
            if self.cancel_first and self._stopped():
                raise psycopg.errors.QueryCanceled("no answer within the time limit") from None
            self.pgconn.finish()
            raise DeadlineExceeded("no answer within the time limit") from None
        except WireCut:
            self.pgconn.finish()
            raise Interrupted("interrupted") from None
        except psycopg.OperationalError:
            if not self.wire.is_cut:
                raise
            self.pgconn.finish()
            raise Interrupted("interrupted") from None
        finally:
            self.waited += time.monotonic() - began

    def answered(
        self, sql: str, params: Params | None, chunk: int
    ) -> Generator[tuple[tuple[str, ...], list[tuple[Any, ...]]], None, None]:
        """Run one statement; yield the names of its columns with its rows, in chunks.

        Nothing is yielded where there is no row. Raises as `wait` does; left early, the server is
        told to stop, and where it does not within CANCEL_WITHIN, the connection is closed.
        """
        statement = self.prepared.get(sql, params)
        values = statement.values(params)
        complete = False
        try:
            try:
                found = self._begun(statement, values, chunk)
            except psycopg.Error as error:
                if statement.name is None or error.sqlstate not in OUTDATED:
                    raise
                self.prepared.forget(sql)
                statement = self.prepared.get(sql, params)
                found = self._begun(statement, values, chunk)
            while True:
                complete = found.is_last
                if found.rows is not None and (rows := statement.rows(found.rows, self)):
                    yield statement.columns, rows
                if complete:
                    return
                found = self.wait(_chunk(self.pgconn, chunk))
                self._check(found)
        except psycopg.Error:
            complete = self.pgconn.transaction_status == pq.TransactionStatus.IDLE
            raise
        finally:
            if not complete and not self.closed and not self._stopped():
                self.pgconn.finish()

    def _begun(self, statement: Statement, values: Sequence[bytes | None], chunk: int) -> "_Chunk":
        """Send a statement, prepared if it is one to keep, and return its first rows."""
        pgconn = self.pgconn
        if statement.kept and statement.name is None:
            name = self.prepared.new_name()
            self._check(self.wait(_prepare(pgconn, name, statement.text)))
            statement.name = name
        found = self.wait(_ask(pgconn, statement, values, chunk))
        self._check(found)
        return found

    def _check(self, found: "_Chunk") -> None:
        if found.error is not None:
            raise _error(self.pgconn, found.error)

    def copied(self, sql: bytes) -> Generator[list[bytes], None, None]:
        """Run a query through COPY, and yield its rows as lines of text, in chunks, unparsed.

        https://www.postgresql.org/docs/current/sql-copy.html describes a line. It costs a tenth of
        what rows of values cost. Raises as `wait` does; left early, the connection is closed.
        """
        pgconn = self.pgconn
        self.wait(_begin_copy(pgconn, b"COPY (" + sql + b") TO STDOUT"))
        complete = False
        lines: list[bytes] = []
        try:
            while (size := (found := pgconn.get_copy_data(1))[0]) >= 0:
                if size == 0:
                    self.wait(_receive(pgconn))
                    continue
                lines.append(bytes(found[1]))
                if len(lines) >= COPY_CHUNK:
                    if time.monotonic() >= self.deadline:
                        raise DeadlineExceeded("no answer within the time limit")
                    yield lines
                    lines = []
            self.wait(_end_copy(pgconn))
            complete = True
            if lines:
                yield lines
        except psycopg.Error:
            complete = pgconn.transaction_status == pq.TransactionStatus.IDLE
            raise
        finally:
            if not complete:
                pgconn.finish()

    def leave(self, seconds: float) -> bool:
        """Close, and wait that long at most until the server's process is gone: its place is free.

        The server counts it among the sessions of its role and database until then. Returns
        whether it has gone, as far as is known.
        """
        if self.closed:
            return False
        with socket.socket(fileno=os.dup(self.pgconn.socket)) as link:
            self.close()
            try:
                with self.wire.holding(link.fileno()):
                    return _wait_for_end(link, time.monotonic() + seconds)
            except WireCut:
                return False

    def _try_cancel(self, *, timeout: float = CANCEL_WITHIN) -> None:
        """Bound psycopg's own attempts to cancel, which would take 5 s."""
        super()._try_cancel(timeout=min(timeout, CANCEL_WITHIN))

    def _stopped(self) -> bool:
        """Tell the server to stop, and say whether the connection came to rest."""
        deadline = time.monotonic() + CANCEL_WITHIN
        try:
            self.cancel_safe(timeout=CANCEL_WITHIN)
            return _drained(self.pgconn, deadline)
        except psycopg.Error:
            return False


class _Chunk(NamedTuple):
    """A part of an answer."""

    rows: pq.abc.PGresult | None
    is_last: bool
    error: pq.abc.PGresult | None = None


def _prepare(pgconn: pq.abc.PGconn, name: bytes, text: bytes) -> PQGen[_Chunk]:
    pgconn.send_prepare(name, text)
    yield from generators.send(pgconn)
    return (yield from _chunk(pgconn, 0))


def _ask(
    pgconn: pq.abc.PGconn, statement: Statement, values: Sequence[bytes | None], chunk: int
) -> PQGen[_Chunk]:
    if statement.name is None:
        pgconn.send_query_params(statement.text, values)
    else:
        pgconn.send_query_prepared(statement.name, values)
    pgconn.set_chunked_rows_mode(chunk)
    yield from generators.send(pgconn)
    return (yield from _chunk(pgconn, chunk))


def _chunk(pgconn: pq.abc.PGconn, size: int) -> PQGen[_Chunk]:
    """Take the next rows, and the end where that follows at once: only the last are fewer."""
    first = yield from generators.fetch(pgconn)
    if first is None or (first.status == pq.ExecStatus.TUPLES_CHUNK and first.ntuples == size):
        return _Chunk(first, is_last=first is None)
    error = None
    end: pq.abc.PGresult | None = first
    while end is not None:
        if end.status not in _ANSWERS:
            error = error or end
        end = yield from generators.fetch(pgconn)
    return _Chunk(first, is_last=True, error=error)


_ANSWERS = (
    pq.ExecStatus.TUPLES_CHUNK,
    pq.ExecStatus.TUPLES_OK,
    pq.ExecStatus.COMMAND_OK,
)


def _begin_copy(pgconn: pq.abc.PGconn, command: bytes) -> PQGen[None]:
    pgconn.send_query(command)
    _checked(pgconn, (yield from generators.execute(pgconn)), pq.ExecStatus.COPY_OUT)


def _receive(pgconn: pq.abc.PGconn) -> PQGen[None]:
    while not (yield Wait.R):
        pass
    pgconn.consume_input()


def _end_copy(pgconn: pq.abc.PGconn) -> PQGen[None]:
    _checked(pgconn, (yield from generators.fetch_many(pgconn)), pq.ExecStatus.COMMAND_OK)


def _checked(pgconn: pq.abc.PGconn, results: list[pq.abc.PGresult], wanted: pq.ExecStatus) -> None:
    for result in results:
        if result.status != wanted:
            raise _error(pgconn, result)


def _error(pgconn: pq.abc.PGconn, result: pq.abc.PGresult) -> psycopg.Error:
    encoding = pgconn.parameter_status(b"client_encoding") or b"utf-8"
    return psycopg.errors.error_from_result(result, encoding=_python_name(encoding))


def _python_name(encoding: bytes) -> str:
    name = psycopg._encodings.pg2pyenc(encoding)  # noqa: SLF001  # what psycopg itself asks
    return str(name)


def _drained(pgconn: pq.abc.PGconn, deadline: float) -> bool:
    """Throw away what is still to come of an answer; False when the deadline comes first."""
    poll = select.poll()
    poll.register(pgconn.socket, select.POLLIN)
    while True:
        while not pgconn.is_busy():
            result = pgconn.get_result()
            if result is None:
                return True
            if result.status == pq.ExecStatus.COPY_OUT:  # it would come again and again
                return False
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(math.ceil(left * 1000)):
            return False
        pgconn.consume_input()


def _wait_for_end(link: socket.socket, deadline: float) -> bool:
    poll = select.poll()
    poll.register(link, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0 and poll.poll(math.ceil(left * 1000)):
        try:
            if not link.recv(4096):
                return True
        except OSError:
            return True
    return False


def connect(conninfo: str, deadline: float, wire: Wire) -> Connection:
    """Open one connection to one address before `deadline` (of `time.monotonic`).

    `conninfo` names at most one host, as an address where it is not a socket. Raises
    `ConnectFailed`, `ConnectTimeout`, `WireCut`; the socket is closed then.
    """
    pgconn = pq.PGconn.connect_start(conninfo.encode())
    try:
        _set_verbosity(pgconn, _VERBOSE)
        _handshake(pgconn, deadline, wire)
        pgconn.nonblocking = 1
        _set_verbosity(pgconn, _DEFAULT)
    except BaseException:
        pgconn.finish()
        raise
    connection = Connection(pgconn)
    connection.wire = wire
    connection.prepared = Prepared()
    connection.prepare_threshold = None  # 0A000 after ALTER EXTENSION, 42P05 through poolers
    connection.deadline = deadline
    connection.set_autocommit(True)
    return connection


def _handshake(pgconn: pq.abc.PGconn, deadline: float, wire: Wire) -> None:
    status: int = _FAILED if pgconn.status == pq.ConnStatus.BAD else pq.PollingStatus.WRITING
    while status != pq.PollingStatus.OK:
        if status == _FAILED:
            raise ConnectFailed(pgconn.get_error_message("utf-8"))
        poll = select.poll()
        poll.register(pgconn.socket, _POLL_EVENTS[pq.PollingStatus(status)])
        left = deadline - time.monotonic()
        with wire.holding(pgconn.socket):
            ready = poll.poll(math.ceil(left * 1000)) if left > 0 else []
        if wire.is_cut:
            raise WireCut
        if not ready:
            phase = _PHASES.get(pq.ConnStatus(pgconn.status))
            raise SessionTimeout("log-in") if phase is None else ConnectTimeout(phase)
        status = pgconn.connect_poll()


_FAILED = pq.PollingStatus.FAILED
_PHASES = {
    pq.ConnStatus.STARTED: "TCP connection",
    pq.ConnStatus.MADE: "first answer",
    pq.ConnStatus.SSL_STARTUP: "TLS handshake",
    pq.ConnStatus.GSS_STARTUP: "GSSAPI handshake",
}


def _verbosity_function() -> Callable[[ctypes.c_void_p, int], int] | None:
    """Find PQsetErrorVerbosity in the libpq that psycopg's extension brings along.

    psycopg does not wrap it, but hands out the pointer for such calls (`PGconn.pgconn_ptr`). With
    it a refusal at log-in carries its SQLSTATE, which does not depend on the server's language.
    """
    extension = sys.modules.get(f"psycopg_{pq.__impl__}.pq")
    path = getattr(extension, "__file__", None)
    if path is None:
        return None
    try:
        function = ctypes.CDLL(path).PQsetErrorVerbosity
    except (OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_void_p, ctypes.c_int)
    function.restype = ctypes.c_int
    return function


_verbosity = _verbosity_function()


def _set_verbosity(pgconn: pq.abc.PGconn, verbosity: int) -> None:
    pointer = getattr(pgconn, "pgconn_ptr", None)  # missing in psycopg's protocol class
    if _verbosity is not None and pointer is not None:
        _verbosity(ctypes.c_void_p(pointer), verbosity)
