"""`pgc status`, `health` and `metrics` beside a real agent, and where none runs."""

import contextlib
import json
import os
import pty
import signal
import socket
import subprocess
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pg_collector.cli import status_words
from pg_collector.cli.pages import fetch
from pg_collector.errors import AgentUnreachable
from pg_collector.status import BufferStatus
from tests.support.daemon import PGC, Daemon
from tests.support.pki import Pki
from tests.support.ports import free_port
from tests.support.scratch import new_directory
from tests.support.until import until


@pytest.fixture
def daemon(newest_server, tmp_path):
    dsns = {
        "prod": newest_server.dsn("pgcollector"),
        "gone": f"host=127.0.0.1 port={free_port()} user=nobody dbname=postgres",
    }
    state = tmp_path / "state"
    buffers = {"durability": "wal"}
    with Daemon(tmp_path, dsns, buffers=buffers, state_dir=str(state)) as daemon:
        daemon.sampled()
        until(lambda: "postgres:gone" in daemon.get("/healthz"), 20.0)
        yield daemon


def test_a_running_agent_is_shown_and_asked(daemon):
    shown = daemon.pgc("status")
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0].startswith("degraded  running ")
    assert f"pid {daemon.process.pid}" in lines[0]
    (prod,) = [line for line in lines if line.startswith("prod")]
    assert "PostgreSQL 18" in prod
    assert "2/2 connections" in prod
    assert any(line.split()[:2] == ["activity", "ok"] for line in lines)
    (at,) = [i for i, line in enumerate(lines) if line.startswith("gone  down")]
    assert "Connection refused" in lines[at + 1]
    assert lines[at + 2].startswith("  fix: Is PostgreSQL running")
    assert any(line.startswith("buffer ") and "can hold" in line for line in lines)
    assert "\x1b" not in shown.stdout, "plain where nobody looks"

    strict = daemon.pgc("status", "--strict", "--json")
    assert strict.returncode == 3
    told = json.loads(strict.stdout)
    assert [one["part"] for one in told["troubles"]] == ["postgres:gone"]
    assert {one["name"]: one["state"] for one in told["targets"]} == {"prod": "ok", "gone": "down"}

    asked = daemon.pgc("health")
    assert asked.returncode == 0
    assert asked.stdout.startswith("degraded; postgres:gone down: 127.0.0.1")
    assert len(asked.stdout.splitlines()) == 1
    assert daemon.pgc("health", "--strict").returncode == 3
    live = daemon.pgc("health", "live", "--url", f"http://127.0.0.1:{daemon.port}")
    assert (live.returncode, live.stdout) == (0, "ok\n")
    wrong = daemon.pgc("health", "--url", "127.0.0.1:8080")
    assert wrong.returncode == 2
    assert "http://" in wrong.stderr

    for nonsense in ("http://[::1", "file:///etc/passwd"):
        assert daemon.pgc("health", "--url", nonsense).returncode == 2

    # Another agent's directory is meant: this one is a stranger, and not asked in its place.
    elsewhere = ("--set", f"state_dir={daemon.home / 'elsewhere'}")
    for verb in ("status", "reload"):
        assert daemon.pgc(verb, *elsewhere).returncode == 69, verb

    numbers = daemon.pgc("metrics").stdout
    assert 'pg_collector_pg_up{target="prod"} 1.0' in numbers
    assert 'pg_collector_pg_up{target="gone"} 0.0' in numbers


def test_where_no_agent_runs_the_state_directory_tells(daemon):
    daemon.signal(signal.SIGTERM)
    assert daemon.ended()[0] == 0
    shown = daemon.pgc("status")
    assert shown.returncode == 69
    assert shown.stdout.splitlines()[0] == "not running"
    assert "buffer    0 lines wait on disk" in shown.stdout
    told = json.loads(daemon.pgc("status", "--json").stdout)
    assert told["running"] is False
    assert told["buffer"]["lines"] == 0
    asked = daemon.pgc("health", "ready")
    assert asked.returncode == 69
    assert "no agent answers at http://127.0.0.1" in asked.stderr
    assert "pgc status" in asked.stderr


def test_an_agent_without_a_port_is_asked_over_its_socket(newest_server, tmp_path):
    dsns = {"prod": newest_server.dsn("pgcollector")}
    with Daemon(tmp_path, dsns, http={"address": "off"}) as daemon:
        until(lambda: daemon.turns() > 1, 20.0)
        assert daemon.pgc("health", "ready").stdout == "ok\n"
        assert "pg_collector_up 1.0" in daemon.pgc("metrics").stdout
        assert "prod  ok" in daemon.pgc("status").stdout


def test_without_its_socket_it_is_asked_with_token_and_certificate(newest_server, tmp_path):
    leaf = Pki(tmp_path).wrong_name_server
    token = tmp_path / "token"
    token.write_text("a-token-of-the-test")
    token.chmod(0o600)
    port = free_port()
    http = {
        "address": f":{port}",
        "token_file": str(token),
        "tls": {"cert_file": str(leaf.certificate), "key_file": str(leaf.key)},
    }
    dsns = {"prod": newest_server.dsn("pgcollector")}
    with Daemon(tmp_path, dsns, http=http) as daemon:
        until(lambda: daemon.turns() > 1, 20.0)
        daemon.environment["RUNTIME_DIRECTORY"] = str(tmp_path / "nothing-here")
        asked = daemon.pgc("health", "live")
        assert (asked.returncode, asked.stdout) == (0, "ok\n"), asked.stderr
        other = tmp_path / "other"
        other.write_text("another")
        refused = daemon.pgc("metrics", "--set", f"http.token_file={other}")
        assert refused.returncode == 1
        assert "401" in refused.stderr


def test_watching_on_a_terminal_is_shown_in_place_until_it_is_interrupted(daemon):
    ours, theirs = pty.openpty()
    command = [*PGC, "status", "--watch", "--interval", "0.2", "--config", str(daemon.file)]
    viewer = subprocess.Popen(
        command, env=daemon.environment, cwd=daemon.home, stdin=theirs, stdout=theirs,
        stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    seen = bytearray()

    def read():
        try:
            while chunk := os.read(ours, 65536):
                seen.extend(chunk)
        except OSError:
            return  # the terminal's other end was closed

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        until(lambda: seen.count(b"\x1b[H\x1b[J") >= 3, 20.0)
        assert b"\x1b[31mdown" in seen, "what is bad is red"
        assert daemon.pgc("health", "live").returncode == 0
        assert daemon.pgc("metrics").returncode == 0
        told = daemon.log.read_text()
        assert told.count("local command: page") == 1, "the metrics; a probe leaves no line"
        assert told.count("local command: status") == 1
        daemon.process.kill()
        until(lambda: b"not running" in seen, 20.0)
        valid = daemon.file.read_text()
        daemon.file.write_text("databases: [")
        until(lambda: b"not valid YAML" in seen, 20.0)
        shown, _, _ = bytes(seen).rpartition(b"not valid YAML")
        assert b"\x1b[H\x1b[J" in shown[-200:], "it is cleared before a trouble is told, not after"
        daemon.file.write_text(valid)
        viewer.send_signal(signal.SIGINT)
        assert viewer.wait(20) == 130
    finally:
        viewer.kill()
        viewer.wait()
        reader.join(10)
        os.close(ours)


@contextlib.contextmanager
def answering(where: socket.socket, reply: bytes):
    """Answer everybody who connects with the same."""
    where.listen(8)
    where.settimeout(0.1)
    ending = threading.Event()

    def serve():
        while not ending.is_set():
            with contextlib.suppress(TimeoutError):
                client, _ = where.accept()
                with client:
                    client.settimeout(5)
                    client.recv(65536)
                    client.sendall(reply)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join(10)
        where.close()


def test_an_agent_of_another_version_is_named_as_such(tmp_path):
    run = new_directory("run")
    where = socket.socket(socket.AF_UNIX)
    where.bind(str(run / "pgc.sock"))
    environment = {**os.environ, "RUNTIME_DIRECTORY": str(run), "HOME": str(tmp_path)}
    with answering(where, b'{"status":"done","result":{"moon":"full"}}'):
        for verb in ("status", "health", "metrics", "device", "check"):
            words = [*PGC, verb, "--set", "databases=[{name: a}]"]
            done = subprocess.run(
                words, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
            )
            assert done.returncode == 1, (verb, done.stderr)
            assert "another version than pgc, restart it" in done.stderr
            assert len(done.stderr.splitlines()) <= 2


@pytest.mark.parametrize("body", ['{"status":"UP"}', '{"status":"ok","parts":[1]}', "[]", "<html>"])
def test_what_is_no_agent_is_not_taken_for_one(body):
    where = socket.socket()
    where.bind(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{where.getsockname()[1]}"
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    with answering(where, (head + body).encode()):
        done = subprocess.run(
            [*PGC, "health", "--url", url], capture_output=True, text=True, check=False
        )
    assert done.returncode == 1
    assert "no answer of an agent" in done.stderr


def test_the_token_is_shown_to_nobody_who_has_not_the_certificate(tmp_path):
    token = tmp_path / "token"
    token.write_text("a-token-of-the-test")
    token.chmod(0o600)
    where = socket.create_server(("127.0.0.1", 0))
    heard: list[bytes] = []

    def listen():
        client, _ = where.accept()
        with client:
            heard.append(client.recv(65536))

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    words = ["health", "--set", "databases=[{name: a}]", "--set", f"http.token_file={token}"]
    port = where.getsockname()[1]
    nowhere = {**os.environ, "RUNTIME_DIRECTORY": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(
        [*PGC, *words, "--set", f"http.address=127.0.0.1:{port}"],
        env=nowhere, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    listener.join(10)
    where.close()
    assert done.returncode == 69, done.stderr
    assert heard
    assert heard[0].startswith(b"GET /healthz")
    assert b"a-token" not in heard[0]


def test_a_full_buffer_can_hold_nothing():
    now = BufferStatus(seconds_remaining=0.0)
    (line,) = status_words._buffer(now)
    assert "can hold 0 s" in line


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_and_a_shell_can_read_it(tmp_path, shell):
    done = subprocess.run([*PGC, "completion", shell], capture_output=True, text=True, check=True)
    assert "_PGC_COMPLETE=complete_" in done.stdout
    if shell == "zsh":  # compinit looks at the first line only; the first TAB reads the file
        assert done.stdout.startswith("#compdef pgc\n")
        assert "[[ $funcstack[1] == _pgc ]] && _pgc_completion ||" in done.stdout
    if shell == "bash":
        file = tmp_path / "completion"
        file.write_text(done.stdout)
        subprocess.run(["bash", "-n", file], check=True)
        words = {**os.environ, "_PGC_COMPLETE": "complete_bash", "COMP_CWORD": "2"}
        asked = {**words, "COMP_WORDS": "pgc sample wal"}
        offered = subprocess.run(PGC, env=asked, capture_output=True, text=True, check=False).stdout
        assert offered.split() == ["wal", "wal_receiver"]


def test_another_agent_that_has_the_address_does_not_pass_for_this_one(tmp_path, monkeypatch):
    unanswered = set[str]()

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self):
            told = {"status": "ok", "parts": {}, "device": {"device_id": "theirs"}}
            if self.path in unanswered:
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(told).encode())

        def log_message(self, *_):
            pass

    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        config = tmp_path / "config.yaml"
        config.write_text(
            f"http: {{address: '127.0.0.1:{server.server_port}'}}\n"
            f"state_dir: {tmp_path}\n"
            "databases: [{name: a, postgres: {conn_string: host=/nowhere}}]\n"
        )
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            ask = partial(fetch, "/healthz", config, None, url=None, timeout=5.0)
            (tmp_path / "device_id").write_text("theirs\n")
            assert ask().status == 200
            (tmp_path / "device_id").write_text("ours\n")
            with pytest.raises(AgentUnreachable, match=r"is another one: .* theirs, .* ours"):
                ask()
            unanswered.add("/status")
            assert ask().status == 200, "what was asked for was had"
        finally:
            server.shutdown()
            serving.join(10)
