"""Who is let in to the agent's HTTP server, over real sockets from several addresses."""

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from pg_collector.config.model import IpAllowlist
from tests.fault.test_http import Bench, Reply, ask, rest
from tests.support.until import until

LISTED, PROXY, STRANGER = "127.0.0.2", "127.0.0.3", "127.0.0.4"
REQUEST = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def bench() -> Iterator[Bench]:
    allowlist = IpAllowlist(enabled=True, allowlist=(LISTED,))
    bench = Bench(allowlist, trusted_proxies=(PROXY,), read_timeout=5.0)
    yield bench
    bench.server.stop()


def get(bench: Bench, source: str, path: str = "/livez", **headers: str) -> Reply:
    where = http.client.HTTPConnection(*bench.where, timeout=5, source_address=(source, 0))
    with contextlib.closing(where) as client:
        return ask(client, path, **{name.replace("_", "-"): text for name, text in headers.items()})


def refused(bench: Bench, reason: str = "address") -> float | None:
    name = "pg_collector_http_requests_refused_total"
    return bench.metrics.registry.get_sample_value(name, {"reason": reason})


def test_who_is_listed_gets_an_answer_and_nobody_else(bench: Bench):
    assert get(bench, LISTED).status == 200
    reply = get(bench, STRANGER)
    assert (reply.status, reply.body) == (403, b"this address is not on the list\n")
    assert refused(bench) == 1
    for path in ("/", "/metrics", "/healthz", "/version", "/../metrics", "//metrics", "/nowhere"):
        assert get(bench, STRANGER, path).status == 403


def test_headers_of_strangers_are_not_believed(bench: Bench):
    for header in ("X_Forwarded_For", "Forwarded", "X_Real_IP", "X_Client_IP", "True_Client_IP"):
        assert get(bench, STRANGER, **{header: LISTED}).status == 403


def test_a_named_proxy_is_believed_from_the_end_of_its_list(bench: Bench):
    assert get(bench, PROXY, X_Forwarded_For=LISTED).status == 200
    assert get(bench, PROXY, X_Forwarded_For=f"{STRANGER}, {LISTED}").status == 200
    assert get(bench, PROXY, X_Forwarded_For=f"{LISTED}, {STRANGER}").status == 403
    assert get(bench, PROXY, X_Forwarded_For="nonsense").status == 403
    assert get(bench, PROXY).status == 403
    assert refused(bench) == 3


def test_two_headers_are_one_list(bench: Bench):
    head = f"GET /livez HTTP/1.1\r\nX-Forwarded-For: {LISTED}\r\nx-forwarded-for: {STRANGER}\r\n"
    with socket.create_connection(bench.where, 5, source_address=(PROXY, 0)) as client:
        client.sendall(f"{head}Connection: close\r\n\r\n".encode())
        assert rest(client).startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize(
    "line", ["Foo : bar", "no colon", "F\xf6\xf6: bar", ": bar", "X: a\rX-Forwarded-For: b"]
)
def test_a_line_that_hides_the_rest_of_the_head_is_refused(bench: Bench, line: str):
    bench.server.admit(IpAllowlist(enabled=True, allowlist=(PROXY,)))
    head = (
        f"GET /livez HTTP/1.1\r\n{line}\r\nX-Forwarded-For: {STRANGER}\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection(bench.where, 5, source_address=(PROXY, 0)) as client:
        client.sendall(head.encode("latin-1"))
        assert rest(client)[:12] in {b"HTTP/1.1 400", b"HTTP/1.1 403"}


@pytest.mark.parametrize("line", ["\r\n\t, {}", "\r\n  , {}", "\r\nX: a\rX-Forwarded-For: {}"])
def test_what_a_proxy_may_have_read_otherwise_is_refused(bench: Bench, line: str):
    theirs = line.format(LISTED)
    head = (
        f"GET /livez HTTP/1.1\r\nX-Forwarded-For: {STRANGER}{theirs}\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection(bench.where, 5, source_address=(PROXY, 0)) as client:
        client.sendall(head.encode())
        assert rest(client).startswith(b"HTTP/1.1 400 ")


def test_the_list_may_change_while_it_runs(bench: Bench):
    assert get(bench, STRANGER).status == 403
    bench.server.admit(IpAllowlist(enabled=True, allowlist=(STRANGER,)))
    assert get(bench, STRANGER).status == 200
    assert get(bench, LISTED).status == 403


def test_a_flood_of_strangers_takes_no_thread_and_keeps_nobody_out(bench: Bench):
    """A thousand connections that send nothing: each is answered and closed at once."""
    ended = threading.Event()
    answers: list[bytes] = []

    def knock() -> None:
        while not ended.is_set() and len(answers) < 1_000:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(bench.where, 5, source_address=(STRANGER, 0)) as client,
            ):
                answers.append(rest(client)[:12])

    floods = [threading.Thread(target=knock, name=f"flood-{n}") for n in range(4)]
    for one in floods:
        one.start()
    try:
        slowest = 0.0
        while len(answers) < 1_000:
            began = time.monotonic()
            assert get(bench, LISTED).status == 200
            slowest = max(slowest, time.monotonic() - began)
    finally:
        ended.set()
        for one in floods:
            one.join(10)
    assert slowest < 2.0
    assert set(answers) <= {b"HTTP/1.1 403", b""}
    until(
        lambda: not [one for one in threading.enumerate() if one.name.startswith("http-")],
        what="no thread is left",
    )


def test_a_token_and_an_address_are_both_needed(tmp_path):
    token = tmp_path / "token"
    token.write_text("open sesame")
    token.chmod(0o600)
    bench = Bench(IpAllowlist(enabled=True, allowlist=(LISTED,)), token_file=token)
    try:
        assert get(bench, LISTED).status == 401
        assert get(bench, LISTED, Authorization="Bearer open sesame").status == 200
        assert get(bench, STRANGER, Authorization="Bearer open sesame").status == 403
        assert (refused(bench), refused(bench, "token")) == (1, 1)
    finally:
        bench.server.stop()
