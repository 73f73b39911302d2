"""A person who follows a guide word for word gets what it says.

Each guide is followed on a system of its own; what cannot run here is marked in the guide's source,
with the reason.
"""

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.packaged import Host, Packages, system

from pg_collector import __version__
from tests.conftest import chosen_majors
from tests.docs.markdown import ROOT
from tests.support import containers, roots
from tests.support.follower import Follower
from tests.support.lab.server import Server
from tests.support.pki import Pki
from tests.support.ports import free_port
from tests.support.reference_platform import ReferencePlatform
from tests.support.scratch import new_directory
from tests.support.until import until

pytestmark = [pytest.mark.long, pytest.mark.root, pytest.mark.timeout(900)]

READER = "/var/tmp/reader"  # noqa: S108  # a directory in a system of the test's own
BY_PASSWORD = (
    "hostssl all postgres 127.0.0.1/32 trust",
    "hostssl all pgcollector 127.0.0.1/32 scram-sha-256",
)
PASSWORD = "a password, with 'quotes' and $igns"  # noqa: S105


def test_beside_the_server_then_an_upgrade_a_downgrade_and_the_end(
    packages: Packages, tmp_path: Path
) -> None:
    older, newer = packages.of("deb"), packages.of("deb", "99.1.0")
    with (
        roots.layer(system("sudo")) as root,
        Host(root, own_network=True) as host,
        platform_beside(host, tmp_path) as (platform, key),
    ):
        handed_over(host, older)
        values = {"DEB": f"./{older.name}", "PLATFORM": platform.url, "API_KEY": key}
        reader(host, values).follow("install/same-host.md", kind="deb")
        handed_over(host, newer)
        reader(host, {"DEB": f"./{newer.name}"}).follow(
            "upgrade.md", kind="deb", first="Before", last=".rpm"
        )
        assert "99.1.0" in host.said("dpkg-query", "--show", "pg-collector")
        reader(host, {"DEB": f"./{older.name}"}).follow("upgrade.md", kind="deb", first="Downgrade")
        assert "99.1.0" not in host.said("dpkg-query", "--show", "pg-collector")
        reader(host, {}).follow("uninstall.md", kind="deb")
        (device,) = platform.rows("SELECT DISTINCT device FROM samples")
        assert device
        reasons = {reason for (reason,) in platform.rows("SELECT reason FROM gaps")}
        assert reasons <= {"acknowledged"}, "nothing was lost; the first lines are in files"


def test_on_a_host_of_its_own_from_the_package(packages: Packages, tmp_path: Path) -> None:
    package = packages.of("deb")
    with (
        roots.layer(system("sudo")) as root,
        Host(root, own_network=True) as host,
        server_beside(host, tmp_path) as server,
    ):
        handed_over(host, package, server.base / "ca.crt")
        values = {"DEB": f"./{package.name}", **of_server(server)}
        reader(host, values).follow("install/vm.md", kind="deb")


def test_on_a_host_of_its_own_from_the_wheel(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check",
         "--constraint", ROOT / "constraints.txt", "--wheel-dir", wheels, ROOT],
        check=True,
    )  # fmt: skip
    (wheel,) = wheels.glob("pg_collector-*.whl")
    with (
        roots.layer(system("sudo", "python3", "python3-venv")) as root,
        Host(root, own_network=True) as host,
        server_beside(host, tmp_path) as server,
    ):
        unit = ROOT / "packaging" / "linux" / "pg-collector.service"
        handed_over(host, wheel, unit, server.base / "ca.crt")
        shutil.copytree(wheels, root / "var/tmp/wheels")
        host.write("/etc/pip.conf", "[global]\nno-index = true\nfind-links = /var/tmp/wheels\n")
        values = {
            "WHEEL": f"./{wheel.name}", "UNIT": f"./{unit.name}", "PYTHON": "python3",
            **of_server(server),
        }  # fmt: skip
        reader(host, values).follow("install/vm.md", kind="wheel")
        reader(host, values).follow("upgrade.md", kind="wheel", first="Wheel", last="Downgrade")
        reader(host, values).follow("uninstall.md", kind="wheel", first="Wheel", last="Container")


def test_on_a_host_of_its_own_from_the_one_file(tmp_path: Path) -> None:
    single = ROOT / "dist" / f"pg-collector-linux-{os.uname().machine}"
    if not single.exists():
        pytest.fail(f"{single} is missing: make binary", pytrace=False)
    with (
        roots.layer(system("sudo")) as root,
        Host(root, own_network=True) as host,
        server_beside(host, tmp_path) as server,
    ):
        unit = ROOT / "packaging" / "linux" / "pg-collector.service"
        handed_over(host, single, unit, server.base / "ca.crt")
        values = {"FILE": f"./{single.name}", "UNIT": f"./{unit.name}", **of_server(server)}
        reader(host, values).follow("install/vm.md", kind="file")


@contextmanager
def server_beside(host: Host, directory: Path) -> Iterator[Server]:
    """Run a PostgreSQL that speaks TLS where the system reaches it."""
    pki = Pki(directory / "pki")
    newest = max(chosen_majors())
    with Server(newest, tls=pki, hba=BY_PASSWORD, inside=network_of(host)) as server:
        yield server


@contextmanager
def platform_beside(host: Host, directory: Path) -> Iterator[tuple["Platform", str]]:
    """Run a platform where the system reaches it; give it, and an API key."""
    platform = Platform(directory, inside=network_of(host))
    key = platform.new_key("pro")
    platform.start()
    try:
        until(
            lambda: host.run("curl", "-fsS", f"{platform.url}/healthz", check=False).stdout,
            deadline=30.0, what="the platform answers",
        )  # fmt: skip
        yield platform, key
    finally:
        platform.stop()


class Platform(ReferencePlatform):
    """A platform in the network of a system."""

    def __init__(self, directory: Path, inside: list[str]) -> None:
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


def network_of(host: Host) -> list[str]:
    """Return what runs a command in the network of a system."""
    return ["nsenter", "-t", str(host._init), "-n"]


def handed_over(host: Host, release: Path, *files: Path) -> None:
    """Put a file of a release where the reader is, with its checksum, and others."""
    place = host.root / READER.lstrip("/")
    place.mkdir(exist_ok=True)
    for file in (release, *files):
        shutil.copyfile(file, place / file.name)
    digest = hashlib.sha256(release.read_bytes()).hexdigest()
    (place / "SHA256SUMS").write_text(f"{digest}  {release.name}\n")


def of_server(server: Server) -> dict[str, str]:
    """Return what a reader of the guides knows of a server."""
    return {
        "DB_HOST": "localhost",
        "DB_PORT": str(server.port),
        "ADMIN": f"host=localhost port={server.port} user=postgres dbname=postgres sslmode=require",
        "CA": "./ca.crt",
        "PASSWORD": PASSWORD,
    }


def reader(host: Host, values: dict[str, str]) -> Follower:
    """Return somebody who follows guides in a system, as an administrator."""

    def run(script: str) -> tuple[int, str]:
        done = host.run("bash", "-c", script, check=False, seconds=300.0)
        return done.returncode, done.stdout + done.stderr

    host.write("/etc/hosts", f"127.0.0.1 localhost {host.said('hostname')}\n")  # sudo asks for it
    (host.root / READER.lstrip("/") / ".values").unlink(missing_ok=True)
    return Follower(run, READER, values)


def test_in_a_container(tmp_path: Path) -> None:
    """podman stands for docker, with what this kind of machine needs; root has no need of sudo."""
    archive = ROOT / "dist" / "pg-collector-image.tar"
    if not archive.exists():
        pytest.fail(f"{archive} is missing: make binary image", pytrace=False)
    containers.tools()
    place = tmp_path / "reader"
    place.mkdir()
    commands(tmp_path / "bin")
    with network() as inside:
        pki = Pki(tmp_path / "pki")
        platform = Platform(tmp_path, inside)
        key = platform.new_key("pro")
        platform.start()
        newest = max(chosen_majors())
        with Server(newest, tls=pki, hba=BY_PASSWORD, inside=inside) as server:
            for file in (archive, server.base / "ca.crt"):
                shutil.copyfile(file, place / file.name)
            digest = hashlib.sha256(archive.read_bytes()).hexdigest()
            (place / "SHA256SUMS").write_text(f"{digest}  {archive.name}\n")
            values = {
                "IMAGE": f"./{archive.name}", "AGENT": f"pg-collector:{__version__}",
                "PLATFORM": platform.url, "API_KEY": key, **of_server(server),
            }  # fmt: skip
            path = f"{tmp_path / 'bin'}:{server.binaries.programs}:/usr/sbin:/usr/bin:/sbin:/bin"

            def run(script: str) -> tuple[int, str]:
                done = subprocess.run(
                    [*inside, "bash", "-c", script], capture_output=True, text=True, timeout=300,
                    env={"PATH": path, "HOME": str(place), "LANG": "C.UTF-8"}, check=False,
                )  # fmt: skip
                return done.returncode, done.stdout + done.stderr

            person = Follower(run, str(place), values)
            try:
                person.follow("install/docker.md")
                person.follow("uninstall.md", kind="docker", first="Container", last="Kubernetes")
            finally:
                run("docker rm --force --all")
                platform.stop()
        assert platform.rows("SELECT DISTINCT device FROM samples")


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


def commands(directory: Path) -> None:
    """Write the commands `docker` and `sudo` that stand for what a reader has."""
    storage = new_directory("podman")  # its path has to be short
    podman = shlex.join(containers.Podman(storage)._command)
    here = shlex.join(containers.HERE)
    directory.mkdir()
    docker = f'case $1 in run) shift; set -- run {here} "$@";; esac\nexec {podman} "$@"\n'
    for name, text in (("docker", docker), ("sudo", 'exec "$@"\n')):
        file = directory / name
        file.write_text(f"#!/bin/sh\n{text}")
        file.chmod(0o755)
