"""What the packages are made of, as far as it can be seen without making one."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import missing

ROOT = Path(__file__).parents[2]
LINUX = ROOT / "packaging" / "linux"
UNIT = LINUX / "pg-collector.service"


def test_the_unit_is_hardened_as_promised():
    """1.2 at most; systemd-analyze counts tenths."""
    if shutil.which("systemd-analyze") is None:
        missing("systemd-analyze is missing: apt-get install systemd")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=12", UNIT],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_credential_that_is_loaded_has_something_to_fall_back_on():
    """systemd 247 to 257 do not start a unit whose credential's source is missing."""
    text = UNIT.read_text()
    loaded = set(re.findall(r"^LoadCredential=(\w+):", text, re.MULTILINE))
    assert loaded == set(re.findall(r"^SetCredential=(\w+):\\n$", text, re.MULTILINE))
    assert loaded == {"api_key", "postgres_password"}


def test_systemd_never_gives_up_on_it():
    """A taken address, or a volume that comes late, is no reason to stay away for ever."""
    text = UNIT.read_text()
    assert "\nRestart=always\n" in text
    assert "\nStartLimitIntervalSec=0\n" in text
    assert re.search(r"^RestartSec=[1-9]", text, re.MULTILINE), (
        "and none that fails is started fast"
    )


def test_everything_that_is_shipped_from_the_sources_is_there():
    listed = subprocess.run(
        [sys.executable, "-c",
         "import layout; print(*layout.DOCUMENTS, sep='\\n')"],
        capture_output=True, text=True, check=True, cwd=LINUX,
    ).stdout.split()  # fmt: skip
    assert [one for one in listed if not (ROOT / one).is_file()] == []


@pytest.mark.parametrize("script", sorted(LINUX.glob("[dr][ep][bm]/*")), ids=lambda one: one.name)
def test_a_maintainer_script_is_valid(script):
    done = subprocess.run(["sh", "-n", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_licence_of_every_library_is_told():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for extra in ("aws", "azure", "gcp"):
        wanted += project["optional-dependencies"][extra]
    told = (LINUX / "copyright").read_text().lower()
    names = [re.split(r"[^A-Za-z0-9._-]", one, maxsplit=1)[0].lower() for one in wanted]
    assert [one for one in names if one not in told] == []
