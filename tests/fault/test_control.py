"""The control socket: whose target is asked, how long it may take, and what else goes wrong."""

import contextlib
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

import pg_collector.commands
from pg_collector import control
from pg_collector.cli import buffer_access
from pg_collector.config.load import load
from pg_collector.errors import AgentUnreachable, CollectorError
from tests.conftest import missing
from tests.support.agents import configuration, running, written
from tests.support.process import as_owner
from tests.support.sampling import SAMPLERS
from tests.support.scratch import new_directory, reachable
from tests.support.until import until

ANSWERS: control.Answers = {control.ReloadRequest: lambda _: control.Reply()}

pytestmark = pytest.mark.ends


def sampled(output, name="prod"):
    until(
        lambda: all(written(output, name, one) for one in SAMPLERS if one != "wal_receiver"),
        deadline=20,
        what="all sample",
    )


def request(agent, *samplers, **more):
    name, target = next(iter(agent.targets.items()))
    seen = control.fingerprint(target.database)
    return control.SampleRequest(
        **{"samplers": samplers, "target": name, "connection": seen, "explain": False} | more
    )


def asked(what, path):
    """Return the lines that the agent answers with."""
    reply = control.ask(what, path)
    assert reply
    assert reply.lines
    return reply.lines


def pgc(*words, home, wrap=None, python=sys.executable, **environment):
    """Run a verb as a shell would, without this one's environment."""
    there = {
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home),
        "PYTHONPATH": ":".join(filter(None, sys.path)),
    }
    command = [str(python), "-m", "pg_collector", *map(str, words)]
    return subprocess.run(
        wrap(command) if wrap else command,
        capture_output=True, text=True, env=there | environment, cwd=home, timeout=60, check=False,
    )  # fmt: skip


@contextlib.contextmanager
def listening(path, converse):
    """Listen as an agent would, and do with every connection what `converse` does."""
    stopping = threading.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(8)
        listener.settimeout(0.1)

        def serve():
            while not stopping.is_set():
                with contextlib.suppress(TimeoutError):
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):
                        connection.settimeout(5)
                        converse(connection, stopping)

        thread = threading.Thread(target=serve, name="listener")
        thread.start()
        try:
            yield
        finally:
            stopping.set()
            thread.join(10)


def test_a_command_borrows_a_lane_instead_of_opening_a_third_session(server, fault_proxy, tmp_path):
    proxy = fault_proxy(server)
    path = tmp_path / "pgc.sock"
    config = configuration({"prod": server.dsn("pgcollector", port=proxy.port)}, tmp_path / "out")
    with running(config, path) as agent:
        sampled(tmp_path / "out")
        assert path.stat().st_mode & 0o777 == 0o660
        for name in SAMPLERS:
            lines = asked(request(agent, name), path)
            told = "not a standby" if name == "wal_receiver" else f'"set":"{name}'
            assert any(told in line for line in lines)
        explained = asked(request(agent, "activity", explain=True), path)
        assert "FROM pg_stat_activity" in explained[0]
        with pytest.raises(CollectorError, match="no sampler 'x'"):
            control.ask(request(agent, "x"), path)
        assert proxy.accepted == 2
        once_more = request(agent, "activity")
    assert not path.exists()
    assert control.ask(once_more, path) is None


def test_an_agent_answers_for_its_own_target_only(server, tmp_path):
    path = tmp_path / "pgc.sock"
    config = configuration({"prod": server.dsn("pgcollector")}, tmp_path / "out")
    with running(config, path) as agent:
        for strange in ({"target": "staging"}, {"connection": "0" * 32}):
            assert control.ask(request(agent, "activity", **strange), path) is None


@pytest.mark.parametrize("change", [{"host": "203.0.113.9"}, {"port": 1}, {"dbname": "other"}])
def test_a_fingerprint_tells_connections_apart_and_knows_no_password(
    server, tmp_path, change, monkeypatch
):
    def seen(dsn):
        config = configuration({"prod": dsn}, tmp_path)
        return control.fingerprint(config.databases[0])

    dsn = server.dsn("pgcollector")
    words = " ".join(f"{name}={value}" for name, value in change.items())
    assert seen(f"{dsn} password=a") == seen(f"{dsn} password=b") == seen(dsn)
    assert seen(f"{dsn} {words}") != seen(dsn)
    monkeypatch.setenv("PGHOST", "203.0.113.1")
    elsewhere = seen("dbname=postgres")
    monkeypatch.setenv("PGHOST", "203.0.113.2")
    assert seen("dbname=postgres") != elsewhere


def test_sample_passes_by_the_agent_of_another_target(server, fault_proxy, tmp_path):
    """The same name, the same user, two servers: production must not answer for staging."""
    production, staging = fault_proxy(server), fault_proxy(server)
    dsns = {
        # Roles of their own: the lab allows pgcollector the two sessions of one agent.
        production: server.dsn("plain", port=production.port),
        staging: server.dsn("pgcollector", port=staging.port),
    }
    file = tmp_path / "staging.yaml"
    text = (
        f"databases: [{{name: main, postgres: {{conn_string: '{dsns[staging]} sslmode=disable'}}}}]"
    )
    file.write_text(f"{text}\n")
    runtime, state = tmp_path / "runtime", tmp_path / "state"
    runtime.mkdir()

    def counts():
        done = pgc(
            "sample", "activity", "--config", file, home=tmp_path, RUNTIME_DIRECTORY=str(runtime)
        )
        assert done.returncode == 0, done.stderr
        assert "pgcollector" in done.stdout
        return production.accepted, staging.accepted

    with running(configuration({"main": dsns[production]}, tmp_path / "a"), runtime / "pgc.sock"):
        until(lambda: production.accepted == 2, what="production's agent has its sessions")
        assert counts() == (2, 1)
        file.write_text(f"{text}\nstate_dir: {state}\n")
        with running(configuration({"main": dsns[staging]}, tmp_path / "b"), state / "pgc.sock"):
            sampled(tmp_path / "b", "main")
            assert counts() == (2, 3)  # its own two, none for the command


def test_a_second_agent_takes_the_next_place_and_a_third_does_without(tmp_path, caplog):
    places = [tmp_path / "a" / "pgc.sock", tmp_path / "b" / "pgc.sock"]
    servers = [control.ControlServer(ANSWERS, places) for _ in range(3)]
    with contextlib.ExitStack() as stack:
        for server in servers:
            server.start()
            stack.callback(server.stop)
        assert [server.path for server in servers] == [*places, None]
    assert not any(path.exists() for path in places)
    (warning,) = [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert "no control socket" in warning.getMessage()
    assert any("another agent listens there" in one for one in warning.__dict__["refused"])
    assert "state_dir" in warning.__dict__["remedy"]


def test_a_control_thread_that_is_stuck_does_not_hold_the_end(tmp_path):
    stuck, release = threading.Event(), threading.Event()

    def beat(_within):
        stuck.set()
        release.wait(60)

    server = control.ControlServer(ANSWERS, [tmp_path / "pgc.sock"], beat)
    server.start()
    try:
        assert stuck.wait(10)
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < 3
        assert not (tmp_path / "pgc.sock").exists()
    finally:
        release.set()


def test_an_agent_without_a_place_for_its_socket_samples_all_the_same(server, tmp_path, caplog):
    config = configuration({"prod": server.dsn("pgcollector")}, tmp_path)
    with running(config, Path("/proc/self/pg-collector/pgc.sock")):
        sampled(tmp_path)
    assert any("no control socket" in one.getMessage() for one in caplog.records)


def test_a_path_too_long_for_a_socket_is_passed_over(tmp_path):
    long = tmp_path / ("x" * 100) / "pgc.sock"
    server = control.ControlServer(ANSWERS, [long, tmp_path / "pgc.sock"])
    server.start()
    try:
        assert server.path == tmp_path / "pgc.sock"
    finally:
        server.stop()


def test_the_configured_state_directory_comes_first(tmp_path):
    environment = {"RUNTIME_DIRECTORY": "/run/a", "HOME": "/nowhere"}
    assert control.candidates(environment, tmp_path)[0] == tmp_path / "pgc.sock"
    assert control.candidates(environment, None)[0] == Path("/run/a/pgc.sock")


def test_a_socket_of_a_dead_agent_is_replaced_and_nonsense_is_answered(server, tmp_path):
    path = tmp_path / "pgc.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    config = configuration({"prod": server.dsn("pgcollector")}, tmp_path / "out")
    with running(config, path), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(path))
        client.sendall(b'{"verb": "drop"}\n')
        reply = msgspec.json.decode(client.makefile("rb").read(), type=control.Reply)
        assert reply.status == "failed"
        assert "not a request" in reply.error


def test_who_drips_its_question_keeps_nobody_out(tmp_path, monkeypatch):
    monkeypatch.setattr(control._Connection, "timeout", 0.5)
    path, stopping = tmp_path / "pgc.sock", threading.Event()
    server = control.ControlServer({control.ReloadRequest: lambda _: control.Reply()}, [path])
    server.start()
    clients = [socket.socket(socket.AF_UNIX) for _ in range(control.CONNECTIONS)]

    def drip(client):
        with contextlib.suppress(OSError):
            _dripping(client, stopping)

    threads = [threading.Thread(target=drip, args=(one,), name="drip") for one in clients]
    try:
        for client, thread in zip(clients, threads, strict=True):
            client.connect(str(path))
            thread.start()
        assert server._server is not None
        places = server._server.places
        until(lambda: not places._value, what="every place is taken")
        until(lambda: _answers(path), 5, "somebody else is answered")
    finally:
        stopping.set()
        for client, thread in zip(clients, threads, strict=True):
            thread.join(5)
            client.close()
        server.stop()


def _answers(path):
    try:
        return control.ask(control.ReloadRequest(), path, 1.0) is not None
    except AgentUnreachable:
        return False


def _silent(_connection, stopping):
    stopping.wait(5)


def _dripping(connection, stopping):
    while not stopping.wait(0.05):
        connection.sendall(b" ")


def _closing(connection, _stopping):
    connection.recv(1)


def _endless(connection, stopping):
    while not stopping.is_set():
        connection.sendall(b" " * 4096)


@pytest.mark.parametrize("converse", [_silent, _dripping, _closing, _endless])
def test_an_agent_that_listens_and_does_not_answer_is_an_error_in_time(
    converse, tmp_path, monkeypatch
):
    monkeypatch.setattr(control, "REPLY_MAX", 20_000)
    path = tmp_path / "pgc.sock"
    asked = control.SampleRequest(samplers=(), target="prod", connection="")
    with listening(path, converse):
        started = time.monotonic()
        with pytest.raises(AgentUnreachable, match="does not answer") as caught:
            control.ask(asked, path, timeout=0.5)
        assert time.monotonic() - started < 2
    assert "--dsn" in caught.value.remedy


def test_an_agent_that_ends_while_it_is_asked_is_nobody(tmp_path):
    path = tmp_path / "pgc.sock"
    asked = control.SampleRequest(samplers=(), target="prod", connection="")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)

        def end():
            connection, _ = listener.accept()
            listener.close()
            connection.close()

        ending = threading.Thread(target=end)
        ending.start()
        assert control.ask(asked, path, timeout=5) is None
        ending.join(5)
        assert not ending.is_alive()


def test_an_agent_whose_queue_is_full_is_an_error(tmp_path):
    path = tmp_path / "pgc.sock"
    asked = control.SampleRequest(samplers=(), target="prod", connection="")
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(path))
        listener.listen(0)
        with contextlib.suppress(BlockingIOError):
            for _ in range(10):
                waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
                waiting.settimeout(0)
                waiting.connect(str(path))
        with pytest.raises(AgentUnreachable, match=r": it is busy .* or it hangs$"):
            control.ask(asked, path, timeout=0.5)


def test_sample_opens_no_session_where_the_agent_breaks_off(server, fault_proxy, tmp_path):
    proxy = fault_proxy(server)
    there = {
        "RUNTIME_DIRECTORY": str(tmp_path),
        "PG_CONN_STRING": server.dsn("pgcollector", port=proxy.port) + " sslmode=disable",
    }
    with listening(tmp_path / "pgc.sock", _closing):
        done = pgc("sample", "activity", home=tmp_path, **there)
    assert done.returncode == 69
    assert "does not answer" in done.stderr
    assert "Its log says why" in done.stderr
    assert proxy.accepted == 0


def test_one_deadline_holds_for_all_samplers_of_a_request(server, tmp_path, monkeypatch):
    monkeypatch.setattr(pg_collector.commands, "ANSWER_WITHIN", 1.0)
    path = tmp_path / "pgc.sock"
    config = configuration({"prod": server.dsn("pgcollector")}, tmp_path / "out", query_timeout=4.0)
    with running(config, path) as agent:
        sampled(tmp_path / "out")
        with server.paused():
            started = time.monotonic()
            with pytest.raises(AgentUnreachable, match="within 1 s") as caught:
                control.ask(request(agent), path)
            assert time.monotonic() - started < 2.5
        assert caught.value.remedy


def test_the_agents_deadline_is_shorter_than_the_commands():
    assert control.ANSWER_WITHIN + 5 <= control.TIMEOUT


def test_an_answer_that_is_too_long_is_an_error_with_its_remedy(server, tmp_path, monkeypatch):
    path = tmp_path / "pgc.sock"
    config = configuration({"prod": server.dsn("pgcollector")}, tmp_path / "out")
    with running(config, path) as agent:
        sampled(tmp_path / "out")
        monkeypatch.setattr(control, "REPLY_MAX", 1_000)
        with pytest.raises(CollectorError, match="1000 are allowed") as caught:
            control.ask(request(agent), path)
    assert "fewer samplers" in caught.value.remedy


def _python_for_all() -> Path:
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for path in (sys.executable, shutil.which(name, path="/usr/bin:/usr/local/bin")):
        if path is not None and reachable(Path(path).resolve()):
            break
    else:
        missing("no Python of this version that every account can run")
    return Path(path)


@pytest.mark.root
@pytest.mark.parametrize(("mode", "code"), [(0o755, 77), (0o700, 0)])
def test_a_socket_that_one_may_not_write_to_is_told_and_one_that_one_cannot_see_is_not_ours(
    server, tmp_path, mode, code
):
    home = new_directory("control")
    home.chmod(0o777)
    state = home / "state"
    dsn = server.dsn("pgcollector") + " sslmode=disable"
    agents = server.dsn("plain")  # pgcollector may have two sessions only
    with running(configuration({"prod": agents}, tmp_path / "out"), state / "pgc.sock"):
        state.chmod(mode)
        done = pgc(
            "sample", "activity", "--set", f"state_dir={state}",
            home=home, python=_python_for_all(), wrap=as_owner, PG_CONN_STRING=dsn,
        )  # fmt: skip
        watched = pgc(
            "top", "--once", "--set", f"state_dir={state}",
            home=home, python=_python_for_all(), wrap=as_owner, PG_CONN_STRING=dsn,
        )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert watched.returncode == (code or 69), watched.stderr
    assert ("you may not ask" if code else "no agent runs here") in watched.stderr
    if code:
        assert "you may not ask it" in done.stderr
        assert "--dsn" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def _answering(said):
    def converse(connection, _stopping):
        connection.recv(65536)
        connection.sendall(said)

    return converse


def test_an_agent_of_another_version_is_told_as_such_by_whatever_asks(tmp_path):
    path = tmp_path / "pgc.sock"
    config = tmp_path / "config.yaml"
    config.write_text("databases: [{name: a, postgres: {conn_string: host=/nowhere}}]\n")
    buffer = buffer_access.Running(path, "", load(config, environ={}, samplers={}).config)
    for said in (b'{"status":"done"}\n', b'{"status":"done","result":{"new":1}}\n'):
        with listening(path, _answering(said)):
            for ask in (buffer.report, lambda: buffer.sort_out("purge", None)):
                with pytest.raises(CollectorError, match="not understood") as told:
                    ask()
                assert "another version" in told.value.remedy
        path.unlink()
    asked = control.ReloadRequest()
    for said in (b"no JSON\n", b'{"status":"new"}\n'):
        with (
            listening(path, _answering(said)),
            pytest.raises(AgentUnreachable, match="is not understood") as unclear,
        ):
            control.ask(asked, path, timeout=5)
        assert "another version" in unclear.value.remedy
        path.unlink()
