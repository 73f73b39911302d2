"""Essential threads of a real agent die or freeze: it ends with 1, in time and in order."""

import ctypes
import threading
import time

import pytest

from pg_collector.agent import Agent
from pg_collector.outlets import Receipt
from pg_collector.plan import OpenGrant
from tests.support.agents import configuration
from tests.support.scratch import new_directory
from tests.support.until import until

PATIENCE = 1.0  # seconds; the agent's own is twenty times as much


@pytest.fixture
def config(newest_server, tmp_path):
    return configuration({"prod": newest_server.dsn("pgcollector")}, tmp_path)


def built(config, outlet=None, **more):
    return Agent(
        config,
        OpenGrant(),
        outlet,
        sockets=(new_directory("run") / "pgc.sock",),
        state_dir=config.local.path / "state",
        patience=PATIENCE,
        **more,
    )


def kill(name):
    """Let a thread end at its next bytecode, as a bug in it would."""
    (thread,) = [one for one in threading.enumerate() if one.name == name]
    assert thread.ident
    ended = ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit)
    )
    assert ended == 1


def ends_with_one(agent):
    """Wait as the main thread does; the watchdog has thirty seconds, and needs few of them."""
    started = time.monotonic()
    assert agent.wait() == 1
    assert time.monotonic() - started < 15


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("name", ["sender", "journal", "APScheduler", "http", "control"])
def test_a_thread_that_dies_ends_the_process(config, name):
    with built(config) as agent:
        until(lambda: agent.buffer.account().delivered > 0, deadline=20, what="it delivers")
        kill(name)
        ends_with_one(agent)
        stopping = time.monotonic()
    assert time.monotonic() - stopping < 10
    assert agent.buffer.account().balanced


def test_a_sender_that_freezes_ends_the_process_and_its_batch_is_sent_after_the_restart(config):
    release = threading.Event()

    class Frozen:
        """An outlet that deadlocks its thread."""

        name = "frozen"

        def deliver(self, batch):
            release.wait(60)
            return Receipt(batch.last)

        def close(self):
            """Nothing is open."""

    try:
        with built(config, lambda _clock, _metrics: Frozen()) as agent:
            ends_with_one(agent)
            stopping = time.monotonic()
        assert time.monotonic() - stopping < 10
    finally:
        release.set()
    account = agent.buffer.account()
    assert account.balanced
    assert account.buffered == account.produced > 0  # nothing was acknowledged, nothing is lost
    with built(config) as again:
        until(
            lambda: again.buffer.account().delivered >= account.produced,
            deadline=20,
            what="what it held is delivered",
        )
    assert not again.buffer.account().lost


def test_a_scheduler_that_freezes_ends_the_process(config):
    with built(config) as agent:
        until(lambda: agent.buffer.account().delivered > 0, deadline=20, what="it delivers")
        with agent.scheduler._aps._jobstores_lock:  # what its thread needs to look at its jobs
            ends_with_one(agent)
            stopping = time.monotonic()
            agent.stop()
            assert time.monotonic() - stopping < 10
    account = agent.buffer.account()
    assert account.balanced
    assert not account.lost


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_a_turn_that_runs_out_of_memory_or_is_broken_off_ends_the_process_in_order(config, error):
    broken = threading.Event()

    def password():
        if broken.is_set():
            raise error
        return "unused"

    with built(config, password=password) as agent:
        until(lambda: agent.buffer.account().delivered > 0, deadline=20, what="it delivers")
        broken.set()
        agent.targets["prod"].interrupt()  # the next turn connects anew
        ends_with_one(agent)
    account = agent.buffer.account()
    assert account.balanced
    assert not account.lost  # what was sampled before is delivered


def test_a_fault_of_ours_in_a_turn_is_counted_and_the_turns_go_on(config):
    broken = threading.Event()

    def password():
        if broken.is_set():
            broken.clear()
            raise ZeroDivisionError
        return "unused"

    def panics():
        name, labels = "pg_collector_panics_recovered_total", {"component": "runner"}
        return agent.metrics.registry.get_sample_value(name, labels)

    with built(config, password=password) as agent:
        until(lambda: agent.buffer.account().delivered > 0, deadline=20, what="it delivers")
        broken.set()
        agent.targets["prod"].interrupt()
        until(lambda: panics() == 1, deadline=20, what="it is counted")
        delivered = agent.buffer.account().delivered
        until(lambda: agent.buffer.account().delivered > delivered, deadline=20, what="it goes on")
        assert not agent.life.failed
