import json

import msgspec
import pytest

from pg_collector.errors import Reason
from pg_collector.sample import Batch, Body, Sample, Unavailable, address

PLAIN = Sample(
    v=1,
    set="activity.sessions",
    schema=1,
    target="prod",
    at="2026-11-22T18:00:00.000000Z",
    every_s=10.0,
    took_ms=1.5,
    c=("pid", "query"),
)


def sample(**more):
    return msgspec.structs.replace(PLAIN, **more)


def test_a_line_is_columnar_json_without_a_line_break():
    body = Body()
    body.add((1, "select\n'?'"))
    body.add((2, None))
    (line,) = sample().lines(body)
    assert b"\n" not in line
    decoded = json.loads(line)
    assert decoded["c"] == ["pid", "query"]
    assert decoded["r"] == [[1, "select\n'?'"], [2, None]]


def test_what_has_nothing_to_say_is_left_out():
    (line,) = sample().lines(Body())
    absent = {"database", "epoch", "epoch_changed", "delta", "base", "total_rows", "part"}
    assert not absent & json.loads(line).keys()


def test_a_missing_field_travels_with_its_reason():
    missing = (Unavailable(field="query_id", reason=Reason.VERSION),)
    (line,) = sample(unavailable=missing).lines(Body())
    assert json.loads(line)["unavailable"] == [{"field": "query_id", "reason": "version"}]


def test_a_long_line_is_cut_between_rows_and_loses_none():
    body = Body(max_bytes=1000)
    rows = [[number, "x" * 90] for number in range(100)]
    for row in rows:
        body.add(row)
    lines = [json.loads(line) for line in sample().lines(body)]
    assert len(lines) > 5
    assert [line["part"] for line in lines] == [[n, len(lines)] for n in range(1, len(lines) + 1)]
    assert [row for line in lines for row in line["r"]] == rows


def test_a_row_longer_than_a_line_goes_alone():
    body = Body(max_bytes=100)
    for row in ([1, "a"], [2, "b" * 500], [3, "c"]):
        body.add(row)
    assert [len(json.loads(b"[" + part + b"]")) for part in body.parts] == [1, 1, 1]


def test_an_outlet_reads_where_a_line_belongs():
    (line,) = sample(set="statements.info").lines(Body())
    assert (address(line).target, address(line).sampler) == ("prod", "statements")


def test_what_is_not_a_line_has_no_address():
    with pytest.raises(msgspec.DecodeError):
        address(b'{"set":')


def test_a_batch_is_newline_delimited():
    assert Batch(1, 2, (b"{}", b"[]")).body == b"{}\n[]\n"
