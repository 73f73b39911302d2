"""What somebody who follows a guide has: servers, a platform, files of a release, commands."""

import hashlib
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.conftest import chosen_majors
from tests.support import containers
from tests.support.follower import Follower
from tests.support.lab.server import Server
from tests.support.packaged import Host
from tests.support.pki import Pki
from tests.support.ports import free_port
from tests.support.reference_platform import ReferencePlatform
from tests.support.scratch import new_directory

PLACE: Final = "/var/tmp/reader"  # noqa: S108  # a directory in a system of the test's own
PASSWORD: Final = "a password, with 'quotes' and $igns"  # noqa: S105
_BY_PASSWORD: Final = (
    "hostssl all postgres,master 127.0.0.1/32 trust",
    "hostssl all pgcollector 127.0.0.1/32 scram-sha-256",
)


class Platform(ReferencePlatform):
    """A platform in a network of its own."""

    def __init__(self, directory: Path, inside: Sequence[str]) -> None:
        """`inside` runs a command in that network."""
        super().__init__(directory, port=free_port())
        self._inside = inside

    def start(self, *, wait: bool = False) -> None:
        assert not wait, "nobody out here can ask it"
        with self.log.open("ab") as sink:
            self.process = subprocess.Popen(
                [*self._inside, sys.executable, "-m", "pg_collector", "platform", "start",
                 str(self.directory), "--listen", f"127.0.0.1:{self.port}"],
                stdout=sink, stderr=sink, stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def rows(self, sql: str) -> list[Any]:
        """Ask its database; it is stopped for that, as one process at a time opens it."""
        if self.process is not None and self.process.poll() is None:
            self.stop()
        return list(self.query(sql))


@contextmanager
def server_in(inside: Sequence[str], directory: Path) -> Iterator[Server]:
    """Run a PostgreSQL that speaks TLS in a network."""
    pki, newest = Pki(directory / "pki"), max(chosen_majors())
    with Server(newest, tls=pki, hba=_BY_PASSWORD, inside=inside) as server:
        yield server


def of_server(server: Server, administrator: str = "postgres") -> dict[str, str]:
    """Return what a reader of the guides knows of a server."""
    place = f"host=localhost port={server.port} dbname=postgres sslmode=require"
    return {
        "DB_HOST": "localhost",
        "DB_PORT": str(server.port),
        "ADMIN": f"{place} user={administrator}",
        "CA": "./ca.crt",
        "PASSWORD": PASSWORD,
        "PGPASSWORD": "unused",
    }


def handed_over(place: Path, release: Path, *files: Path) -> None:
    """Put a file of a release where the reader is, with its checksum, and others."""
    place.mkdir(exist_ok=True)
    for file in (release, *files):
        shutil.copyfile(file, place / file.name)
    digest = hashlib.sha256(release.read_bytes()).hexdigest()
    (place / "SHA256SUMS").write_text(f"{digest}  {release.name}\n")


# --- in a booted system


def network_of(host: Host) -> list[str]:
    """Return what runs a command in the network of a system."""
    return ["nsenter", "-t", str(host._init), "-n"]


def folder_in(host: Host) -> Path:
    """Return the reader's directory in a system, as the test sees it."""
    return host.root / PLACE.lstrip("/")


def reader_in(host: Host, values: Mapping[str, str]) -> Follower:
    """Return somebody who follows guides in a system, as an administrator."""

    def run(script: str) -> tuple[int, str]:
        done = host.run("bash", "-c", script, check=False, seconds=300.0)
        return done.returncode, done.stdout + done.stderr

    host.write("/etc/hosts", f"127.0.0.1 localhost {host.said('hostname')}\n")  # sudo asks for it
    (folder_in(host) / ".values").unlink(missing_ok=True)
    return Follower(run, PLACE, values)


# --- here


@contextmanager
def network() -> Iterator[list[str]]:
    """Make a network with nothing but a loopback; give what runs a command in it."""
    ready = "ip link set lo up && echo up && exec sleep infinity"
    with subprocess.Popen(
        ["unshare", "--net", "sh", "-c", ready], stdout=subprocess.PIPE, text=True
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "up\n"
            yield ["nsenter", "-t", str(holder.pid), "-n"]
        finally:
            holder.kill()


def reader_here(
    inside: Sequence[str], place: Path, programs: Sequence[Path], values: Mapping[str, str]
) -> Follower:
    """Return somebody who follows guides in a directory of this machine, as root.

    `programs` are directories of commands, before those of the system.
    """
    path = ":".join([*map(str, programs), "/usr/sbin:/usr/bin:/sbin:/bin"])

    def run(script: str) -> tuple[int, str]:
        done = subprocess.run(
            [*inside, "bash", "-c", script], capture_output=True, text=True, timeout=300,
            env={"PATH": path, "HOME": str(place), "LANG": "C.UTF-8"}, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    return Follower(run, str(place), values)


def commands(directory: Path, **texts: str) -> Path:
    """Write commands as lines of sh; return the directory."""
    directory.mkdir(exist_ok=True)
    for name, text in texts.items():
        file = directory / name
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)
    return directory


def as_docker() -> str:
    """Return a command that is podman, with what this kind of machine needs."""
    storage = new_directory("podman")  # its path has to be short
    podman = shlex.join(containers.Podman(storage)._command)
    here = shlex.join(containers.HERE)
    return f'case $1 in run) shift; set -- run {here} "$@";; esac\nexec {podman} "$@"'


def as_pgc() -> str:
    """Return a command that is pgc, of this checkout."""
    path = ":".join(filter(None, sys.path))
    python = shlex.quote(sys.executable)
    return f'PYTHONPATH={shlex.quote(path)} exec {python} -m pg_collector "$@"'
