"""The agent's HTTP server and clients that are slow, stuck, many or gone."""

import contextlib
import http.client
import random
import resource
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from pg_collector.health.listener import MAX_THREADS
from tests.fault.test_http import Bench, rest
from tests.support.until import until

REQUEST = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.server.stop()


def serving() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name.startswith("http-")]


def seconds_since(started: float) -> float:
    return time.monotonic() - started


@contextlib.contextmanager
def many(bench: Bench, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(bench.connect()) for _ in range(count)]


def drip(client: socket.socket, stop: threading.Event, every: float = 0.05) -> None:
    """Send a request that never ends, byte by byte."""
    with contextlib.suppress(OSError):
        for byte in b"GET /livez HTTP/1.1\r\nX: " + b"a" * 10_000:
            client.send(bytes([byte]))
            if stop.wait(every):
                return


def test_a_request_that_comes_too_slowly_is_cut(bench: Bench):
    started = time.monotonic()
    stop = threading.Event()
    with bench.connect() as client:
        thread = threading.Thread(target=drip, args=(client, stop), name="drip")
        thread.start()
        received = rest(client)
        stop.set()
        thread.join(5)
    assert received.startswith(b"HTTP/1.1 408 ")
    assert 0.5 < seconds_since(started) < 1.5, "read_timeout is 0.6 s"


def test_a_client_that_says_nothing_is_cut_without_a_word(bench: Bench):
    started = time.monotonic()
    with bench.connect() as client:
        assert rest(client) == b""
    assert 0.5 < seconds_since(started) < 1.5


def test_an_idle_connection_is_closed_after_its_answer(bench: Bench):
    with bench.connect() as client:
        client.sendall(REQUEST)
        assert rest(client).startswith(b"HTTP/1.1 200 OK")
    until(lambda: not serving(), 5)


def test_a_client_that_never_reads_loses_its_thread(bench: Bench):
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(5)
        client.connect(bench.where)
        ask = b"GET /metrics HTTP/1.1\r\n\r\n" * 200
        client.settimeout(0.2)
        with contextlib.suppress(OSError):
            while True:
                client.sendall(ask)
        assert serving()
        assert bench.get("/livez").status == 200
        until(lambda: not serving(), 5, "write_timeout is 0.6 s")


def test_a_hundred_clients_at_once_are_served_by_few_threads(bench: Bench):
    statuses: list[int] = []
    most = 0

    def client() -> None:
        with contextlib.closing(http.client.HTTPConnection(*bench.where, timeout=20)) as link:
            link.request("GET", "/healthz", headers={"Connection": "close"})
            statuses.append(link.getresponse().status)

    clients = [threading.Thread(target=client, name=f"client {n}") for n in range(100)]
    for thread in clients:
        thread.start()
    for thread in clients:
        most = max(most, len(serving()))
        thread.join(20)
    assert statuses.count(200) == 100, statuses
    assert most <= MAX_THREADS


def test_silent_clients_cannot_keep_the_probes_out():
    bench = Bench(read_timeout=30.0)
    with many(bench, 5 * MAX_THREADS):
        until(lambda: len(serving()) == MAX_THREADS, 5)
        started = time.monotonic()
        until(lambda: _alive(bench), 5)
        assert seconds_since(started) < 5
        for _ in range(5):
            assert _alive(bench), "now the oldest silent client goes each time"
        assert len(serving()) <= MAX_THREADS
    bench.server.stop()


def _alive(bench: Bench) -> bool:
    try:
        return bench.get("/livez", Connection="close").status == 200
    except OSError:
        return False


def test_who_comes_when_every_thread_is_at_work_is_told_to_come_back():
    bench = Bench(read_timeout=30.0)
    gate = threading.Event()
    bench.vitals.register("stuck", lambda: gate.wait(10) and None)  # type: ignore[arg-type,return-value]
    with many(bench, MAX_THREADS) as clients:
        for client in clients:
            client.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        until(lambda: len(serving()) == MAX_THREADS, 5)
        reply = bench.get("/livez")
        assert reply.status == 503
        assert reply.headers["Retry-After"] == "1"
        gate.set()
        until(lambda: _alive(bench), 5)
    bench.server.stop()


def test_clients_that_reset_or_vanish_disturb_nobody(bench: Bench):
    for n in range(60):
        client = bench.connect()
        if n % 3:
            client.sendall((REQUEST * 3)[: n % 50])
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    assert bench.get("/livez").status == 200
    until(lambda: not serving(), 5)


def test_noise_never_breaks_it(bench: Bench):
    chance = random.Random(11)  # noqa: S311
    words = [b"GET", b" ", b"/livez", b"HTTP/1.1", b"\r\n", b"\n", b"\0", b"\xff", b":", b"Host"]
    for _ in range(60):
        noise = b"".join(chance.choices(words, k=chance.randrange(1, 40)))
        with bench.connect() as client, contextlib.suppress(OSError):
            client.sendall(noise + b"\r\n\r\n")
            client.shutdown(socket.SHUT_WR)
            received = rest(client)
            assert not received or received.startswith(b"HTTP/1.1 ")
    assert bench.get("/livez").status == 200
    panics = bench.metrics.registry.get_sample_value(
        "pg_collector_panics_recovered_total", {"component": "health"}
    )
    assert panics == 0


def test_without_file_descriptors_it_waits_instead_of_spinning(bench: Bench):
    assert bench.get("/livez").status == 200
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with bench.connect() as client, socket.socket() as waiting:
        waiting.settimeout(5)
        until(lambda: len(serving()) == 1, 5)
        resource.setrlimit(resource.RLIMIT_NOFILE, (waiting.fileno() + 1, hard))
        try:
            waiting.connect(bench.where)
            started = time.process_time()
            client.settimeout(0.3)
            with contextlib.suppress(TimeoutError):
                client.recv(1)
            assert time.process_time() - started < 0.15
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))
        waiting.sendall(REQUEST)
        assert waiting.recv(100).startswith(b"HTTP/1.1 200")


def test_stopping_takes_less_than_a_second_whoever_is_stuck():
    bench = Bench(read_timeout=60.0, write_timeout=60.0)
    stop = threading.Event()
    with many(bench, 4) as clients:
        slow, silent, deaf, idle = clients
        thread = threading.Thread(target=drip, args=(slow, stop), name="drip")
        thread.start()
        idle.sendall(REQUEST)
        deaf.settimeout(0.3)
        with contextlib.suppress(OSError):
            while True:
                deaf.sendall(b"GET /metrics HTTP/1.1\r\n\r\n" * 200)
        until(lambda: len(serving()) == 4, 5)
        started = time.monotonic()
        bench.server.stop()
        took = seconds_since(started)
        assert not serving()
        assert silent.recv(1) == b""
        stop.set()
        thread.join(5)
    assert took < 1.0


def test_a_page_that_hangs_does_not_hold_up_the_stop():
    bench = Bench()
    gate = threading.Event()
    bench.vitals.register("stuck", lambda: gate.wait(20) and None)  # type: ignore[arg-type,return-value]
    with bench.connect() as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        until(serving, 5)
        started = time.monotonic()
        bench.server.stop()
        assert seconds_since(started) < 1.0
        gate.set()
        until(lambda: not serving(), 5)
