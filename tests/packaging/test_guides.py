"""A person who follows a guide word for word gets what it says.

Each guide is followed on a system of its own; what cannot run here is marked in the guide's source,
with the reason.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import chosen_majors
from tests.docs.markdown import ROOT
from tests.support import roots
from tests.support.follower import Follower
from tests.support.lab.server import Server
from tests.support.packaged import Host, Packages, system
from tests.support.pki import Pki
from tests.support.ports import free_port
from tests.support.reference_platform import ReferencePlatform
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
        handed_over(host, older, newer)
        values = {"DEB": f"./{older.name}", "PLATFORM": platform.url, "API_KEY": key}
        reader(host, values).follow("install/same-host.md", kind="deb")
        reader(host, {"DEB": f"./{newer.name}"}).follow(
            "upgrade.md", kind="deb", first="Before", last=".rpm"
        )
        assert "99.1.0" in host.said("dpkg-query", "--show", "pg-collector")
        reader(host, {"DEB": f"./{older.name}"}).follow("upgrade.md", kind="deb", first="Downgrade")
        assert "99.1.0" not in host.said("dpkg-query", "--show", "pg-collector")
        reader(host, {}).follow("uninstall.md", kind="deb")
        (device,) = platform.rows("SELECT DISTINCT device FROM samples")
        assert device
        assert not platform.rows("SELECT * FROM gaps"), "nothing was lost on the way"


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
    platform.start(wait=False)
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
        self._stopped = False

    def start(self, *, wait: bool = True) -> None:
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
    return ["nsenter", "-t", str(host._init), "-n"]  # noqa: SLF001


def handed_over(host: Host, *files: Path) -> None:
    """Put files where the reader is, with their checksums, as on the page of a release."""
    place = host.root / READER.lstrip("/")
    place.mkdir(exist_ok=True)
    sums = ""
    for file in files:
        shutil.copyfile(file, place / file.name)
        sums += f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"
    (place / "SHA256SUMS").write_text(sums)


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

    place = host.root / READER.lstrip("/")
    place.mkdir(exist_ok=True)
    (place / ".values").unlink(missing_ok=True)
    return Follower(run, READER, values)
