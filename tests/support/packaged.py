"""The packages of the agent, and a booted Debian system to install them in."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from tests.support import roots
from tests.support.booted import Booted
from tests.support.until import until

ROOT: Final = Path(__file__).parents[2]
BUILD: Final = ROOT / "packaging" / "linux" / "build.py"
CONFIG: Final = "/etc/pg-collector/config.yaml"
UNIT: Final = "pg-collector.service"
_SYSTEM: Final = (
    "adduser", "curl", "dbus", "iproute2", "libpam-systemd", "logrotate", "postgresql-15",
    "procps", "systemd", "systemd-sysv",
)  # fmt: skip


class Packages:
    """Builds packages of dist/pgc into a directory, each once."""

    def __init__(self, directory: Path) -> None:
        if not (ROOT / "dist" / "pgc" / "pgc").exists():
            raise FileNotFoundError("dist/pgc is missing: make binary")
        manual = [
            sys.executable,
            "-m",
            "pg_collector.cli.manual",
            "man",
            str(ROOT / "dist" / "man"),
        ]
        subprocess.run(manual, check=True, cwd=ROOT)
        self._directory = directory
        self._made: dict[tuple[str, str], Path] = {}

    def of(self, form: str, version: str = "") -> Path:
        """Return a .deb or an .rpm; with `version` it says to be that one."""
        if (form, version) not in self._made:
            self._made[form, version] = self.anew(form, version)
        return self._made[form, version]

    def anew(self, form: str, version: str = "", folder: str = "made") -> Path:
        """Build a package again, into a folder of its own."""
        place = self._directory / folder / (version or "own")
        done = subprocess.run(
            [sys.executable, BUILD, form, "--into", place], cwd=ROOT, check=False, text=True,
            capture_output=True, env={**os.environ, "VERSION": version},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (made,) = place.glob(f"*.{form}")
        return made


def system(*more: str) -> Path:
    """Return Debian 12 with systemd and PostgreSQL, and without Python."""
    return roots.base("bookworm", *_SYSTEM, *more)


class Host(Booted):
    """A booted system with PostgreSQL, and the agent where it was installed."""

    def __init__(self, root: Path, *, own_network: bool = False) -> None:
        super().__init__(root, own_network=own_network)
        self.http = "127.0.0.1:8080"
        if not own_network:  # the host's port may be taken
            self.write("/etc/postgresql/15/main/conf.d/socket.conf", "listen_addresses = ''\n")

    # --- packages

    def given(self, package: Path) -> str:
        """Copy a package into the system; return its path there."""
        place = f"/var/tmp/{package.name}"  # noqa: S108
        shutil.copyfile(package, self.root / place.lstrip("/"))
        return place

    def apt(self, *words: str) -> str:
        """Run apt-get; return what it said."""
        done = self.run("apt-get", "-y", "-q", "-o", "APT::Sandbox::User=root", *words)
        return done.stdout + done.stderr

    def install(self, package: Path) -> str:
        """Install a .deb, be it older or newer than what is there; return what was said."""
        return self.apt("install", "--no-install-recommends", "--allow-downgrades",
                        self.given(package))  # fmt: skip

    # --- the agent

    def listen_at(self, address: str, variables: str = "/etc/default/pg-collector") -> None:
        """Have the agent answer at an address, by a variable of its unit."""
        with (self.root / variables.lstrip("/")).open("a") as file:
            file.write(f"HTTP_ADDRESS={address}\n")
        self.http = address

    def configure(self, **keys: Any) -> None:
        """Write the configuration, as its owner would edit it."""
        (self.root / CONFIG.lstrip("/")).write_text(json.dumps(keys, indent=1))  # JSON is YAML

    def credential(self, name: str, secret: str) -> None:
        """Write a secret that only the unit is given."""
        self.write(f"/etc/pg-collector/credentials/{name}", f"{secret}\n", mode=0o600)

    def role(self, *options: str) -> None:
        """Make the role of the agent, as the package says."""
        made = self.said(
            "pgc", "setup", "sql", "--user", "pg-collector", "--auth", "peer", *options
        )
        self.psql(made)

    def psql(self, sql: str) -> str:
        """Ask PostgreSQL as its owner."""
        return self.said("runuser", "-u", "postgres", "--", "psql", "-qAtX", given=sql)

    def page(self, path: str) -> Any:
        """Return a page of the agent's."""
        return json.loads(self.said("curl", "-s", f"http://{self.http}{path}"))

    def samples(self, place: str) -> str:
        """Return the lines of files below a directory of `local.path`."""
        return self.run("sh", "-c", f"cat {place}/*.jsonl", check=False).stdout

    def status(self) -> Any:
        """Return `pgc status --json`."""
        return json.loads(self.run("pgc", "status", "--json", check=False).stdout or "{}")

    def active(self) -> bool:
        """Whether the unit has said READY, and runs."""
        return self.shown(UNIT, "ActiveState") == "active"

    def until_ready(self) -> None:
        """Wait until it collects."""
        until(
            lambda: self.page("/readyz")["status"] in {"ok", "degraded"},
            deadline=60.0,
            what="it collects",
            not_yet=(AssertionError,),
        )
