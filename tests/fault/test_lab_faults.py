"""The lab's faults are what they say: the proxy, the pooler, the network namespaces."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest

from tests.conftest import chosen_majors
from tests.support.lab.server import Server
from tests.support.netns import Network
from tests.support.pgbouncer import PgBouncer
from tests.support.proxy import FaultProxy, Mode
from tests.support.until import until


@pytest.fixture
def proxy(newest_server: Server, fault_proxy: Callable[[Server], FaultProxy]) -> FaultProxy:
    return fault_proxy(newest_server)


def connected(proxy: FaultProxy) -> psycopg.Connection[Any]:
    return psycopg.connect(
        host="127.0.0.1", port=proxy.port, user="plain", dbname="postgres", connect_timeout=2,
        autocommit=True, sslmode="disable",
    )  # fmt: skip


@pytest.fixture
def session(proxy: FaultProxy) -> Iterator[psycopg.Connection[Any]]:
    with closing(connected(proxy)) as session:
        yield session


def answers(session: psycopg.Connection[Any], seconds: float) -> bool:
    """Send a statement, or wait on for the one sent; say whether it ends within the time."""
    wire = session.pgconn
    if not wire.is_busy():
        wire.send_query(b"select 1")

    def ended() -> bool:
        wire.consume_input()
        return not wire.is_busy()

    try:
        until(ended, seconds)
    except AssertionError:
        return False
    while wire.get_result() is not None:
        pass
    return True


def test_the_proxy_passes_and_counts(proxy: FaultProxy):
    first, second = connected(proxy), connected(proxy)
    assert (proxy.live, proxy.peak, proxy.accepted) == (2, 2, 2)
    first.close()
    until(lambda: proxy.live == 1, what="one client left")
    second.close()
    until(lambda: proxy.live == 0, what="no client")
    assert proxy.up_bytes > 0
    assert proxy.down_bytes > proxy.up_bytes
    assert proxy.peak == 2


def test_a_client_that_comes_back_is_never_counted_twice(proxy: FaultProxy):
    for _ in range(20):
        connected(proxy).close()
    assert proxy.peak == 1


@pytest.mark.parametrize("mode", [Mode.BLACKHOLE, Mode.UP_ONLY])
def test_a_deaf_network_is_silent_and_keeps_connections(
    proxy: FaultProxy, session: psycopg.Connection[Any], mode: Mode
):
    proxy.set(mode)
    assert not answers(session, 0.3)
    with pytest.raises(psycopg.errors.ConnectionTimeout):
        connected(proxy)
    assert proxy.live >= 1


def test_a_black_hole_that_ends_delivers_what_was_sent(
    proxy: FaultProxy, session: psycopg.Connection[Any]
):
    proxy.set(Mode.BLACKHOLE)
    assert not answers(session, 0.2)
    proxy.set(Mode.PASS)
    assert answers(session, 5)


def test_a_reset_ends_live_and_new_connections(proxy: FaultProxy, session: psycopg.Connection[Any]):
    proxy.set(Mode.RESET)
    assert proxy.live == 0
    with pytest.raises(psycopg.OperationalError):
        session.execute("select 1")
    with pytest.raises(psycopg.OperationalError):
        connected(proxy)
    proxy.set(Mode.PASS)
    connected(proxy).close()


@pytest.mark.parametrize(
    ("mode", "says"),
    [(Mode.REFUSE, "Connection refused"), (Mode.SYNHOLE, "timeout expired")],
)
def test_new_connections_fail_and_live_ones_go_on(
    proxy: FaultProxy, session: psycopg.Connection[Any], mode: Mode, says: str
):
    proxy.set(mode)
    with pytest.raises(psycopg.OperationalError, match=says):
        connected(proxy)
    assert answers(session, 5)
    proxy.set(Mode.PASS)
    connected(proxy).close()


def test_a_half_closed_connection_shows_the_client_its_end(
    proxy: FaultProxy, session: psycopg.Connection[Any]
):
    proxy.set(Mode.HALFCLOSE)
    with pytest.raises(psycopg.OperationalError, match="closed the connection"):
        session.execute("select 1")


def test_latency_and_rate_take_their_time(proxy: FaultProxy, session: psycopg.Connection[Any]):
    proxy.shape(latency=0.1)
    begin = time.monotonic()
    session.execute("select 1")
    assert 0.2 <= time.monotonic() - begin < 1.0
    proxy.shape(rate=20_000)
    begin = time.monotonic()
    session.execute("select repeat('x', 10000)")
    assert 0.4 <= time.monotonic() - begin < 2.0


def test_answers_stall_after_some_bytes_until_the_fault_ends(
    proxy: FaultProxy, session: psycopg.Connection[Any]
):
    proxy.shape(stall_after=proxy.down_bytes + 10)
    assert not answers(session, 0.3)
    proxy.shape()
    assert answers(session, 5)


def test_the_proxy_ends_its_thread_and_may_be_closed_twice(proxy: FaultProxy):
    proxy.close()
    proxy.close()
    with pytest.raises(psycopg.OperationalError):
        connected(proxy)


def test_pgbouncer_shares_one_server_session_between_clients(pgbouncer: PgBouncer):
    backend = "select pg_backend_pid()"
    pids = set()
    for _ in range(2):
        with psycopg.connect(pgbouncer.dsn(), autocommit=True) as session:
            pids.add(session.execute(backend).fetchall()[0][0])
    assert len(pids) == 1
    with pytest.raises(psycopg.OperationalError, match="unsupported startup parameter: options"):
        psycopg.connect(pgbouncer.dsn(options="-c tcp_keepalives_idle=2"))


@pytest.mark.root
def test_packets_vanish_between_two_namespaces_and_come_back(netns: Network):
    code = (
        "import sys, psycopg\n"
        "try: psycopg.connect(sys.argv[1]).close()\n"
        "except psycopg.OperationalError as error: print(type(error).__name__, error)\n"
        "else: print('connected')\n"
    )
    address = netns.server.address
    rules = [f"host all all {netns.agent.address}/32 trust"]
    with Server(
        max(chosen_majors()), inside=netns.server.prefix, host=address, hba=rules
    ) as server:
        target = server.dsn(connect_timeout=2)
        assert netns.agent.python(code, target).strip() == "connected"
        netns.server.drop(f"tcp dport {server.port}")
        assert netns.agent.python(code, target).startswith("ConnectionTimeout")
        netns.server.accept()
        assert netns.agent.python(code, target).strip() == "connected"


@pytest.mark.root
def test_a_silent_resolver_makes_a_look_up_take_its_whole_time(netns: Network):
    netns.silence_dns()
    code = (
        "import os, socket, time\n"
        "os.environ['RES_OPTIONS'] = 'timeout:1 attempts:1'\n"
        "begin = time.monotonic()\n"
        "try: socket.getaddrinfo('db.example.test', 5432)\n"
        "except OSError: print(time.monotonic() - begin)\n"
    )
    assert 0.9 < float(netns.agent.python(code)) < 4.0


def test_a_black_hole_counts_only_the_clients_that_are_still_there(server, fault_proxy):
    proxy = fault_proxy(server)
    proxy.set(Mode.BLACKHOLE)
    for _ in range(3):
        with socket.create_connection((proxy.host, proxy.port), timeout=5.0) as client:
            client.sendall(b"unread")
            until(lambda: proxy.live == 1, what="the client is counted")
        until(lambda: proxy.live == 0, what="its end is noticed")
    assert (proxy.accepted, proxy.peak) == (3, 1)
