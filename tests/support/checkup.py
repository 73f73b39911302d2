"""A place to seed faults for `pgc check`, to see them told, and to do what it says."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import yaml

from pg_collector.checkup import config as configuration
from pg_collector.checkup import run
from pg_collector.checkup.asked import Asked
from pg_collector.checkup.finding import Finding, Level, Part
from pg_collector.cli.options import Source
from pg_collector.errors import ConfigurationError
from tests.support.lab.server import Server
from tests.support.pki import Leaf, Pki
from tests.support.scratch import new_directory
from tests.support.until import until

PGC = [sys.executable, "-m", "pg_collector"]
TRUST = ("host all all 127.0.0.1/32 trust",)
PATH = f"{os.environ['PATH']}:/usr/sbin:/usr/bin:/sbin:/bin"


class Bench:
    """A configuration file for one server, which the test writes anew, and the check of it."""

    def __init__(self, server: Server, pki: Pki) -> None:
        self.server = server
        self.pki = pki
        self.home = new_directory("check")
        self.file = self.home / "config.yaml"
        self.stack = ExitStack()
        self.name = "prod"
        self.keys: dict[str, Any] = {
            "databases": [{"name": self.name, "postgres": {}}],
            "state_dir": str(self.home),
            "sampling": {"enabled": {"bloat": False}},
        }
        self.environ = {
            "PATH": PATH, "HOME": str(self.home), "RUNTIME_DIRECTORY": str(self.home),
            "LANG": "C.UTF-8",
        }  # fmt: skip
        self.dsn("pgcollector")

    # --- the configuration

    @property
    def postgres(self) -> dict[str, Any]:
        """The section of the target's connection."""
        section: dict[str, Any] = self.keys["databases"][0]["postgres"]
        return section

    def dsn(self, user: str, dbname: str = "postgres", **more: Any) -> None:
        """Connect so from now on, without TLS unless `sslmode` says otherwise."""
        where = {"sslmode": "disable", **more}
        known = {name: value for name, value in where.items() if value is not None}
        self.postgres["conn_string"] = self.server.dsn(user, dbname, **known)

    def secured(self, **tls: Any) -> None:
        """Connect with TLS and verify the server."""
        self.dsn("pgcollector", sslmode=None, host="localhost", hostaddr="127.0.0.1")
        self.postgres["tls"] = {"ca_file": str(self.pki.ca), **tls}

    def own(self, leaf: Leaf, name: str) -> Path:
        """Write a client certificate and its key, mode 0600; return the certificate's path."""
        cert = self.home / f"{name}.crt"
        cert.write_bytes(leaf.certificate.read_bytes())
        key = cert.with_suffix(".key")
        key.unlink(missing_ok=True)
        key.touch(mode=0o600)
        key.write_bytes(leaf.key.read_bytes())
        return cert

    def secret(self, text: str, name: str = "password", mode: int = 0o600) -> Path:
        """Write a file that holds a secret."""
        path = self.home / name
        path.write_text(f"{text}\n")
        path.chmod(mode)
        return path

    def write(self) -> None:
        """Write the configuration file, readable for its owner and group alone."""
        if not self.file.exists():
            self.file.touch(mode=0o640)
        self.file.write_text(yaml.safe_dump(self.keys))

    # --- the check

    def check(self, *parts: Part, timeout: float = 30.0, network: bool = True) -> list[Finding]:
        """Look at everything, or at these parts, in this process."""
        self.write()
        until_then = time.monotonic() + timeout
        try:
            loaded = Source(self.file, ()).load()
        except ConfigurationError as error:
            return [*configuration.invalid(error)]
        chosen = frozenset(parts or Part)
        asked = Asked(loaded, self.environ, chosen, until_then, network=network)
        return [*run.findings(asked)]

    def pgc(self, *words: str, named: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run a verb in a process of its own, on the configuration file as it is if `named`."""
        return subprocess.run(
            [*PGC, *words, *(["--config", str(self.file)] if named else [])],
            env={**self.environ, "PYTHONPATH": ":".join(filter(None, sys.path))},
            cwd=self.home, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    def told(self, *words: str) -> tuple[int, list[dict[str, Any]]]:
        """Run `pgc check --json` in a process; return its exit code and what it found."""
        self.write()
        done = self.pgc("check", "--json", *words)
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    # --- what it says

    def sql(self, *statements: str, dbname: str = "postgres") -> None:
        """Run SQL as a superuser, each statement alone."""
        with self.server.connect(dbname) as session:
            session.autocommit = True
            for statement in statements:
                session.execute(statement.encode())

    def follow(self, remedy: str, dbname: str = "postgres") -> None:
        """Run the SQL of a remedy, without its comments, as psql would."""
        plain = re.sub(r"--.*", "", remedy)
        self.sql(*filter(None, (one.strip() for one in plain.split(";"))), dbname=dbname)

    def shell(self, remedy: str) -> None:
        """Run the command of a remedy."""
        done = subprocess.run(
            ["/bin/sh", "-ec", remedy], env=self.environ, cwd=self.home, capture_output=True,
            text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{remedy}: {done.stderr}"

    @contextmanager
    def session(self, user: str, **more: Any) -> Iterator[psycopg.Connection[Any]]:
        """Hold a session of somebody."""
        with psycopg.connect(self.server.dsn(user, **more), autocommit=True) as session:
            yield session

    def close(self) -> None:
        """Undo what is left: the shared server is as it was."""
        self.stack.close()
        mine = "select 1 from pg_stat_activity where usename = 'pgcollector'"
        until(lambda: not self.server.query(mine), what="the role's sessions are gone")


def bad(findings: list[Finding], section: str) -> list[Finding]:
    """Return what is not well in a section."""
    return [one for one in findings if one.section == section and one.level is not Level.OK]
