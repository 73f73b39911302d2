"""`pgc` as its users run it: a process, its output, its exit code."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.support.ports import free_port
from tests.support.sampling import SAMPLERS
from tests.support.scratch import new_directory
from tests.support.until import until

PGC = str(Path(sys.executable).with_name("pgc"))
CLEAN = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}

pytestmark = pytest.mark.ends


def pgc(*words, home, timeout=60, **environment):
    env = CLEAN | {"HOME": str(home), "XDG_RUNTIME_DIR": str(home)} | environment
    return subprocess.run(
        [PGC, *map(str, words)],
        capture_output=True, text=True, env=env, cwd=home, timeout=timeout, check=False,
    )  # fmt: skip


class Running:
    """`pgc start` in the background, its stderr in a file."""

    def __init__(self, home, *words, **environment):
        self.home = home
        self.log = home / "log"
        env = CLEAN | {"HOME": str(home), "XDG_RUNTIME_DIR": str(home)} | environment
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [PGC, "start", *map(str, words)], env=env, cwd=home, stderr=log
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def end(self, number=signal.SIGTERM):
        started = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(timeout=15)
        return code, time.monotonic() - started


def lines(home, sampler="activity"):
    """Return the lines so far; one that is being written is not one yet."""
    return [
        json.loads(line)
        for path in home.glob(f"output/*/{sampler}/*.jsonl")
        for line in path.read_text().splitlines(keepends=True)
        if line.endswith("\n")
    ]


@pytest.fixture
def dsn(server):
    return server.dsn("pgcollector") + " sslmode=disable"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_start_without_a_key_collects_into_files_until_a_signal(dsn, tmp_path, number):
    port = free_port("127.0.0.1")
    with Running(
        tmp_path, "--local", "output", "--http", f"127.0.0.1:{port}", PG_CONN_STRING=dsn
    ) as agent:
        wanted = ("activity", "database", "statements", "server")
        until(lambda: all(lines(tmp_path, one) for one in wanted), deadline=20, what="lines")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as reply:
            assert json.loads(reply.read())["status"] == "ok"
        code, seconds = agent.end(number)
    assert code == 0
    assert seconds < 10
    log = [json.loads(line) for line in agent.log.read_text().splitlines()]
    assert {entry["level"] for entry in log} <= {"info", "warning"}
    assert lines(tmp_path)[0]["every_s"] == 30.0  # the plan demo, not the sampler's 10 s


def test_start_without_plan_stays_up_and_names_the_remedy(dsn, tmp_path):
    port = free_port("127.0.0.1")
    with Running(tmp_path, PG_CONN_STRING=dsn, HTTP_ADDRESS=f"127.0.0.1:{port}") as agent:

        def ready():
            url = f"http://127.0.0.1:{port}/readyz"
            try:
                urllib.request.urlopen(url, timeout=5)
            except urllib.error.HTTPError as error:
                return error.code, error.read().decode()
            return 200, ""

        code, body = until(ready, not_yet=(urllib.error.URLError, OSError))
        assert code == 503
        assert "UNPROVISIONED" in body
        assert agent.end()[0] == 0
    assert "UNPROVISIONED" in agent.log.read_text()


def test_once_takes_a_turn_of_each_sampler_and_ends(dsn, tmp_path):
    done = pgc("start", "--once", "--local", "output", home=tmp_path, PG_CONN_STRING=dsn)
    assert (done.returncode, done.stdout) == (0, "")
    for sampler in ("activity", "database", "statements", "query_text", "server"):
        assert lines(tmp_path, sampler)


def test_once_with_an_output_that_cannot_be_written_ends_with_one(dsn, tmp_path):
    (tmp_path / "output").write_text("in the way")
    done = pgc("start", "--once", "--local", "output", home=tmp_path, PG_CONN_STRING=dsn)
    assert done.returncode == 1
    assert "not delivered" in done.stderr


def test_a_dry_run_prints_masked_lines_and_writes_nothing(dsn, server, tmp_path):
    server.query("select 'canary-0815'")
    done = pgc("start", "--once", "--dry-run", home=tmp_path, PG_CONN_STRING=dsn)
    assert done.returncode == 0
    sets = {json.loads(line)["set"] for line in done.stdout.splitlines()}
    assert {"activity.sessions", "database", "statements", "query_text"} <= sets
    assert "canary" not in done.stdout + done.stderr
    assert not list(tmp_path.glob("output*"))


def with_a_key():
    """Return a key for a platform that is not there."""
    return {"API_KEY": "key", "PGC__PLATFORM__URL": f"http://127.0.0.1:{free_port()}"}


def test_once_without_a_plan_ends_with_78_and_the_remedy(dsn, tmp_path):
    done = pgc("start", "--once", home=tmp_path, PG_CONN_STRING=dsn)
    assert (done.returncode, done.stdout) == (78, "")
    assert "UNPROVISIONED" in done.stderr
    assert "device not activated: add api_key" in done.stderr
    assert "--local DIR" in done.stderr


def test_once_without_a_platform_that_answers_ends_with_69(dsn, tmp_path):
    state = {"PGC__STATE_DIR": str(tmp_path / "state")}
    done = pgc("start", "--once", home=tmp_path, PG_CONN_STRING=dsn, **with_a_key(), **state)
    assert (done.returncode, done.stdout) == (69, "")
    assert "UNPROVISIONED" in done.stderr
    assert "Connection refused" in done.stderr


def test_without_a_platform_that_answers_it_stays_up_and_says_why(dsn, tmp_path):
    port = free_port("127.0.0.1")
    there = with_a_key() | {
        "PG_CONN_STRING": dsn,
        "HTTP_ADDRESS": f"127.0.0.1:{port}",
        "PGC__STATE_DIR": str(tmp_path / "state"),
    }
    with Running(tmp_path, **there) as agent:

        def body():
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5)
            except urllib.error.HTTPError as error:
                return error.read().decode()
            return ""

        until(lambda: "Connection refused" in body(), not_yet=(urllib.error.URLError, OSError))
        assert agent.end()[0] == 0
    assert "the key service: " in agent.log.read_text()


@pytest.mark.parametrize("words", [(), ("--once",)], ids=["start", "once"])
def test_a_dry_run_whose_reader_has_gone_ends_quietly(dsn, tmp_path, words):
    reading, writing = os.pipe()
    os.close(reading)
    with subprocess.Popen(
        [PGC, "start", "--dry-run", "--http", "off", *words],
        stdout=writing, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env=CLEAN | {
            "HOME": str(tmp_path), "PG_CONN_STRING": dsn,
            "RUNTIME_DIRECTORY": str(new_directory("run")),  # short enough for a socket's path
        },
    ) as process:  # fmt: skip
        os.close(writing)
        try:
            _, said = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 0
    assert {json.loads(line)["level"] for line in said.splitlines()} == {"info"}


def test_once_with_a_server_that_is_away_ends_with_one(tmp_path):
    gone = f"host=127.0.0.1 port={free_port('127.0.0.1')} user=x password=hush sslmode=disable"
    done = pgc("start", "--once", "--dry-run", home=tmp_path, PG_CONN_STRING=gone)
    assert done.returncode == 1
    assert "refused" in done.stderr
    assert "hush" not in done.stderr + done.stdout


def test_a_password_on_the_command_line_is_warned_about_and_not_repeated(dsn, tmp_path):
    done = pgc("sample", "activity", "--dsn", f"{dsn} password=hush4711", home=tmp_path)
    assert done.returncode == 0
    assert "PGPASSFILE" in done.stderr
    assert "hush4711" not in done.stdout + done.stderr


@pytest.mark.parametrize("extra", [(), ("--json",), ("--explain",)])
def test_sample_needs_nothing_but_a_dsn(dsn, tmp_path, extra):
    done = pgc("sample", "activity", "statements", "--dsn", dsn, *extra, home=tmp_path)
    assert done.returncode == 0, done.stderr
    if extra == ("--json",):
        sets = [json.loads(line)["set"] for line in done.stdout.splitlines()]
        assert {"activity.sessions", "statements"} <= set(sets)
    elif extra:
        assert "SELECT /* pgc:activity */" in done.stdout
        assert "-- query_text" in done.stdout
    else:
        assert "activity.counts: " in done.stdout
        assert "queryid" in done.stdout


def test_what_the_server_says_cannot_command_the_terminal(server, tmp_path):
    evil = "\x1b]0;pwned\x07\x9b2J"
    with server.connect() as session:
        session.execute(f'create temporary table "{evil}" ()')
        session.execute("begin")
        session.execute(f'select from "{evil}"')
        dsn = server.dsn("pgcollector") + " sslmode=disable"
        for extra in ((), ("--json",)):
            done = pgc("sample", "activity", "--dsn", dsn, *extra, home=tmp_path)
            assert done.returncode == 0, done.stderr
            assert "pwned" in done.stdout
            assert all(c.isprintable() or c == "\n" for c in done.stdout)


def test_what_sample_explains_is_sql_that_the_server_answers(server, dsn, tmp_path):
    done = pgc("sample", "activity", "database", "--dsn", dsn, "--explain", home=tmp_path)
    with server.connect() as connection:
        for text in done.stdout.split("\n\n"):
            sql = text.replace("%(part)s", "null").replace("%%", "%")
            assert connection.execute(sql).description


def test_sample_as_a_plain_role_says_what_is_missing_and_ends_with_one(server, tmp_path):
    dsn = server.dsn("plain") + " sslmode=disable"
    done = pgc("sample", "--dsn", dsn, home=tmp_path)
    assert done.returncode == 1
    assert "remedy: GRANT pg_monitor TO plain;" in done.stdout


def test_sample_asks_the_running_agent(dsn, server, tmp_path):
    there = {"PG_CONN_STRING": dsn, "RUNTIME_DIRECTORY": str(tmp_path)}
    with Running(tmp_path, "--local", "output", "--http", "off", **there) as agent:
        until(lambda: lines(tmp_path, "statements"), deadline=20)
        done = pgc("sample", "database", "--json", home=tmp_path, **there)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[0])["set"] == "database"
        sessions = server.value(
            "select count(*) from pg_stat_activity where usename = 'pgcollector'"
        )
        assert sessions == 2
        assert agent.end()[0] == 0


def test_setup_sql_makes_a_role_that_can_sample_everything(database, tmp_path):
    role = f"watcher_{database.name}"
    done = pgc(
        "setup", "sql", "--user", role, "--database", database.name, "--targets", "2", home=tmp_path
    )
    assert done.returncode == 0
    sql = done.stdout
    try:
        for _ in range(2):  # it can be run again
            database.query(sql)
        (limit,) = database.query("select rolconnlimit from pg_roles where rolname = %s", [role])[0]
        assert limit == 4
        dsn = f"{database.dsn(role)} sslmode=disable"
        done = pgc("sample", "--json", "--dsn", dsn, home=tmp_path)
        assert done.returncode == 0, done.stdout
    finally:
        database.query(f'drop owned by "{role}"; drop role "{role}"')


CASES = [
    (("start", "--config", "missing.yaml"), 78, "missing.yaml"),
    (("start",), 78, "pgc config init"),
    (("start", "--nonsense"), 2, "nonsense"),
    (("sample", "nonsense", "--dsn", "x=1"), 1, ", ".join(SAMPLERS)),
    (("sample", "--dsn", "host=127.0.0.1 port=1 sslmode=disable"), 69, "refused"),
    (("setup", "sql", "--auth", "magic"), 78, "password"),
    (("config", "check", "--config", "missing.yaml"), 78, "missing.yaml"),
    (("reload",), 78, "pgc config init"),
    (("nonsense",), 2, "nonsense"),
]


@pytest.mark.parametrize(("words", "code", "said"), CASES, ids=str)
def test_an_error_names_its_remedy_and_has_its_exit_code(tmp_path, words, code, said):
    done = pgc(*words, home=tmp_path)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_an_address_in_use_ends_with_73(dsn, tmp_path):

    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = pgc(
            "start", "--local", "output", "--http", address, home=tmp_path, PG_CONN_STRING=dsn
        )
    assert done.returncode == 73
    assert "cannot listen" in done.stderr


def test_every_verb_teaches_with_an_example(tmp_path):
    for verb in (
        ["start"],
        ["reload"],
        ["sample"],
        ["samplers"],
        ["setup", "sql"],
        ["demo"],
        ["config"],
    ):
        done = pgc(*verb, "--help", home=tmp_path)
        assert done.returncode == 0
        assert f"  pgc {' '.join(verb)}" in done.stdout


def test_listings_speak_json(tmp_path):
    listed = json.loads(pgc("samplers", "--json", home=tmp_path).stdout)
    assert [one["name"] for one in listed] == sorted(SAMPLERS)
    assert json.loads(pgc("version", "--json", home=tmp_path).stdout)["pgc"]
    assert pgc("--version", home=tmp_path).stdout.startswith("pgc ")


@pytest.mark.parametrize("words", [("config", "reference"), ("version",), ("samplers", "--json")])
def test_an_output_that_is_full_is_one_line(words):
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [PGC, *words], stdout=full, stderr=subprocess.PIPE, text=True, env=CLEAN, check=False
        )
    assert (done.returncode, done.stderr) == (1, "pgc: No space left on device\n")


def test_a_closed_pipe_is_no_traceback():
    with subprocess.Popen(
        [PGC, "config", "reference"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=CLEAN
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()


def test_closed_streams_are_no_traceback(tmp_path):
    words = ["-m", "pg_collector", "status", "--set", f"state_dir={tmp_path}"]
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" <&- >&-', "sh", sys.executable, *words],
        stderr=subprocess.PIPE, text=True, env=CLEAN | {"PG_CONN_STRING": "host=x"}, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (69, "")


def test_what_the_locale_cannot_show_is_escaped_as_in_json():
    said = "a … of é, 😀"
    program = f"from pg_collector import cli; cli._print_anything(); print({said!r})"
    plain = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, env=CLEAN | plain, check=True
    )
    shown = done.stdout.decode("latin-1").strip()
    assert shown == "a \\u2026 of é, \\ud83d\\ude00"
    assert json.loads(f'"{shown}"') == said
