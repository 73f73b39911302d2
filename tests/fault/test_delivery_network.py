"""Delivery over a network that swallows, delays, or resolves nothing (faults 35 and 36)."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pg_collector.clock import SystemClock
from pg_collector.config.model import Platform, PlatformTimeout
from pg_collector.web import Web
from tests.support.delivery import QUICK, Delivery, line
from tests.support.far_side import FarSide
from tests.support.ledger import Ledger
from tests.support.netns import Network
from tests.support.proxy import FaultProxy, Mode


@pytest.fixture
def far() -> Iterator[FarSide]:
    with FarSide() as far:
        yield far


@pytest.fixture
def way(far: FarSide) -> Iterator[FaultProxy]:
    with FaultProxy(("127.0.0.1", far.port)) as way:
        yield way


def over(way: FaultProxy, far: FarSide, timeout: PlatformTimeout = QUICK) -> Delivery:
    return Delivery(far, url=f"http://127.0.0.1:{way.port}", timeout=timeout)


def test_35_a_name_that_does_not_exist_is_told(far: FarSide):
    delivery = Delivery(far, url=f"http://no-such-host.invalid:{far.port}")
    delivery.put(5)
    began = time.monotonic()
    assert delivery.step() > 0
    assert time.monotonic() - began < QUICK.connect + 0.5
    assert "the name no-such-host.invalid cannot be resolved" in delivery.message
    assert delivery.errors("unreachable") == 1
    assert delivery.buffer.account().buffered == 5
    delivery.close()


IN_THE_DARK = """
import sys, time
from pg_collector.clock import SystemClock
from pg_collector.config.model import Platform, PlatformTimeout
from pg_collector.errors import Unreachable
from pg_collector.web import Web

timeout = PlatformTimeout(connect=1.0, total=2.0)
for url in sys.argv[1:]:
    web = Web(Platform(url=url, timeout=timeout), SystemClock(), {})
    began = time.monotonic()
    try:
        web.request("POST", "/v1/samples", {}, b"x")
    except Unreachable as error:
        print(f"{time.monotonic() - began:.1f}", error)
"""


@pytest.mark.root
def test_35_36_silent_name_servers_and_dropped_packets_cost_no_more_than_connecting(netns: Network):
    netns.silence_dns()
    netns.server.drop("udp dport 53", "tcp dport 53", "tcp dport 8080")
    said = netns.agent.python(
        IN_THE_DARK, "http://platform.example.test", f"http://{netns.server.address}:8080"
    ).splitlines()
    assert "the name servers do not answer" in said[0]
    assert "no connection within 1 s" in said[1]
    assert all(0.9 <= float(one.split()[0]) <= 1.6 for one in said)


BROKEN = {
    Mode.BLACKHOLE: "no complete answer within 1 s",
    Mode.UP_ONLY: "no complete answer within 1 s",
    Mode.SYNHOLE: "no connection within 0.4 s",
    Mode.REFUSE: "Connection refused",
    Mode.RESET: "Connection reset by peer",
    Mode.HALFCLOSE: "the answer is cut short",
}


@pytest.mark.parametrize("mode", BROKEN)
def test_36_a_broken_way_holds_delivery_within_the_deadline(
    far: FarSide, way: FaultProxy, mode: Mode
):
    delivery = over(way, far)
    delivery.put(5)
    way.set(mode)
    began = time.monotonic()
    assert delivery.step() > 0
    assert time.monotonic() - began < QUICK.total + 0.5
    assert BROKEN[mode] in delivery.message or "cut short" in delivery.message
    way.set(Mode.PASS)
    delivery.oracle()
    delivery.close()


@pytest.mark.parametrize("mode", [Mode.BLACKHOLE, Mode.UP_ONLY, Mode.RESET])
def test_36_a_connection_that_breaks_while_it_is_kept_loses_nothing(
    far: FarSide, way: FaultProxy, mode: Mode
):
    delivery = over(way, far)
    delivery.put(5)
    delivery.work()
    way.set(mode)
    delivery.put(5)
    assert delivery.step() > 0
    way.set(Mode.PASS)
    delivery.oracle()
    assert {len(stream.gaps) for stream in far.ledger.streams.values()} == {0}
    delivery.close()


def test_36_a_slow_way_is_used_for_what_it_carries(far: FarSide, way: FaultProxy):
    way.shape(rate=10_000)
    delivery = over(way, far, PlatformTimeout(connect=2.0, total=3.0))
    delivery.pad = 80
    delivery.put(1)
    delivery.work()
    # Random bytes would not shrink; these do, so that half a megabyte would take ten seconds.
    delivery.put(3000)
    steps = delivery.work(60)
    assert steps < 60
    assert delivery.errors("unreachable") < 4, "batches shrink to what arrives in time"
    way.shape()
    delivery.oracle()
    delivery.close()


def test_36_latency_alone_does_not_make_batches_small(far: FarSide, way: FaultProxy):
    way.shape(latency=0.1)
    delivery = over(way, far, PlatformTimeout(connect=2.0, total=5.0))
    for _ in range(3):
        delivery.put(500)
        delivery.work()
    assert len(far.seen) == 3
    way.shape()
    delivery.oracle()
    delivery.close()


SHAPES = [
    b"HTTP/1.0 200 OK\r\n\r\n{}",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
]


def test_answers_of_every_shape_are_read_from_an_ipv6_address():
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:

        def serve() -> None:
            for shape in SHAPES:
                link, _ = listener.accept()
                with link:
                    asked = b""
                    while not asked.endswith(b"\r\n\r\nx"):
                        asked += link.recv(65536)
                    link.sendall(shape)

        server = threading.Thread(target=serve)
        server.start()
        url = f"http://[::1]:{listener.getsockname()[1]}"
        web = Web(Platform(url=url, timeout=QUICK), SystemClock(), {})
        found = [web.request("POST", "/", {}, b"x") for _ in SHAPES]
        server.join(5)
    assert [(one.status, one.body) for one in found] == [(200, b"{}")] * 3
    web.close()


THROUGH_LOSS = """
import sys, threading
from types import SimpleNamespace
from pg_collector.config.model import PlatformTimeout
from tests.support.delivery import Delivery
from tests.support.until import until

far = SimpleNamespace(url=sys.argv[1])
delivery = Delivery(far, timeout=PlatformTimeout(connect=5.0, total=10.0), batch_max_lines=50)
delivery.put(int(sys.argv[2]))
sender = threading.Thread(target=delivery.sender.run)
sender.start()

def delivered():
    delivery.sender.urge()
    return not delivery.buffer.account().buffered

try:
    until(delivered, deadline=90, what="all lines are delivered")
finally:
    delivery.stopping.set()
    sender.join()
account = delivery.buffer.account()
delivery.close()
print(account.delivered, account.buffered, sum(account.lost.values()))
"""


@pytest.mark.root
def test_36_a_third_of_the_packets_lost_costs_time_and_no_line(netns: Network, tmp_path: Path):
    file, lines = tmp_path / "ledger", 400
    command = [
        *netns.server.prefix, sys.executable, "-m", "tests.support.far_side",
        "--host", netns.server.address, "--ledger", str(file),
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as far:
        assert far.stdout is not None
        port = far.stdout.readline().strip()
        for one in (netns.server, netns.agent):
            one.drop("numgen random mod 10 < 3")
        url = f"http://{netns.server.address}:{port}"
        said = netns.agent.python(THROUGH_LOSS, url, str(lines), seconds=100)
        far.terminate()
        assert far.wait(10) == 0
    assert said.split() == [str(lines), "0", "0"]
    ledger = Ledger(file)
    ledger.check()
    assert [one.line for one in ledger.lines] == [line(n) for n in range(1, lines + 1)]
    ledger.close()
