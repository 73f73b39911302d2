"""Where a system is no Linux: without what only Linux has, the agent samples all the same."""

import fcntl
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pg_collector import folders
from tests.docs.markdown import ROOT
from tests.support import elsewhere
from tests.support.agents import written
from tests.support.lab.server import Server
from tests.support.scratch import new_directory


def test_who_uses_what_only_linux_has_asks_for_it_first() -> None:
    """By the words: the test below runs the agent, but not every line of it."""
    missing = {
        f"{module.__name__}.{name}"
        for module, names in elsewhere.MISSING.items()
        for name in names.split()
    }
    unasked = []
    for file in (ROOT / "pg_collector").rglob("*.py"):
        text = file.read_text()
        for used in missing & set(re.findall(r"\b(?:os|select|socket|time)\.\w+", text)):
            module, _, name = used.partition(".")
            if f'hasattr({module}, "{name}")' not in text and "AttributeError" not in text:
                unasked.append(f"{file.name}: {used}")
    assert not unasked


@pytest.mark.long
def test_a_round_of_samples_needs_nothing_that_only_linux_has(newest_server: Server) -> None:
    home = new_directory("elsewhere")
    environment = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": ":".join(filter(None, sys.path)),
        "PG_NAME": "prod",
        "PG_CONN_STRING": newest_server.dsn() + " sslmode=disable",
        "HTTP_ADDRESS": "off",
        "PGC__STATE_DIR": str(home / "state"),
    }

    def pgc(*words: str) -> str:
        done = subprocess.run(
            elsewhere.command(*words), env=environment, cwd=home, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert not done.returncode, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    pgc("start", "--once", "--local", str(home / "output"))
    assert written(home / "output", "prod", "activity")
    assert (home / "state" / "buffer" / "cursor").stat().st_size, "its buffer lay on disk"
    found = json.loads(pgc("check", "--json", "--only", "config,disk,postgres"))
    assert {one["level"] for one in found} == {"ok"}
    pgc("bundle", "--output", str(home / "bundle.tar.gz"))


def test_state_lies_where_each_system_keeps_it() -> None:
    home = {"HOME": "/Users/ada"}
    mac = Path("/Users/ada/Library/Application Support")
    assert folders.state_home(home, "darwin") == mac
    assert folders.state_home(home, "linux") == Path("/Users/ada/.local/state")
    assert folders.state_home({**home, "XDG_STATE_HOME": "/x"}, "darwin") == Path("/x")


def test_what_cannot_be_synced_as_on_macos_is_synced_as_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "_FULL_SYNC", 51)  # macOS' F_FULLFSYNC, which Linux refuses
    with (tmp_path / "file").open("wb") as file:
        with pytest.raises(OSError, match="Invalid"):
            fcntl.fcntl(file, 51)
        folders.sync(file.fileno())
    with pytest.raises(OSError, match="Bad file descriptor"):
        folders.sync(999_999)
