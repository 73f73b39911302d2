"""Where a system is no Linux: without what only Linux has, the agent samples all the same."""

import fcntl
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pg_collector import folders
from tests.docs.markdown import ROOT
from tests.support import elsewhere
from tests.support.agents import written
from tests.support.lab.server import Server
from tests.support.scratch import new_directory
from tests.support.until import until


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


class Elsewhere:
    """A home on such a system, and a server to look at from there."""

    def __init__(self, server: Server) -> None:
        self.home = new_directory("elsewhere")
        self.environment = {
            "HOME": str(self.home),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": ":".join(filter(None, sys.path)),
            "PG_NAME": "prod",
            "PG_CONN_STRING": server.dsn() + " sslmode=disable",
            "HTTP_ADDRESS": "off",
            "PGC__STATE_DIR": str(self.home / "state"),
        }

    def pgc(self, *words: str) -> str:
        """Run a command, which has to succeed; return what it prints."""
        done = subprocess.run(
            elsewhere.command(*words), env=self.environment, cwd=self.home, capture_output=True,
            text=True, timeout=60, check=False,
        )  # fmt: skip
        assert not done.returncode, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    @contextmanager
    def agent(self) -> Iterator[Path]:
        """Have an agent run meanwhile, which ends well; give its log."""
        log = self.home / "log"
        with log.open("w") as sink, subprocess.Popen(
            elsewhere.command("start", "--local", str(self.home / "output")),
            env=self.environment, cwd=self.home, stderr=sink,
        ) as process:  # fmt: skip
            try:
                yield log
            finally:
                process.terminate()
            assert process.wait(20.0) == 0, log.read_text()
        assert "Traceback" not in log.read_text()


@pytest.mark.long
def test_a_round_of_samples_needs_nothing_that_only_linux_has(newest_server: Server) -> None:
    there = Elsewhere(newest_server)
    there.pgc("start", "--once", "--local", str(there.home / "output"))
    assert written(there.home / "output", "prod", "activity")
    assert (there.home / "state" / "buffer" / "cursor").stat().st_size, "its buffer lay on disk"
    found = json.loads(there.pgc("check", "--json", "--only", "config,disk,postgres"))
    assert {one["level"] for one in found} == {"ok"}
    there.pgc("bundle", "--output", str(there.home / "bundle.tar.gz"))


@pytest.mark.long
def test_an_agent_runs_and_answers_without_what_only_linux_has(newest_server: Server) -> None:
    there = Elsewhere(newest_server)
    with there.agent() as log:
        until((there.home / "state" / "pgc.sock").exists, 30.0, "it listens")
        until(lambda: written(there.home / "output", "prod", "activity"), 30.0, "it samples")
        assert json.loads(there.pgc("status", "--json"))["targets"][0]["name"] == "prod"
        assert there.pgc("health", "live").strip() == "ok"
        there.pgc("reload")
        there.pgc("top", "--once")
        there.pgc("buffer", "drain")
        assert "configuration reloaded" in log.read_text()


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
