"""`pgc config` as it is typed."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from pg_collector.cli import app as pgc
from pg_collector.cli import config
from pg_collector.config.guide import MINIMAL
from pg_collector.config.load import load
from pg_collector.config.model import Config, Database
from pg_collector.config.render import HIDDEN
from pg_collector.samplers import discover

VALID = "databases:\n  - name: prod\napi_key: hunter2\nplatform: {url: https://in.example.test}\n"


@pytest.fixture(autouse=True)
def _nothing_else_configures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    others = {"API_KEY", "LOG_LEVEL", "LOG_FORMAT", "HTTP_ADDRESS", "CREDENTIALS_DIRECTORY"}
    for name in list(os.environ):
        if name.startswith("PG") or name.removesuffix("_FILE") in others:
            monkeypatch.delenv(name)


def run(*arguments: str) -> Any:
    return CliRunner().invoke(config.app, list(arguments))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "pg-collector.yaml"
    path.touch(0o600)
    path.write_text(VALID)
    return path


def test_check_says_that_a_configuration_is_valid(file: Path) -> None:
    result = run("check")
    assert result.exit_code == 0
    assert result.stdout == f"valid: 1 database, from {file.name}\n"
    assert result.stderr == ""


def test_check_tells_everything_on_stderr_and_ends_with_78(file: Path) -> None:
    file.write_text("databases: [{name: a/b}]\nlog: {level: loud}\n")
    result = run("check", "-c", str(file))
    assert result.exit_code == 78
    assert result.stdout == ""
    assert f"{file}:1:20: databases[0].name" in result.stderr
    assert f"{file}:2:14: log.level" in result.stderr


def test_check_may_be_quiet(file: Path) -> None:
    assert run("check", "-q").output == ""
    file.write_text("x: 1")
    result = run("check", "--quiet")
    assert (result.exit_code, result.output) == (78, "")


def test_check_speaks_json(file: Path) -> None:
    told = json.loads(run("check", "--json").stdout)
    assert told["valid"] is True
    assert told["files"] == [file.name]
    file.write_text("databases: [{name: a}]\nlog: {level: loud}\n")
    result = run("check", "--json")
    assert result.exit_code == 78
    (problem,) = json.loads(result.stdout)["problems"]
    assert problem == {
        "source": file.name,
        "line": 2,
        "column": 14,
        "path": "log.level",
        "message": "not one of the choices",
        "remedy": "choose debug or info or warning or error",
    }


def test_check_warns_on_stderr(file: Path) -> None:
    file.chmod(0o644)
    result = run("check")
    assert result.exit_code == 0
    assert "warning: " in result.stderr
    assert "chmod 640" in result.stderr


def test_check_asks_libpq_about_connection_strings() -> None:
    result = run("check", "--set", "databases=[{name: a}]", "--set",
                 "databases[0].postgres.conn_string=host=h pasword=hunter2")  # fmt: skip
    assert result.exit_code == 78
    assert "did you mean password" in result.stderr
    assert "hunter2" not in result.stderr


def test_an_invalid_configuration_never_shows_a_traceback(tmp_path: Path) -> None:
    for verb in ("check", "show"):
        for path in (tmp_path, tmp_path / "missing", Path("/dev/zero"), Path("/proc/self/mem")):
            result = run(verb, "-c", str(path))
            assert result.exit_code == 78, (path, result.output)
            assert "Traceback" not in result.output
            assert str(path) in result.stderr


def test_show_prints_what_is_in_force_without_secrets(file: Path) -> None:
    result = run("show", "--set", "log.level=debug")
    assert result.exit_code == 0
    assert "hunter2" not in result.output
    shown = yaml.safe_load(result.stdout)
    assert shown["api_key"] == HIDDEN
    assert shown["log"]["level"] == "debug"
    file.write_text(result.stdout)
    assert run("check").exit_code == 0


def test_show_says_where_each_value_is_from(file: Path) -> None:
    lines = run("show", "--origin", "--set", "log.level=debug").stdout.splitlines()
    assert f"  - name: prod  # {file.name}:2:11" in lines
    assert "  level: debug  # --set" in lines
    assert "  format: json  # default" in lines


def test_show_speaks_json(file: Path) -> None:
    told = json.loads(run("show", "--json", "--origin").stdout)
    assert told["config"]["api_key"] == HIDDEN
    assert told["config"]["sampling"]["jitter"] == "10%"
    assert told["origins"]["databases[0].name"] == f"{file.name}:2:11"


@pytest.mark.parametrize(
    ("conn_string", "shown"),
    [
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("host=h dbname=d", "host=h dbname=d"),
        ("", ""),
        ("host=h options=-csecret", "(secret)"),
        ("host=bob:hunter2@h dbname=d", "(secret)"),
        ("host=h user=bob@tenant", "host=h user=bob@tenant"),
    ],
)
def test_show_prints_a_connection_string_only_if_all_of_it_is_harmless(
    file: Path, conn_string: str, shown: str
) -> None:
    file.write_text(f"databases: [{{name: a, postgres: {{conn_string: '{conn_string}'}}}}]\n")
    told = yaml.safe_load(run("show").stdout)
    assert told["databases"][0]["postgres"]["conn_string"] == shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://x/p?token=hunter2", "https://x/p?(secret)"),
        ("https://x/p#hunter2", "https://x/p?(secret)"),
        ("https://x:8443/p/@q", "https://x:8443/p/@q"),
    ],
)
def test_show_prints_a_url_without_its_query(file: Path, url: str, shown: str) -> None:
    file.write_text(f"databases: [{{name: a}}]\nplatform: {{url: '{url}'}}\n")
    result = run("show")
    assert "hunter2" not in result.output
    assert yaml.safe_load(result.stdout)["platform"]["url"] == shown
    assert json.loads(run("show", "--json").stdout)["config"]["platform"]["url"] == shown


def test_show_prints_a_path_that_begins_with_a_tilde_as_one_that_loads_again(file: Path) -> None:
    file.write_text("databases: [{name: a}]\nlocal: {path: ./~out}\n")
    shown = run("show").stdout
    assert yaml.safe_load(shown)["local"]["path"] == "./~out"


def test_show_prints_a_literal_reference_as_one(file: Path) -> None:
    file.write_text("databases: [{name: a, tags: {x: '$${HOME} $$'}}]\n")
    file.write_text(run("show").stdout)
    loaded = load(file, environ={}, samplers=discover())
    assert loaded.config.databases[0].tags == {"x": "${HOME} $$"}


@pytest.mark.parametrize("arguments", [[], ["--minimal"]])
def test_init_writes_a_file_that_loads(tmp_path: Path, arguments: list[str]) -> None:
    path = tmp_path / "new.yaml"
    result = run("init", *arguments, str(path))
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    loaded = load(path, environ={}, samplers=discover())
    assert loaded.config == Config(databases=(Database(name="local"),))
    assert loaded.warnings == ()


def test_init_replaces_a_file_only_when_told_to(file: Path) -> None:
    result = run("init")
    assert result.exit_code == 1
    assert "--force" in result.stderr
    assert file.read_text() == VALID
    file.chmod(0o666)
    assert run("init", "--minimal", "--force").exit_code == 0
    assert file.read_text() == MINIMAL
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_init_prints_to_standard_output() -> None:
    assert run("init", "--minimal", "-").stdout == MINIMAL


def test_init_says_why_it_cannot_write(tmp_path: Path) -> None:
    result = run("init", str(tmp_path / "no" / "such" / "x.yaml"))
    assert result.exit_code == 1
    assert "No such file or directory" in result.stderr


def test_every_commented_key_of_init_is_valid_and_at_its_default(tmp_path: Path) -> None:
    text = run("init", "-").stdout
    lines = [
        line.replace("#", "", 1) if line.lstrip().startswith("#") else line
        for line in text.splitlines()
        if not line.lstrip().startswith("##")
    ]
    path = tmp_path / "all.yaml"
    path.write_text("\n".join(lines))
    shown = yaml.safe_load(path.read_text())
    assert {"api_key", "sampling", "platform", "local", "security"} <= shown.keys()
    found = load(path, environ={}, samplers=discover()).config
    every = {name: sampler.every for name, sampler in discover().items()}
    assert found.sampling.every == every
    plain = load(None, environ={"PGC_CONFIG": text}, samplers=discover()).config
    assert found.databases == plain.databases
    assert (found.platform, found.buffers, found.http) == (
        plain.platform,
        plain.buffers,
        plain.http,
    )


def test_reference_has_three_forms() -> None:
    assert "databases[].postgres.query_timeout\n" in run("reference").stdout
    assert run("reference", "--markdown").stdout.startswith("# Configuration\n")
    assert json.loads(run("reference", "--json-schema").stdout)["properties"]["sampling"]
    assert run("reference", "--markdown", "--json-schema").exit_code == 2


def test_an_unknown_option_is_a_usage_error() -> None:
    assert run("check", "--nonsense").exit_code == 2


@pytest.mark.parametrize("verb", ["check", "show", "init", "reference"])
def test_help_teaches_by_example(verb: str) -> None:
    text = run(verb, "--help").stdout
    assert "Example: pgc config" in text


def test_options_before_the_verb_count_too(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    file.rename(other)
    result = CliRunner().invoke(
        pgc, ["-c", str(other), "--set", "log.level=debug", "config", "show"]
    )
    assert result.exit_code == 0, result.output
    assert "level: debug" in result.stdout
