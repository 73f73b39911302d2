"""Libraries for LD_PRELOAD, compiled from C when first asked for, kept in the lab's cache."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from tests.support.lab import home
from tests.support.lab.server import LabMissing

_FLAGS = ("-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-shared", "-fPIC", "-pthread")
_SECONDS = 60.0


def compiled(source: Path) -> Path:
    """Return the shared library of one C file (and the headers beside it), compiled once.

    Raises `LabMissing` where there is no C compiler or no glibc, and RuntimeError with what the
    compiler said when it fails.
    """
    compiler = os.environ.get("CC") or shutil.which("cc")
    if compiler is None:
        raise LabMissing("no C compiler: apt-get install gcc libc6-dev")
    if "CS_GNU_LIBC_VERSION" not in os.confstr_names:
        raise LabMissing("no glibc here: the preloaded libraries know its functions only")
    text = [path.read_bytes() for path in (source, *sorted(source.parent.glob("*.h")))]
    text.append(" ".join((compiler, *_FLAGS)).encode())
    digest = hashlib.sha256(b"\0".join(text)).hexdigest()[:12]
    library = home.own() / "preload" / f"{source.stem}-{digest}.so"
    if not library.exists():
        _compile(compiler, source, library)
    return library


def _compile(compiler: str, source: Path, library: Path) -> None:
    library.parent.mkdir(parents=True, exist_ok=True)
    new = library.with_suffix(f".{os.getpid()}")  # two test processes may compile at once
    done = subprocess.run(
        [compiler, *_FLAGS, "-o", new, source, "-ldl"],
        capture_output=True, text=True, timeout=_SECONDS, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"{compiler} failed on {source.name}: {done.stderr}")
    new.chmod(0o755)
    new.rename(library)
