"""Build the binary: dist/pgc/, a directory for packages and images, and one file to download.

    make binary
    python packaging/binary/build.py --help

Both hold Python and everything else but the C library and zlib; they run on a system as old as the
one that they are built on (see portable.py for one that is old enough). The logins of AWS, Google
and Azure are in them, and are loaded when they are used; the platform and the demo are not. The
licences are in dist/pgc/licenses/, the checksum of the one file in dist/SHA256SUMS. The same
sources, tools and system give the same bytes.
"""

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Iterable
from pathlib import Path

import glibc
import licences
import wheels

HERE = Path(__file__).resolve().parent
DIST = HERE.parents[1] / "dist"
HASH_SEED = "1"  # sets come in the same order each time


class Unbuildable(Exception):
    """Why there is no binary, with the remedy."""


def main() -> int:
    """Build both; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="build.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--dist", type=Path, default=DIST, metavar="DIR", help="where to")
    parser.add_argument("--wheel", type=Path, metavar="FILE", help="the agent, as a wheel")
    parser.add_argument(
        "--wheels", type=Path, metavar="DIR", help="all wheels, gathered before: no network"
    )
    parser.add_argument(
        "--floor", metavar="VERSION", type=glibc.version,
        help="fail where a newer glibc would be needed, or a licence is missing",
    )  # fmt: skip
    parser.add_argument(
        "--texts", type=Path, action="append", default=[], metavar="DIR",
        help="where licences of libraries are, a folder each",
    )  # fmt: skip
    options = parser.parse_args()
    try:
        _possible()
        with tempfile.TemporaryDirectory() as place:
            gathered = options.wheels or Path(place) / "wheels"
            if options.wheels is None:
                wheels.gather(gathered, Path(place), wheel=options.wheel)
            single = _build(gathered, Path(place), options)
    except (Unbuildable, LookupError) as error:
        print(error, file=sys.stderr)
        return 1
    _tell(options.dist, single)
    return 0


def _possible() -> None:
    """Raise Unbuildable where something is missing."""
    if platform.system() != "Linux":
        raise Unbuildable("the binary is built on Linux; elsewhere: pip install pg-collector")
    for program in ("strip", "objdump", "ldd"):
        if shutil.which(program) is None:
            package = "libc-bin" if program == "ldd" else "binutils"
            raise Unbuildable(f"{program} is missing: apt-get install {package}")
    if not sysconfig.get_config_var("Py_ENABLE_SHARED") and not _debian_library():
        raise Unbuildable(
            "this Python has no shared library: use one that has (Debian's python3 with "
            "apt-get install libpython3-dev), as in: make binary PYTHON=/usr/bin/python3"
        )


def _debian_library() -> bool:
    name = str(sysconfig.get_config_var("INSTSONAME") or "")
    folder = sysconfig.get_config_var("LIBDIR") or "/usr/lib"
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    return any((Path(folder) / part / name).is_file() for part in ("", multiarch))


def _build(gathered: Path, place: Path, options: argparse.Namespace) -> Path:
    """Build below `place`, check what came, and put it into dist; return the one file."""
    python = _builder(gathered, place)
    out = place / "out"
    subprocess.run(
        [
            python, "-m", "PyInstaller", "--noconfirm", "--clean", "--log-level", "WARN",
            "--distpath", out, "--workpath", place / "work", HERE / "pgc.spec",
        ],
        env={
            **os.environ, "PYTHONHASHSEED": HASH_SEED, "SOURCE_DATE_EPOCH": wheels.moment(),
            "PYINSTALLER_CONFIG_DIR": str(place / "cache"), "LC_ALL": "C.UTF-8",
        },
        cwd=place, check=True,
    )  # fmt: skip
    directory, single = out / "pgc", out / f"pg-collector-linux-{platform.machine()}"
    # glibc loads them either way; a library that can be executed is an error for packages.
    for library in directory.rglob("*.so*"):
        library.chmod(0o644)
    _check(python, directory, single, place / "unpacked", options.floor)
    site = next((place / "venv" / "lib").glob("python3*/site-packages"))
    texts = [*options.texts, *_of_python(place)]
    lacking = licences.gather(directory, site, texts)
    if lacking and options.floor is not None:
        raise Unbuildable(f"the licence of {', '.join(lacking)} was not found: see licences.py")
    if lacking:
        print(f"not for others: the licence of {', '.join(lacking)} is missing", file=sys.stderr)
    return _put(directory, single, options.dist)


def _builder(gathered: Path, place: Path) -> Path:
    """Make an environment with the agent, the clouds' logins and PyInstaller; return its Python."""
    venv.create(place / "venv", with_pip=False, symlinks=True)
    python = place / "venv" / "bin" / "python"
    (pip,) = gathered.glob("pip-*.whl")
    (agent,) = gathered.glob("pg_collector-*.whl")
    subprocess.run(
        [
            python, pip / "pip", "install", "--quiet", "--no-index", "--no-cache-dir",
            "--disable-pip-version-check", "--root-user-action", "ignore",
            "--find-links", gathered, f"{agent}[{wheels.EXTRAS}]",
            "--requirement", wheels.BUILDER,
        ],
        env={name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
        | {"PIP_CONFIG_FILE": os.devnull},
        check=True,
    )  # fmt: skip
    return python


def _of_python(place: Path) -> Iterable[Path]:
    """Yield a directory with Python's own licence, where it lies among its modules."""
    text = Path(sysconfig.get_paths()["stdlib"]) / "LICENSE.txt"
    if text.is_file():
        (place / "texts" / "python").mkdir(parents=True)
        shutil.copyfile(text, place / "texts" / "python" / text.name)
        yield place / "texts"


def _check(
    python: Path, directory: Path, single: Path, unpacked: Path, floor: glibc.Version | None
) -> None:
    """Raise Unbuildable where they do not run, or need a newer C library than they may."""
    for program in (directory / "pgc", single):
        done = subprocess.run(
            [program, "version"], check=False, capture_output=True, text=True, env={}
        )
        if done.returncode != 0:
            raise Unbuildable(f"{program.name} does not run: {done.stderr.strip()}")
    subprocess.run([python, HERE / "unpack.py", single, unpacked], check=True)
    shutil.copyfile(single, unpacked / single.name)
    newest, above = glibc.look(directory, floor)
    above += glibc.look(unpacked, floor)[1]
    if above:
        raise Unbuildable("\n".join(above))
    print(f"needs glibc {glibc.written(newest)} or newer")


def _put(directory: Path, single: Path, dist: Path) -> Path:
    """Replace what is in dist; return the one file there."""
    dist.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(dist / "pgc", ignore_errors=True)
    shutil.copytree(directory, dist / "pgc", symlinks=True)
    new = dist / f".{single.name}"
    shutil.copy(single, new)
    new.replace(dist / single.name)
    digest = hashlib.sha256((dist / single.name).read_bytes()).hexdigest()
    (dist / "SHA256SUMS").write_text(f"{digest}  {single.name}\n")
    return dist / single.name


def _tell(dist: Path, single: Path) -> None:
    files = [one for one in (dist / "pgc").rglob("*") if one.is_file() and not one.is_symlink()]
    size = sum(one.stat().st_size for one in files)
    print(f"{dist.name}/pgc/ {size / 2**20:.1f} MB")
    print(f"{dist.name}/{single.name} {single.stat().st_size / 2**20:.1f} MB")


if __name__ == "__main__":
    sys.exit(main())
