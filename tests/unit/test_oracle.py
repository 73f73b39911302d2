"""The oracle finds every kind of violation, and nothing else."""

import random
from pathlib import Path

import pytest

from pg_collector.sample import Batch, Gap
from tests.support.lines import make
from tests.support.oracle import Entry, Journal, entries, verify


def lines(first: int, last: int, *, stream: str = "one", shift: int = 0) -> list[Entry]:
    """Lines whose number is their counter, less `shift`."""
    return [Entry.of_line(stream, k - shift, make(k, 10)) for k in range(first, last + 1)]


def gap(first: int, last: int, reason: str = "disk_full", stream: str = "one") -> Entry:
    return Entry.of_gap(stream, first, last, reason)


def promised(*counters: int) -> Journal:
    return Journal(list(counters), set(counters))


TEN = promised(*range(1, 11))


def test_everything_that_was_put_has_arrived():
    figures = verify(lines(1, 10), TEN, counted={})
    assert figures.delivered == figures.committed == figures.put == 10
    assert (figures.told, figures.held, figures.unpromised, figures.streams) == (0, 0, 0, 1)


def test_an_empty_run_is_no_violation():
    assert verify([], Journal()).delivered == 0


def test_gaps_cover_what_is_missing_and_are_counted_by_reason():
    ledger = [*lines(1, 3), gap(4, 5), gap(6, 6, "corrupt"), *lines(7, 10)]
    figures = verify(ledger, TEN, counted={"disk_full": 2, "corrupt": 1, "thinned": 0})
    assert figures.told == 3
    assert figures.gaps == {"disk_full": 2, "corrupt": 1}


def test_what_is_held_is_not_lost():
    assert verify(lines(1, 7), TEN, held=[8, 9, 10]).held == 3


def test_what_was_never_promised_may_be_lost_and_its_number_used_again():
    journal = Journal(list(range(1, 11)), {1, 2, 3, 4, 8, 9, 10})
    figures = verify([*lines(1, 4), *lines(8, 10, shift=3)], journal)
    assert figures.unpromised == 3


def test_what_was_never_promised_may_arrive():
    assert verify(lines(1, 10), Journal(TEN.put, set(range(1, 8)))).delivered == 10


def test_streams_follow_each_other():
    ledger = [*lines(1, 6), *lines(7, 10, stream="two", shift=6)]
    assert verify(ledger, TEN).streams == 2


def test_a_gap_at_the_end_of_one_stream_covers_what_the_next_does_not_have():
    ledger = [*lines(1, 4), gap(5, 6), *lines(7, 10, stream="two", shift=6)]
    assert verify(ledger, TEN).told == 2


def test_a_run_that_began_before_need_not_begin_at_1():
    ledger = lines(5, 10)
    assert verify(ledger, promised(*range(5, 11)), whole=False).delivered == 6
    with pytest.raises(AssertionError, match="numbers 1 to 4 are missing"):
        verify(ledger, promised(*range(5, 11)))


def swapped() -> list[Entry]:
    """Right numbers, but two payloads have changed places."""
    ledger = lines(1, 10)
    ledger[3:5] = [Entry.of_line("one", 4, make(5, 10)), Entry.of_line("one", 5, make(4, 10))]
    return ledger


def damaged() -> list[Entry]:
    ledger = lines(1, 10)
    ledger[3] = Entry.of_line("one", 4, make(4, 10).replace(b'"v":1', b'"v":2'))
    return ledger


BAD = {
    "lost at the end": (lines(1, 9), "lost: 10 "),
    "lost at the beginning": (lines(2, 10, shift=1), "lost: 1 "),
    "lost in the middle": ([*lines(1, 3), *lines(5, 10, shift=1)], "lost: 4 "),
    "all lost": ([], "lost: 1, 2, 3"),
    "a gap too small": ([*lines(1, 3), gap(4, 4), *lines(6, 10, shift=1)], "lost: 4, 5 "),
    "a gap elsewhere": (
        [*lines(1, 3), *lines(5, 7, shift=1), gap(7, 7), *lines(8, 10)], "lost: 4 ",
    ),
    "a hole in the numbers": ([*lines(1, 3), *lines(5, 10)], "numbers 4 to 4 are missing"),
    "a number twice": ([*lines(1, 4), *lines(4, 10)], "number 4 came twice"),
    "a batch again": ([*lines(1, 6), *lines(3, 10)], "number 3 came twice"),
    "a gap over a line": ([*lines(1, 5), gap(5, 6), *lines(7, 10)], "number 5 came twice"),
    "a line twice": ([*lines(1, 5), *lines(5, 10, shift=-1)], "duplicate: line 5"),
    "a line again in another stream": (
        [*lines(1, 6), *lines(6, 10, stream="two", shift=5)], "duplicate: line 6",
    ),
    "lines in the wrong order": (swapped(), "order: line 4 came after line 5"),
    "a newer line in an older stream": (
        [*lines(4, 10, stream="two", shift=3), *lines(1, 3)], "order: line 1 came after line 10",
    ),
    "a stream that comes back": (
        [*lines(1, 4), *lines(5, 6, stream="two", shift=4), *lines(7, 10, shift=2)],
        "a stream came back",
    ),
    "a wrong payload": (damaged(), "line 4 was changed at byte"),
    "no line at all": ([*lines(1, 3), Entry.of_line("one", 4, b"{}")], "not a line of ours"),
    "a line that was never put": (lines(1, 11), "line 11 was never put"),
    "a gap without a reason": ([*lines(1, 3), gap(4, 10, "")], "not an entry"),
    "a gap the wrong way round": ([*lines(1, 3), gap(5, 4)], "not an entry"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_violation_is_named(kind: str):
    ledger, message = BAD[kind]
    with pytest.raises(AssertionError, match=message):
        verify(ledger, TEN)


def test_a_violation_shows_its_neighbours():
    with pytest.raises(AssertionError) as caught:
        verify(BAD["a number twice"][0], TEN)
    assert "> entry 4: one 4 " in str(caught.value)
    assert "  entry 3: one 4 " in str(caught.value)


def test_counts_that_differ_from_the_gaps_are_a_violation():
    ledger = [*lines(1, 3), gap(4, 5), *lines(6, 10)]
    for counted in ({"disk_full": 1}, {"corrupt": 2}, {}, {"disk_full": 2, "corrupt": 1}):
        with pytest.raises(AssertionError, match="the program counted"):
            verify(ledger, TEN, counted=counted)


def test_what_arrived_cannot_be_held():
    with pytest.raises(AssertionError, match="held though they arrived: 10"):
        verify(lines(1, 10), TEN, held=[10])


def test_any_lost_line_of_a_long_run_is_found():
    chance = random.Random(1)  # noqa: S311
    journal = promised(*range(1, 1001))
    for _ in range(50):
        gone = chance.randrange(1, 1001)
        ledger = [*lines(1, gone - 1), *lines(gone + 1, 1000, shift=1)]
        with pytest.raises(AssertionError, match=f"lost: {gone} "):
            verify(ledger, journal)


def test_a_body_is_read_as_the_agent_writes_it():
    gaps = (Gap(4, 4, "refused"), Gap(5, 7, "thinned"))
    batch = Batch(3, 9, (make(3), make(8), make(9)), gaps, stream="one")
    ledger = entries("one", batch.first, batch.body)
    assert [(one.first, one.last, one.reason) for one in ledger] == [
        (3, 3, ""), (4, 4, "refused"), (5, 7, "thinned"), (8, 8, ""), (9, 9, ""),
    ]  # fmt: skip
    assert verify(ledger, promised(*range(3, 10)), whole=False).told == 4
    with pytest.raises(ValueError, match="a gap from 4 in the place of 5"):
        entries("one", 4, batch.body)


def test_a_journal_is_read_up_to_where_it_was_cut(tmp_path: Path):
    path = tmp_path / "journal"
    path.write_text("put 1\ncommitted 1\nput 2\nput 3\ncommitted 2\ncommit")
    assert Journal.read(path) == Journal([1, 2, 3], {1, 2})
    path.write_text("put 1\nheld 2\n")
    with pytest.raises(ValueError, match="neither put nor committed"):
        Journal.read(path)
