"""The end of the process: how long anybody waits, and who may begin it."""

import signal
import subprocess
import sys
import threading

import pytest

from pg_collector import signals
from pg_collector.clock import SystemClock
from pg_collector.lifetime import Ending, Lifetime
from tests.support.hand_clock import HandClock


class Waiting:
    """Something that is done after some seconds on a clock moved by hand."""

    def __init__(self, clock, after):
        self.clock = clock
        self.due = clock.monotonic() + after
        self.slices = []

    def look(self, seconds):
        self.slices.append(seconds)
        self.clock.advance(seconds)
        return self.clock.monotonic() >= self.due


@pytest.mark.parametrize(
    ("after", "seconds", "done", "took"), [(1.0, 2.0, True, 1.0), (5.0, 2.0, False, 2.0)]
)
def test_a_wait_ends_with_what_it_waits_for_or_with_its_time(after, seconds, done, took):
    clock = HandClock()
    started = clock.monotonic()
    assert Ending(clock, 9.0).wait(Waiting(clock, after).look, seconds) is done
    assert clock.monotonic() - started == pytest.approx(took, abs=0.06)


def test_all_waits_together_end_with_the_budget():
    clock = HandClock()
    ending = Ending(clock, 9.0)
    ending.begin()
    started = clock.monotonic()
    for _ in range(5):
        assert not ending.wait(Waiting(clock, 100.0).look, 4.0)
        ending.begin()  # does not begin again
    assert clock.monotonic() - started == pytest.approx(9.0, abs=0.2)
    assert ending.left == 0.0


def test_who_is_in_a_hurry_waits_for_nobody_but_takes_what_is_done():
    clock = HandClock()
    ending = Ending(clock, 9.0)
    waiting = Waiting(clock, 0.1)

    def look(seconds):
        ending.hurry()
        return waiting.look(seconds)

    assert not ending.wait(look, 4.0)
    assert len(waiting.slices) == 2  # the one under way, and a last look
    clock.advance(1.0)
    assert ending.wait(waiting.look, 4.0)


def test_the_routine_is_done_in_the_waiting_thread_now_and_then(monkeypatch):
    monkeypatch.setattr("pg_collector.lifetime.LOOKS_EVERY", 0.01)
    life = Lifetime(Ending(SystemClock(), 9.0))
    done = []

    def routine():
        done.append(threading.current_thread())
        if len(done) == 3:
            life.end("enough")

    life.routine = routine
    assert life.wait() == 0
    assert done == [threading.current_thread()] * 3


def test_what_is_posted_is_done_in_the_waiting_thread_until_the_end():
    life = Lifetime(Ending(SystemClock(), 9.0))
    done: list[object] = []

    def others():
        life.post(lambda: done.append(threading.current_thread()))
        life.end("enough")
        life.post(lambda: done.append("too late"))

    thread = threading.Thread(target=others)
    thread.start()
    assert life.wait() == 0
    thread.join(10)
    assert done == [threading.current_thread()]


@pytest.mark.parametrize("error", [MemoryError(), SystemExit(), RuntimeError("x")])
def test_an_essential_thread_that_dies_ends_the_process_with_one(error):
    life = Lifetime(Ending(SystemClock(), 9.0))
    begun = []
    life.when_ending = lambda: begun.append(1)

    def die():
        raise error

    life.essential(die)
    life.end("SIGTERM")
    assert life.wait() == 1
    assert begun == [1]


CORE = """
import resource, sys
from pg_collector.cli import main
before = resource.getrlimit(resource.RLIMIT_CORE)
resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
sys.argv = ["pgc", "version"]
try:
    main()
except SystemExit:
    pass
assert resource.getrlimit(resource.RLIMIT_CORE) == (0, before[1])
"""


def test_no_verb_leaves_a_core_file():
    subprocess.run([sys.executable, "-c", CORE], check=True, timeout=30)


def test_handlers_answer_while_somebody_listens_and_nohup_keeps_its_meaning():
    heard = []
    before = signal.getsignal(signal.SIGHUP)
    try:
        for ignored in (False, True):
            signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
            with signals.handled({signal.SIGHUP: lambda *_: heard.append("hup")}):
                assert (signal.getsignal(signal.SIGHUP) is signal.SIG_IGN) is ignored
                if not ignored:
                    signal.raise_signal(signal.SIGHUP)
            now = signal.getsignal(signal.SIGHUP)
            assert now is (signal.SIG_IGN if ignored else signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert heard == ["hup"]


# The signal cannot be given to the main thread, so another one gets it.
GIVEN_TO_ANOTHER = """
import os, signal, threading
from pg_collector.clock import SystemClock
from pg_collector.lifetime import Ending, Lifetime
life = Lifetime(Ending(SystemClock(), 1.0))
signal.signal(signal.SIGTERM, lambda *_: life.end("SIGTERM"))
signal.set_wakeup_fd(life.rope)
idle = threading.Thread(target=threading.Event().wait, daemon=True)
idle.start()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
raise SystemExit(life.wait())
"""


def test_a_signal_that_another_thread_was_given_is_seen():
    subprocess.run([sys.executable, "-c", GIVEN_TO_ANOTHER], timeout=20, check=True)
