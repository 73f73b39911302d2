"""The reference platform takes samples: every number once, as docs/specs/delivery.md has it."""

import gzip
import json
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest
from backports import zstd

from tests.support.lines import make
from tests.support.platform_device import Device, gap, name
from tests.support.reference_platform import ReferencePlatform
from tests.support.until import until


def lines(first, last):
    return [make(k, 20) for k in range(first, last + 1)]


def stream(platform, device):
    (told,) = (d for d in platform.get("/v1/devices")["devices"] if d["device_id"] == device.id)
    (found,) = told["streams"]
    assert found["stream"] == device.stream
    return found


def test_known_numbers_are_ignored_and_new_ones_beside_them_are_taken(platform, device):
    told = device.send(1, lines(1, 3)).json()
    assert told["stream"] == device.stream
    assert (told["first"], told["last"], told["ack_through"], told["duplicates"]) == (1, 3, 3, 0)
    assert device.send(1, lines(1, 3)).json()["duplicates"] == 3
    told = device.send(2, lines(2, 6)).json()
    assert (told["ack_through"], told["duplicates"]) == (6, 2)
    assert device.send(2, lines(2, 3)).json()["ack_through"] == 3  # the batch's own end
    found = stream(platform, device)
    assert (found["ack_through"], found["lines"], found["missing"]) == (6, 6, 0)


def test_a_number_that_is_missing_is_asked_for(device):
    answer = device.send(2, lines(2, 2))
    assert (answer.status_code, name(answer), answer.json()["expected"]) == (409, "sequence-gap", 1)
    assert device.send(1, lines(1, 2)).ok
    answer = device.send(4, lines(4, 4))
    assert (name(answer), answer.json()["expected"]) == ("sequence-gap", 3)


def test_gaps_stand_in_the_place_of_their_numbers_and_are_shown(platform, device):
    assert device.send(1, [gap(1, 4, "thinned"), *lines(5, 6), gap(7, 7, "purged")], last=7).ok
    assert device.send(6, [*lines(6, 6), gap(7, 9, "purged")], last=9).json()["duplicates"] == 1
    found = stream(platform, device)
    assert (found["ack_through"], found["lines"], found["missing"]) == (9, 2, 7)
    assert found["gaps"] == [
        {"first": 1, "last": 4, "reason": "thinned"},
        {"first": 7, "last": 7, "reason": "purged"},
        {"first": 8, "last": 9, "reason": "purged"},
    ]


@pytest.mark.parametrize(
    ("first", "last", "body"),
    [
        (1, 2, [gap(2, 3)]),
        (1, 2, [gap(1, 3)]),
        (1, 2, [gap(2, 1)]),
        (1, 2, [b'{"gap":{}}']),
        (1, 3, lines(1, 2)),
        (1, 1, lines(1, 2)),
        (2, 1, lines(1, 1)),
        (0, 1, lines(1, 1)),
        (1, 1, []),
    ],
)
def test_a_batch_whose_numbers_do_not_fit_is_refused_whole(platform, device, first, last, body):
    answer = device.send(first, body, last=last)
    assert (answer.status_code, name(answer)) == (400, "bad-request")
    assert not any(
        d["streams"] for d in platform.get("/v1/devices")["devices"] if d["device_id"] == device.id
    )


def test_an_older_life_of_a_stream_and_another_one_of_the_same_age_are_a_conflict(device):
    device.life = "3/one"
    assert device.send(1, lines(1, 1)).ok
    for life in ("2/older", "3/another"):
        device.life = life
        answer = device.send(2, lines(2, 2))
        assert (answer.status_code, name(answer)) == (409, "stream-conflict")
    device.life = "4/next"
    assert device.send(2, lines(2, 2)).ok


def test_a_stream_belongs_to_the_device_that_used_it_first(platform, key, device):
    other = Device(platform.url)
    assert other.activate(key).ok
    assert device.send(1, lines(1, 1)).ok
    other.stream, other.life = device.stream, device.life
    answer = other.send(2, lines(2, 2))
    assert (answer.status_code, name(answer)) == (409, "stream-conflict")


def test_bad_lines_are_named_each_time_and_their_neighbours_are_taken(platform, device):
    good = json.loads(make(1, 20))
    bad = {
        2: (b"nonsense", "invalid-json"),
        3: (b"[1, 2]", "invalid-line"),
        4: (b"", "invalid-json"),
        5: (b'"\xff"', "invalid-json"),
        6: (json.dumps({**good, "v": 2}).encode(), "unknown-version"),
        7: (json.dumps({**good, "at": "yesterday"}).encode(), "invalid-line"),
        8: (json.dumps({k: v for k, v in good.items() if k != "c"}).encode(), "invalid-line"),
        9: (json.dumps({**good, "r": [[1]]}).encode(), "invalid-line"),
        10: (json.dumps({**good, "delta": True}).encode(), "invalid-line"),
        11: (json.dumps({**good, "more": "x" * 200_000}).encode(), "too-long"),
        12: (b'{"more":' + b"[" * 50_000, "invalid-json"),
        13: (json.dumps({**good, "at": "0001-01-01T00:00:00+14:00"}).encode(), "invalid-line"),
    }
    body = [make(1, 20), *(line for line, _ in bad.values()), make(14, 20)]
    told: dict[str, Any] = {}
    for _ in range(2):
        answer = device.send(1, body)
        assert answer.ok, answer.text
        told = answer.json()
        assert told["ack_through"] == 14
        codes = {one["seq"]: one["code"] for one in told["rejected"]}
        assert codes == {number: code for number, (_, code) in bad.items()}
        assert all(one["detail"] for one in told["rejected"])
    assert told["duplicates"] == 14
    assert device.send(13, [b"fine now", make(14, 20)]).json()["rejected"][0]["seq"] == 13
    found = stream(platform, device)
    assert (found["ack_through"], found["lines"], found["rejected"]) == (14, 2, 12)


def test_zstd_gzip_and_none_are_taken_and_nothing_else(device):
    body = make(1, 20) + b"\n"
    assert device.post(zstd.compress(body), 1, 1).ok
    assert device.post(gzip.compress(body), 1, 1, Content_Encoding="gzip").ok
    assert device.post(body, 1, 1, Content_Encoding="identity").ok
    answer = device.post(body, 1, 1, Content_Encoding="br")
    assert (answer.status_code, name(answer)) == (415, "unsupported-encoding")
    for encoding in ("zstd", "gzip"):
        for broken in (b"", body, zstd.compress(body)[:-3], gzip.compress(body)[:-9],
                       zstd.compress(body) * 2, gzip.compress(body) * 2):  # fmt: skip
            answer = device.post(broken, 1, 1, Content_Encoding=encoding)
            assert (answer.status_code, name(answer)) == (400, "bad-request")


def test_bombs_and_bodies_that_are_too_large_cost_no_memory(platform, device):
    before = platform.metric("inflated_bytes_total")
    zeros = b"0" * 300_000_000
    bombs = {"zstd": zstd.compress(zeros), "gzip": gzip.compress(zeros, 9)}
    small = {"zstd": zstd.compress(zeros[:100]), "gzip": gzip.compress(zeros[:100])}
    for encoding, body in small.items():
        device.post(body, 1, 1, Content_Encoding=encoding)
    peak = _peak(platform)
    for encoding, body in bombs.items():
        for _ in range(3):
            answer = device.post(body, 1, 1, Content_Encoding=encoding)
            assert (answer.status_code, name(answer)) == (413, "too-large")
    answer = device.post(zeros[:1_200_000], 1, 1, Content_Encoding="identity")
    assert (answer.status_code, name(answer)) == (413, "too-large")
    assert _peak(platform) - peak < 40e6  # of 1.8 GB
    assert platform.metric("inflated_bytes_total") - before < 1000
    answer = device.post(zeros[:3_000_000], 1, 1, Content_Encoding="identity")
    assert answer.status_code == 413  # the server's own limit


def test_a_frame_that_wants_a_large_window_is_refused(device):
    options: dict[int, int] = {
        zstd.CompressionParameter.window_log: 27,
        zstd.CompressionParameter.content_size_flag: 0,
    }
    packer = zstd.ZstdCompressor(options=options)
    answer = device.post(packer.compress(make(1, 20)) + packer.flush(), 1, 1)
    assert (answer.status_code, name(answer)) == (400, "bad-request")


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Idempotency_Key", ""),
        ("Idempotency_Key", "a/1"),
        ("Idempotency_Key", "a b/1-1"),
        ("Idempotency_Key", "a/1-9999999999999999999"),
        ("Pgc_Life", ""),
        ("Pgc_Life", "x"),
        ("Pgc_Life", "-1/x"),
    ],
)
def test_headers_that_cannot_be_read_are_refused(device, header, value):
    answer = device.post(zstd.compress(make(1, 20)), 1, 1, **{header: value})
    assert (answer.status_code, name(answer)) == (400, "bad-request")


def test_many_agents_at_once_are_committed_together_and_exactly_once(platform, key):
    devices = [Device(platform.url) for _ in range(6)]
    for device in devices:
        assert device.activate(key).ok

    def run(device):
        for first in range(1, 41, 2):
            for begin in (first, max(1, first - 1)):
                assert device.send(begin, lines(begin, first + 1)).ok

    threads = [threading.Thread(target=run, args=(device,)) for device in devices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for device in devices:
        found = stream(platform, device)
        assert (found["ack_through"], found["lines"]) == (40, 40)
    assert platform.metric("commit_batches_count") < platform.metric("batches_total")
    names = [device.stream for device in devices]
    platform.stop()
    try:
        counts = platform.query(
            "SELECT count(*), count(DISTINCT number), max(number) FROM samples"
            " WHERE list_contains(?, stream) GROUP BY stream",
            [names],
        )
        (line,) = platform.query(
            "SELECT line FROM samples WHERE stream = ? AND number = 40", [names[0]]
        )
    finally:
        platform.start()
    assert counts == [(40, 40, 40)] * 6
    assert line[0].encode() == make(40, 20)


def test_deltas_are_made_whole_on_reading(platform, device):
    head = {"v": 1, "set": "statements", "schema": 1, "target": f"t{uuid.uuid4()}",
            "every_s": 60, "took_ms": 1, "c": ["userid", "dbid", "queryid", "calls"]}  # fmt: skip

    def at(minute):
        return f"2026-11-26T12:{minute:02}:00.000000Z"

    def line(minute, rows, base=None, **more):
        delta = {} if base is None else {"delta": True, "base": at(base)}
        return json.dumps({**head, "at": at(minute), **delta, "r": rows, **more}).encode()

    assert device.send(1, [
        line(0, [[1, 1, "a", 1]], part=[1, 2]),
        line(0, [[1, 1, "b", 1]], part=[2, 2]),
        line(1, [[1, 1, "b", 2]], base=0),
        line(2, [[1, 1, "a", 5], [1, 1, "c", 1]], base=0),
        line(3, [[1, 1, "a", 6]]),  # whole again: the others went away
        gap(6, 6),
        line(5, [[1, 1, "b", 3]], base=3),
    ], last=7).ok  # fmt: skip

    def calls(**query):
        told = platform.get("/v1/series", set="statements", target=head["target"], **query)
        found: dict[str, dict[str, int]] = {}
        for one in told["rows"]:
            found.setdefault(one["at"], {})[one["row"]["queryid"]] = one["row"]["calls"]
        return found, told

    found, told = calls()
    assert found == {
        at(0): {"a": 1, "b": 1},
        at(1): {"a": 1, "b": 2},
        at(2): {"a": 5, "b": 2, "c": 1},
        at(3): {"a": 6},
        at(5): {"a": 6, "b": 3},
    }
    assert {one["at"] for one in told["rows"] if not one["whole"]} == {at(5)}
    assert told["rows"][0]["device_id"] == device.id
    found, _ = calls(**{"from": at(2), "to": at(3)})
    assert found == {at(2): {"a": 5, "b": 2, "c": 1}, at(3): {"a": 6}}
    found, told = calls(limit="4")
    assert (list(found), told["next"]) == ([at(0), at(1)], at(2))
    told = platform.get("/v1/series", set="statements", target=head["target"], column="calls")
    assert told["rows"][0]["row"] == {"calls": 1}


@pytest.mark.parametrize(
    "query",
    [
        "",
        "set=",
        "set=a&limit=0",
        "set=a&limit=10001",
        "set=a&from=now",
        "set=a&x=1",
        "set=a&set=b",
    ],
)
def test_a_series_that_cannot_be_given_is_refused(platform, device, query):
    answer = device.call("GET", f"/v1/series?{query}", token=platform.admin_token)
    assert (answer.status_code, name(answer)) == (400, "bad-request")


def test_the_administrators_pages_take_no_device(device):
    for path in ("/v1/devices", "/v1/series?set=database"):
        for token in (device.access, "", "pga_x"):
            answer = device.call("GET", path, token=token)
            assert (answer.status_code, name(answer)) == (401, "token-invalid")


def test_what_is_too_old_is_deleted_and_its_numbers_stay_known(tmp_path):
    with ReferencePlatform(tmp_path, retention="1s") as platform:
        device = Device(platform.url)
        device.activate(platform.new_key("bench"))
        assert device.send(1, lines(1, 5)).ok
        until(lambda: platform.metric("lines_expired_total") == 5, 10.0, "they are deleted")
        assert platform.get("/v1/series", set="database")["rows"] == []
        assert device.send(5, lines(5, 6)).json()["duplicates"] == 1
        assert stream(platform, device)["lines"] == 6


def _peak(platform):
    """Return the most bytes that the platform ever had resident."""
    text = Path(f"/proc/{platform.process.pid}/status").read_text()
    (line,) = (one for one in text.splitlines() if one.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
