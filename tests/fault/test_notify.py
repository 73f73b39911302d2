"""What a real agent tells a service manager over a real notify socket, and when it says no more."""

import itertools
import signal
import threading
import time

import pytest

from pg_collector.agent import Agent
from pg_collector.config.model import Config
from pg_collector.health.notify import Notifier
from pg_collector.health.watchdog import EVERY
from pg_collector.outlets import Receipt
from pg_collector.plan import OpenGrant
from tests.support.agents import configuration
from tests.support.daemon import Daemon
from tests.support.scratch import new_directory
from tests.support.service_manager import ServiceManager
from tests.support.until import until

WATCHDOG = 3.0  # seconds; a sign comes every third of it


@pytest.mark.parametrize("abstract", [False, True])
def test_the_life_of_a_service(newest_server, tmp_path, abstract):
    place = f"@pgc-test-{tmp_path}" if abstract else new_directory("notify") / "socket"
    with ServiceManager(place) as manager:
        daemon = Daemon(tmp_path, {"prod": newest_server.dsn("pgcollector")})
        daemon.environment |= manager.environment(WATCHDOG)
        with daemon:
            until(lambda: "READY" in manager.names(), 20.0)
            assert daemon.get("/livez"), "it listens before it says that it is ready"
            until(lambda: (manager.last("STATUS") or "").startswith("ok: 1 of 1 targets up"), 20.0)
            until(lambda: len(manager.beats()) >= 6, 20.0)
            beats = manager.beats()
            assert max(b - a for a, b in itertools.pairwise(beats)) < WATCHDOG

            before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            daemon.signal(signal.SIGHUP)
            until(lambda: manager.names().count("READY") == 2, 20.0)
            names = manager.names()
            assert names.index("RELOADING") < len(names) - names[::-1].index("READY") - 1
            assert before <= int(manager.last("MONOTONIC_USEC") or 0)

            daemon.write("databases: 7\n")  # a reload that is refused is complete, too
            daemon.signal(signal.SIGHUP)
            until(lambda: manager.names().count("READY") == 3, 20.0)
            until(lambda: "not well: config" in (manager.last("STATUS") or ""), 20.0)

            daemon.signal(signal.SIGTERM)
            code, _ = daemon.ended()
        assert code == 0
        assert manager.names()[-1] == "STOPPING"
        assert int(manager.last("EXTEND_TIMEOUT_USEC") or 0) >= 9_000_000


def test_no_sign_of_life_while_an_essential_thread_is_stuck(newest_server, tmp_path):
    release = threading.Event()

    class Stuck:
        """An outlet that holds its thread from the second batch on."""

        name = "stuck"
        batches = 0

        def deliver(self, batch):
            self.batches += 1
            if self.batches > 1:
                release.wait(60)
            return Receipt(batch.last)

        def close(self):
            """Nothing is open."""

    config = configuration({"prod": newest_server.dsn("pgcollector")}, tmp_path)
    stuck = Stuck()
    with ServiceManager(new_directory("notify") / "socket") as manager:
        notifier = Notifier(manager.address, WATCHDOG)
        agent = Agent(config, OpenGrant(), lambda *_: stuck, patience=1.0, notifier=notifier)
        try:
            with agent:
                until(lambda: len(manager.beats()) >= 2)
                until(lambda: stuck.batches > 1, 20.0)
                assert agent.wait() == 1
                last = manager.beats()[-1]
                assert time.monotonic() - last >= WATCHDOG / 3
        finally:
            release.set()
        assert manager.names()[-1] == "STOPPING"


def test_a_manager_that_is_gone_hinders_nobody(newest_server, tmp_path, caplog):
    config = configuration({"prod": newest_server.dsn("pgcollector")}, tmp_path)
    notifier = Notifier(str(tmp_path / "nobody"), WATCHDOG)
    with Agent(config, OpenGrant(), notifier=notifier) as agent:
        until(lambda: agent.buffer.account().delivered > 0, 20.0)
        until(lambda: any("service manager" in one.message for one in caplog.records))
    told = [one for one in caplog.records if "service manager" in one.message]
    assert len(told) == 1


def test_what_nobody_took_is_said_again(caplog):
    place = new_directory("notify") / "socket"
    notifier = Notifier(str(place))
    notifier.ready()
    notifier.status("ok: \udcff")
    with ServiceManager(place) as manager:
        notifier.alive()
        notifier.alive()
        for _ in range(2):
            notifier.status("ok: \udcff")
        until(lambda: len(manager.names()) >= 2)
        notifier.reloading()
        until(lambda: manager.names() == ["READY", "STATUS", "RELOADING"])
        assert manager.last("STATUS") == r"ok: \udcff"
    told = [one for one in caplog.records if "service manager" in one.message]
    assert len(told) == 1


def test_an_end_that_nobody_heard_of_is_not_ready_again():
    place = new_directory("notify") / "socket"
    notifier = Notifier(str(place), WATCHDOG)
    notifier.ready()
    notifier.stopping(1.0)
    with ServiceManager(place) as manager:
        notifier.status("degraded: 0 of 1 targets up")  # its parts end
        notifier.alive()
        until(manager.beats)
        assert manager.names() == []


@pytest.mark.parametrize(
    ("environ", "watchdog", "wanted"),
    [
        ({}, None, False),
        ({"WATCHDOG_USEC": "3000000"}, None, False),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "3000000"}, 3.0, True),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None, True),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "often"}, None, True),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "0"}, None, True),
    ],
)
def test_what_the_environment_asks_for(environ, watchdog, wanted):
    found = Notifier.of(environ)
    assert found.watchdog == watchdog
    assert found.wanted is wanted


def test_without_a_manager_the_watchdog_looks_as_seldom_as_it_may(tmp_path):
    agent = Agent(Config(databases=()), OpenGrant(), state_dir=tmp_path)
    assert agent.watchdog.step() == EVERY
    agent.watchdog.stop()
    hurried = Agent(
        Config(databases=()), OpenGrant(), state_dir=tmp_path, notifier=Notifier("@x", 6.0)
    )
    assert hurried.watchdog.step() == 2.0
    hurried.watchdog.stop()
