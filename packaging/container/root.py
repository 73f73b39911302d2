"""Lay out the image's root file system: the program, and what it needs of a Debian, no more.

    python packaging/container/root.py DEBIAN PROGRAM TARGET

DEBIAN is a root with the packages of PACKAGES in it (`/` in the Dockerfile), PROGRAM the directory
that `make binary` leaves, TARGET a new directory. The Dockerfile and build.py both call this, so
that both images hold the same files. There is no shell, no package manager and no interpreter.
"""

import re
import shutil
import sys
from pathlib import Path
from typing import Final

PACKAGES: Final = ("libc6", "zlib1g", "ca-certificates", "tzdata")
USER: Final = 65532  # a number that no distribution gives away; Kubernetes wants a number

# What programs of the one-dir ask the system for; everything else lies beside them. Name services
# are parts of libc from 2.34 on, and files of their own before.
_LIBRARIES: Final = (
    "libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libutil.so.1",
    "libresolv.so.2", "libnss_dns.so.2", "libnss_files.so.2", "libz.so.1",
)  # fmt: skip
_ZONES: Final = ("UTC", "Etc/UTC")  # the agent speaks UTC; for others mount the host's
_FILES: Final = {
    "etc/passwd": "root:x:0:0:root:/root:/usr/sbin/nologin\n"
    f"pg-collector:x:{USER}:{USER}:PG Collector:/:/usr/sbin/nologin\n",
    "etc/group": f"root:x:0:\npg-collector:x:{USER}:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/timezone": "Etc/UTC\n",
}
_LICENCE: Final = Path(__file__).resolve().parents[2] / "LICENSE"


def lay_out(debian: Path, program: Path, target: Path) -> None:
    """Fill a new directory with the image's files. FileNotFoundError where one is missing.

    The state directory is not among them: it belongs to another user.
    """
    for folder in ("etc/pg-collector", "etc/ssl/certs", "proc", "run", "usr/bin", "var/lib"):
        (target / folder).mkdir(parents=True)
    (target / "tmp").mkdir()
    _put_program(program, target)
    _put_libraries(debian, target)
    loader = _interpreter(program / "pgc")
    _put(_inside(debian, loader), target / loader)
    _put_certificates(debian, target)
    zones = Path("usr/share/zoneinfo")
    for zone in _ZONES:
        _put(debian / zones / zone, target / zones / zone)
    (target / "etc/localtime").symlink_to("/usr/share/zoneinfo/Etc/UTC")
    for name, text in _FILES.items():
        (target / name).write_text(text)
    documents = target / "usr/share/doc"
    for package in PACKAGES:
        copyright_ = Path("usr/share/doc") / package / "copyright"
        _put(debian / copyright_, target / copyright_)
    _put(_LICENCE, documents / "pg-collector" / "LICENSE")
    _let_read(target)
    (target / "tmp").chmod(0o1777)


def state(target: Path) -> None:
    """Make the state directory as the volume is to begin: empty, for the agent's user alone."""
    (target / "pg-collector").mkdir(parents=True, mode=0o700)


def _put_program(program: Path, target: Path) -> None:
    shutil.copytree(program, target / "usr/lib/pg-collector", symlinks=True)
    (target / "usr/bin/pgc").symlink_to("../lib/pg-collector/pgc")


def _put_libraries(debian: Path, target: Path) -> None:
    """Copy the C library and zlib to where its loader looks without a cache."""
    found = sorted(debian.glob("usr/lib/*-linux-gnu/libc.so.6"))
    found += sorted(debian.glob("lib/*-linux-gnu/libc.so.6"))
    if not found:
        raise FileNotFoundError(f"{debian} has no C library: it wants {', '.join(PACKAGES)}")
    triplet = found[0].parent.name
    (target / "lib").mkdir()
    for name in _LIBRARIES:
        _put(_inside(debian, f"lib/{triplet}/{name}"), target / "lib" / triplet / name)


def _inside(debian: Path, name: str) -> Path:
    """Return a file of a root whose /lib may be a folder or a link, by its path without links."""
    for place in (name, f"usr/{name}"):
        path = debian / place
        if path.is_symlink() and path.readlink().is_absolute():
            path = debian / path.readlink().relative_to("/")
        if path.exists():
            return path
    raise FileNotFoundError(f"{debian} has no {name}: it wants {', '.join(PACKAGES)}")


def _interpreter(binary: Path) -> str:
    """Return the path of the loader that a program names, without its leading slash."""
    named = re.search(rb"/(lib(?:64)?/ld-linux[\w.-]*\.so\.\d)\0", binary.read_bytes())
    if named is None:
        raise FileNotFoundError(f"{binary} names no loader: it is no program for Linux with glibc")
    return named[1].decode()


def _put_certificates(debian: Path, target: Path) -> None:
    """Make the bundle of authorities, as update-ca-certificates would."""
    folder = debian / "usr/share/ca-certificates/mozilla"
    texts = [file.read_text().strip() for file in sorted(folder.glob("*.crt"))]
    if not texts:
        raise FileNotFoundError(f"{folder} holds no certificates: it wants ca-certificates")
    (target / "etc/ssl/certs/ca-certificates.crt").write_text("\n".join([*texts, ""]))


def _let_read(target: Path) -> None:
    """Let every user read all of it, whatever the umask that it was made under."""
    for path in (target, *target.rglob("*")):
        if not path.is_symlink():
            runs = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if runs else 0o644)


def _put(source: Path, target: Path) -> None:
    """Copy a file with its mode; of a link, what it leads to."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


if __name__ == "__main__":
    lay_out(*map(Path, sys.argv[1:4]))
