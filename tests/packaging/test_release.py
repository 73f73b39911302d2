"""The version is in one place, and a release agrees with its changelog and its tag."""

import hashlib
import os
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.built import ROOT

RELEASE = ROOT / "packaging" / "release.py"
TODAY = "2026-01-31"
SOUND = f"# Changelog\n\n## [1.2.3] - {TODAY}\n\n- Mended.\n\n## [1.2.2] - 2026-01-30\n"


class Done(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def program():
    """The program, loaded once: starting Python for each case would take longer than the rest."""
    return runpy.run_path(str(RELEASE))


@pytest.fixture
def release(program, capsys):
    def run(*words: str | Path) -> Done:
        code = program["main"]([str(word) for word in words])
        return Done(code, *capsys.readouterr())

    return run


def git(root: Path, *words: str) -> None:
    who = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_CONFIG_GLOBAL": os.devnull}
    who |= {"GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b", "PATH": os.environ["PATH"]}
    subprocess.run(["git", *words], cwd=root, check=True, capture_output=True, env=who)


def checkout(root: Path, version: str = "1.2.3", changelog: str = SOUND, tag: str = "") -> Path:
    """Make a checkout with nothing in it but what has to agree."""
    (root / "pg_collector").mkdir()
    (root / "pg_collector" / "__init__.py").write_text(f'__version__ = "{version}"\n')
    (root / "CHANGELOG.md").write_text(changelog)
    if tag:
        git(root, "init", "--quiet")
        git(root, "add", ".")
        git(root, "commit", "--quiet", "-m", "it")
        git(root, "tag", tag)
    return root


def test_version_changelog_and_tag_of_this_checkout_agree(release):
    done = release("check")
    assert (done.code, done.err) == (0, "")


@pytest.mark.parametrize(
    ("stands", "told"),
    [
        (("1.2.4", SOUND, ""), "change the version in pg_collector/__init__.py"),
        (("1.2.3", SOUND, "v1.2.4"), "git tag -d"),
        (("1.2.2", "## [Unreleased]\n" + SOUND, ""), "raise it in pg_collector/__init__.py"),
        (("1.2", SOUND, ""), '__version__ = "1.2.3"'),
        (("1.2.3", SOUND.replace(f" - {TODAY}", ""), ""), "write `## [1.2.3] - 2026-01-31`"),
        (("1.2.3", SOUND + "\n## [1.2.10] - 2026-01-01\n", ""), "newest first"),
        (("1.2.3", SOUND + "\n## [Unreleased]\n", ""), "only the first heading may be"),
    ],
)
def test_what_does_not_agree_is_told_with_what_mends_it(release, tmp_path, stands, told):
    done = release("check", "--root", checkout(tmp_path, *stands))
    assert (done.code, done.out) == (1, "")
    assert told in done.err


def test_a_candidate_stands_before_its_release(release, tmp_path):
    newer = "## [1.2.3] - 2026-01-31\n## [1.2.3rc2] - 2026-01-30\n## [1.2.3rc1] - 2026-01-30\n"
    assert release("check", "--root", checkout(tmp_path, changelog=newer)).code == 0


def test_a_release_is_a_tagged_commit_with_nothing_beside_it(release, tmp_path):
    root = checkout(tmp_path, changelog="## [Unreleased]\n" + SOUND, tag="other")
    assert "make it `## [1.2.3] - 20" in release("--root", root, "--only", "python").err
    (root / "CHANGELOG.md").write_text(SOUND)
    assert "1 files are not as they were" in release("--root", root, "--only", "python").err
    git(root, "commit", "--quiet", "--all", "-m", "released")
    assert "git tag -a v1.2.3" in release("--root", root, "--only", "python").err
    git(root, "tag", "v1.2.3", "HEAD~1")
    assert "v1.2.3 is another commit" in release("--root", root, "--only", "python").err


def test_a_source_archive_is_told_what_it_can_build(release, tmp_path):
    done = release("--root", checkout(tmp_path), "--snapshot", "--only", "python")
    assert (done.code, done.out) == (1, "")
    assert "make deb rpm" in done.err


def test_the_source_archive_holds_what_is_built_tested_and_read():
    """All that is committed, but for what is of the repository alone."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("this is no git checkout")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    taken = {*project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"], "pyproject.toml"}
    there = {line.partition("/")[0] for line in listed.stdout.splitlines()}
    assert there - taken == {".ci", ".gitignore"}
    assert taken <= there


@pytest.mark.long
@pytest.mark.timeout(600)
def test_wheel_and_sdist_are_the_same_from_another_checkout_and_another_umask(tmp_path):
    sums = []
    for number, umask in enumerate(("022", "077")):
        clone = tmp_path / f"{number}" / "clone"
        git(tmp_path, "clone", "--quiet", str(ROOT), str(clone))
        (clone / "pg_collector" / "beside_it.py").write_text("not committed\n")
        command = [sys.executable, RELEASE, "--snapshot", "--only", "python", "--root", clone]
        subprocess.run(
            ["sh", "-c", f'umask {umask}; exec "$@"', "sh", *command],
            check=True, capture_output=True, timeout=600,
        )  # fmt: skip
        sums.append((clone / "dist" / "SHA256SUMS").read_text())
        for line in sums[-1].splitlines():
            digest, name = line.split("  ")
            assert hashlib.sha256((clone / "dist" / name).read_bytes()).hexdigest() == digest
    assert sums[0] == sums[1]
    assert len(sums[0].splitlines()) == 2
