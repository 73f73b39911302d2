"""Delivery when the platform answers with an error: the protocol's table (faults 29 to 32)."""

import random
import time
from collections.abc import Callable, Iterator
from email.utils import format_datetime

import pytest

from pg_collector.config.model import Compression
from tests.support.delivery import QUICK, Delivery, line
from tests.support.far_side import Answer, FarSide
from tests.support.hand_clock import HandClock


@pytest.fixture
def far() -> Iterator[FarSide]:
    with FarSide() as far:
        yield far


@pytest.fixture
def delivery(far: FarSide) -> Iterator[Delivery]:
    delivery = Delivery(far)
    yield delivery
    delivery.close()


def dated(seconds: float) -> dict[str, str]:
    now = HandClock().now()
    at = now.replace(microsecond=0)
    later = at.fromtimestamp(at.timestamp() + seconds, at.tzinfo)
    return {
        "Date": format_datetime(at, usegmt=True),
        "Retry-After": format_datetime(later, usegmt=True),
    }


RETRY_AFTER = {
    "seconds": ({"Retry-After": "17"}, 17.0),
    "a date": (dated(40), 40.0),
    "a date that is past": (dated(-40), 1.0),
    "negative": ({"Retry-After": "-5"}, 1.0),
    "garbage": ({"Retry-After": "soon"}, 1.0),
    "a year": ({"Retry-After": "31536000"}, 3600.0),
    "a date next year": (dated(31_536_000), 3600.0),
    "more than a number": ({"Retry-After": "9" * 400}, 3600.0),
    "nothing": ({}, 1.0),
}


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("asked", RETRY_AFTER)
def test_29_the_platform_says_when_to_come_back(
    far: FarSide, delivery: Delivery, status: int, asked: str
):
    headers, pause = RETRY_AFTER[asked]
    delivery.put(3)
    far.answer(Answer(status, headers=headers))
    assert delivery.step() == pause
    sensible = pause > 1
    busy = status == 429 or sensible
    assert delivery.errors("busy") == busy
    assert delivery.errors("unreachable") == (not busy)
    delivery.oracle()


def test_29_a_storm_of_429_gets_one_request_in_each_window(far: FarSide):
    clock = HandClock()
    delivery = Delivery(far, clock=clock)
    delivery.put(50)
    for number, asked in enumerate((5, 600, 2, 90_000), 1):
        far.answer(Answer(429, headers={"Retry-After": str(asked)}))
        pause = delivery.step()
        assert pause >= min(asked, 3600)
        assert len(far.seen) == number
        clock.advance(pause)
        delivery.put(10)
    delivery.oracle()
    delivery.close()


@pytest.mark.parametrize("status", [408, 425, 500, 502, 503, 504, 507, 599])
def test_30_a_platform_that_is_unwell_is_asked_for_ever(
    far: FarSide, delivery: Delivery, status: int
):
    delivery.put(3)
    far.always = Answer(status)
    pauses = [delivery.step() for _ in range(40)]
    assert pauses[:7] == [1, 2, 4, 8, 16, 32, 60]
    assert set(pauses[7:]) == {60}
    assert delivery.errors("unreachable") == 40
    far.always = None
    delivery.oracle()


def test_30_whatever_mixture_of_errors_comes_nothing_is_lost(far: FarSide, delivery: Delivery):
    chance = random.Random(30)  # noqa: S311
    for _ in range(150):
        delivery.put(chance.randrange(4))
        status = chance.choice([500, 502, 503, 504, 501, 404, 429, 401, 403, 418, 302, 200])
        lost = Answer(commit=True, cut_after=chance.randrange(120))
        far.answer(chance.choice([Answer(status), Answer(), lost]))
        delivery.step()
    far.script.clear()
    delivery.oracle()


HELD = {
    401: "Look at the activation: pgc device.",
    402: "The subscription does not cover this agent.",
    403: "This device or its key may not deliver.",
    404: "Is platform.url right? Something else answers there.",
    405: "Is platform.url right? Something else answers there.",
    410: "Is platform.url right? Something else answers there.",
    418: "The platform's log or its support can tell why.",
    501: "Is platform.url right? Something else answers there.",
}


@pytest.mark.parametrize("status", HELD)
def test_what_only_a_person_can_change_is_asked_about_seldom(
    far: FarSide, delivery: Delivery, status: int
):
    delivery.put(3)
    far.answer(Answer(status, "some-problem", {"detail": "because of this"}))
    assert delivery.step() == 180
    assert delivery.message == f"{status} some problem: because of this"
    assert delivery.sender.trouble is not None
    assert delivery.sender.trouble.remedy == HELD[status]
    assert delivery.errors("held") == 1
    delivery.oracle()


def test_a_refused_token_is_renewed_once_and_the_batch_repeated(far: FarSide, delivery: Delivery):
    far.rules.tokens = frozenset(("newer",))
    delivery.put(3)
    renewals: list[str] = []

    def renew(token: str, _gave_up: Callable[[], bool]) -> None:
        renewals.append(token)
        delivery.tokens.append("newer")

    delivery.outlet._unauthorized = renew
    assert delivery.step() == 0
    assert renewals == ["good"]
    assert far.statuses() == [401, 200]
    assert far.seen[0].key == far.seen[1].key
    delivery.oracle()


def test_the_attempts_of_one_delivery_share_its_deadline(far: FarSide, delivery: Delivery):
    far.rules.encodings = frozenset(("gzip",))
    delivery.put(3)
    far.answer(Answer(delay=0.7), Answer(delay=30.0))
    began = time.monotonic()
    assert delivery.step() > 0
    assert time.monotonic() - began < QUICK.total + 0.5
    delivery.oracle()


def test_a_token_that_stays_refused_holds_delivery(far: FarSide, delivery: Delivery):
    far.rules.tokens = frozenset(("newer",))
    delivery.put(3)
    assert delivery.step() == 180
    assert delivery.refused_tokens == ["good"]
    assert far.statuses() == [401]
    delivery.tokens.append("newer")
    delivery.oracle()


def test_a_token_with_a_line_break_is_not_shown(far: FarSide, delivery: Delivery):
    delivery.tokens.append("hunter2\r\nX-Evil: 1")
    delivery.put(1)
    delivery.step()
    assert "hunter2" not in delivery.message
    assert "Authorization" in delivery.message
    assert far.seen == []
    delivery.tokens.append("good")
    delivery.oracle()


def test_a_platform_without_zstd_gets_gzip_from_then_on(far: FarSide, delivery: Delivery):
    far.rules.encodings = frozenset(("gzip",))
    delivery.put(3)
    assert delivery.step() == 0
    delivery.put(3)
    delivery.work()
    assert [one.headers["content-encoding"] for one in far.seen] == ["zstd", "gzip", "gzip"]
    delivery.oracle()


def test_a_platform_that_knows_no_encoding_is_held(far: FarSide, delivery: Delivery):
    far.rules.encodings = frozenset()
    delivery.put(3)
    assert delivery.step() == 180
    assert far.statuses() == [415, 415]
    far.rules.encodings = frozenset(("gzip",))
    delivery.oracle()


def test_gzip_is_used_where_it_is_configured(far: FarSide):
    delivery = Delivery(far, compression=Compression.GZIP)
    delivery.put(3)
    delivery.work()
    assert far.seen[0].headers["content-encoding"] == "gzip"
    delivery.oracle()
    delivery.close()


@pytest.mark.parametrize("limit", [1000, 4_000, 30_000, 49_000])
def test_31_a_batch_shrinks_to_what_is_taken(far: FarSide, delivery: Delivery, limit: int):
    far.rules.max_bytes = limit
    delivery.put(400)  # 50 kB
    delivery.work()
    refused = far.statuses().count(413)
    assert refused <= (400).bit_length()
    before = len(far.seen)
    delivery.put(400)
    delivery.work()
    assert 413 not in far.statuses()[before:], "the limit is remembered"
    delivery.oracle()


def test_31_one_line_that_is_too_large_is_set_aside_alone(far: FarSide, delivery: Delivery):
    delivery.put(30)
    delivery.pad = 4000
    delivery.put(1)
    delivery.pad = 100
    delivery.put(30)
    far.rules.max_bytes = 3000
    delivery.work()
    (aside,) = delivery.buffer.quarantined()
    assert aside.number == 31
    assert aside.reason.startswith("413")
    assert len(aside.line) > 4000
    delivery.oracle(quarantined=1)
    (stream,) = far.ledger.streams.values()
    assert [(gap.first, gap.last, gap.reason) for gap in stream.gaps] == [(31, 31, "refused")]


@pytest.mark.parametrize("status", [400, 422])
def test_32_one_poisoned_line_of_two_hundred_is_set_aside_alone(
    far: FarSide, delivery: Delivery, status: int
):
    bad = line(67)
    far.rules.poison_status = status
    far.rules.poison = lambda text: text == bad
    delivery.put(200)
    delivery.work()
    account = delivery.buffer.account()
    assert (account.delivered, account.quarantined) == (199, 1)
    assert len(far.seen) <= 18
    delivery.oracle(quarantined=1)


def test_32_where_all_is_refused_delivery_is_held_and_nothing_purged(
    far: FarSide, delivery: Delivery
):
    far.rules.poison = lambda _text: True
    delivery.put(200)
    steps = 0
    while delivery.step() == 0:
        steps += 1
    assert steps < 600
    for _ in range(20):
        assert delivery.step() == 180
    account = delivery.buffer.account()
    assert account.quarantined <= 40, "a fifth at most"
    assert account.buffered == 200 - account.quarantined
    assert "more than a fifth" in delivery.message
    assert delivery.errors("held") == 21
    far.rules.poison = None
    delivery.oracle(quarantined=account.quarantined)


def test_32_lines_rejected_one_by_one_go_to_quarantine_and_the_rest_is_taken(
    far: FarSide, delivery: Delivery
):
    far.rules.rejects = lambda text: text in {line(3), line(40)}
    delivery.put(100)
    assert delivery.step() == 0
    assert len(far.seen) == 1
    aside = delivery.buffer.quarantined()
    assert [(one.number, one.reason) for one in aside] == [
        (3, "invalid-line: no good"), (40, "invalid-line: no good"),
    ]  # fmt: skip
    far.rules.rejects = None
    delivery.oracle(quarantined=2)


def test_32_a_platform_that_rejects_everything_is_held(far: FarSide, delivery: Delivery):
    far.rules.rejects = lambda _text: True
    delivery.put(100)
    assert delivery.step() == 180
    assert delivery.buffer.account().buffered == 100
    # It has decided; what it says again when asked again is still too much.
    assert delivery.step() == 180
    assert delivery.buffer.account().quarantined == 0
    delivery.close()


def test_a_platform_that_lost_its_store_is_told_what_is_gone(far: FarSide, delivery: Delivery):
    delivery.put(20)
    delivery.work()
    far.ledger.forget()
    delivery.put(5)
    delivery.work()
    assert far.statuses() == [200, 409, 200]
    (stream,) = far.ledger.streams.values()
    assert [(gap.first, gap.last, gap.reason) for gap in stream.gaps] == [(1, 20, "acknowledged")]
    assert [one.number for one in far.ledger.lines] == list(range(21, 26))
    assert delivery.errors("conflict") == 1
    far.ledger.check()
    assert delivery.buffer.account().balanced


@pytest.mark.parametrize("expected", [0, -3, 1, 2, 500])
def test_a_number_that_makes_no_sense_holds_delivery(
    far: FarSide, delivery: Delivery, expected: int
):
    delivery.put(3)
    far.always = Answer(409, "sequence-gap", {"expected": expected})
    assert delivery.step() > 0
    assert delivery.message.startswith("unexpected answer: 409 sequence gap")
    far.always = None
    delivery.oracle()


def test_a_platform_that_always_misses_something_is_not_asked_in_a_loop(
    far: FarSide, delivery: Delivery
):
    delivery.put(10)
    delivery.work()
    delivery.put(10)
    far.always = Answer(409, "sequence-gap", {"expected": 5})
    pauses = [delivery.step() for _ in range(4)]
    assert pauses[0] == 0
    assert all(pause > 0 for pause in pauses[1:])
    far.always = None
    delivery.work()
    assert delivery.buffer.account().balanced


def test_a_clone_of_this_machine_makes_it_take_a_new_stream(far: FarSide, delivery: Delivery):
    delivery.put(10)
    delivery.work()
    (old,) = far.ledger.streams
    far.ledger.streams[old].life = (7, "someone-else")
    delivery.put(10)
    assert delivery.step() == 0
    assert delivery.step() == 0
    assert far.statuses() == [200, 409, 200]
    new = next(name for name in far.ledger.streams if name != old)
    assert [one.number for one in far.ledger.of(new)] == list(range(1, 11))
    assert delivery.sender.notice is not None
    assert "cloned" in delivery.sender.notice.remedy
    assert delivery.errors("conflict") == 1
    delivery.oracle()


def test_streams_that_are_always_in_conflict_hold_delivery(far: FarSide, delivery: Delivery):
    delivery.put(10)
    far.always = Answer(409, "stream-conflict")
    assert delivery.step() == 0
    assert delivery.step() == 180
    assert len(far.seen) == 2
    far.always = None
    delivery.oracle()


def test_what_was_committed_already_is_acknowledged(far: FarSide, delivery: Delivery):
    delivery.put(4)
    batch = delivery.buffer.peek(1 << 20, 100)
    assert batch is not None
    fields = {"stream": batch.stream, "first": 1, "last": 4, "ack_through": 4}
    far.answer(Answer(409, "already-committed", fields, commit=True))
    assert delivery.step() == 0
    assert delivery.buffer.account().delivered == 4
    delivery.oracle()


def test_409_without_a_name_holds_delivery(far: FarSide, delivery: Delivery):
    delivery.put(4)
    far.answer(Answer(409))
    assert delivery.step() == 180
    delivery.oracle()


def test_an_early_answer_to_a_large_batch_is_understood(far: FarSide):
    delivery = Delivery(far, pad=100_000, batch_max_bytes=8 << 20)
    delivery.put(40)
    far.answer(Answer(413, unread=True))
    delivery.step()
    assert delivery.errors("too_large") + delivery.errors("unreachable") == 1
    delivery.oracle()
    delivery.close()


def test_the_clocks_are_compared(far: FarSide):
    clock = HandClock()
    delivery = Delivery(far, clock=clock)
    delivery.put(1)
    far.answer(Answer(headers=dated(0)))
    clock.step(90)
    delivery.work()
    value = delivery.metrics.registry.get_sample_value("pg_collector_clock_skew_seconds")
    assert value is not None
    assert 89 <= value <= 91
    delivery.close()
