"""Which rows of a large set moved, told by a probe."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from pg_collector.changes import FULL_EVERY, Moved
from pg_collector.samplers._sampler import BUCKETS

FEW = 3  # buckets that rows fall into here


def probed(moved, rows, hidden=0):
    """Answer as the server does: the rows of the buckets whose sum is another one."""
    sums = [float(one) for one in moved.sums.strip("{}").split(",") if one]
    assert len(sums) in {0, BUCKETS}
    buckets: dict[int, list[tuple[int, float]]] = {}
    for (user, one), calls in rows.items():
        buckets.setdefault(one % FEW, []).append((one, calls + time(user, one, calls)))
    return [
        (bucket, str(total), len(rows), len(rows) + hidden, *row)
        for bucket, found in buckets.items()
        if (total := sum(moved for _, moved in found)) != (sums[bucket] if sums else None)
        for row in found
    ]


def time(user, one, calls):
    """Return what nobody else took: two rows of the same time are not of this world."""
    return float((calls * 7919 + user * 104729 + one * 1299709) ** 0.5)


def turn(moved, rows, now=0.0, *, reset=False):
    base = moved.begin(now, full=False)
    ids, total = moved.look(probed(moved, rows))
    assert moved.reset is reset
    moved.commit(now, f"at {now}")
    return base, sorted(ids), total


def test_the_first_turn_is_full_and_then_what_moved_is_told():
    moved = Moved()
    assert turn(moved, {(1, 5): 1, (1, 6): 1}) == (None, [5, 6], 2)
    assert turn(moved, {(1, 5): 1, (1, 6): 2}, 60) == ("at 0.0", [6], 2)
    assert turn(moved, {(1, 5): 1, (1, 6): 2}, 120) == ("at 0.0", [], 2)
    assert turn(moved, {(1, 5): 1, (1, 6): 2, (1, 8): 1}, 180) == ("at 0.0", [8], 3)
    assert turn(moved, {(1, 5): 1}, FULL_EVERY, reset=True) == (None, [5], 1)


def test_entries_that_share_an_id_are_asked_for_together():
    moved = Moved()
    turn(moved, {(1, 5): 1, (2, 5): 1, (1, 6): 1})
    assert turn(moved, {(1, 5): 1, (2, 5): 2, (1, 6): 1}, 60) == ("at 0.0", [5], 3)


def test_a_turn_that_failed_is_not_remembered():
    moved = Moved()
    turn(moved, {(1, 5): 1})
    moved.begin(60, full=False)
    moved.look(probed(moved, {(1, 5): 2}))
    assert turn(moved, {(1, 5): 2}, 120)[1] == [5]


def test_rows_that_fell_or_went_away_tell_of_a_reset_where_they_are_most():
    moved = Moved()
    turn(moved, {(1, n): 100 for n in range(10)})
    turn(moved, {(1, n): 100 for n in range(1, 10)}, 60)
    turn(moved, {(1, n): 100 if n > 3 else 1 for n in range(1, 10)}, 120)
    turn(moved, {(1, n): 2 for n in range(1, 10)}, 180, reset=True)
    turn(moved, {(1, n): 2 for n in range(1, 10)}, 240)
    turn(moved, {(1, 20): 2}, 300, reset=True)


def test_a_bucket_that_was_empty_is_told_when_a_row_comes_back():
    moved = Moved()
    rows = {(1, n): 5 for n in range(1, 10)}
    turn(moved, rows)
    without = {key: calls for key, calls in rows.items() if key[1] % FEW}
    turn(moved, {**without, (1, 1): 6}, 60)
    assert turn(moved, {**without, (1, 1): 6, (1, 3): 1}, 120)[1] == [3]


def test_what_went_away_is_forgotten_with_a_full_line_that_comes_sooner():
    """As where entries are evicted all the time: without it, this takes twice that."""
    moved = Moved()
    there, fresh, turns = 600, 200, 80
    now, full = 0.0, 0
    tracemalloc.start()
    try:
        for turn in range(turns):
            now, first = turn * 10.0, turn * fresh
            full += moved.begin(now, full=False) is None
            moved.look((n % BUCKETS, f"{n}", there, there, n, 1.0)
                       for n in range(first, first + fresh))  # fmt: skip
            moved.commit(now, f"at {now}")
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert now < FULL_EVERY
    assert grown < 1e6
    assert full < turns / 4, "one after twice as many new rows as there are"


def test_rows_that_may_not_be_seen_are_counted():
    moved = Moved()
    moved.begin(0, full=False)
    assert moved.look(probed(moved, {(1, 7): 5}, hidden=2)) == ([7], 3)


def test_rows_that_may_not_be_seen_tell_of_no_reset():
    moved = Moved()
    for now, (calls, hidden) in enumerate(((5, 8), (6, 8), (7, 0))):
        moved.begin(now, full=False)
        assert moved.look(probed(moved, {(1, 7): calls}, hidden)) == ([7], 1 + hidden)
        assert not moved.reset, "they went away"
        moved.commit(now, "at")


@given(
    st.lists(
        st.dictionaries(
            st.tuples(st.integers(1, 2), st.integers(0, 6)), st.integers(1, 9), max_size=9
        ),
        max_size=6,
    )
)
def test_what_is_told_is_what_is_another_than_was_sent(turns):
    """An id that went away and came back the same is as it was sent."""
    moved = Moved()
    sent: dict[int, dict[int, int]] = {}
    for now, rows in enumerate(turns):
        found: dict[int, dict[int, int]] = {}
        for (user, one), calls in rows.items():
            found.setdefault(one, {})[user] = calls
        wanted = [one for one, entries in found.items() if sent.get(one) != entries]
        moved.begin(now, full=now == 0)
        ids, _ = moved.look(probed(moved, rows))
        moved.commit(now, "")
        assert sorted(ids) == sorted(wanted)
        sent |= found
