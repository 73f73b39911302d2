"""The log: what a line holds, what it never holds, and who is not waited for."""

import contextlib
import fcntl
import io
import json
import logging
import os
import pty
import resource
import signal
import subprocess
import sys
import termios
import threading
import time
import tty
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pg_collector import logs
from pg_collector.config.model import Log, LogFormat, LogLevel
from pg_collector.errors import StateError
from pg_collector.secret import Secret
from tests.support.until import until

log = logging.getLogger("pg_collector.sender")


def scrub(text: str) -> str:
    return text.replace("hunter2", "***")


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    yield
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, logs.LineHandler):
            root.removeHandler(handler)
            handler.close()
    logging.captureWarnings(capture=False)


def alone() -> None:
    """Take pytest's own handlers away until the end of the test: hostile records break them."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if not isinstance(handler, logs.LineHandler):
            root.removeHandler(handler)


class Bench:
    """A log that goes to memory."""

    def __init__(self, **settings: Any) -> None:
        self.stream = io.StringIO()
        self.handler = logs.setup(Log(**settings), scrub=scrub, stream=self.stream)
        alone()

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    @property
    def entries(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.split("\n")[:-1]]

    @property
    def messages(self) -> list[str]:
        return [entry["msg"] for entry in self.entries]


def test_a_record_is_one_json_object_with_its_fields():
    bench = Bench()
    log.info("batch %d delivered", 7, extra={"target": "prod", "bytes": 12, "tags": ["a", 1]})
    [entry] = bench.entries
    assert entry.pop("ts").endswith("Z")
    assert entry == {
        "level": "info",
        "msg": "batch 7 delivered",
        "component": "sender",
        "target": "prod",
        "bytes": 12,
        "tags": ["a", 1],
    }


def test_people_get_a_line_they_can_read():
    bench = Bench(format=LogFormat.CONSOLE)
    log.warning("disk is full", extra={"target": "prod"})
    assert bench.text[12:] == " WARNING  sender: disk is full target=prod\n"


def test_levels_below_the_configured_one_are_not_written():
    bench = Bench(level=LogLevel.WARNING)
    log.info("quiet")
    log.warning("loud")
    assert bench.messages == ["loud"]


@pytest.mark.parametrize("name", ["apscheduler.scheduler", "urllib3.connectionpool"])
def test_libraries_speak_from_warning_on(name: str):
    bench = Bench(level=LogLevel.DEBUG)
    logging.getLogger(name).info("chatter")
    logging.getLogger(name).warning("trouble")
    assert bench.messages == ["trouble"]


class Leaky:
    def __str__(self) -> str:
        return "leaky hunter2"

    __repr__ = __str__


def fails_with_a_secret() -> None:
    raise ValueError("password is hunter2")


@pytest.mark.parametrize("form", list(LogFormat))
def test_no_secret_leaves_by_any_way(form: LogFormat):
    bench = Bench(format=form, level=LogLevel.DEBUG)
    password = Secret("geheim")
    log.info("hunter2 and %s and %s", "hunter2", password)
    log.info("extra", extra={"dsn": "hunter2", "password": password})
    log.info("deep", extra={"all": {"hunter2": ["hunter2", (Leaky(), password)]}, "o": Leaky()})
    log.info("does not fit %d", "hunter2")
    log.info(Leaky())
    log.info("x", extra={"component": "hunter2"})
    log.info("stack", stack_info=True)
    logging.getLogger("hunter2").info("name")
    try:
        fails_with_a_secret()
    except ValueError as error:
        log.error("failed: %s", error, exc_info=True)  # noqa: G201  # with its text in the message
        log.exception("failed", extra={"cause": error})
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("hunter2", stacklevel=1)
    bench.handler.close()
    assert len(bench.text.splitlines()) >= 11
    assert "password is ***" in bench.text
    assert "ValueError" in bench.text
    assert "hunter2" not in bench.text
    assert "geheim" not in bench.text


def test_a_text_that_cannot_be_redacted_is_withheld():
    stream = io.StringIO()

    def broken(_text: str) -> str:
        raise RecursionError

    logs.setup(Log(), scrub=broken, stream=stream)
    log.error("hunter2", extra={"more": "hunter2"})
    entry = json.loads(stream.getvalue())
    assert entry["msg"] == entry["more"] == logs.WITHHELD


def test_no_record_can_forge_a_line_or_a_terminal_code():
    bench = Bench(format=LogFormat.CONSOLE)
    log.info("one\n2026 ERROR forged\x1b[2J\r", extra={"field": "a\nb"})
    assert bench.text.count("\n") == 1
    assert "\x1b" not in bench.text
    assert "\r" not in bench.text
    other = Bench()
    log.info("one\ntwo\u2028three\udcff")
    assert other.text.count("\n") == 1
    assert other.entries[0]["msg"] == "one\ntwo\u2028three\\udcff"


@pytest.mark.parametrize("value", [float("nan"), 1 << 200, object(), b"\xff", {1, 2}, None, {1: 2}])
def test_whatever_is_logged_nothing_raises_and_json_stays_json(value: Any):
    bench = Bench()
    log.info("odd", extra={"value": value})
    assert bench.entries[0]["msg"] in {"odd", "1 log records could not be written"}


def test_a_record_that_cannot_be_written_is_counted_not_raised():
    class Hostile:
        def __str__(self) -> str:
            raise RuntimeError

    bench = Bench()
    log.info("%s", Hostile())
    assert bench.messages == ["1 log records could not be written"]
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    log.info("round", extra={"cyclic": cyclic})
    assert "2 log records could not be written" in bench.messages


def test_the_same_message_is_said_once_and_counted():
    bench = Bench(repeat_window=60.0)
    for _ in range(50):
        log.warning("cannot connect", extra={"target": "prod"})
    log.warning("cannot connect", extra={"target": "other"})
    assert bench.messages == ["cannot connect"] * 2
    bench.handler.close()
    assert bench.messages[2:] == ["cannot connect (repeated 49 times)"]
    assert bench.entries[-1]["repeated"] == 49
    assert bench.entries[-1]["target"] == "prod"


def test_repeats_are_told_when_their_window_ends():
    bench = Bench(repeat_window=0.02)
    log.warning("again")
    log.warning("again")

    def told() -> bool:
        log.warning("other")
        return len(bench.messages) > 2

    until(told, 5)
    assert bench.messages[2] == "again (repeated once)"


def test_without_a_window_everything_is_said():
    bench = Bench(repeat_window=0.0)
    for _ in range(3):
        log.info("again")
    assert bench.messages == ["again"] * 3


def test_who_debugs_hears_everything():
    bench = Bench(level=LogLevel.DEBUG)
    for _ in range(3):
        log.debug("again")
    assert bench.messages == ["again"] * 3


def test_the_memory_for_repeats_is_bounded():
    bench = Bench(repeat_window=3600.0)
    for n in range(2000):
        log.info("message %d", n)
    log.info("message 1999")
    assert len(bench.messages) == 2000
    assert len(bench.handler._repeats._said) <= 256  # type: ignore[attr-defined]


def test_a_second_setup_replaces_the_first():
    first = Bench()
    second = Bench(level=LogLevel.DEBUG)
    log.debug("hello")
    assert first.text == ""
    assert second.messages == ["hello"]


def test_a_line_goes_to_the_file_too_and_follows_its_rotation(tmp_path: Path):
    path = tmp_path / "collector.log"
    bench = Bench(file=path)
    log.info("one")
    path.rename(tmp_path / "collector.log.1")
    log.info("two")
    path.unlink()
    log.info("three")
    assert [json.loads(text)["msg"] for text in path.read_text().splitlines()] == ["three"]
    assert "two" not in (tmp_path / "collector.log.1").read_text()
    assert bench.messages == ["one", "two", "three"]
    assert path.stat().st_mode & 0o777 == 0o640 & ~_umask()


def test_a_file_that_cannot_be_opened_is_told_with_the_remedy(tmp_path: Path):
    with pytest.raises(StateError, match="No such file") as caught:
        Bench(file=tmp_path / "missing" / "x.log")
    assert "log.file" in caught.value.remedy


def test_a_file_that_is_full_costs_the_line_and_says_so_later(tmp_path: Path):
    path = tmp_path / "collector.log"
    bench = Bench(file=path)
    log.info("first")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, limits[1]))
    try:
        log.info("lost")
        log.info("lost, too")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    log.info("here")
    assert bench.messages == ["first", "lost", "lost, too", "here"]
    lines = path.read_text().splitlines()
    assert lines[1] == "(2 log lines were lost)"
    assert [json.loads(lines[n])["msg"] for n in (0, 2)] == ["first", "here"]


def test_a_file_that_is_none_is_refused_without_waiting(tmp_path: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = None
    try:
        for _ in range(2):  # without a reader, then with one
            with pytest.raises(StateError, match="not a regular file") as caught:
                Bench(file=pipe)
            assert "log.file" in caught.value.remedy
            reader = reader or os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    finally:
        if reader is not None:
            os.close(reader)
    with pytest.raises(StateError, match="not a regular file"):
        Bench(file=Path("/dev/full"))


def test_a_file_that_becomes_a_named_pipe_costs_lines_and_no_time(tmp_path: Path):
    path = tmp_path / "collector.log"
    bench = Bench(file=path)
    log.info("one")
    path.unlink()
    os.mkfifo(path)
    log.info("two")
    path.unlink()
    log.info("three")
    assert bench.messages == ["one", "two", "three"]
    assert path.read_text().startswith("(1 log lines were lost)\n")


def _umask() -> int:
    before = os.umask(0)
    os.umask(before)
    return before


@contextlib.contextmanager
def a_pipe() -> Iterator[tuple[int, Any]]:
    read, write = os.pipe()
    with os.fdopen(read, "rb", buffering=0), os.fdopen(write, "w") as stream:
        yield read, stream


def say(times: int, size: int) -> None:
    for n in range(times):
        log.info("%d %s", n, "x" * (size - 37 * n))


def test_a_pipe_that_nobody_reads_holds_nobody_up_for_long():
    with a_pipe() as (read, stream):
        fcntl.fcntl(stream, fcntl.F_SETPIPE_SZ, 8192)
        logs.setup(Log(repeat_window=0.0), scrub=scrub, stream=stream)
        threads = [threading.Thread(target=say, args=(5, 20_000), name=f"t{n}") for n in range(4)]
        for thread in threads:
            thread.start()
        started = time.monotonic()
        for thread in threads:
            thread.join(10)
        assert time.monotonic() - started < 3, "one second for the first, none for the others"
        received = os.read(read, 1 << 20)
        log.info("reader is back")
        received += os.read(read, 1 << 20)
    texts = received.decode().splitlines()
    assert any("log lines were lost" in text for text in texts)
    assert json.loads(texts[-1])["msg"] == "reader is back"


def test_a_reader_that_is_gone_disturbs_nobody():
    read, write = os.pipe()
    with os.fdopen(write, "w") as stream:
        logs.setup(Log(), scrub=scrub, stream=stream)
        os.close(read)
        started = time.monotonic()
        log.error("into the void")
        assert time.monotonic() - started < 0.5


def test_a_stopped_terminal_disturbs_nobody():
    master, slave = pty.openpty()
    try:
        tty.setraw(slave, termios.TCSANOW)
        with os.fdopen(slave, "w", closefd=False) as stream:
            handler = logs.setup(Log(repeat_window=0.0), scrub=scrub, stream=stream)
            work = threading.Thread(target=say, args=(130, 5_000), name="writer")
            work.start()
            work.join(10)
            assert not work.is_alive()
            handler.close()
            assert os.get_blocking(slave), "the terminal of others is left as it was"
    finally:
        os.close(slave)
        os.close(master)


JOURNAL = """
import logging, os, sys
from pg_collector import logs
from pg_collector.config.model import Log, LogFormat
status = os.fstat(2)
if sys.argv[2] == "journal":
    os.environ["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino}"
else:
    os.environ["JOURNAL_STREAM"] = "1:1"
logs.setup(Log(format=LogFormat(sys.argv[1]), level="debug"), scrub=str)
for level in (10, 20, 30, 40, 50):
    logging.getLogger("pg_collector.x").log(level, "hello")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("pg_collector.x").exception("oops")
if sys.argv[1] == "json":
    logging.getLogger("pg_collector.x").info("one\\u2028two")
"""


def test_a_line_for_the_journal_is_cut_at_no_other_break():
    lines = run_under("json", "journal")
    assert msgspec.json.decode(lines[-1][3:])["msg"] == "one\u2028two"


def run_under(form: str, where: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", JOURNAL, form, where],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    return done.stderr.split("\n")[:-1]


def test_the_journal_gets_priorities():
    lines = run_under("json", "journal")
    assert [text[:3] for text in lines] == ["<7>", "<6>", "<4>", "<3>", "<2>", "<3>", "<6>"]
    assert msgspec.json.decode(lines[2][3:])["level"] == "warning"
    traceback = run_under("console", "journal")[5:]
    assert len(traceback) > 2
    assert all(text.startswith("<3>") for text in traceback), "each line has its own"


def test_an_inherited_variable_is_not_taken_for_a_journal():
    assert all(text.startswith("{") for text in run_under("json", "elsewhere"))


def test_a_stopped_reader_process_does_not_stop_the_writer():
    program = (
        "import logging; from pg_collector import logs; from pg_collector.config.model import Log\n"
        "logs.setup(Log(repeat_window=0.0), scrub=str)\n"
        "for n in range(200): logging.info('%d %s', n, 'x' * 2000)\n"
    )
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as reader:
        reader.send_signal(signal.SIGSTOP)
        try:
            subprocess.run(
                [sys.executable, "-c", program], stderr=reader.stdin, check=True, timeout=20
            )
        finally:
            reader.send_signal(signal.SIGCONT)
            reader.kill()


def test_an_exception_that_nobody_caught_is_logged_redacted_even_in_a_thread():
    program = """
import threading
from pg_collector import logs
from pg_collector.config.model import Log
from pg_collector.privacy.scrub import scrub

def fail():
    raise RuntimeError("cannot reach postgresql://u:hunter2@db/x?password=hunter2")

logs.setup(Log(), scrub=scrub)
logs.catch_uncaught()
thread = threading.Thread(target=fail)
thread.start()
thread.join()
fail()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 1
    entries = [json.loads(line) for line in done.stderr.splitlines()]
    assert {entry["level"] for entry in entries} == {"critical"}
    assert "hunter2" not in done.stderr
    assert "RuntimeError" in done.stderr
