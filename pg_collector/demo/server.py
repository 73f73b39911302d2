"""A PostgreSQL server that nobody else knows of: made, started, stopped, and gone with us."""

import contextlib
import ctypes
import logging
import os
import secrets
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import psycopg

from pg_collector.demo import binaries
from pg_collector.demo.place import Place
from pg_collector.errors import StateError

log = logging.getLogger(__name__)

HOST: Final = "127.0.0.1"
SUPERUSER: Final = "postgres"

_SETTINGS: Final = {
    "autovacuum_naptime": "10s",
    "checkpoint_timeout": "30s",
    "deadlock_timeout": "500ms",
    "fsync": "off",  # it lives for minutes
    "jit": "off",
    "listen_addresses": HOST,
    "log_min_error_statement": "panic",
    "max_connections": "40",
    "max_slot_wal_keep_size": "64MB",  # what an abandoned slot may hold back here
    "max_wal_size": "64MB",
    "min_wal_size": "8MB",
    "password_encryption": "scram-sha-256",
    "pg_stat_statements.track": "all",
    "shared_buffers": "32MB",
    "shared_preload_libraries": "pg_stat_statements",
    "track_io_timing": "on",
    "unix_socket_permissions": "0700",
}

_INITDB_ENDS: Final = 60.0  # seconds
_READY_WITHIN: Final = 30.0
_STEP: Final = 0.05
_FAST, _AT_ONCE, _BY_FORCE = 2.5, 1.0, 0.5  # seconds that each way to stop may take
_PORTS_TRIED: Final = 3
_PR_SET_PDEATHSIG: Final = 1


class Interrupted(Exception):
    """The demo was told to end before it stood."""


class Server:
    """One server below `place`. Everything here happens in the main thread, but `connect`."""

    def __init__(self, place: Place, tree: Path, stopping: threading.Event) -> None:
        """`tree` holds bin, lib and share; `stopping` ends every wait with Interrupted."""
        self.place = place
        self.tree = tree
        self.port = 0
        self.version = ""  # "18.6", once it answers
        self._stopping = stopping
        self._password = secrets.token_urlsafe(24)
        self._process: subprocess.Popen[bytes] | None = None
        self._log = place.path / "log"

    def make(self) -> None:
        """Make the cluster. Raises StateError with what initdb said where it fails."""
        data = self.place.folder("data")
        self.place.folder("run")
        given = self.place.write("superuser", self._password + "\n", for_server=True)
        command: list[str | Path] = [
            self.tree / "bin" / "initdb",
            f"--pgdata={data}",
            f"--username={SUPERUSER}",
            f"--pwfile={given}",
            "--auth=scram-sha-256",  # other accounts of this machine can reach the port
            "--encoding=UTF8",
            "--locale=C",
            "--wal-segsize=1",
            "--no-sync",
            "--no-instructions",
            *(f"--set={name}={value}" for name, value in _SETTINGS.items()),
        ]
        process = self._spawn(command, dying=signal.SIGKILL)
        try:
            self._ended(process, _INITDB_ENDS)
        finally:
            process.kill()
            process.wait(_BY_FORCE)
            given.unlink()
        if process.returncode != 0:
            raise StateError(f"initdb failed: {self._said()}", remedy=_LOOK)

    def start(self, *, survives: bool) -> None:
        """Start on a free port, and wait until it answers.

        It dies with this process, unless it `survives`. Raises StateError with the server's own
        words where it does not come up.
        """
        for _ in range(_PORTS_TRIED):
            self.port = free_port()
            begin = self._log.stat().st_size
            command: list[str | Path] = [
                self.tree / "bin" / "postgres",
                "-D", self.place.path / "data",
                "-p", str(self.port),
                "-k", self.place.path / "run",
            ]  # fmt: skip
            self._process = self._spawn(command, dying=None if survives else signal.SIGQUIT)
            if self._answers():
                return
            if "Address already in use" not in self._said(begin):
                break
        raise StateError(f"PostgreSQL did not start: {self._said()}", remedy=_LOOK)

    @property
    def running(self) -> bool:
        """Whether the server's process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The postmaster's process id; 0 before it was started."""
        return self._process.pid if self._process is not None else 0

    def last_words(self) -> str:
        """Return the end of the server's log, which holds no statements."""
        return self._said()

    def stop(self) -> None:
        """Stop it: its sessions end, then the process; within four seconds whatever it does."""
        process = self._process
        if process is None:
            return
        for how, seconds in ((signal.SIGINT, _FAST), (signal.SIGQUIT, _AT_ONCE)):
            process.send_signal(how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
                return
        # Nothing else ends processes that somebody has frozen, and each stands for itself.
        for pid in (process.pid, *_children(process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            process.wait(_BY_FORCE)
        except subprocess.TimeoutExpired:
            log.error("the demo's PostgreSQL (pid %d) did not end", process.pid)

    def connect(
        self, name: str, *, dbname: str = "postgres", user: str = SUPERUSER, password: str = ""
    ) -> psycopg.Connection[Any]:
        """Return a session in autocommit; `name` is its application_name.

        Parameters are merged into the text on our side, as many frameworks do it.
        """
        return psycopg.connect(
            host=HOST,
            port=self.port,
            dbname=dbname,
            user=user,
            password=password or self._password,
            application_name=name,
            sslmode="disable",
            connect_timeout=5,
            options="-c statement_timeout=15s",
            autocommit=True,
            cursor_factory=psycopg.ClientCursor,
        )

    def end_sessions(self, user: str) -> None:
        """End every session of a role."""
        try:
            with self.connect("demo") as session:
                session.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s",
                    [user],
                )
        except psycopg.Error as error:
            log.warning("the sessions of %s go on: %s", user, error.sqlstate)

    def pass_file(self) -> Path:
        """Write libpq's password file for the superuser, and return its path."""
        return self.place.write("pgpass", f"{HOST}:{self.port}:*:{SUPERUSER}:{self._password}\n")

    def _answers(self) -> bool:
        """Wait for the first session; False where the process ended instead."""
        deadline = time.monotonic() + _READY_WITHIN
        while time.monotonic() < deadline:
            self._check()
            if not self.running:
                return False
            try:
                with self.connect("demo") as session:
                    self.version = session.info.parameter_status("server_version") or ""
            except psycopg.OperationalError:
                self._stopping.wait(_STEP)
            else:
                return True
        return False

    def _ended(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < deadline:
            self._check()
            self._stopping.wait(_STEP)

    def _check(self) -> None:
        if self._stopping.is_set():
            raise Interrupted

    def _spawn(
        self, command: Sequence[str | Path], dying: signal.Signals | None
    ) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as sink:
            return subprocess.Popen(  # noqa: S603  # programs of the package
                command,
                **self.place.account.popen(),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                cwd="/",
                env=binaries.environment(),
                start_new_session=True,  # Ctrl-C is for us; we end it in our order
                # Safe: no other thread runs yet, and no library call but prctl follows.
                preexec_fn=_bound_to_us(dying) if dying is not None else None,  # noqa: PLW1509
            )

    def _said(self, begin: int = 0) -> str:
        text = self._log.read_bytes()[begin:].decode(errors="replace")
        lines = [line for line in text.splitlines() if line.strip()]
        return " | ".join(lines[-4:])[-800:]


_LOOK: Final = "If this does not tell why, set TMPDIR to another volume and try again."


def free_port() -> int:
    """Return a TCP port of the loopback address that nobody uses now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _children(parent: int) -> list[int]:
    """Return the pids of a process's children, from proc(5): the fourth field of stat."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            after_name = stat.read_text(errors="replace").rpartition(")")[2].split()
            if int(after_name[1]) == parent:
                found.append(int(stat.parent.name))
    return found


def _bound_to_us(how: signal.Signals) -> Callable[[], None]:
    """Return what makes a child get the signal `how` when the thread that starts it ends.

    prctl(2), PR_SET_PDEATHSIG; it must follow the change of the account, which clears it. Systems
    without it have the server left over where the demo is killed.
    """
    try:
        prctl = ctypes.CDLL(None).prctl
    except AttributeError:
        return lambda: None
    parent = os.getpid()

    def bind() -> None:
        prctl(_PR_SET_PDEATHSIG, int(how), 0, 0, 0)
        if os.getppid() != parent:  # it ended before we asked
            os._exit(1)

    return bind
