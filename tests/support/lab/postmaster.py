"""Run one PostgreSQL server on a data directory that exists."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import Any, Self

import psutil
import psycopg
from psycopg.conninfo import make_conninfo

from tests.support import process
from tests.support.lab.binaries import Binaries
from tests.support.ports import free_port
from tests.support.until import until

# Fast, tiny, the same every time. Autovacuum and timed checkpoints would act on their own.
DEFAULTS: Mapping[str, str] = {
    "autovacuum": "off",
    "checkpoint_timeout": "1h",
    "deadlock_timeout": "100ms",
    "fsync": "off",
    "full_page_writes": "off",
    "jit": "off",
    "lc_messages": "C",
    "log_line_prefix": "%m [%p] %a ",
    "log_timezone": "UTC",
    "max_connections": "40",
    "max_replication_slots": "8",
    "max_wal_senders": "8",
    "max_worker_processes": "4",
    "password_encryption": "scram-sha-256",  # the default from 14 on
    "pg_stat_statements.max": "12000",
    "pg_stat_statements.track": "all",
    "shared_buffers": "16MB",
    "shared_preload_libraries": "pg_stat_statements",
    "timezone": "UTC",
    "track_io_timing": "on",
    "wal_level": "logical",
}


class Stop(Enum):
    """How a server is told to stop."""

    FAST = signal.SIGINT  # ends its sessions, writes a checkpoint
    SMART = signal.SIGTERM  # waits for its sessions
    IMMEDIATE = signal.SIGQUIT  # as after a power cut: recovery at the next start


class Postmaster:
    """One server process, its settings and its files. `base` holds data, log, and socket."""

    def __init__(
        self,
        binaries: Binaries,
        base: Path,
        *,
        settings: Mapping[str, str] | None = None,
        host: str = "127.0.0.1",
        inside: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.binaries, self.base, self.host = binaries, base, host
        self.settings = {**DEFAULTS, **(settings or {})}
        self.port = free_port()
        self._inside, self._environment = inside, environment
        self._process: subprocess.Popen[bytes] | None = None
        self._paused: subprocess.Popen[bytes] | None = None
        process.give(base)

    @property
    def major(self) -> int:
        return self.binaries.major

    @property
    def data(self) -> Path:
        return self.base / "data"

    @property
    def log(self) -> Path:
        return self.base / "log"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server was not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    # --- start and stop

    def start(self, *, wait: bool = True) -> Self:
        """Start; return when it accepts sessions. RuntimeError with the log when it exits."""
        for _ in range(5):
            self._write_settings()
            begin = self.log.stat().st_size if self.log.exists() else 0
            command = (self.binaries.program("postgres"), "-D", self.data)
            self._process = process.spawn(
                command, self.log, dying=signal.SIGQUIT,
                inside=self._inside, extra=self._environment,
            )  # fmt: skip
            if not wait or self._became_ready(begin):
                return self
            self.port = free_port(self.host if not self._inside else "127.0.0.1")
        raise RuntimeError(f"PostgreSQL {self.major} found no free port")

    def _became_ready(self, begin: int) -> bool:
        """Wait until it answers; False when its port was taken by another process."""
        try:
            self.wait_ready()
        except RuntimeError:
            said = self.log.read_bytes()[begin:].decode(errors="replace")
            if "Address already in use" in said:
                return False
            raise RuntimeError(f"PostgreSQL {self.major} did not start: {said[-2000:]}") from None
        return True

    def wait_ready(self, deadline: float = 30.0) -> None:
        """Wait until a superuser can connect; RuntimeError when the process has ended."""

        def answers() -> bool:
            if not self.running:
                raise RuntimeError(f"PostgreSQL {self.major} has ended: {self.log}")
            self.connect().close()
            return True

        until(answers, deadline, f"PostgreSQL {self.major} accepts sessions",
              not_yet=(psycopg.OperationalError,))  # fmt: skip

    def stop(self, how: Stop = Stop.FAST) -> None:
        """Stop and wait until the process has ended."""
        self.resume()
        if self._process is not None:
            process.end(self._process, how.value)

    def restart(self, settings: Mapping[str, str] | None = None, how: Stop = Stop.FAST) -> None:
        """Stop, take over `settings`, start again on the same port."""
        self.stop(how)
        self.settings.update(settings or {})
        self.start()

    def reconfigure(self, settings: Mapping[str, str]) -> None:
        """Take over `settings` that need no restart; new sessions have them on return."""
        self.settings.update(settings)
        self._write_settings()
        self.reload()

    def reload(self) -> None:
        """Have the configuration, pg_hba.conf and certificates read again."""
        before = self.query("select pg_conf_load_time()")
        os.kill(self.pid, signal.SIGHUP)
        until(lambda: self.query("select pg_conf_load_time()") != before, what="reload")

    def destroy(self) -> None:
        """Stop at once and remove the files."""
        self.stop(Stop.IMMEDIATE)
        shutil.rmtree(self.base, ignore_errors=True)

    def _write_settings(self) -> None:
        settings = {
            **self.settings,
            "listen_addresses": self.host,
            "port": str(self.port),
            "unix_socket_directories": str(self.base),
        }
        lines = (f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n"
                 for name, value in settings.items())  # fmt: skip
        (self.data / "postgresql.conf").write_text("".join(lines))

    # --- faults

    def kill_backend(self, pid: int) -> None:
        """End one server process as the kernel's OOM killer does.

        On return the server has noticed and ended all the others; it recovers: wait_ready().
        """
        children = psutil.Process(self.pid).children()
        os.kill(pid, signal.SIGKILL)
        _, left = psutil.wait_procs(children, timeout=20)
        assert not left, f"processes that outlived a crash: {left}"

    def pause(self) -> None:
        """Freeze every process of the server (SIGSTOP): the kernel answers, nobody else."""
        postmaster = psutil.Process(self.pid)
        postmaster.suspend()  # first: no new children then
        children = postmaster.children(recursive=True)
        for child in children:
            with suppress(psutil.NoSuchProcess):  # a session that was just closed
                child.suspend()
        pids = [str(one.pid) for one in (*children, postmaster)]
        # This waits for the end of its input: also when we are killed, the server goes on and dies.
        self._paused = subprocess.Popen(
            ["/bin/sh", "-c", 'read _; kill -CONT "$@"', "sh", *pids],
            stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def resume(self) -> None:
        """Let a paused server go on (SIGCONT); harmless when it is not paused."""
        if self._paused is not None:
            self._paused.communicate(timeout=10)
            self._paused = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Freeze the server inside a with block."""
        self.pause()
        try:
            yield
        finally:
            self.resume()

    # --- sessions

    def dsn(self, user: str = "pgcollector", dbname: str = "postgres", **more: Any) -> str:
        """Return a TCP connection string; `more` are libpq's parameters and win."""
        return make_conninfo(
            "", **{"host": self.host, "port": self.port, "user": user, "dbname": dbname, **more}
        )

    def connect(self, dbname: str = "postgres", **more: Any) -> psycopg.Connection[Any]:
        """Return a superuser's session in autocommit, over the Unix socket, whatever TCP does."""
        where = {"host": str(self.base), "port": self.port, "dbname": dbname, "user": "postgres",
                 "connect_timeout": 5, "application_name": "lab", **more}  # fmt: skip
        return psycopg.connect(**where, autocommit=True)

    def query(
        self, sql: str, parameters: Sequence[Any] | None = None, *, dbname: str = "postgres"
    ) -> list[tuple[Any, ...]]:
        """Run one statement as a superuser in its own session; return its rows, if it has any."""
        with self.connect(dbname) as session:
            cursor = session.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else []

    def value(self, sql: str, parameters: Sequence[Any] | None = None, **more: Any) -> Any:
        """Return the first column of the first row."""
        return self.query(sql, parameters, **more)[0][0]
