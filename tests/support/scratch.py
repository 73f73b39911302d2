"""A place for throw-away files that every account can enter, gone when the process is."""

import atexit
import fcntl
import functools
import itertools
import os
import shutil
import stat
import tempfile
from pathlib import Path

PREFIX = "pgc-lab-"
_numbers = itertools.count(1)


def new_directory(name: str) -> Path:
    """Make an empty directory, mode 0755, below this process's scratch directory."""
    path = scratch() / f"{name}-{next(_numbers)}"
    path.mkdir(mode=0o755)
    return path


def in_memory(name: str, otherwise: Path) -> Path:
    """Return an empty directory of a file system in memory, where there is one, for many syncs."""
    shared = Path("/dev/shm")  # noqa: S108 - mkdtemp inside
    if not os.access(shared, os.W_OK):
        otherwise.joinpath(name).mkdir()
        return otherwise / name
    path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{name}-", dir=shared))
    atexit.register(_remove, path, _hold(path), os.getpid())
    return path


@functools.cache
def scratch() -> Path:
    """Return this process's scratch directory; those of dead processes are removed."""
    parent = _open_to_all()
    sweep(parent)
    path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    path.chmod(0o755)
    held = _hold(path)
    atexit.register(_remove, path, held, os.getpid())
    return path


def reachable(path: Path) -> bool:
    """Say whether any account may walk down to `path` and read it."""
    if not path.stat().st_mode & stat.S_IROTH:
        return False
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in path.resolve().parents)


def _open_to_all() -> Path:
    for place in (tempfile.gettempdir(), "/tmp", "/var/tmp"):  # noqa: S108 - mkdtemp inside
        path = Path(place)
        if path.is_dir() and (os.geteuid() != 0 or reachable(path)):
            return path
    raise RuntimeError("no temporary directory that every account can enter: set TMPDIR to one")


def _hold(path: Path) -> int:
    """Lock a file in `path` for as long as this process lives. Seen by others only when locked."""
    held = os.open(path / "lock.new", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    fcntl.flock(held, fcntl.LOCK_EX)
    (path / "lock.new").rename(path / "lock")
    return held


def sweep(parent: Path) -> None:
    """Remove what dead processes left in `parent`."""
    for path in parent.glob(f"{PREFIX}*"):
        try:
            lock = os.open(path / "lock", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # being made just now, or another account's
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _empty(path)
        except BlockingIOError:
            pass  # its owner lives, or another process removes it just now
        finally:
            os.close(lock)


def _empty(path: Path) -> None:
    """Remove the lock last: what a dying server still wrote is then found by the next sweep."""
    for one in path.iterdir():
        if one.is_dir():
            shutil.rmtree(one, ignore_errors=True)
        elif one.name != "lock":
            one.unlink(missing_ok=True)
    if [one.name for one in path.iterdir()] == ["lock"]:
        shutil.rmtree(path, ignore_errors=True)


def _remove(path: Path, held: int, owner: int) -> None:
    if os.getpid() == owner:  # not in a forked child
        shutil.rmtree(path, ignore_errors=True)
        os.close(held)
