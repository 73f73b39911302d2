"""The reference platform as a service: document, problems, TLS, faults on purpose, exit codes."""

import json
import os
import re
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from tests.support.lines import make
from tests.support.pki import Pki
from tests.support.platform_device import Device, name
from tests.support.ports import free_port
from tests.support.reference_platform import ReferencePlatform
from tests.support.until import until

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    with ReferencePlatform(tmp_path_factory.mktemp("service")) as platform:
        yield platform


@pytest.fixture(scope="module")
def device(platform):
    device = Device(platform.url)
    assert device.activate(platform.new_key("pro")).ok
    return device


def pgc(*words):
    return subprocess.run(
        [sys.executable, "-m", "pg_collector", "platform", *map(str, words)],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


def test_it_does_what_its_document_says(platform, device, tmp_path):
    done = subprocess.run(
        [Path(sys.executable).parent / "schemathesis", "run", f"{platform.url}/openapi.json",
         "--url", platform.url, "--max-examples", "15", "--seed", "1", "--no-color",
         "--phases", "coverage,fuzzing", "--generation-database", "none",
         "--exclude-path", "/v1/devices/deactivate",
         "--exclude-checks", "positive_data_acceptance"],
        env={**os.environ, "SCHEMATHESIS_HOOKS": "tests.support.openapi_hooks",
             "PYTHONPATH": str(ROOT), "NO_PROXY": "*", "DEVICE_TOKEN": device.access,
             "ADMIN_TOKEN": platform.admin_token},
        cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert re.search(r"11 passed|12 passed", done.stdout)
    assert "a request failed" not in platform.log.read_text()


@pytest.mark.parametrize(
    ("method", "path", "status", "problem"),
    [
        ("GET", "/", 404, "not-found"),
        ("GET", "/v1/devices/", 404, "not-found"),
        ("GET", "/v1/../v1/devices", 404, "not-found"),
        ("DELETE", "/v1/devices", 405, "method-not-allowed"),
        ("GET", "/v1/samples", 405, "method-not-allowed"),
    ],
)
def test_what_is_not_there_is_a_problem_document(device, method, path, status, problem):
    url = f"{device.url}{path}"
    request = requests.Request(method, url).prepare()
    request.url = url
    answer = device.session.send(request, timeout=10)
    assert (answer.status_code, name(answer)) == (status, problem)
    assert (status == 405) == ("Allow" in answer.headers)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[]", b'"x"', b'{"device_id": 1}'])
def test_malformed_json_is_a_problem_document(device, body):
    for path in ("activate", "refresh"):
        answer = device.call("POST", f"/v1/devices/{path}", data=body)
        assert (answer.status_code, name(answer)) == (400, "bad-request")
    answer = device.call("POST", "/v1/devices/activate", data=b" " * 70_000)
    assert (answer.status_code, name(answer)) == (413, "too-large")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", 431),
        (b"POST /v1/samples HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: strange\r\n\r\n", 501),
    ],
)
def test_what_the_server_itself_refuses_is_a_problem_document(platform, request_, status):
    with socket.create_connection(("127.0.0.1", platform.port), 5) as link:
        link.sendall(request_)
        answer = b""
        while chunk := link.recv(65536):
            answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split()[1] == str(status).encode()
    assert b"application/problem+json" in head
    assert json.loads(body)["status"] == status


def test_head_has_no_body_and_the_connection_goes_on(device):
    answer = device.session.head(f"{device.url}/healthz", timeout=5)
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["Content-Length"]) > 0
    assert device.session.get(f"{device.url}/healthz", timeout=5).json() == {"status": "ok"}


def test_metrics_count_by_route_and_status(platform, device):
    before = platform.metric("requests_total", route="GET /v1/commands", status="200")
    assert device.call("GET", "/v1/commands").ok
    assert platform.metric("requests_total", route="GET /v1/commands", status="200") == before + 1
    requests.get(f"{platform.url}/some/where", timeout=5)
    assert platform.metric("requests_total", route="other", status="404") > 0
    assert platform.metric("activations_total") >= 1


def test_secrets_and_tracebacks_are_in_no_answer_and_no_log(platform, device):
    secret = "pgc_pro_" + "s" * 32
    answer = device.call(
        "POST", "/v1/devices/activate", json={"api_key": secret, "device_id": secret}
    )
    assert secret not in answer.text
    log = platform.log.read_text()
    assert "Traceback" not in log
    for text in (secret, device.access, device.refresh_token, platform.admin_token):
        assert text not in log


def test_clients_that_say_nothing_do_not_keep_others_from_it(platform):
    links = [socket.create_connection(("127.0.0.1", platform.port), 5) for _ in range(60)]
    for link in links[:30]:
        link.sendall(b"POST /v1/samples HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
    started = time.monotonic()
    assert requests.get(f"{platform.url}/healthz", timeout=5).ok
    assert time.monotonic() - started < 2
    for link in links:
        link.close()


def test_a_second_process_on_the_same_directory_ends_with_73(platform):
    done = pgc("start", platform.directory, "--listen", f"127.0.0.1:{free_port()}")
    assert done.returncode == 73
    assert f"process {platform.process.pid} serves it" in done.stderr
    assert requests.get(f"{platform.url}/healthz", timeout=5).ok


def test_it_says_what_is_wrong_with_its_options(platform, tmp_path):
    there = platform.directory
    assert pgc("init", there).returncode == 73
    for words, code, said in (
        (("start", tmp_path), 73, "holds no platform"),
        (("start", there, "--chaos", "often"), 78, "503=0.2,delay=3s"),
        (("start", there, "--listen", "nowhere"), 2, "127.0.0.1:8443"),
        (("start", there, "--retention", "a week"), 2, "--retention"),
        (("keys", "create", "--plan", "gold", "--dir", there), 2, "no plan gold"),
        (("keys", "revoke", "pgc_no", "--dir", there), 1, "no key begins so"),
        (("devices", "revoke", "x", "--dir", there), 1, "no device x"),
    ):
        done = pgc(*words)
        assert (done.returncode, said in done.stderr) == (code, True), (words, done.stderr)


def test_faults_on_purpose_leave_probes_alone(tmp_path):
    platform = ReferencePlatform(tmp_path, chaos="503=1,delay=0.3s")
    with platform:
        device = Device(platform.url)
        started = time.monotonic()
        answer = device.activate("pgc_pro_" + "x" * 32)
        assert (answer.status_code, name(answer)) == (503, "busy")
        assert answer.headers["Retry-After"] == "1"
        assert time.monotonic() - started > 0.3
        assert requests.get(f"{platform.url}/healthz", timeout=5).ok
        assert platform.stop() == 0
        assert "has ended" in platform.log.read_text()


def test_it_speaks_tls_and_ends_while_clients_hang(tmp_path):
    pki = Pki(tmp_path / "pki")
    leaf = pki.server
    with ReferencePlatform(tmp_path, tls=(leaf.certificate, leaf.key), ca=pki.ca) as platform:
        device = Device(platform.url, verify=str(pki.ca))
        assert device.activate(platform.new_key("bench")).ok
        body = [make(k, 20_000) for k in range(1, 40)]
        assert device.send(1, body).json()["ack_through"] == 39
        for first in range(40, 140):
            assert device.send(first, [make(first, 50)]).ok
        told = platform.get("/v1/series", set="database", limit="10000")  # larger than a record
        assert len(told["rows"]) == 139
        idle = socket.create_connection(("127.0.0.1", platform.port), 5)  # no handshake
        half = socket.create_connection(("127.0.0.1", platform.port), 5)
        half.sendall(b"\x16\x03\x01")
        context = ssl.create_default_context(cafile=str(pki.ca))
        with context.wrap_socket(
            socket.create_connection(("127.0.0.1", platform.port), 5), server_hostname="localhost"
        ) as slow:
            slow.sendall(b"GET / HTTP/1.1\r\n")
            assert device.policy()
            started = time.monotonic()
            assert platform.stop() == 0
            assert time.monotonic() - started < 5
        idle.close()
        half.close()


def test_a_certificate_that_cannot_be_used_is_named(platform, tmp_path):
    (tmp_path / "no.pem").write_text("nothing")
    platform.stop()
    done = pgc("start", platform.directory, "--certificate", tmp_path / "no.pem")
    platform.start()
    assert done.returncode == 73
    assert "no.pem" in done.stderr


def test_identity_commands_work_while_it_is_stopped(platform):
    platform.stop()
    key = platform.new_key("business")
    listed = platform.pgc("keys", "list")
    assert [one["plan"] for one in listed if key.startswith(one["prefix"])] == ["business"]
    platform.start()
    device = Device(platform.url)
    assert device.activate(key).ok
    until(lambda: device.policy()["plan"] == "business", 5.0, "the key is known")
