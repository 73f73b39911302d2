"""A real PgBouncer in front of a server."""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from tests.support import process
from tests.support.lab.server import LabMissing, Server
from tests.support.ports import free_port
from tests.support.scratch import new_directory
from tests.support.until import until

_CONFIGURATION = """\
[databases]
* = host={host} port={server_port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
admin_users = postgres
pool_mode = {mode}
default_pool_size = {size}
max_client_conn = 100
"""


@dataclass(frozen=True)
class PgBouncer:
    """A running pooler; dsn() goes through it to the server behind."""

    port: int
    server: Server

    def dsn(self, user: str = "pgcollector", dbname: str = "postgres", **more: Any) -> str:
        return make_conninfo(
            "", **{"host": "127.0.0.1", "port": self.port, "user": user, "dbname": dbname, **more}
        )


@contextmanager
def start_pgbouncer(
    server: Server, *, mode: str = "transaction", size: int = 5
) -> Iterator[PgBouncer]:
    """Run PgBouncer for `server` with `size` sessions per user and database.

    Raises LabMissing when it is not installed.
    """
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/sbin")
    if program is None:
        raise LabMissing("PgBouncer is not installed: apt-get install pgbouncer")
    place = process.give(new_directory("pgbouncer"))
    users = place / "users"
    users.write_text("".join(f'"{name}" ""\n' for name in ("postgres", "pgcollector", "plain")))
    bouncer = PgBouncer(free_port(), server)
    settings = place / "pgbouncer.ini"
    settings.write_text(
        _CONFIGURATION.format(
            host=server.host, server_port=server.port, port=bouncer.port, users=users,
            mode=mode, size=size,
        )
    )  # fmt: skip
    log = place / "log"
    running = process.spawn([program, settings], log, dying=signal.SIGKILL)
    try:
        until(lambda: _answers(bouncer, running), 20.0, f"PgBouncer answers; see {log}",
              not_yet=(psycopg.OperationalError,))  # fmt: skip
        yield bouncer
    finally:
        process.end(running, signal.SIGINT)
        shutil.rmtree(place, ignore_errors=True)


def _answers(bouncer: PgBouncer, running: subprocess.Popen[bytes]) -> bool:
    if running.poll() is not None:
        raise RuntimeError("PgBouncer has ended")
    psycopg.connect(bouncer.dsn("postgres", "pgbouncer"), autocommit=True).close()
    return True
