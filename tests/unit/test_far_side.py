"""The far side as a process of its own: what it acknowledged survives its death, once."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from pg_collector.clock import SystemClock
from pg_collector.config.model import Platform
from pg_collector.sample import Batch
from pg_collector.web import Reply, Web
from tests.support.far_side import Answer, FarSide
from tests.support.ledger import Ledger
from tests.support.oracle import Entry
from tests.support.until import until

ROOT = Path(__file__).parents[2]


@contextmanager
def process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = [sys.executable, "-m", "tests.support.far_side", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as far:
        assert far.stdout is not None
        try:
            yield far, int(far.stdout.readline())
        finally:
            far.kill()


def web(port: int) -> Web:
    return Web(Platform(url=f"http://127.0.0.1:{port}"), SystemClock(), {})


def post(to: Web, first: int, *lines: bytes, life: str = "1/a", token: str = "") -> Reply:
    batch = Batch(first, first + len(lines) - 1, lines)
    headers = {
        "Idempotency-Key": f"s/{batch.first}-{batch.last}",
        "Pgc-Life": life,
        "Authorization": f"Bearer {token}",
    }
    return to.request("POST", "/v1/samples", headers, batch.body)


def test_what_was_acknowledged_survives_a_kill_and_is_stored_once(tmp_path: Path):
    file = tmp_path / "ledger"
    with process("--ledger", str(file)) as (far, port):
        assert post(web(port), 1, b"1", b"2").status == 200
        far.send_signal(signal.SIGKILL)
        far.wait(10)
    with file.open("ab") as torn:
        torn.write(b'{"stream":"s","li')
    with process("--ledger", str(file), "--port", str(port)) as (far, port):
        to = web(port)
        reply = msgspec.json.decode(post(to, 2, b"2", b"3").body)
        assert (reply["ack_through"], reply["duplicates"]) == (3, 1)
        assert post(to, 9, b"9").status == 409
        assert post(to, 4, b"4", life="0/z").status == 409
        state = msgspec.json.decode(to.request("GET", "/-/state", {}).body)
        assert state["through"] == {"s": 3}
        far.send_signal(signal.SIGTERM)
        assert far.wait(10) == 0
    ledger = Ledger(file)
    assert ledger.entries == [Entry.of_line("s", n, b"%d" % n) for n in (1, 2, 3)]
    ledger.close()


def test_it_takes_orders_and_wants_its_token():
    with process("--token", "t") as (_, port):
        to = web(port)
        assert post(to, 1, b"1").status == 401
        assert post(to, 1, b"1", token="t").status == 200  # noqa: S106
        order = msgspec.json.encode([{"status": 503, "headers": {"Retry-After": "7"}}])
        assert to.request("POST", "/-/script", {}, order).status == 200
        reply = post(to, 2, b"2", token="t")  # noqa: S106
        assert (reply.status, reply.headers["retry-after"]) == (503, "7")
        to.request("POST", "/-/always", {}, b'{"status":500}')
        assert [post(to, 2, b"2").status for _ in range(3)] == [500] * 3
        to.request("POST", "/-/always", {}, b"null")
        assert post(to, 2, b"2", token="t").status == 200  # noqa: S106


@pytest.mark.parametrize(
    ("first", "body"), [(1, b"1\n2\n"), (1, b'{"gap":{"from":2,"to":2,"reason":"x"}}\n'), (1, b"")]
)
def test_it_refuses_a_body_that_is_not_what_its_key_says(first: int, body: bytes):
    with FarSide() as far:
        headers = {"Idempotency-Key": f"s/{first}-1", "Pgc-Life": "1/a"}
        assert web(far.port).request("POST", "/v1/samples", headers, body).status == 400
        assert far.ledger.entries == []


def test_it_comes_up_again_where_it_was():
    with FarSide() as far:
        far.answer(Answer(503))
        to = web(far.port)
        assert post(to, 1, b"1").status == 503
        far.down()
        far.up()
        assert until(lambda: post(to, 1, b"1").status == 200)
        assert [one.line for one in far.ledger.lines] == [b"1"]
