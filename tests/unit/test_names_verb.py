"""`pgc names` without a server: its words, the key it needs, and names from the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pg_collector.cli.names import Names
from pg_collector.errors import StateError
from pg_collector.masking import FILE, installation_secret, kept_secret
from pg_collector.privacy.mask import Masker

SECRET = bytes(range(32))
FULL = Masker("full", secret=SECRET)


def pgc(*words: str, home: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    there = {
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home),
        "PYTHONPATH": ":".join(filter(None, sys.path)),
        "PG_CONN_STRING": f"host={home} dbname=postgres",  # nobody listens there
    }
    return subprocess.run(
        [sys.executable, "-m", "pg_collector", "names", *words, "--set", f"state_dir={home}"],
        capture_output=True, text=True, env=there | environment, cwd=home, timeout=60, check=False,
    )  # fmt: skip


def test_names_are_found_by_their_tokens_with_all_that_they_name():
    known = Names(FULL)
    known.add("table", ["customers", "select", "public", "pg_toast_16384"])
    known.add("column", ["customers", "mail", "mail"])
    customers, mail = FULL.name("customers"), FULL.name("mail")
    assert known.found() == [
        (customers, "customers", ["table", "column"]),
        (mail, "mail", ["column"]),
    ]
    assert known.found([mail, "i_00000000"]) == [(mail, "mail", ["column"])]


def test_what_people_type_is_found_by_what_is_shown_of_it():
    known = Names(FULL)
    name = "app password=hunter2 on postgresql://u:pw@host/db"
    known.add("application", [name])
    assert FULL.free(name) != FULL.name(name)
    assert {token for token, _, _ in known.found()} == {FULL.free(name), FULL.name(name)}


def test_a_long_name_has_the_token_of_its_first_63_bytes():
    known = Names(FULL)
    known.add("given", ["x" * 80])
    assert known.found([FULL.name("x" * 63)]) != []


def test_without_a_key_nothing_is_made_and_the_remedy_is_told(tmp_path: Path):
    with pytest.raises(StateError) as caught:
        kept_secret(tmp_path)
    assert "state_dir" in caught.value.remedy
    done = pgc(home=tmp_path)
    assert done.returncode == 73
    assert "there is no such file. The agent makes it" in done.stderr
    assert not (tmp_path / FILE).exists()
    assert done.stdout == ""


def test_a_damaged_key_is_told(tmp_path: Path):
    (tmp_path / FILE).write_bytes(b"short")
    done = pgc(home=tmp_path)
    assert done.returncode == 73
    assert "damaged" in done.stderr


def test_a_word_that_is_no_token_is_wrong_usage(tmp_path: Path):
    for word in ("customers", "i_123", "i_3FB2C07E", "i_3fb2c07e0"):
        done = pgc(word, home=tmp_path)
        assert done.returncode == 2
        assert "is no token" in done.stderr


def test_a_database_that_does_not_answer_leaves_what_was_given(tmp_path: Path):
    masker = Masker("full", secret=installation_secret(tmp_path))
    token, folded = masker.name("Monthly"), masker.name("monthly")
    done = pgc("--name", "Monthly", "--json", home=tmp_path)
    assert done.returncode == 69
    assert json.loads(done.stdout) == [
        {"token": token, "name": "Monthly", "kinds": ["given"]},
        {"token": folded, "name": "monthly", "kinds": ["given"]},
    ]
    assert pgc("--name", "Monthly", folded, f'"{token}"', home=tmp_path).returncode == 0
    lost = pgc("--name", "Monthly", folded, "i_00000000", home=tmp_path)
    assert (lost.returncode, lost.stdout) == (69, f"{folded}  monthly  given\n")
    assert "i_00000000: none of the names" in lost.stderr
