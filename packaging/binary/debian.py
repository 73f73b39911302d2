"""The Debian 11 root in which the portable binary is built.

Its C library is old enough for every system that the binary is for; its Python and its OpenSSL are
too old, so both are compiled there from the sources of Debian 12, as apt has verified them. That
takes a quarter of an hour, once: the root is kept in /var/cache/pg-collector-build, or in
$PGC_BUILD_HOME, until what this file says about it changes.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

SUITE = "bullseye"  # Debian 11
SOURCES = "bookworm"  # Debian 12
PYTHON = "/opt/python/bin/python3.11"
TEXTS = "/opt/texts"  # licences of what was compiled
_TOOLS = (
    "gcc", "g++", "make", "perl", "pkg-config", "dpkg-dev", "binutils", "libc6-dev",
    "libbz2-dev", "libexpat1-dev", "libffi-dev", "liblzma-dev", "libsqlite3-dev", "uuid-dev",
    "zlib1g-dev",
    "libpq5", "libldap-2.4-2", "libsasl2-2",  # for their licences: psycopg brings these libraries
)  # fmt: skip

# As root inside, in /usr/src; what is printed goes to the log.
_COMPILE = r"""
set -eux
export DEBIAN_FRONTEND=noninteractive LC_ALL=C MAKEFLAGS="-j$(nproc)"
cd /usr/src
apt-get update -q
# The newest that can be had; what is passed over is told.
get() {
  for version in $(apt-cache showsrc --only-source "$1" | awk '/^Version:/ {print $2}' | sort -rV)
  do
    if apt-get source -q "$1=$version"; then return; fi
    echo "$1 $version could not be had" >> /opt/passed-over
  done
  return 1
}
get openssl
get python3.11
cd /usr/src/openssl-*/
# Debian's own options, less the documentation; the certificates are found as Debian has them.
./config shared no-tests no-legacy --prefix=/opt/openssl --libdir=lib --openssldir=/usr/lib/ssl
make build_sw
make install_sw
cd /usr/src/python3.11-*/
# A patch of Debian's uses what only Python's own modules see.
grep -q Py_BUILD_CORE_MODULE Modules/pyexpat.c ||
  sed -i '1i #define Py_BUILD_CORE_MODULE 1' Modules/pyexpat.c
./configure --prefix=/opt/python --enable-shared --without-ensurepip --disable-test-modules \
  --with-system-expat --with-openssl=/opt/openssl --with-openssl-rpath=auto \
  LDFLAGS='-Wl,-rpath,/opt/python/lib'
make
make install
/opt/python/bin/python3.11 -c 'import bz2, ctypes, lzma, sqlite3, ssl, uuid, zlib, pyexpat
assert ssl.OPENSSL_VERSION_INFO[0] == 3, ssl.OPENSSL_VERSION'
mkdir -p /opt/texts/openssl /opt/texts/python
cp /usr/src/openssl-*/LICENSE* /opt/texts/openssl/
cp /usr/src/python3.11-*/LICENSE /opt/texts/python/LICENSE.txt
cat /usr/src/*.dsc | awk '/^(Source|Version): / {printf "%s ", $2} /^Version: / {print ""}' |
  sort > /opt/versions
rm -rf /usr/src/* /var/lib/apt/lists/* /var/cache/apt/*
"""


def ready(*, fresh: bool = False) -> Path:
    """Return the root, as nobody may change it; make it where it is not there yet, or anew."""
    for program in ("mmdebstrap", "unshare"):
        if shutil.which(program) is None:
            package = {"unshare": "util-linux"}.get(program, program)
            raise FileNotFoundError(f"{program} is missing: apt-get install {package}")
    if os.geteuid() != 0:
        raise PermissionError("a root of Debian 11 is made by root alone: sudo make ...")
    home = Path(os.environ.get("PGC_BUILD_HOME", "/var/cache/pg-collector-build"))
    home.mkdir(parents=True, exist_ok=True)
    recipe = f"{SUITE} {SOURCES} {_TOOLS} {_COMPILE}"
    root = home / f"{SUITE}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    with (home / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if fresh or not root.exists():
            new = home / f".{root.name}.new"
            shutil.rmtree(new, ignore_errors=True)
            _make(new, home / f"{root.name}.log")
            shutil.rmtree(root, ignore_errors=True)
            new.rename(root)
    return root


def compiled(root: Path) -> list[str]:
    """Return what was compiled there, and which newer version could not be had."""
    passed_over = root / "opt" / "passed-over"
    lines = (root / "opt" / "versions").read_text().splitlines()
    return [f"with {line.strip()}" for line in lines] + (
        passed_over.read_text().splitlines() if passed_over.exists() else []
    )


def _make(new: Path, log: Path) -> None:
    print(f"making a root of Debian 11 with Python and OpenSSL; see {log}", file=sys.stderr)
    with log.open("w") as sink:
        subprocess.run(
            ["mmdebstrap", "--variant=minbase", f"--include={','.join(_TOOLS)}", SUITE, new],
            check=True, stdout=sink, stderr=sink,
        )  # fmt: skip
        apt = new / "etc" / "apt"
        # Where Debian's packages come from, so do the sources of its next release.
        lines = (apt / "sources.list").read_text().splitlines()
        sources = [line.replace("deb ", "deb-src ", 1).replace(SUITE, SOURCES) for line in lines]
        (apt / "sources.list").write_text("\n".join(sources) + "\n")
        with _resolving(new):
            done = subprocess.run(
                inside(new, ["sh", "-c", _COMPILE]), check=False, stdout=sink, stderr=sink
            )
        if done.returncode != 0:
            raise RuntimeError(f"Python or OpenSSL could not be compiled: {log} says why")


@contextlib.contextmanager
def _resolving(root: Path) -> Iterator[None]:
    """Let names be resolved in the root as they are here."""
    target = root / "etc" / "resolv.conf"
    shutil.copyfile("/etc/resolv.conf", target)
    try:
        yield
    finally:
        target.unlink()


def inside(
    root: Path,
    command: Sequence[str],
    place: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> list[str]:
    """Return a command that runs another one in the root; `place` is seen there as /build."""
    (root / "build").mkdir(exist_ok=True)
    mount = f"mount --bind '{place}' '{root}/build'" if place is not None else "true"
    script = (
        f"{mount} && mount --rbind /dev '{root}/dev' && mount -t proc proc '{root}/proc' && "
        f"exec chroot '{root}' /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "
        'LC_ALL=C.UTF-8 "$@"'
    )
    variables = [f"{name}={value}" for name, value in (environment or {}).items()]
    return [
        "unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private",
        "sh", "-c", script, "sh", *variables, *command,
    ]  # fmt: skip


if __name__ == "__main__":
    print(ready())
