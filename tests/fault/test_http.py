"""The agent's HTTP server over real sockets: what it answers."""

import contextlib
import http.client
import json
import os
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography.hazmat.primitives import serialization

from pg_collector.config.model import Http, HttpTls, IpAllowlist
from pg_collector.errors import ConfigurationError, StateError
from pg_collector.health.address import parse_address, resolve
from pg_collector.health.server import HealthServer
from pg_collector.health.vitals import State, Vital, Vitals
from pg_collector.metrics import Metrics
from tests.support.hand_clock import HandClock
from tests.support.pki import Leaf, Pki


class Reply(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


BEGIN = "2026-11-22T18:00:00.000000Z"  # of the clock


class Bench:
    """A running server, and a client."""

    def __init__(self, allowlist: IpAllowlist | None = None, **settings: Any) -> None:
        self.metrics = Metrics(HandClock())
        self.vitals = Vitals(HandClock(), self.metrics)
        options = {"address": "127.0.0.1:0", "read_timeout": 0.6, "write_timeout": 0.6}
        http = Http(**{**options, **settings})
        version = {"version": "1.2.3", "commit": "abc"}
        self.server = HealthServer(
            http,
            self.vitals,
            self.metrics,
            version=version,
            status=lambda: b'{"at":"now"}\n',
            allowlist=allowlist or IpAllowlist(),
        )
        self.server.start()

    @property
    def where(self) -> tuple[str, int]:
        assert self.server.address is not None
        return self.server.address

    def connect(self) -> socket.socket:
        return socket.create_connection(self.where, timeout=5)

    def get(self, path: str, method: str = "GET", **headers: str) -> Reply:
        with contextlib.closing(http.client.HTTPConnection(*self.where, timeout=5)) as client:
            return ask(client, path, method, **headers)

    def raw(self, request: bytes) -> bytes:
        """Send bytes; return everything until the server closes."""
        with self.connect() as client:
            client.sendall(request)
            return rest(client)


def ask(
    client: http.client.HTTPConnection, path: str, method: str = "GET", **headers: str
) -> Reply:
    client.request(method, path, headers=headers)
    response = client.getresponse()
    return Reply(response.status, dict(response.getheaders()), response.read())


def rest(client: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := client.recv(65536):
            received += chunk
    return received


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.server.stop()


def down(**words: Any) -> Vital:
    return Vital(state=State.DOWN, **words)


def test_a_healthy_agent_says_so_in_json(bench: Bench):
    bench.vitals.register("buffer", lambda: Vital(state=State.OK))
    for path in ("/healthz", "/health"):
        reply = bench.get(path)
        assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json")
        assert reply.json == {
            "status": "ok",
            "parts": {
                "thread http": {"state": "ok", "essential": True, "since": BEGIN},
                "buffer": {"state": "ok", "since": BEGIN},
            },
        }


def test_degraded_is_well_enough_unless_one_is_strict(bench: Bench):
    bench.vitals.register("target prod", lambda: down(reason="refused", remedy="Start it."))
    reply = bench.get("/healthz")
    assert (reply.status, reply.json["status"]) == (200, "degraded")
    assert reply.json["parts"]["target prod"] == {
        "state": "down", "reason": "refused", "remedy": "Start it.", "since": BEGIN
    }  # fmt: skip
    assert bench.get("/healthz?strict=1").status == 503
    assert bench.get("/healthz?strict=0").status == 200


def test_down_and_stopped_are_unavailable(bench: Bench):
    bench.vitals.register("sender", lambda: down(essential=True))
    assert bench.get("/healthz").status == 503
    assert bench.get("/livez").status == 200
    bench.vitals.ending()
    assert (bench.get("/healthz").json["status"]) == "stopped"


def test_verbose_is_a_list_for_people(bench: Bench):
    bench.vitals.register("buffer", lambda: Vital(state=State.DEGRADED, reason="half full"))
    bench.vitals.register("target prod", lambda: down(reason="refused", remedy="Start it."))
    reply = bench.get("/healthz?verbose")
    assert reply.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert reply.body.decode().splitlines() == [
        "[+]thread http ok",
        "[!]buffer degraded: half full",
        "[-]target prod down: refused (Start it.)",
        "healthz: degraded",
    ]


def test_an_agent_without_a_plan_is_alive_but_not_ready_and_says_what_helps(bench: Bench):
    bench.vitals.require("plan", lambda: down(reason="UNPROVISIONED", remedy="Set api_key."))
    reply = bench.get("/readyz")
    assert reply.status == 503
    assert reply.json["parts"]["plan"]["reason"] == "UNPROVISIONED"
    assert reply.json["parts"]["plan"]["remedy"] == "Set api_key."
    assert b"(Set api_key.)" in bench.get("/readyz?verbose").body
    assert bench.get("/livez").status == 200
    bench.vitals.require("plan", lambda: Vital(state=State.OK))
    assert bench.get("/readyz").status == 200


def test_metrics_come_in_both_formats(bench: Bench):
    text = bench.get("/metrics")
    assert text.status == 200
    assert text.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert b"\npg_collector_up 1.0\n" in text.body
    openmetrics = bench.get("/metrics", Accept="application/openmetrics-text;version=1.0.0")
    assert openmetrics.headers["Content-Type"].startswith("application/openmetrics-text")
    assert openmetrics.body.endswith(b"# EOF\n")


def test_the_version_and_the_index_are_there(bench: Bench):
    assert bench.get("/version").json == {"version": "1.2.3", "commit": "abc"}
    assert b"/readyz" in bench.get("/").body


@pytest.mark.parametrize("path", ["/nope", "/healthz/", "//healthz/x", "/metrics/../etc/passwd"])
def test_anything_else_is_not_found(bench: Bench, path: str):
    assert bench.get(path).status == 404


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/", "/nope"])
def test_no_answer_is_stored_and_no_banner_shown(bench: Bench, path: str):
    reply = bench.get(path)
    assert reply.headers["Cache-Control"] == "no-store"
    assert reply.headers["Server"] == "pg-collector"
    assert reply.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/livez", "/version", "/nope"])
def test_head_is_get_without_the_body(bench: Bench, path: str):
    get, head = bench.get(path), bench.get(path, "HEAD")
    assert head.body == b""
    assert head.status == get.status
    assert head.headers["Content-Length"] == str(len(get.body))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "FOO"])
def test_other_methods_are_not_allowed(bench: Bench, method: str):
    reply = bench.get("/healthz", method)
    assert reply.status == 405
    assert reply.headers["Allow"] == "GET, HEAD"


def test_a_connection_serves_many_requests(bench: Bench):
    with contextlib.closing(http.client.HTTPConnection(*bench.where, timeout=5)) as client:
        client.connect()
        port = client.sock.getsockname()[1]
        for path in ("/healthz", "/metrics", "/nope", "/livez"):
            ask(client, path)
        ask(client, "/livez", "HEAD")
        assert client.sock.getsockname()[1] == port


def test_requests_may_come_in_pieces_or_all_at_once(bench: Bench):
    with bench.connect() as client:
        for byte in b"GET /version HTTP/1.1\r\nHost: x\r\n":
            client.send(bytes([byte]))
        client.sendall(b"\r\n" + b"GET /livez HTTP/1.1\r\n\r\n" * 2)
        client.shutdown(socket.SHUT_WR)
        received = rest(client)
    assert received.count(b"HTTP/1.1 200 OK") == 3


def test_old_and_lazy_clients_are_served(bench: Bench):
    for request in (b"GET /livez HTTP/1.0\r\n\r\n", b"GET /livez HTTP/1.0\n\n"):
        received = bench.raw(request)
        assert received.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Connection: close\r\n" in received
    assert bench.raw(b"\r\n\r\nGET /livez HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200")
    absolute = b"GET http://collector:8080/livez?verbose HTTP/1.0\r\n\r\n"
    assert bench.raw(absolute).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"GARBAGE\r\n\r\n", b"400"),
        (b"GET /livez\r\n\r\n", b"400"),
        (b"GET  /livez HTTP/1.1 more\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"400"),
        (b"GET /livez HTTP/x\r\n\r\n", b"400"),
        (b"GET /livez HTTP/2.0\r\n\r\n", b"505"),
        (b"GET http://[bad HTTP/1.1\r\nConnection: close\r\n\r\n", b"400"),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", b"414"),
        (b"GET / HTTP/1.1\r\n" + b"X: " + b"a" * 20_000 + b"\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\n" + b"X: " + b"a" * 8_192 + b"\r\n\r\n", b"431"),
        (b"GET /" + b"a" * 8_192 + b" HTTP/1.1\r\n\r\n", b"414"),
        (b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 500 + b"\r\n", b"431"),
        (b"GET /livez HTTP/1.1\r\nConnection: close\r\n: \xff\x00\r\n\r\n", b"400"),
        (b"GET /healthz?" + b"a&" * 50 + b" HTTP/1.1\r\nConnection: close\r\n\r\n", b"400"),
    ],
)
def test_a_malformed_request_gets_a_short_answer_and_the_door(
    bench: Bench, request_head: bytes, status: bytes
):
    received = bench.raw(request_head)
    assert received.split(b" ", 2)[1] == status
    assert b"GARBAGE" not in received
    assert bench.get("/livez").status == 200


def test_the_body_of_a_request_is_never_taken_for_the_next(bench: Bench):
    smuggled = b"GET /metrics HTTP/1.1\r\n\r\n"
    head = b"GET /livez HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(smuggled)
    received = bench.raw(head + smuggled)
    assert received.count(b"HTTP/1.1") == 1
    assert b"Connection: close" in received


def test_nobody_is_asked_for_a_body(bench: Bench):
    request = b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n"
    assert bench.raw(request).startswith(b"HTTP/1.1 405")


def test_a_page_that_fails_is_an_error_and_the_next_is_served(bench: Bench):
    def broken() -> float:
        raise ZeroDivisionError

    bench.metrics.uptime_seconds.set_function(broken)
    reply = bench.get("/metrics")
    assert reply.status == 500
    assert b"ZeroDivision" not in reply.body
    assert bench.get("/livez").status == 200


def test_with_a_token_file_only_its_bearer_is_answered(tmp_path: Path):
    (tmp_path / "token").write_text("s3cret\n")
    bench = Bench(token_file=tmp_path / "token")
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic s3cret"}):
        reply = bench.get("/metrics", **headers)
        assert (reply.status, reply.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert b"s3cret" not in reply.body
    assert bench.get("/metrics", Authorization="Bearer s3cret").status == 200
    bench.server.stop()


def test_a_certificate_that_was_replaced_is_shown_to_the_next_client(pki: Pki, tmp_path: Path):
    pair = tmp_path / "cert", tmp_path / "key"

    def put(leaf: Leaf, *which: int) -> None:
        for n in which:
            shutil.copy((leaf.certificate, leaf.key)[n], pair[n])

    first, second = pki.server, pki.issue("renewed", "localhost", ("localhost",))
    put(first, 0, 1)
    bench = Bench(tls=HttpTls(cert_file=pair[0], key_file=pair[1]))

    def shown() -> int:
        context = ssl.create_default_context(cafile=str(pki.ca))
        with (
            bench.connect() as plain,
            context.wrap_socket(plain, server_hostname="localhost") as link,
        ):
            certificate = link.getpeercert()
            assert certificate is not None
            return int(str(certificate["serialNumber"]), 16)

    try:
        bench.server.renew()
        assert shown() == first.serial
        put(second, 0)
        bench.server.renew()
        assert shown() == first.serial, "its key is not there yet"
        put(second, 1)
        bench.server.renew()
        assert shown() == second.serial
        pair[0].unlink()
        bench.server.renew()
        assert shown() == second.serial
    finally:
        bench.server.stop()


def test_with_a_certificate_it_speaks_tls_only(pki: Pki):
    leaf = pki.server
    bench = Bench(tls=HttpTls(cert_file=leaf.certificate, key_file=leaf.key))
    context = ssl.create_default_context(cafile=str(pki.ca))
    host, port = bench.where
    with contextlib.closing(
        http.client.HTTPSConnection(host, port, timeout=5, context=context)
    ) as client:
        assert ask(client, "/livez").status == 200
        assert ask(client, "/healthz").status == 200
    assert b"200 OK" not in bench.raw(b"GET /livez HTTP/1.0\r\n\r\n")
    with bench.connect() as silent:  # never shakes hands
        assert rest(silent) == b""
    bench.server.stop()


@pytest.mark.parametrize("settings", [{"token_file": Path("/nonexistent")}, {"address": "8080"}])
def test_a_configuration_that_cannot_work_is_refused(settings: dict[str, Any]):
    with pytest.raises(ConfigurationError):
        Bench(**settings)


def test_a_certificate_that_cannot_be_used_is_refused(tmp_path: Path):
    (tmp_path / "cert").write_text("not one")
    with pytest.raises(ConfigurationError, match="cert_file"):
        Bench(tls=HttpTls(cert_file=tmp_path / "cert"))


def test_a_token_or_certificate_in_a_named_pipe_is_refused_without_waiting(
    tmp_path: Path, pki: Pki
):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    leaf = pki.server
    for settings in (
        {"token_file": pipe},
        {"tls": HttpTls(cert_file=pipe, key_file=leaf.key)},
        {"tls": HttpTls(cert_file=leaf.certificate, key_file=pipe)},
    ):
        with pytest.raises(ConfigurationError, match="is not a regular file") as caught:
            Bench(**settings)
        assert caught.value.remedy


def test_a_token_file_without_an_end_is_refused(tmp_path: Path):
    (tmp_path / "token").write_bytes(b"x" * 70_000)
    with pytest.raises(ConfigurationError, match="larger than 64 kB"):
        Bench(token_file=tmp_path / "token")


def test_an_encrypted_key_is_refused_without_asking_for_its_password(tmp_path: Path, pki: Pki):
    key = serialization.load_pem_private_key(pki.server.key.read_bytes(), None)
    file = tmp_path / "key"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"x"),
        )
    )
    with pytest.raises(ConfigurationError, match="is encrypted") as caught:
        Bench(tls=HttpTls(cert_file=pki.server.certificate, key_file=file))
    assert "openssl" in caught.value.remedy


def test_off_listens_nowhere():
    bench = Bench(address="off")
    assert bench.server.address is None
    bench.server.stop()


def test_an_address_in_use_is_told_with_the_remedy(bench: Bench):
    port = bench.where[1]
    with pytest.raises(StateError, match="in use") as caught:
        Bench(address=f"127.0.0.1:{port}")
    assert f"sport = :{port}" in caught.value.remedy


def test_an_address_of_another_machine_is_told_with_the_remedy():
    with pytest.raises(StateError, match="Cannot assign") as caught:
        Bench(address="192.0.2.1:0")
    assert "http.address" in caught.value.remedy


def test_a_port_that_needs_a_privilege_is_told_with_the_remedy():
    was_root = os.geteuid() == 0
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 1:
        pytest.skip("every port is open to every user here")
    if was_root:
        os.seteuid(65534)
    try:
        with pytest.raises(StateError, match="ermission") as caught:
            Bench(address="127.0.0.1:1")
        assert "privilege" in caught.value.remedy
    finally:
        if was_root:
            os.seteuid(0)


@pytest.mark.parametrize(
    ("address", "clients"),
    [
        ("127.0.0.1:0", ["127.0.0.1"]),
        ("localhost:0", ["localhost"]),
        ("[::1]:0", ["::1"]),
        (":0", ["127.0.0.1", "::1"]),
    ],
)
def test_every_kind_of_address_is_served(address: str, clients: list[str]):
    if "::1" in clients and not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    bench = Bench(address=address)
    port = bench.where[1]
    for host in clients:
        with contextlib.closing(http.client.HTTPConnection(host, port, timeout=5)) as client:
            assert ask(client, "/livez").status == 200
    bench.server.stop()


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)), ("[::1]:80", ("::1", 80)),
        (":8080", ("", 8080)), ("my-host.local:1", ("my-host.local", 1)), ("x:65535", ("x", 65535)),
    ],
)  # fmt: skip
def test_addresses_are_read(text: str, parsed: tuple[str, int]):
    assert parse_address(text) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "", "8080", "::1:8080", "host", "host:", "x:65536", "x:-1", "http://x:1", "[::1]", "x:1a",
        "a..b:8080", ".:1", f"{'x' * 64}:1", "x.:1.", f"{'x.' * 130}x:1", "[x]:1",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_with_the_remedy(text: str):
    with pytest.raises(ConfigurationError) as caught:
        parse_address(text)
    assert "off" in caught.value.remedy


@pytest.mark.parametrize("host", ["a..b", ".", "x" * 64])
def test_a_name_that_no_resolver_takes_is_refused_with_the_remedy(host: str):
    with pytest.raises(ConfigurationError, match="not a name of a host") as caught:
        resolve(host, 0)
    assert "off" in caught.value.remedy


def test_a_server_that_was_stopped_leaves_no_thread_and_no_socket():
    before = set(threading.enumerate())
    bench = Bench()
    port = bench.where[1]
    assert bench.get("/livez").status == 200
    bench.server.stop()
    bench.server.stop()
    assert set(threading.enumerate()) <= before
    again = Bench(address=f"127.0.0.1:{port}")
    assert again.get("/livez").status == 200
    again.server.stop()
