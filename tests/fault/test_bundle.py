"""`pgc bundle` beside a running agent, without one, beside one that hangs, and without rights."""

import json
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from pg_collector.cli.bundle import WITHIN
from tests.support.daemon import PGC, Daemon
from tests.support.scratch import new_directory
from tests.support.until import until
from tests.support.volumes import hung_volume

# The first run loads what the second may not be able to read.
AS_NOBODY = """
import encodings.idna, http.client, os, sys
from typer.testing import CliRunner
from pg_collector.cli import app
words = ["bundle", "--list", "--json", "--config", sys.argv[1]]
CliRunner().invoke(app, words)
os.setgroups([]), os.setgid(65534), os.setuid(65534)
print(CliRunner().invoke(app, words).stdout)
"""
STARTS = 3  # times as long as before may a program take that waits for nobody: others run, too
DEAD = {"prod": "host=127.0.0.1 port=1 user=nobody dbname=none"}


def agent(home: Path, targets: dict[str, str] = DEAD, **keys: Any) -> Daemon:
    return Daemon(home, targets, state_dir=str(home / "state"),
                  log={"file": str(home / "agent.log"), "repeat_window": "0s"}, **keys)  # fmt: skip


def listed(daemon: Daemon) -> dict[str, Any]:
    done = daemon.pgc("bundle", "--list", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    return {one["name"]: one.get("why", "") for one in (*told["files"], *told["left_out"])}


def bundled(daemon: Daemon) -> "tuple[subprocess.CompletedProcess[str], float]":
    """Write a bundle; return what was said, and the seconds that it took."""
    began = time.monotonic()
    done = daemon.pgc("bundle", "--json", "-o", str(new_directory("written") / "b.tar.gz"))
    return done, time.monotonic() - began


def test_everything_is_in_it_that_an_agent_can_tell_also_without_its_http_server(
    newest_server, tmp_path
):
    daemon = agent(tmp_path, {"prod": newest_server.dsn()})
    daemon.keys["http"]["address"] = "off"
    daemon.write()
    with daemon:
        daemon.sampled()
        done = subprocess.run(
            [*PGC, "bundle", "-o", "-", "--config", str(daemon.file)],
            env=daemon.environment, cwd=tmp_path, capture_output=True, timeout=60, check=True,
        )  # fmt: skip
    with tarfile.open(fileobj=BytesIO(done.stdout)) as packed:
        files = {one.name.partition("/")[2]: packed.extractfile(one).read().decode()  # type: ignore[union-attr]
                 for one in packed}  # fmt: skip
    missing = {one["name"] for one in json.loads(files["manifest.json"])["left_out"]}
    assert missing <= {"http/status.txt", "http/watchdog.txt"}
    threads = {one["name"]: one["frames"] for one in json.loads(files["threads.json"])}
    assert any(frame.endswith("Agent.wait") for frame in threads["MainThread"])
    assert json.loads(files["process.json"])["status"]["Threads"]
    assert "pg_collector_samples_total" in files["http/metrics.txt"]
    assert "started" in files["agent.log"]
    assert f"port='{newest_server.port}'" in files["config.yaml"]
    assert "user=" not in files["config.yaml"]
    entries = json.loads(files["state-directory.json"])["entries"]
    assert "pgc.sock" in {one["name"] for one in entries}


def test_without_an_agent_and_with_an_invalid_configuration_the_rest_is_there(tmp_path):
    daemon = agent(tmp_path)
    told = listed(daemon)
    assert "no agent answers" in told["threads.json"]
    assert "Connection refused" in told["http/healthz.txt"]
    assert told["agent.log"].endswith("No such file or directory")
    assert not any(told[name] for name in ("config.yaml", "device.json", "buffer.json"))
    daemon.write("databases: [{nmae: x}]\n")
    told = listed(daemon)
    assert "the configuration is not valid: " in told["config.yaml"]
    assert "nmae" in told["config.yaml"]
    assert not told["host.json"]


def test_what_the_configuration_wants_of_the_environment_the_agent_has(tmp_path):
    daemon = agent(tmp_path)
    del daemon.keys["state_dir"]  # who cannot read the configuration looks where units have it
    daemon.keys["databases"][0]["postgres"] = {"conn_string": "${DSN}"}
    daemon.write()
    daemon.environment |= {"DSN": DEAD["prod"], "STATE_DIRECTORY": str(tmp_path / "state")}
    with daemon:
        until(lambda: "commands reach the agent" in daemon.log.read_text(), 20, "it listens")
        del daemon.environment["DSN"]
        told = listed(daemon)
    assert told["config.yaml"] == told["threads.json"] == told["http/healthz.txt"] == ""


@pytest.mark.root
def test_who_has_no_rights_is_told_what_is_left_out():
    home = new_directory("bundle")
    home.chmod(0o755)
    with agent(home) as daemon:
        shutil.copy(daemon.file, home / "copy.yaml")
        (home / "copy.yaml").chmod(0o644)
        socket = home / "state" / "pgc.sock"
        until(lambda: socket.exists() and daemon.get("/livez"), 20, "it listens")
        (home / "state").chmod(0o755)
        (home / "agent.log").chmod(0o600)
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, str(home / "copy.yaml")], env=daemon.environment,
            cwd="/", capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
    why = {one["name"]: one["why"] for one in json.loads(done.stdout)["left_out"]}
    assert "this user may not ask it; run pgc as root" in why["threads.json"]
    assert "this user may not" in why["agent.log"]
    assert "config.yaml" not in why, "that it may not write the log is no fault of the file"
    assert "http/healthz.txt" not in why


def test_secrets_of_an_invalid_configuration_and_of_the_agents_credentials_are_in_no_bundle(
    tmp_path,
):
    daemon = agent(tmp_path)
    del daemon.keys["state_dir"]
    daemon.write()
    for name in ("credentials", "state"):
        (tmp_path / name).mkdir()
    (tmp_path / "credentials" / "other").write_text("of-a-credential\n")
    daemon.environment |= {"STATE_DIRECTORY": str(tmp_path / "state"),
                           "CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}  # fmt: skip
    with daemon:
        until(lambda: "commands reach the agent" in daemon.log.read_text(), 20, "it listens")
        for secret in ("of-a-credential", "of-the-key", "of-the-url"):
            (tmp_path / "state" / f"a {secret}").touch()
        daemon.write("nmae: x\napi_key: of-the-key\ndatabases: [postgresql://u:of-the-url@h]\n")
        del daemon.environment["CREDENTIALS_DIRECTORY"]
        done = daemon.pgc("bundle", "-o", str(tmp_path / "b.tar.gz"), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    hits = {one["kind"] for one in told["redacted"] if one["file"] == "state-directory.json"}
    assert hits >= {"environment", "configuration file"}
    with tarfile.open(tmp_path / "b.tar.gz") as packed:
        everything = b"".join(packed.extractfile(one).read() for one in packed)  # type: ignore[union-attr]
    assert b"of-a-credential" not in everything
    assert b"of-the-" not in everything


@pytest.mark.long
@pytest.mark.root
@pytest.mark.parametrize(("what", "waits"), [("PGPASSFILE", 1), ("state_dir", 3)])
def test_where_a_volume_hangs_only_what_can_hold_no_secret_is_written_and_soon(
    tmp_path, what, waits
):
    daemon = agent(tmp_path)
    quick = bundled(daemon)[1]
    with hung_volume() as volume:
        place = str(volume / "there")
        if what == "state_dir":
            daemon.keys["state_dir"] = place
            daemon.write()
        else:
            daemon.environment[what] = place
        done, took = bundled(daemon)
    assert done.returncode == 0, done.stderr
    assert took < waits * WITHIN + STARTS * quick
    told = json.loads(done.stdout)
    assert {one["name"] for one in told["files"]} == {"versions.json", "host.json"}
    assert "not searched for secrets" in told["not_searched"]
    assert told["not_searched"] in done.stderr
    why = {one["name"]: one["why"] for one in told["left_out"]}
    assert why["config.yaml"] == told["not_searched"]


@pytest.mark.long
def test_an_agent_that_hangs_costs_seconds_and_its_process_is_described_all_the_same(tmp_path):
    with agent(tmp_path) as daemon:
        until(lambda: daemon.get("/livez"), 20, "it is there")
        quick = bundled(daemon)[1]
        daemon.signal(signal.SIGSTOP)
        done, took = bundled(daemon)
        daemon.signal(signal.SIGCONT)
    told = json.loads(done.stdout)
    why = {one["name"]: one["why"] for one in told["left_out"]}
    # It waits for the agent at its socket, then for all parts together.
    assert took < 2 * WITHIN + STARTS * quick
    assert "does not answer" in why["threads.json"]
    with tarfile.open(Path(told["written"])) as packed:
        member = packed.extractfile(next(m for m in packed if m.name.endswith("/process.json")))
        assert member is not None
        assert json.load(member)["status"]["State"].startswith("T")
    assert Path(told["written"]).stat().st_mode & 0o777 == 0o600
