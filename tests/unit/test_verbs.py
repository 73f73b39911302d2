"""The verbs of `pgc`: all there, each with its help, and none imported in vain."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from pg_collector.activation.device import Told
from pg_collector.cli import app, device
from pg_collector.cli.options import no_database
from pg_collector.cli.verbs import VERBS
from pg_collector.config.model import Database


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_there_and_explains_itself(verb):
    result = CliRunner().invoke(app, [verb, "-h"])
    assert result.exit_code == 0, result.output
    assert f" {verb} [OPTIONS]" in result.output
    assert "--install-completion" not in result.output


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("sample",), "pgc sample statements --json | jq .set"),
        (("names",), "pgc names --json | jq -r '.[].name'"),
        (("buffer", "export"), ""),
    ],
)
def test_examples_stand_in_lines_of_their_own(words, line):
    shown = CliRunner().invoke(app, [*words, "--help"]).output
    assert "\\b" not in shown
    assert not line or line in [one.strip() for one in shown.splitlines()]


def test_the_help_lists_them_all_in_whole_lines():
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    for verb, words in VERBS.items():
        assert any(line.split() == [verb, *words.split()] for line in result.output.splitlines())


def test_a_word_that_is_no_verb_is_told_with_the_one_that_was_meant():
    result = CliRunner().invoke(app, ["smaple"])
    assert result.exit_code == 2
    assert "'sample'" in result.output


def test_the_times_of_a_device_read_like_those_of_status(capsys):
    device.show(Told(state="GRACE", contact_age_s=131.0, grace_left_s=3 * 86_400.0))
    assert capsys.readouterr().out.splitlines() == [
        "state            GRACE",
        "last contact     2 min 11 s ago",
        "grace left       3 d",
    ]


def test_the_help_is_there_without_what_the_verbs_need():
    program = (
        "import sys; from pg_collector.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print([n for n in ('psycopg', 'requests', 'yaml', 'msgspec', 'apscheduler') "
        "if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "--help"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_database_that_cannot_be_had_says_which_can():
    there = (Database(name="shop"), Database(name="old", enabled=False))
    assert no_database("shpo", there).sentence() == (
        "no database 'shpo' in the configuration. Enabled are: shop"
    )
    assert "'old' is not enabled. Set its enabled: true" in no_database("old", there).sentence()
    assert no_database(None, there[1:]).sentence() == (
        "no database is enabled. Set enabled: true for: old"
    )
