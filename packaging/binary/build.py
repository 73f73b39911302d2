"""Build the binary: dist/pgc/, a directory for packages and images, and one file to download.

    python packaging/binary/build.py

Both hold Python and everything else but the C library and zlib; they run on a system as old as the
one that they are built on. The logins of AWS, Google and Azure are in them, and are loaded when they
are used; the platform and the demo are not. Checksums are in dist/SHA256SUMS.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DIST = ROOT / "dist"
SPEC = ROOT / "packaging" / "binary" / "pgc.spec"
BUILDER = "pyinstaller>=6.22,<7"
EPOCH = "1"  # of what is built from the same sources: the same bytes


def main() -> int:
    """Build both; return the exit code."""
    if platform.system() != "Linux":
        print("the binary is built on Linux; elsewhere: pip install pg-collector", file=sys.stderr)
        return 1
    if shutil.which("strip") is None:
        print("strip is missing: apt-get install binutils", file=sys.stderr)
        return 1
    DIST.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        builder = _builder(Path(place))
        print("building dist/pgc/ (a directory)", file=sys.stderr)
        _build(builder, Path(place) / "directory", one_file=False)
        print("building the one file", file=sys.stderr)
        _build(builder, Path(place) / "file", one_file=True)
    single = DIST / f"pg-collector-linux-{platform.machine()}"
    (DIST / "pg-collector").replace(single)
    # glibc loads them either way; a library that can be executed is an error for packages.
    for library in (DIST / "pgc").rglob("*.so*"):
        library.chmod(0o644)
    for command in ([DIST / "pgc" / "pgc", "version"], [single, "version"]):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    digest = hashlib.sha256(single.read_bytes()).hexdigest()
    (DIST / "SHA256SUMS").write_text(f"{digest}  {single.name}\n")
    size = sum(one.stat().st_size for one in (DIST / "pgc").rglob("*") if one.is_file())
    print(f"dist/pgc/ {size / 2**20:.0f} MB")
    print(f"dist/{single.name} {single.stat().st_size / 2**20:.0f} MB")
    return 0


def _builder(place: Path) -> Path:
    """Make an environment with the agent, the clouds' logins and PyInstaller; return its Python."""
    venv.create(place / "venv", with_pip=True)
    python = place / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    pins = ["--constraint", ROOT / "constraints.txt"]
    subprocess.run([*pip, *pins, f"{ROOT}[aws,azure,gcp]", BUILDER], check=True)
    return python


def _build(python: Path, work: Path, *, one_file: bool) -> None:
    environment = {
        **os.environ,
        "PGC_ONE_FILE": "1" if one_file else "",
        "PYTHONHASHSEED": EPOCH,
        "SOURCE_DATE_EPOCH": os.environ.get("SOURCE_DATE_EPOCH", EPOCH),
    }
    subprocess.run(
        [
            python, "-m", "PyInstaller", "--noconfirm", "--log-level", "WARN",
            "--distpath", DIST, "--workpath", work, SPEC,
        ],
        env=environment, cwd=work.parent, check=True,
    )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
