"""Sessions that act in a condition: each does one thing at a time, and no thread is needed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.pq import ExecStatus

from tests.support.lab.server import Database
from tests.support.until import until


class Session:
    """One superuser session, known by its application_name."""

    def __init__(self, database: Database, name: str, **more: Any) -> None:
        self.name = name
        self.connection: psycopg.Connection[Any] = database.connect(application_name=name, **more)
        self.pid = self.connection.info.backend_pid

    def do(self, sql: str) -> None:
        """Run a statement and wait for its end."""
        self.connection.execute(sql)

    def send(self, sql: str | bytes) -> None:
        """Start a statement and do not wait: it may block, or last."""
        self.connection.pgconn.send_query(sql.encode() if isinstance(sql, str) else sql)

    def outcome(self, deadline: float = 10.0) -> str | None:
        """Wait for the end of what `send` started; return its SQLSTATE, None when it went well."""
        wire = self.connection.pgconn

        def ended() -> bool:
            wire.consume_input()
            return not wire.is_busy()

        state = None
        while True:
            until(ended, deadline, f"the statement of {self.name} ended")
            result = wire.get_result()
            if result is None:
                return state
            if result.status == ExecStatus.FATAL_ERROR:
                code = result.error_field(psycopg.pq.DiagnosticField.SQLSTATE)
                state = code.decode() if code else "?????"


@contextmanager
def sessions(database: Database, *names: str, **more: Any) -> Iterator[list[Session]]:
    """Open a session per name; at the end all are terminated and gone from the server."""
    opened: list[Session] = []
    try:
        for name in names:
            opened.append(Session(database, name, **more))  # noqa: PERF401 - close what opened
        yield opened
    finally:
        pids = [one.pid for one in opened]
        for one in opened:
            one.connection.close()
        _end(database, pids)


def _end(database: Database, pids: list[int]) -> None:
    if not database.server.running:
        return
    with database.server.connect() as lab:
        lab.execute("select pg_terminate_backend(pid) from pg_stat_activity where pid = any(%s)",
                    [pids])  # fmt: skip
        left = "select pid from pg_stat_activity where pid = any(%s)"
        until(lambda: not lab.execute(left, [pids]).fetchall(), 20.0, "the sessions are gone")
