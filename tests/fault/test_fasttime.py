"""Fast time: what takes a minute inside takes a fraction of a second outside."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.fasttime import FastTime
from tests.support.until import until

FACTOR = 100
VERSIONS = ("3.11", "3.12", "3.13")

WAITS = {
    "time.sleep": "time.sleep(60)",
    "Event.wait": "threading.Event().wait(60)",
    "Lock.acquire": "lock = threading.Lock(); lock.acquire(); lock.acquire(timeout=60)",
    "Condition.wait": "c = threading.Condition(); c.acquire(); c.wait(60)",
    "Thread.join": "t = threading.Thread(target=b.recv, args=(1,), daemon=True)\n"
    "t.start(); t.join(60)",
    "Queue.get": "with suppress(queue.Empty): queue.Queue().get(timeout=60)",
    "select": "select.select([a], [], [], 60)",
    "poll": "p = select.poll(); p.register(a, select.POLLIN); p.poll(60_000)",
    "epoll": "e = select.epoll(); e.register(a, select.EPOLLIN); e.poll(60)",
    "socket timeout": "a.settimeout(60)\nwith suppress(TimeoutError): a.recv(1)",
    "socket option": "limit = struct.pack('ll', 60, 0); a.settimeout(None)\n"
    "a.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)\n"
    "with suppress(BlockingIOError): a.recv(1)",
    "sigtimedwait": "signal.sigtimedwait([signal.SIGUSR1], 60)",
    "alarm": "signal.signal(signal.SIGALRM, lambda *_: None); signal.alarm(60); signal.pause()",
}

HEAD = """
import queue, select, signal, socket, struct, sys, threading, time
from contextlib import suppress
a, b = socket.socketpair()
def measure(wait):
    began = time.monotonic(), time.time()
    exec(wait)
    print(time.monotonic() - began[0], time.time() - began[1])
"""


def interpreter(version: str) -> str:
    """A Python of this version: ours, one on the path, one of pyenv's."""
    if sys.version_info[:2] == tuple(map(int, version.split("."))):
        return sys.executable
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    places = [*root.glob(f"versions/{version}.*/bin/python3"), shutil.which(f"python{version}")]
    for place in map(str, filter(None, places)):
        if subprocess.run([place, "-c", ""], capture_output=True, check=False).returncode == 0:
            return place
    pytest.skip(f"no Python {version} here")


def run(fast: FastTime, program: str, python: str = sys.executable) -> list[float]:
    """Run a program in fast time; return the numbers that it printed."""
    done = subprocess.run(
        [python, "-c", program], env=fast.environment(), stdin=subprocess.PIPE,
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    return [float(word) for word in done.stdout.split()]


def test_a_minute_at_a_hundred_times_the_speed_takes_0_6_seconds():
    fast = FastTime(FACTOR)
    program = """
import threading, time
real = time.clock_gettime(time.CLOCK_TAI)  # not a fast one
began = time.monotonic(), time.time()
threading.Event().wait(60)
print(time.clock_gettime(time.CLOCK_TAI) - real)
print(time.monotonic() - began[0], time.time() - began[1])
"""
    real, monotonic, wall = run(fast, program)
    assert 0.59 < real < 2
    assert monotonic == pytest.approx(real * FACTOR, abs=0.5)
    assert wall == pytest.approx(monotonic, abs=0.5)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_way_to_wait_ends_in_fast_time(version: str):
    python = interpreter(version)
    program = HEAD + "".join(f"measure({wait!r})\n" for wait in WAITS.values())
    began = time.monotonic()
    numbers = run(FastTime(500), program, python)
    took = time.monotonic() - began
    assert took < 20, "13 minutes would be 1.6 s, and the rest is starting"
    for name, monotonic, wall in zip(WAITS, numbers[::2], numbers[1::2], strict=True):
        assert 59.9 < monotonic < 300, f"{name} lasts what it should, as the process sees it"
        assert wall == pytest.approx(monotonic, abs=1), f"{name}: both clocks agree"


def test_waits_of_many_threads_end_together():
    program = """
import threading, time
def wait():
    for _ in range(50):
        threading.Event().wait(10)
threads = [threading.Thread(target=wait) for _ in range(8)]
began = time.monotonic()
for thread in threads: thread.start()
for thread in threads: thread.join()
print(time.monotonic() - began)
"""
    (took,) = run(FastTime(FACTOR), program)
    assert 500 <= took < 600


def test_a_busy_thread_does_not_keep_the_others_from_waking():
    program = """
import threading, time
stopping = False
def spin():
    while not stopping: pass
threading.Thread(target=spin).start()
began = time.monotonic()
for _ in range(50): time.sleep(10)
print(time.monotonic() - began)
stopping = True
"""
    (took,) = run(FastTime(FACTOR), program)
    assert 500 <= took < 600


def test_a_child_and_the_tests_read_the_same_time():
    fast = FastTime(FACTOR)
    program = (
        "import subprocess, sys, time; print(time.time()); "
        "print(subprocess.check_output([sys.executable, '-c', "
        "'import time; print(time.time(), time.monotonic())'], text=True))"
    )
    until(lambda: fast.wall() > time.time() + 30, what="fast time is ahead")
    before = fast.wall()
    parent, child, monotonic = run(fast, program)
    assert before <= parent <= child <= fast.wall()
    assert monotonic <= fast.monotonic() <= monotonic + (fast.wall() - child) + 0.1


def test_a_process_that_starts_later_goes_on_in_the_same_time():
    fast = FastTime(FACTOR)
    program = "import time; print(time.monotonic())"
    (first,), (second,) = run(fast, program), run(fast, program)
    assert second > first
    assert second <= fast.monotonic()


def test_children_inherit_an_origin_that_the_process_chose_itself():
    environment = FastTime(FACTOR).environment()
    del environment["FASTTIME_ORIGIN"]
    program = (
        "import subprocess, sys, time; began = time.time(); time.sleep(60); print(began); "
        "print(subprocess.check_output([sys.executable, '-c', 'import time; print(time.time())'],"
        " text=True)); print(time.time())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True,
        timeout=30, check=True,
    )  # fmt: skip
    began, child, ended = map(float, done.stdout.split())
    assert began + 60 <= child <= ended
