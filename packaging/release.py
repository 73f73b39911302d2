"""Build all that a release consists of, into dist/, with its checksums in dist/SHA256SUMS.

    make release                                  all of it, from a tagged commit
    make release SNAPSHOT=1                       the same of any commit, to try it out
    python packaging/release.py check             look whether version, changelog and tag agree
    python packaging/release.py --snapshot --only python,sbom

The version is in pg_collector/__init__.py and nowhere else. For a release it is the newest heading
of CHANGELOG.md, `## [1.2.3] - 2026-01-31`, and the tag of the commit, `v1.2.3`; between releases
the newest heading is `## [Unreleased]`, and `check` is content with that.

Built are: python (wheel and sdist, each twice from what is committed, and compared byte for byte),
binary (dist/pgc/ and the one file: on Debian 11 where root and mmdebstrap are there), sbom, and
packages (.deb and .rpm, which hold the sbom), image (for docker load; as root, with buildah). Times
in them are those of the commit.

Exit codes: 0 built, or all agrees; 1 not, and what mends it; 2 wrong usage.
"""

import argparse
import datetime as dt
import hashlib
import itertools
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("python", "binary", "sbom", "packages", "image")
RELEASED = (
    "pg_collector-*.whl", "pg_collector-*.tar.gz", "pg-collector-linux-*", "*.deb", "*.rpm",
    "pg-collector-image.tar", "sbom.cdx.json",
)  # fmt: skip
VERSION_FILE = Path("pg_collector", "__init__.py")
_VERSION = re.compile(r'^__version__ = "([^"]*)"$', re.MULTILINE)
_NUMBER = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:-?(?:a|b|rc)\.?\d+)?")
_HEADING = re.compile(r"^## (.*)$", re.MULTILINE)
_RELEASE = re.compile(r"\[([^\]]+)\] - (\d{4}-\d{2}-\d{2})")
UNRELEASED = "[Unreleased]"


class NotReleasable(Exception):
    """What does not fit, and what mends it."""


class Heading(NamedTuple):
    """A released version of the changelog."""

    version: str
    day: dt.date


def main(words: Sequence[str] | None = None) -> int:
    """Check and build; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="release.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", nargs="?", choices=["build", "check"], default="build")
    parser.add_argument("--root", type=Path, default=ROOT, metavar="DIR", help="another checkout")
    parser.add_argument(
        "--snapshot", action="store_true", help="build what is committed, released or not"
    )
    parser.add_argument(
        "--only", type=_parts, default=PARTS, metavar="PARTS", help=f"of {','.join(PARTS)}"
    )
    options = parser.parse_args(words)
    root = options.root.resolve()
    try:
        version = check(root)
        if options.task == "check":
            print(f"version {version}: pg_collector/__init__.py, CHANGELOG.md and tags agree")
            return 0
        if not options.snapshot:
            check_release(root, version)
        build(root, options.only, snapshot=options.snapshot)
    except NotReleasable as error:
        print(error, file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"{Path(str(error.cmd[0])).name} failed: see above", file=sys.stderr)
        return 1
    return 0


def _parts(text: str) -> tuple[str, ...]:
    wanted = text.split(",")
    if unknown := sorted(set(wanted) - set(PARTS)):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)} is none of {', '.join(PARTS)}")
    return tuple(part for part in PARTS if part in wanted)


# --- what has to agree


def check(root: Path) -> str:
    """Return the version, as it may stand in any commit; raise NotReleasable."""
    found = _VERSION.search((root / VERSION_FILE).read_text("utf-8"))
    if found is None or not _NUMBER.fullmatch(found[1]):
        raise NotReleasable(f'{VERSION_FILE} has no version: write __version__ = "1.2.3"')
    version = found[1]
    unreleased, releases = headings((root / "CHANGELOG.md").read_text("utf-8"))
    if not unreleased and (not releases or releases[0].version != version):
        newest = f"## [{releases[0].version}]" if releases else "missing"
        raise NotReleasable(
            f"CHANGELOG.md's newest heading is {newest}, the version {version}: write "
            f"`## {UNRELEASED}` above it, or change the version in {VERSION_FILE}"
        )
    if releases and _key(releases[0].version) > _key(version):
        raise NotReleasable(
            f"CHANGELOG.md already has {releases[0].version}, the version is {version}: raise it "
            f"in {VERSION_FILE}"
        )
    tags = {tag for tag in _tags(root) if _NUMBER.fullmatch(tag.removeprefix("v"))}
    if tags and f"v{version}" not in tags:
        raise NotReleasable(
            f"this commit has the tag {', '.join(sorted(tags))}, the version is {version}: remove "
            f"the tag (git tag -d), or change {VERSION_FILE}"
        )
    return version


def check_release(root: Path, version: str) -> None:
    """Raise NotReleasable unless this very commit is the release of that version."""
    unreleased, releases = headings((root / "CHANGELOG.md").read_text("utf-8"))
    if unreleased:
        today = dt.datetime.now(dt.UTC).date().isoformat()
        raise NotReleasable(
            f"CHANGELOG.md's newest heading is {UNRELEASED}: make it `## [{version}] - {today}`, "
            "commit, tag; or build what is there with make release SNAPSHOT=1"
        )
    if releases[0].day > dt.datetime.now(dt.UTC).date():
        raise NotReleasable(f"CHANGELOG.md: {version} is of {releases[0].day}, which is to come")
    _refuse_archive(root)
    if changed := _git(root, "status", "--porcelain").splitlines():
        raise NotReleasable(
            f"{len(changed)} files are not as they were committed ({changed[0][3:]}): commit them, "
            "or git stash --include-untracked"
        )
    if f"v{version}" not in _tags(root):
        if _git(root, "tag", "--list", f"v{version}"):
            raise NotReleasable(
                f"v{version} is another commit: raise the version in {VERSION_FILE}, and begin it "
                "in CHANGELOG.md"
            )
        raise NotReleasable(f"this commit has no tag: git tag -a v{version} -m {version}")


def _refuse_archive(root: Path) -> None:
    if not (root / ".git").exists():
        raise NotReleasable(
            "a release, or a snapshot, is built from a git checkout: clone the repository; in a "
            "source archive make binary, make deb rpm and make image work"
        )


def headings(text: str) -> tuple[bool, list[Heading]]:
    """Return whether the changelog begins with what is unreleased, and its releases, newest first.

    Raises NotReleasable where a heading cannot be read, or they are out of order.
    """
    titles = _HEADING.findall(text)
    unreleased = titles[:1] == [UNRELEASED]
    found = []
    for title in titles[unreleased:]:
        match = _RELEASE.fullmatch(title)
        try:
            day = dt.date.fromisoformat(match[2]) if match else None
        except ValueError:
            day = None
        if match is None or day is None or not _NUMBER.fullmatch(match[1]):
            raise NotReleasable(
                f"CHANGELOG.md: `## {title}` is no release: write `## [1.2.3] - 2026-01-31`; only "
                f"the first heading may be `## {UNRELEASED}`"
            )
        found.append(Heading(match[1], day))
    for newer, older in itertools.pairwise(found):
        if _key(newer.version) <= _key(older.version) or newer.day < older.day:
            raise NotReleasable(
                f"CHANGELOG.md: {newer.version} stands above {older.version}, newest first: put "
                "them into the order of their numbers and days"
            )
    return unreleased, found


def _key(version: str) -> tuple[int, ...]:
    """Return what orders versions: a release candidate stands before its release."""
    found = _NUMBER.match(version)
    if found is None:
        raise NotReleasable(f"{version} is no version: write it as 1.2.3 or 1.2.3rc1")
    rest = version[found.end(3) :]
    stage = ("a", "b", "rc").index(re.sub(r"[^a-z]", "", rest)) if rest else 3
    digits = re.sub(r"\D", "", rest)
    return (*(int(found[part]) for part in (1, 2, 3)), stage, int(digits or 0))


def _tags(root: Path) -> list[str]:
    """Return the tags of this commit; none where this is no git checkout."""
    if not (root / ".git").exists():
        return []
    return _git(root, "tag", "--points-at", "HEAD").split()


def _git(root: Path, *words: str) -> str:
    if shutil.which("git") is None:
        raise NotReleasable("git is missing: apt-get install git")
    return subprocess.run(
        ["git", *words], cwd=root, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


# --- what is built


def build(root: Path, parts: Iterable[str], *, snapshot: bool) -> None:
    """Build these parts into dist, and write the checksums of all that is released."""
    _refuse_archive(root)
    dist = root / "dist"
    dist.mkdir(exist_ok=True)
    moment = _git(root, "log", "-1", "--format=%ct")
    environment = {**os.environ, "SOURCE_DATE_EPOCH": moment}
    steps = {
        "python": lambda: _python(root, dist, environment),
        "binary": lambda: _binary(root, dist, environment, snapshot=snapshot),
        "packages": lambda: _make(root, environment, "deb", "rpm"),
        "sbom": lambda: _make(root, environment, "sbom"),
        "image": lambda: _image(root, environment),
    }
    for part in parts:
        print(f"building: {part}", file=sys.stderr, flush=True)
        steps[part]()
    files = sorted(set(_released(dist)))
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}" for file in files]
    (dist / "SHA256SUMS").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def _released(dist: Path) -> Iterator[Path]:
    for pattern in RELEASED:
        yield from dist.glob(pattern)


def _make(root: Path, environment: dict[str, str], *targets: str) -> None:
    for pattern in (f"*.{target}" for target in targets if target in {"deb", "rpm"}):
        for old in (root / "dist").glob(pattern):
            old.unlink()
    command = ["make", "--no-print-directory", f"PYTHON={sys.executable}", *targets]
    subprocess.run(command, cwd=root, env=environment, check=True)


def _image(root: Path, environment: dict[str, str]) -> None:
    """Build the image; where that cannot be done here, say so, and release none."""
    missing = [one for one in ("mmdebstrap", "buildah") if shutil.which(one) is None]
    if os.geteuid() == 0 and not missing:
        _make(root, environment, "image")
        return
    (root / "dist" / "pg-collector-image.tar").unlink(missing_ok=True)
    why = f"apt-get install {' '.join(missing)}" if missing else "root builds it"
    print(f"NO image: {why}", file=sys.stderr)


def _python(root: Path, dist: Path, environment: dict[str, str]) -> None:
    """Build wheel and sdist of what is committed, twice, in two places; they have to be equal."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        venv.create(place / "venv", with_pip=True)
        python = place / "venv" / "bin" / "python"
        project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
        backend = project["build-system"]["requires"]
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, *backend], check=True)
        once, again = (
            _built(root, python, place / folder, environment) for folder in ("one", "two-of-them")
        )
        for first, second in zip(once, again, strict=True):
            if first.read_bytes() != second.read_bytes():
                raise NotReleasable(
                    f"{first.name} differs from build to build: diffoscope tells how"
                )
        for old in (*dist.glob("pg_collector-*.whl"), *dist.glob("pg_collector-*.tar.gz")):
            old.unlink()
        for file in once:
            shutil.copyfile(file, dist / file.name)


def _built(root: Path, python: Path, place: Path, environment: dict[str, str]) -> list[Path]:
    """Build from a copy of the commit; return wheel and sdist, in this order."""
    place.mkdir()
    archive = place / "source.tar"
    _git(root, "archive", "--output", str(archive), "HEAD")
    with tarfile.open(archive) as tar:
        tar.extractall(place / "source", filter="data")
    subprocess.run(
        [python, "-m", "hatchling", "build", "--target", "wheel", "--target", "sdist",
         "--directory", place / "out"],
        cwd=place / "source", env=environment, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return [*(place / "out").glob("*.whl"), *(place / "out").glob("*.tar.gz")]


def _binary(root: Path, dist: Path, environment: dict[str, str], *, snapshot: bool) -> None:
    """Build the binary of the wheel that is released, on Debian 11.

    A snapshot may be built here, where that cannot be had; a release has Debian's newest Python
    and OpenSSL. Raises NotReleasable.
    """
    programs = root / "packaging" / "binary"
    command = [sys.executable, str(programs / "portable.py"), *([] if snapshot else ["--fresh"])]
    if os.geteuid() != 0 or shutil.which("mmdebstrap") is None:
        why = (
            "the binary runs on systems as new as this one: as root, with apt-get install "
            "mmdebstrap, it is built on Debian 11"
        )
        if not snapshot:
            raise NotReleasable(why)
        print(f"NOT for others: {why}", file=sys.stderr)
        command = [sys.executable, str(programs / "build.py")]
    wheel = [word for file in dist.glob("pg_collector-*.whl") for word in ("--wheel", str(file))]
    subprocess.run([*command, "--dist", dist, *wheel], env=environment, check=True)


if __name__ == "__main__":
    sys.exit(main())
