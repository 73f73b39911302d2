"""A session ends every wait in time, whatever the server and the network do."""

import gc
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

from pg_collector.config.model import Database as Target
from pg_collector.config.model import Tls
from pg_collector.errors import CollectorError, TargetDown
from pg_collector.pg.session import Session
from tests.conftest import Lab, chosen_majors
from tests.support.lab.server import Server
from tests.support.pki import Pki
from tests.support.proxy import FaultProxy, Mode
from tests.support.target import target
from tests.support.until import until

NONE: frozenset[str] = frozenset()
QUERY, CONNECT = 1.5, 2.0  # seconds: the bounds of these tests
GRACE = 0.5


@pytest.fixture
def server(lab: Lab) -> Server:
    """The newest server: what happens on the wire does not depend on the version."""
    return lab.newest().vacated()


class Opener:
    """Opens sessions and closes them after the test."""

    def __init__(self) -> None:
        self._sessions: list[Session] = []

    def __call__(self, database: Target) -> Session:
        session = Session.open(database, relations=NONE)
        self._sessions.append(session)
        return session

    def close(self) -> None:
        for session in self._sessions:
            session.close()
        self._sessions.clear()


@pytest.fixture
def opened() -> Iterator[Opener]:
    opener = Opener()
    yield opener
    opener.close()


@pytest.fixture
def proxy(server: Server, fault_proxy: Callable[[Server], FaultProxy]) -> FaultProxy:
    return fault_proxy(server)


def quick(dsn: str, **more: Any) -> Target:
    return target(dsn, query_timeout=QUERY, connect_timeout=CONNECT, **more)


def through(proxy: FaultProxy, server: Server) -> Target:
    return quick(server.dsn(port=proxy.port))


@contextmanager
def lost_within(seconds: float, match: str | None = None) -> Iterator[None]:
    """Expect TargetDown, no later than the grace after `seconds`."""
    started = time.monotonic()
    with pytest.raises(TargetDown, match=match):
        yield
    assert time.monotonic() - started < seconds + GRACE


# --- connecting


def test_a_frozen_server_does_not_hold_an_attempt_to_connect(opened: Opener, server: Server):
    with server.paused(), lost_within(CONNECT, "no answer within 2.0 s"):
        opened(quick(server.dsn()))
    opened(quick(server.dsn())).close()


@pytest.mark.parametrize("mode", [Mode.SYNHOLE, Mode.BLACKHOLE, Mode.UP_ONLY])
def test_a_network_that_swallows_does_not_hold_an_attempt(
    opened: Opener, proxy: FaultProxy, server: Server, mode: Mode
):
    proxy.set(mode)
    with lost_within(CONNECT, "no answer within 2.0 s"):
        opened(through(proxy, server))
    proxy.set(Mode.PASS)
    opened(through(proxy, server)).close()
    until(lambda: proxy.live == 0, what="no connection stays behind")


@pytest.mark.parametrize("mode", [Mode.REFUSE, Mode.RESET, Mode.HALFCLOSE])
def test_a_network_that_refuses_is_known_at_once(
    opened: Opener, proxy: FaultProxy, server: Server, mode: Mode
):
    proxy.set(mode)
    with lost_within(0):
        opened(through(proxy, server))


@pytest.mark.parametrize("stall_after", [0, 1, 20])
def test_an_answer_that_stops_in_the_middle_does_not_hold_an_attempt(
    opened: Opener, proxy: FaultProxy, server: Server, stall_after: int
):
    proxy.shape(stall_after=stall_after)
    with lost_within(CONNECT):
        opened(through(proxy, server))


def test_a_drip_does_not_hold_an_attempt(opened: Opener, proxy: FaultProxy, server: Server):
    proxy.shape(rate=20)
    with lost_within(CONNECT):
        opened(through(proxy, server))


@pytest.fixture(scope="module")
def secured(pki: Pki) -> Iterator[Server]:
    with Server(max(chosen_majors()), tls=pki) as server:
        yield server


@pytest.mark.parametrize("stall_after", [0, 1, 500])
def test_a_tls_handshake_that_stalls_does_not_hold_an_attempt(
    opened: Opener,
    secured: Server,
    pki: Pki,
    fault_proxy: Callable[[Server], FaultProxy],
    stall_after: int,
):
    proxy = fault_proxy(secured)
    dsn = secured.dsn(host="localhost", hostaddr="127.0.0.1", port=proxy.port)
    database = quick(dsn, sslmode=None, tls=Tls(ca_file=str(pki.ca)))
    proxy.shape(stall_after=stall_after)
    with lost_within(CONNECT):
        opened(database)
    proxy.shape()
    session = opened(database)
    proxy.set(Mode.BLACKHOLE)
    with lost_within(QUERY):
        session.fetch("select 1")
    until(lambda: not session.alive)


def test_a_dead_host_leaves_time_for_the_next(opened: Opener, proxy: FaultProxy, server: Server):
    proxy.set(Mode.BLACKHOLE)
    dsn = server.dsn(host="127.0.0.1,127.0.0.1", port=f"{proxy.port},{server.port}")
    started = time.monotonic()
    opened(quick(dsn)).close()
    assert time.monotonic() - started < CONNECT / 2 + GRACE
    proxy_twice = server.dsn(host="127.0.0.1,127.0.0.1,127.0.0.1", port=str(proxy.port))
    with lost_within(CONNECT):
        opened(quick(proxy_twice))


# --- a statement


def test_a_frozen_server_does_not_hold_a_statement(opened: Opener, server: Server):
    session = opened(quick(server.dsn()))
    with server.paused(), lost_within(QUERY):
        session.fetch("select 1")
    assert not session.alive
    session.close()
    opened(quick(server.dsn())).close()
    mine = "select 1 from pg_stat_activity where application_name = 'pg-collector'"
    until(lambda: not server.query(mine), what="no session stays behind")


@pytest.mark.parametrize("mode", [Mode.BLACKHOLE, Mode.UP_ONLY])
def test_a_network_that_swallows_does_not_hold_a_statement(
    opened: Opener, proxy: FaultProxy, server: Server, mode: Mode
):
    session = opened(through(proxy, server))
    proxy.set(mode)
    with lost_within(QUERY):
        session.fetch("select 1")
    session.close()
    proxy.set(Mode.PASS)
    opened(through(proxy, server)).close()


def test_a_drip_does_not_hold_a_statement_or_a_stream(
    opened: Opener, proxy: FaultProxy, server: Server
):
    many = "select repeat('x', 100) from generate_series(1, 10000)"
    for ask in (lambda one: one.fetch(many), lambda one: list(one.stream(many))):
        session = opened(through(proxy, server))
        proxy.shape(rate=2000)
        with lost_within(QUERY):
            ask(session)
        proxy.shape()


def test_a_reader_that_dawdles_does_not_stretch_the_bound_of_a_stream(
    opened: Opener, server: Server
):
    session = opened(quick(server.dsn()))
    stream = session.stream("select repeat('x', 10000) from generate_series(1, 20000)")
    assert next(stream)
    pause = threading.Event()
    pause.wait(QUERY + 0.1)  # not for a state: this is the reader's slowness
    started = time.monotonic()
    with pytest.raises(CollectorError):
        list(stream)
    assert time.monotonic() - started < GRACE + 0.5
    session.close()


def test_a_stream_abandoned_in_a_dead_network_lets_go_within_a_second(
    opened: Opener, proxy: FaultProxy, server: Server
):
    session = opened(through(proxy, server))
    stream = session.stream("select repeat('x', 10000) from generate_series(1, 20000)")
    next(stream)
    proxy.set(Mode.BLACKHOLE)
    started = time.monotonic()
    with pytest.raises(TargetDown):
        session.fetch("select 1")
    assert time.monotonic() - started < 1 + GRACE
    assert not session.alive


def test_a_terminated_backend_is_an_outage_with_its_sqlstate(opened: Opener, server: Server):
    session = opened(quick(server.dsn()))
    server.query("select pg_terminate_backend(%s)", [session.backend_pid])
    with pytest.raises(TargetDown) as down:
        until(lambda: not session.fetch("select 1").rows)
    assert down.value.sqlstate == "57P01"
    assert not session.alive
    session.close()


@pytest.mark.parametrize("mode", [Mode.RESET, Mode.HALFCLOSE])
def test_a_connection_that_is_cut_is_known_at_once(
    opened: Opener, proxy: FaultProxy, server: Server, mode: Mode
):
    session = opened(through(proxy, server))
    proxy.set(mode)
    with lost_within(0):
        session.fetch("select 1")


def test_a_crash_of_the_server_shows_in_the_facts(opened: Opener, fresh_server: Server):
    database = quick(fresh_server.dsn())
    session = opened(database)
    before = session.facts
    with fresh_server.connect() as other:
        fresh_server.kill_backend(other.info.backend_pid)
    with pytest.raises(TargetDown):
        until(lambda: not session.fetch("select 1").rows)
    session.close()
    fresh_server.wait_ready()
    session = opened(database)
    assert session.facts.started_at == before.started_at
    assert session.facts.shared_stats_reset != before.shared_stats_reset
    session.close()


# --- another thread


@pytest.mark.parametrize("streams", [False, True])
def test_another_thread_frees_one_that_waits(opened: Opener, server: Server, *, streams: bool):
    session = opened(target(server.dsn(), query_timeout=4))

    def ask() -> object:
        sql = "select pg_sleep(50)"
        return list(session.stream(sql)) if streams else session.fetch(sql)

    waits = "select 1 from pg_stat_activity where pid = %s and wait_event = 'PgSleep'"
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask)
        until(lambda: server.query(waits, [session.backend_pid]))
        started = time.monotonic()
        session.interrupt()
        with pytest.raises(TargetDown):
            asked.result(timeout=5)
        assert time.monotonic() - started < GRACE
    session.close()
    with pytest.raises(TargetDown):
        session.fetch("select 1")


def test_closing_from_another_thread_waits_for_the_one_inside(opened: Opener, server: Server):
    session = opened(target(server.dsn(), query_timeout=4))
    waits = "select 1 from pg_stat_activity where pid = %s and wait_event = 'PgSleep'"
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(session.fetch, "select pg_sleep(50)")
        until(lambda: server.query(waits, [session.backend_pid]))
        session.interrupt()
        session.close()
        with pytest.raises(TargetDown):
            asked.result(timeout=5)
    assert not session.alive


def test_nothing_is_left_open_after_a_hundred_failures(
    opened: Opener, proxy: FaultProxy, server: Server
):
    mine = psutil.Process()
    proxy.set(Mode.REFUSE)
    database = through(proxy, server)

    def fail() -> None:
        with pytest.raises(TargetDown):
            opened(database)

    fail()
    gc.collect()  # what earlier tests left behind holds files, and may go at any moment
    before = mine.num_fds(), threading.active_count()
    for _ in range(100):
        fail()
    assert (mine.num_fds(), threading.active_count()) == before
