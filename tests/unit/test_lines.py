"""Lines that know what they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_collector.sample import Address, address
from tests.support.lines import LARGEST, check, make, padding


@given(st.integers(0, 2**40), st.none() | st.integers(0, LARGEST))
def test_a_line_tells_its_counter(k: int, pad: int | None):
    assert check(make(k, pad)) == k
    assert make(k, pad) == make(k, pad)


def test_a_line_is_one_of_the_agent():
    assert address(make(1, target="other", set="activity.sessions")) == Address(
        "other", "activity.sessions"
    )
    assert b"\n" not in make(7)


def test_lines_are_mostly_small_and_sometimes_large():
    sizes = sorted(len(make(k)) for k in range(2000))
    assert 100 < sizes[0] < 300
    assert sizes[1000] < 1000
    assert 90_000 < sizes[-1] < 101_000
    assert padding(12) == padding(12)


@given(st.integers(0, 10**9), st.integers(0, 2000), st.data())
def test_any_changed_byte_is_found(k: int, pad: int, data: st.DataObject):
    line = bytearray(make(k, pad))
    at = data.draw(st.integers(0, len(line) - 1))
    line[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError, match="line"):
        check(bytes(line))


@pytest.mark.parametrize(
    "line", [b"", b"{}", b'{"gap":{"from":1,"to":2,"reason":"x"}}', make(3)[:-1]]
)
def test_what_is_no_line_is_refused(line: bytes):
    with pytest.raises(ValueError, match="not a line of ours"):
        check(line)


def test_padding_of_another_line_is_found():
    mixed = make(3, 500).replace(b"[3,", b"[4,")
    with pytest.raises(ValueError, match="line 4 was changed at byte"):
        check(mixed)
