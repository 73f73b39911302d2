"""Clients of the HTTP server that have no thread yet: who waits, who is served, who has to go."""

import contextlib
import http.client
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Iterator

import pytest

from pg_collector.config.model import HttpTls
from pg_collector.health.listener import MAX_THREADS
from pg_collector.health.lobby import Lobby, Visitor
from pg_collector.health.shared import Shared
from tests.fault.test_http import Bench, ask, rest
from tests.fault.test_http_hostile import many, serving
from tests.support.pki import Pki
from tests.support.until import until

PROBE = b"GET /livez HTTP/1.1\r\n\r\n"
NUMBERS = b"GET /metrics HTTP/1.1\r\n\r\n"


class Room:
    """A lobby, and a client for each connection in it."""

    def __init__(self, most: int, patience: float = 60.0) -> None:
        self.stack = contextlib.ExitStack()
        self.selector = self.stack.enter_context(selectors.DefaultSelector())
        self.lobby = Lobby(self.selector, most, patience)
        self.stack.callback(self.lobby.close)

    def enter(self, name: str, words: bytes = b"") -> str | None:
        """Let a client in that has sent words; return the name of the one who has to go."""
        here, there = socket.socketpair()
        self.stack.callback(here.close)
        self.stack.enter_context(there).sendall(words)
        gone = self.lobby.enter(here, name)
        for key, _ in self.selector.select(0):
            assert self.lobby.hear(key.data)
        return gone.address if gone else None


@pytest.fixture
def room() -> Iterator[Room]:
    room = Room(4)
    with room.stack:
        yield room


def names(visitors: Iterator[Visitor]) -> list[str]:
    return [visitor.address for visitor in visitors]


def test_probes_go_before_what_takes_longer(room: Room):
    for name, words in (("a", NUMBERS), ("b", b""), ("c", PROBE), ("d", b"GET /heal")):
        assert room.enter(name, words) is None
    assert [room.lobby.take().address for _ in range(2)] == ["c", "a"]
    assert not room.lobby.ready
    assert len(room.lobby) == 2


def test_who_has_to_go_is_the_oldest_of_those_who_are_many(room: Room):
    for name in ("silent 1", "silent 2", "silent 3"):
        room.enter(name)
    room.enter("numbers 1", NUMBERS)
    assert room.enter("probe 1", PROBE) == "silent 1"
    assert room.enter("numbers 2", NUMBERS) == "silent 2"
    assert room.enter("silent 4") == "numbers 1"
    assert room.enter("probe 2", PROBE) == "silent 3"
    assert room.enter("probe 3", PROBE) == "silent 4"
    assert room.enter("probe 4", PROBE) == "numbers 2"
    assert room.enter("probe 5", PROBE) == "probe 5"
    assert [room.lobby.take().address for _ in range(4)] == [f"probe {n}" for n in range(1, 5)]


def test_who_waits_too_long_has_to_go():
    room = Room(4, patience=0.0)
    with room.stack:
        room.enter("silent")
        room.enter("probe", PROBE)
        room.enter("numbers", NUMBERS)
        assert names(room.lobby.weary(60.0)) == []
        assert names(room.lobby.weary(0.0)) == ["probe", "numbers"]
        assert names(room.lobby.overdue()) == ["silent"]
        assert len(room.lobby) == 0


def test_a_head_that_never_ends_is_read_no_further_than_needed(room: Room):
    room.enter("endless", b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000)
    visitor = room.lobby.take()
    assert len(visitor.heard) <= 2 * 8192


@contextlib.contextmanager
def all_threads_waiting(**settings: object) -> Iterator[Bench]:
    """A server whose threads all wait for silent clients."""
    bench = Bench(**settings)  # type: ignore[arg-type]
    with many(bench, MAX_THREADS):
        until(lambda: len(serving()) == MAX_THREADS, 5)
        yield bench
    bench.server.stop()


def test_in_the_lobby_a_request_may_take_its_time_but_not_longer():
    with all_threads_waiting(read_timeout=1.0) as bench:
        began = time.monotonic()
        with bench.connect() as slow, bench.connect() as silent:
            slow.sendall(b"GET /")
            assert rest(slow).startswith(b"HTTP/1.1 408 ")
            assert rest(silent) == b""
        assert 0.9 < time.monotonic() - began < 2.0


def test_a_client_of_the_lobby_that_leaves_is_forgotten():
    with all_threads_waiting(read_timeout=30.0) as bench:
        server = bench.server._server
        assert server is not None
        with many(bench, 20):
            until(lambda: len(server._lobby) == 20, 5)
        until(lambda: len(server._lobby) == 0, 5)
        assert bench.get("/livez").status == 200


def test_while_others_wait_each_answer_is_the_last_of_its_connection():
    with (
        all_threads_waiting(read_timeout=30.0) as bench,
        many(bench, 1),
        contextlib.closing(http.client.HTTPConnection(*bench.where, timeout=5)) as client,
    ):
        reply = ask(client, "/livez")
        assert (reply.status, reply.headers["Connection"]) == (200, "close")


def test_clients_that_do_not_read_their_answers_cannot_keep_the_probes_out():
    bench = Bench(write_timeout=60.0)
    server = bench.server._server
    assert server is not None
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.socket()) for _ in range(MAX_THREADS)]
        for deaf in clients:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(bench.where)
            deaf.setblocking(False)  # noqa: FBT003

        def all_are_stuck() -> bool:
            for deaf in clients:
                with contextlib.suppress(OSError):
                    deaf.send(NUMBERS * 300)
            since = list(server._telling.values())
            return len(since) == MAX_THREADS and max(since) < time.monotonic() - 1.5

        until(all_are_stuck, 30)
        began = time.monotonic()
        assert bench.get("/livez").status == 200
        assert time.monotonic() - began < 2.0
    bench.server.stop()


def test_half_a_handshake_costs_no_tls_client_its_answer(pki: Pki):
    leaf = pki.server
    bench = Bench(tls=HttpTls(cert_file=leaf.certificate, key_file=leaf.key), read_timeout=30.0)
    context = ssl.create_default_context(cafile=str(pki.ca))
    with contextlib.ExitStack() as stack:
        for number in range(60):
            client = stack.enter_context(bench.connect())
            client.sendall(b"\x16\x03\x01\x02\x00\x01"[: number % 7])
        for _ in range(30):
            whole = context.wrap_socket(bench.connect(), server_hostname=bench.where[0])
            stack.enter_context(whole).sendall(b"GET /")
        until(lambda: len(serving()) == MAX_THREADS, 5)
        for path in ("/livez", "/metrics", "/healthz"):
            began = time.monotonic()
            link = http.client.HTTPSConnection(*bench.where, timeout=5, context=context)
            with contextlib.closing(link):
                assert ask(link, path).status == 200
            assert time.monotonic() - began < 2.0
    bench.server.stop()


def test_those_who_ask_at_the_same_time_share_the_work():
    gate = threading.Event()
    begun: list[str] = []
    got: list[int] = []

    def work(key: str) -> int:
        begun.append(key)
        if len(begun) == 1:
            assert gate.wait(5)
        return len(begun)

    shared = Shared(work)
    first, *others = [
        threading.Thread(target=lambda: got.append(shared.get("a")), name=f"asks-{n}")
        for n in range(6)
    ]
    first.start()
    until(lambda: begun, 5)
    for one in others:
        one.start()
    until(lambda: shared._asking == 6, 5)
    gate.set()
    for one in (first, *others):
        one.join(5)
    assert sorted(got) == [1, 2, 2, 2, 2, 2], "what began before one asked is not for it"
    assert shared.get("a") == 3, "nothing is kept"
    assert [shared.get("b"), shared.get("b")] == [4, 5]


def test_work_that_fails_fails_for_who_did_it_alone():
    shared = Shared(lambda key: 1 // len(key))
    with pytest.raises(ZeroDivisionError):
        shared.get("")
    assert shared.get("a") == 1
