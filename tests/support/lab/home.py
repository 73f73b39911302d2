"""Where the lab's binaries and templates lie: a cache outside the checkout."""

import hashlib
import os
import platform
from pathlib import Path

MAJORS = (12, 13, 14, 15, 16, 17, 18)
SHARED = Path("/var/cache/pg-collector-lab")
HERE = Path(__file__).parent
LOCKFILE = HERE / "package-lock.json"

# The npm aliases in package.json end so; for arm64 there are builds of 15 to 18 only.
_SUFFIX = {"x86_64": "", "amd64": "", "aarch64": "-arm64", "arm64": "-arm64"}
_OLDEST = {"": 12, "-arm64": 15}


def suffix() -> str:
    """Return how the npm aliases for this machine end. RuntimeError where none exist."""
    machine = platform.machine().lower()
    if machine not in _SUFFIX:
        raise RuntimeError(f"no PostgreSQL binaries for {machine}: use x86_64 or aarch64")
    return _SUFFIX[machine]


def majors() -> tuple[int, ...]:
    """Return the versions that `install` gets on this machine."""
    return tuple(major for major in MAJORS if major >= _OLDEST[suffix()])


def tree_name() -> str:
    """Return the directory name of the binaries that the committed lockfile pins."""
    digest = hashlib.sha256(LOCKFILE.read_bytes()).hexdigest()
    return f"{digest[:12]}{suffix() or '-x64'}"


def own() -> Path:
    """Return the cache that this account writes: $PGC_LAB_HOME, the shared one, or the user's."""
    if chosen := os.environ.get("PGC_LAB_HOME"):
        return Path(chosen)
    if os.geteuid() == 0:
        return SHARED
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "pg-collector-lab"


def installed() -> Path | None:
    """Return the tree of binaries for the committed lockfile, or None: `make lab` makes it.

    Without $PGC_LAB_HOME an ordinary user finds the one that root made, too.
    """
    homes = [own()] if os.environ.get("PGC_LAB_HOME") else [own(), SHARED]
    for home in dict.fromkeys(homes):
        tree = home / tree_name()
        if (tree / "complete").exists() and os.access(tree, os.R_OK | os.X_OK):
            return tree
    return None
