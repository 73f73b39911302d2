"""The demo's last words: commands that exist where they are read."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pg_collector.demo.farewell import lines, program
from pg_collector.demo.feed import Board


@pytest.fixture
def board() -> Board:
    board = Board()
    for name in ("activity.sessions", "query_text"):
        board.take(b'{"set":"%s","target":"demo","at":"t1","c":["pid"],"r":[]}' % name.encode())
    return board


def script(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_the_last_words_name_every_file_that_was_written(board: Board, tmp_path: Path) -> None:
    text = "\n".join(lines(board, tmp_path))
    assert "activity/current.jsonl" in text
    assert "query_text/current.jsonl" in text
    assert "2 lines" in text


def test_a_program_that_the_shell_does_not_find_is_called_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = script(tmp_path / ".venv" / "bin" / "pgc")
    other = script(tmp_path / "other" / "pgc")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(called), "demo"])
    for path in ("", str(other.parent)):
        monkeypatch.setenv("PATH", path)
        assert program() == ".venv/bin/pgc"
    monkeypatch.setenv("PATH", str(called.parent))
    assert program() == "pgc"


def test_a_program_in_this_directory_and_one_with_a_blank_are_written_for_a_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    for directory, name, written in (
        (tmp_path, "pgc", "./pgc"),
        (tmp_path, "a b/pgc", "'a b/pgc'"),
    ):
        called = script(directory / name)
        monkeypatch.chdir(directory)
        monkeypatch.setattr(sys, "argv", [str(called)])
        assert program() == written


def test_a_module_is_called_as_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "pg_collector" / "__main__.py")])
    monkeypatch.setenv("PATH", "")
    assert program().endswith(" -m pg_collector")
    assert program() != "python3 -m pg_collector"


def test_without_jq_a_command_is_proposed_that_works(
    board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    text = "\n".join(lines(board, tmp_path / "my output"))
    assert "jq" not in text
    assert "psql" not in text
    assert "setup sql > role.sql" in text
    command = text[text.index("head -n 1") :].splitlines()[0]
    file = tmp_path / "my output" / "activity" / "current.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text('{"set": "activity"}\n')
    done = subprocess.run(
        ["/bin/sh", "-c", command], env={"PATH": path}, capture_output=True, text=True, check=True
    )
    assert '"set": "activity"' in done.stdout


def test_with_jq_it_is_proposed(
    board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(script(tmp_path / "jq").parent))
    assert any("jq -c" in line for line in lines(board, tmp_path))
