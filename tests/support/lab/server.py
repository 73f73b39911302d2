"""A throw-away PostgreSQL server, ready in a fraction of a second."""

import fcntl
import hashlib
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

from tests.support import process
from tests.support.lab import binaries as found
from tests.support.lab import home
from tests.support.lab.binaries import Binaries
from tests.support.lab.postmaster import Postmaster
from tests.support.pki import Pki
from tests.support.scratch import new_directory
from tests.support.until import until

# What every server has. `plain` can do nothing but log in.
SETUP = """
create extension pg_stat_statements;
create role pgcollector login connection limit 2;
grant pg_monitor to pgcollector;
create role plain login;
"""
# The lab's own door, before any line of a test.
_LOCAL = ("local all postgres trust", "host replication postgres 127.0.0.1/32 trust")
TRUST = ("local all all trust", "host all all 127.0.0.1/32 trust")


class LabMissing(Exception):
    """This machine has not what the test needs; the message names the remedy."""


def binaries(major: int) -> Binaries:
    """Return the binaries of `major`; LabMissing when they are not installed."""
    if (there := found.find(major)) is None:
        raise LabMissing(f"PostgreSQL {major} is not installed: run `make lab`")
    return there


class Server(Postmaster):
    """One server with its own copy of a prepared data directory.

    `settings` come on top of DEFAULTS; `hba` replaces trust on loopback; with `tls` the server
    speaks TLS with the server certificate of that PKI and knows its CA; `inside` is the command
    prefix of a network namespace and `host` the address there. Use as a context manager.
    """

    def __init__(
        self,
        major: int,
        *,
        settings: Mapping[str, str] | None = None,
        hba: Sequence[str] = TRUST,
        tls: Pki | None = None,
        host: str = "127.0.0.1",
        inside: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        programs = binaries(major)
        super().__init__(
            programs, new_directory(f"pg{major}"),
            settings=settings, host=host, inside=inside, environment=environment,
        )  # fmt: skip
        copy(template(programs), self.data)
        self._write_hba(hba)
        if tls is not None:
            self._take_certificates(tls)

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.destroy()

    def allow(self, hba: Sequence[str]) -> None:
        """Replace the test's lines of pg_hba.conf; they hold on return."""
        self._write_hba(hba)
        self.reload()

    def database(self, name: str = "postgres") -> "Database":
        """Return one of its databases, which must exist."""
        return Database(self, name)

    def vacated(self) -> Self:
        """Wait until the collector's role, which has two places, has no session here any more."""
        mine = "select pid from pg_stat_activity where usename = 'pgcollector'"
        until(lambda: not self.query(mine), what="both places of the role are free")
        return self

    def _write_hba(self, lines: Sequence[str]) -> None:
        (self.data / "pg_hba.conf").write_text("\n".join([*_LOCAL, *lines, ""]))

    def _take_certificates(self, pki: Pki) -> None:
        if not self.binaries.tls:
            raise LabMissing(f"this PostgreSQL {self.major} has no TLS: run `make lab`")
        for source, name in (
            (pki.server.certificate, "server.crt"),
            (pki.server.key, "server.key"),
            (pki.ca, "ca.crt"),
        ):
            process.give(Path(shutil.copy(source, self.base / name)), 0o600)
        self.settings |= {
            "ssl": "on",
            "ssl_cert_file": str(self.base / "server.crt"),
            "ssl_key_file": str(self.base / "server.key"),
            "ssl_ca_file": str(self.base / "ca.crt"),
        }


@dataclass(frozen=True)
class Database:
    """One database of a server."""

    server: Server
    name: str

    def dsn(self, user: str = "pgcollector", **more: Any) -> str:
        return self.server.dsn(user, self.name, **more)

    def connect(self, **more: Any) -> psycopg.Connection[Any]:
        return self.server.connect(self.name, **more)

    def query(self, sql: str, parameters: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
        return self.server.query(sql, parameters, dbname=self.name)

    def value(self, sql: str, parameters: Sequence[Any] | None = None) -> Any:
        return self.query(sql, parameters)[0][0]

    def drop(self) -> None:
        """Remove it with the sessions and logical slots that hold it."""
        ended = "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s"
        slots = "select pg_drop_replication_slot(slot_name) from pg_replication_slots "
        self.server.query(ended, [self.name])
        self.server.query(f"{slots} where database = %s and not active", [self.name])
        force = " with (force)" if self.server.major >= 13 else ""
        self.server.query(f'drop database if exists "{self.name}"{force}')


def template(programs: Binaries) -> Path:
    """Return a stopped data directory with SETUP applied; made once per account and binaries."""
    uid, _ = process.owner()
    setup = hashlib.sha256(SETUP.encode()).hexdigest()[:8]
    name = f"pg{programs.major}-{programs.key()}-{setup}-{uid}"
    make = partial(_make_template, programs)
    return made_once(home.own() / "templates" / name, str(programs.major), make)


def made_once(target: Path, lock: str, make: Callable[[Path], None]) -> Path:
    """Return a directory that is made the first time; `lock` names what processes wait for."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".lock-{lock}").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not target.is_dir():
            make(target)
    return target


def copy(source: Path, target: Path) -> None:
    """Copy a data directory with its owner and modes; shares blocks where the disk can."""
    subprocess.run(["cp", "-a", "--reflink=auto", str(source), str(target)], check=True)


def _make_template(programs: Binaries, target: Path) -> None:
    with ExitStack() as stack:
        base = new_directory("template")
        maker = Postmaster(programs, base)
        stack.callback(maker.destroy)
        process.run(
            [programs.program("initdb"), "-D", maker.data, "-U", "postgres", "-A", "trust",
             "-E", "UTF8", "--no-locale", "--no-sync"],
        )  # fmt: skip
        maker.start()
        with maker.connect() as session:
            session.execute(SETUP)
        maker.stop()
        new = target.with_name(f".{target.name}")
        shutil.rmtree(new, ignore_errors=True)
        copy(maker.data, new)
        new.rename(target)
