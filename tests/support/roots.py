"""Debian roots made by mmdebstrap: systems of their own for packages, binaries and images.

A root is made once and kept beside the lab's servers; what a test does goes to a layer over it that
is thrown away. Making one takes 20 to 60 s and needs root and the network.
"""

import contextlib
import fcntl
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.lab import home


def base(suite: str, *packages: str, variant: str = "minbase") -> Path:
    """Return a root with these packages; make it where it is not there yet. Treat it as read-only.

    suite: Debian's code name, as "bookworm". variant: mmdebstrap's, as "minbase" or "extract".
    """
    if shutil.which("mmdebstrap") is None:
        raise FileNotFoundError("mmdebstrap is missing: apt-get install mmdebstrap")
    wanted = ",".join(sorted(packages))
    digest = hashlib.sha256(f"{variant} {wanted}".encode()).hexdigest()[:12]
    place = home.own() / "roots"
    place.mkdir(parents=True, exist_ok=True)
    root = place / f"{suite}-{digest}"
    with (place / f".{root.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            new = place / f".{root.name}.new"
            shutil.rmtree(new, ignore_errors=True)
            command = ["mmdebstrap", "--quiet", f"--variant={variant}"]
            command += [f"--include={wanted}"] * bool(packages)
            subprocess.run([*command, suite, new], check=True, timeout=600)
            new.rename(root)
    return root


@contextlib.contextmanager
def layer(root: Path) -> Iterator[Path]:
    """Give a root of one's own over `root`, to write to; it is gone afterwards."""
    place = Path(tempfile.mkdtemp(prefix="pgc-root-"))
    upper, work, merged = (place / name for name in ("upper", "work", "merged"))
    for each in (upper, work, merged):
        each.mkdir()
    upper.chmod(0o755)
    layers = f"lowerdir={root},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, merged], check=True)
    try:
        yield merged
    finally:
        subprocess.run(["umount", "--recursive", merged], check=True)
        shutil.rmtree(place)
