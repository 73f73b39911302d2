"""The binary as `make binary`, or `make binary-portable`, builds it: once for each state."""

import fcntl
import hashlib
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support.lab import home

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ROOT / "packaging" / "binary"
SOURCES = ("pg_collector", "packaging/binary", "pyproject.toml", "constraints.txt", "README.md")
_KEPT = 4  # states


class Built(NamedTuple):
    """What is in dist; treat it as read-only."""

    dist: Path

    @property
    def directory(self) -> Path:
        """The program of the directory."""
        return self.dist / "pgc" / "pgc"

    @property
    def single(self) -> Path:
        """The one file."""
        return self.dist / f"pg-collector-linux-{platform.machine()}"


def binary(script: str = "build.py") -> Built:
    """Return what build.py, or portable.py, makes of these sources; build it where it is new."""
    place = home.own() / "binaries"
    place.mkdir(parents=True, exist_ok=True)
    name = f"{Path(script).stem}-{state()}"
    with (place / f".{script}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / name).exists():
            build(script, place / ".new")
            (place / ".new").rename(place / name)
            for old in sorted(place.glob(f"{Path(script).stem}-*"), key=_age)[_KEPT:]:
                shutil.rmtree(old)
    return Built(place / name)


def build(script: str, dist: Path) -> None:
    """Build into an empty directory; RuntimeError with what was said where that fails."""
    shutil.rmtree(dist, ignore_errors=True)
    done = subprocess.run(
        [sys.executable, PROGRAMS / script, "--dist", dist],
        check=False, capture_output=True, text=True, timeout=3600,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"{script}: {done.stderr[-3000:]}")


def state() -> str:
    """Return a word for the sources and this Python."""
    digest = hashlib.sha256(f"{sys.version} {platform.platform()}".encode())
    for path in _files():
        digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _files() -> Iterator[Path]:
    for name in SOURCES:
        path = ROOT / name
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (one for one in found if one.is_file() and "__pycache__" not in one.parts)


def _age(path: Path) -> float:
    return -path.stat().st_mtime
