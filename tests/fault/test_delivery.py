"""Delivery when the platform answers badly, slowly, half, or not at all (faults 21 to 28).

The numbers are those of the fault matrix in docs/specs/delivery.md.
"""

import gzip
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pg_collector.breaker import Breaker
from pg_collector.config.model import PlatformTimeout
from pg_collector.errors import Unreachable
from pg_collector.exchange import MAX_REPLY
from pg_collector.pacing import OUTAGE
from tests.support.delivery import QUICK, Delivery
from tests.support.far_side import Answer, FarSide
from tests.support.hand_clock import HandClock
from tests.support.pki import Pki


@pytest.fixture
def far() -> Iterator[FarSide]:
    with FarSide() as far:
        yield far


@pytest.fixture
def delivery(far: FarSide) -> Iterator[Delivery]:
    delivery = Delivery(far)
    yield delivery
    delivery.close()


def test_a_day_without_faults_is_one_request_a_batch(far: FarSide, delivery: Delivery):
    delivery.put(1200)
    delivery.oracle()
    assert far.statuses() == [200] * 3
    assert len({one.client for one in far.seen}) == 1, "one connection is kept"
    first = far.seen[0]
    assert first.headers["content-type"] == "application/x-ndjson"
    assert first.headers["content-encoding"] == "zstd"
    assert first.headers["authorization"] == "Bearer good"
    stream = next(iter(far.ledger.streams))
    assert first.key == f"{stream}/1-500"
    sent = delivery.metrics.registry.get_sample_value(
        "pg_collector_output_bytes_total", {"output": "platform"}
    )
    assert sent == sum(one.size for one in far.seen)
    whole = delivery.metrics.registry.get_sample_value(
        "pg_collector_output_uncompressed_bytes_total", {"output": "platform"}
    )
    assert whole == sum(len(one.line) + 1 for one in far.ledger.lines)
    assert delivery.metrics.registry.get_sample_value(
        "pg_collector_output_duration_seconds_count", {"output": "platform"}
    ) == len(far.seen)


def test_21_a_flapping_platform_only_slows_delivery_down(far: FarSide):
    clock = HandClock()
    delivery = Delivery(far, clock=clock, batch_max_lines=10)
    breaker = Breaker(
        "platform", failures=5, reset=30.0, counts=(Unreachable,), metrics=delivery.metrics,
        clock=clock,
    )  # fmt: skip
    delivery.sender._breaker = breaker
    delivered = 0
    for turn in range(40):  # of five seconds
        far.up() if turn % 2 else far.down()
        delivery.put(5)
        end = clock.monotonic() + 5
        while clock.monotonic() < end:
            clock.advance(max(0.1, min(delivery.step(), end - clock.monotonic())))
        now = delivery.buffer.account().delivered
        assert now >= delivered
        delivered = now
    far.up()
    assert delivered > 100
    clock.advance(OUTAGE * 6)
    delivery.oracle()
    delivery.close()


DRIPS = {
    "head": Answer(drip=1.0),
    "body": Answer(drip=1.0, drip_after=180),
    "continue": Answer(continues=True),
    "nothing": Answer(delay=30.0),
}


@pytest.mark.parametrize("over", ["plain", "tls"])
@pytest.mark.parametrize("drip", DRIPS)
def test_22_a_slow_answer_is_cut_at_the_deadline(pki: Pki, drip: str, over: str):
    with FarSide(tls=pki.server if over == "tls" else None) as far:
        delivery = Delivery(far, ca_file=str(pki.ca))
        delivery.put(3)
        far.answer(DRIPS[drip])
        began = time.monotonic()
        assert delivery.step() > 0
        assert QUICK.total - 0.1 < time.monotonic() - began < QUICK.total + 0.5
        assert "no complete answer within 1 s" in delivery.message
        assert delivery.errors("unreachable") == 1
        delivery.oracle()
        delivery.close()


@pytest.mark.parametrize("over", ["plain", "tls"])
def test_23_a_peer_that_never_reads_is_left_at_the_deadline(pki: Pki, over: str):
    with FarSide(tls=pki.server if over == "tls" else None) as far:
        delivery = Delivery(far, ca_file=str(pki.ca), pad=400_000, batch_max_bytes=16 << 20)
        delivery.put(20)  # more than the kernel's buffers take
        far.silent = True
        began = time.monotonic()
        assert delivery.step() > 0
        took = time.monotonic() - began
        assert took < QUICK.total + 0.5
        said = "no connection within 0.4 s" if over == "tls" else "no complete answer within 1 s"
        assert said in delivery.message
        far.silent = False
        delivery.oracle()
        delivery.close()


HALVES = {
    "nothing at all": Answer(commit=True, cut_after=0),
    "reset": Answer(commit=True, cut_after=0, reset=True),
    "half a head": Answer(commit=True, cut_after=40),
    "half a body": Answer(commit=True, cut_after=170),
    "half a body, no length": Answer(commit=True, headers={"Content-Length": ""}, cut_after=150),
    "a cut chunk": Answer(
        commit=True, status=200, body=b"40\r\n{", cut_after=10_000,
        headers={"Content-Length": "", "Transfer-Encoding": "chunked"},
    ),
    "no HTTP": Answer(commit=True, status=200, body=b"", headers={"x": "y\r\n\r\n\0"}),
}  # fmt: skip


@pytest.mark.parametrize("half", HALVES)
def test_24_half_an_answer_is_none_and_the_batch_comes_again(
    far: FarSide, delivery: Delivery, half: str
):
    delivery.put(5)
    far.answer(HALVES[half])
    assert delivery.step() > 0
    assert delivery.buffer.account().delivered == 0
    assert delivery.errors("unreachable") + delivery.errors("unexpected") == 1
    delivery.work()
    assert len({one.key for one in far.seen}) == 1, "under the same key"
    assert far.ledger.duplicates == 5
    delivery.oracle()


def test_25_a_thousand_lost_acknowledgements_double_nothing(far: FarSide):
    delivery = Delivery(far, batch_max_lines=1)
    delivery.put(1000)
    lost = Answer(commit=True, cut_after=0)
    for _ in range(1000):
        far.answer(lost)
        before = delivery.buffer.account().delivered
        delivery.step()  # a kept connection is tried again at once: that may have been it
        while delivery.buffer.account().delivered == before:
            delivery.step()
    assert far.ledger.duplicates == 1000
    delivery.oracle()
    delivery.close()


WRONG: dict[str, dict[str, Any]] = {
    "of another stream": {"stream": "0b7c0000-0000-4000-8000-000000000000"},
    "of another batch": {"first": 101, "last": 110, "ack_through": 110},
    "of an earlier batch": {"last": 3, "ack_through": 3},
    "of more than was sent": {"ack_through": 11},
    "of nothing": {"ack_through": 0},
    "of a rejected line elsewhere": {"rejected": [{"seq": 11, "code": "x"}]},
    "in words": {"ack_through": "10"},
    "null": {"ack_through": None},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_26_an_acknowledgement_of_something_else_is_none(
    far: FarSide, delivery: Delivery, wrong: str
):
    delivery.put(10)
    far.answer(Answer(alter=lambda document: {**document, **WRONG[wrong]}))
    assert delivery.step() > 0
    assert delivery.buffer.account().delivered == 0
    assert delivery.message.startswith("unexpected answer: ")
    assert delivery.errors("unexpected") == 1
    delivery.oracle()


def test_26_a_part_that_is_acknowledged_is_not_sent_again(far: FarSide, delivery: Delivery):
    delivery.put(10)
    far.answer(Answer(alter=lambda document: {**document, "ack_through": 4}))
    delivery.step()
    assert delivery.buffer.account().delivered == 4
    delivery.step()
    assert far.seen[-1].key.endswith("/5-10")
    delivery.oracle()


PORTAL = b"<html><body>Welcome to Hotel WiFi, please log in</body></html>"


@pytest.mark.parametrize(
    "answer",
    [
        Answer(status=200, body=PORTAL, headers={"Content-Type": "text/html"}),
        Answer(status=200, body=b""),
        Answer(status=200, body=b"{}"),
        Answer(status=204, body=b""),
        *(
            Answer(status=status, headers={"Location": "{}/elsewhere"})
            for status in (301, 302, 303, 307, 308)
        ),
    ],
    ids=lambda answer: f"{answer.status}-{len(answer.body or b'')}",
)
def test_27_a_portal_or_a_redirect_is_no_acknowledgement(
    far: FarSide, delivery: Delivery, answer: Answer
):
    delivery.put(10)
    for name, value in answer.headers.items():
        far.answer(Answer(answer.status, headers={name: value.format(far.url)}, body=answer.body))
    if not answer.headers:
        far.answer(answer)
    assert delivery.step() > 0
    assert "unexpected answer" in delivery.message
    assert len(far.seen) == 1, "nobody is followed anywhere"
    delivery.oracle()


def peak() -> int:
    """Return the peak of this process' resident memory since the last call, in bytes."""
    status = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def bomb() -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(60)) + packer.flush()


@pytest.mark.parametrize("status", [200, 302, 400])
def test_28_a_bomb_does_not_go_off(far: FarSide, delivery: Delivery, status: int):
    content = bomb()
    assert len(content) < MAX_REPLY
    delivery.put(10)
    delivery.work()
    delivery.put(10)
    far.answer(Answer(status, body=content, headers={"Content-Encoding": "gzip"}))
    peak()
    before = peak()
    delivery.step()
    assert peak() - before < 2 << 20
    assert "unexpected answer" in delivery.message
    delivery.oracle()


def test_28_an_endless_answer_is_left_after_64_kilobytes(far: FarSide, delivery: Delivery):
    delivery.put(10)
    far.answer(
        Answer(200, body=bytes(400_000), headers={"Content-Length": str(100 << 20)}, cut_after=None)
    )
    peak()
    before = peak()
    assert delivery.step() > 0
    assert peak() - before < 2 << 20
    assert "unexpected answer, larger than 64 kB" in delivery.message
    delivery.oracle()


def test_28_a_packed_answer_of_normal_size_is_read(far: FarSide, delivery: Delivery):
    delivery.put(2)
    stream = delivery.buffer.peek(1 << 20, 10)
    assert stream is not None
    document = b'{"stream":"%s","first":1,"last":2,"ack_through":2}' % stream.stream.encode()
    headers = {"Content-Encoding": "gzip"}
    far.answer(Answer(200, body=gzip.compress(document), headers=headers, commit=True))
    assert delivery.step() == 0
    delivery.oracle()


def test_a_connection_that_was_closed_meanwhile_costs_no_pause(far: FarSide, delivery: Delivery):
    for _ in range(5):
        delivery.put(1)
        assert delivery.step() == 0
        far.answer(Answer(commit=True, cut_after=0))  # closed when the next one is sent
        delivery.put(1)
        assert delivery.step() == 0, "asked again at once"
    assert delivery.errors("unreachable") == 0
    delivery.oracle()


def test_a_delivery_under_way_can_be_interrupted(far: FarSide):
    delivery = Delivery(far, timeout=PlatformTimeout(connect=5.0, total=60.0))
    delivery.put(3)
    far.always = Answer(delay=50)
    timer = threading.Timer(0.3, delivery.outlet.interrupt)
    timer.start()
    began = time.monotonic()
    assert delivery.step() > 0
    assert time.monotonic() - began < 5
    assert "interrupted" in delivery.message
    timer.join()
    delivery.close()
