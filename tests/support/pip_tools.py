"""Programs from PyPI that a few long tests need, in environments of their own.

They are got once and kept beside the lab's servers.
"""

import fcntl
import shutil
import subprocess
import venv
from collections.abc import Callable
from pathlib import Path

from tests.support.lab import home


def environment(*requirements: str) -> Path:
    """Return the `bin` of an environment with these packages; make it the first time."""

    def make(new: Path) -> None:
        venv.create(new, with_pip=True)
        if requirements:
            _pip(new, "install", *requirements)

    return _once("+".join(requirements), make) / "bin"


def wheel(requirement: str) -> Path:
    """Return the wheel of a package, which is not installed; get it the first time."""

    def make(new: Path) -> None:
        pip = environment()
        _pip(pip.parent, "download", "--no-deps", "--dest", str(new), requirement)

    (found,) = _once(f"wheel-{requirement}", make).glob("*.whl")
    return found


def _pip(place: Path, *words: str) -> None:
    quiet = ["--quiet", "--disable-pip-version-check"]
    command = [str(place / "bin" / "python"), "-m", "pip", *quiet, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


def _once(name: str, make: Callable[[Path], None]) -> Path:
    """Return a directory that `make` fills at its place, where nobody sees it half-made."""
    place = home.own() / "pip"
    place.mkdir(parents=True, exist_ok=True)
    ready = place / (name.replace("==", "-") or "empty")
    done = ready / "complete"
    with (place / f".{ready.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(ready, ignore_errors=True)
            ready.mkdir()
            make(ready)  # at its place: the programs of an environment name it
            done.touch()
    return ready
