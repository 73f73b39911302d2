"""Which rows of a large set moved, told by a probe."""

from hypothesis import given
from hypothesis import strategies as st

from pg_collector.changes import FULL_EVERY, Moved

# Columns: user, id, calls, time; a row is user and id, asked for by id.
KEY, BY = 2, 1


def lines(rows):
    texts = [b"%d\t%s\t%d\t%.3f\n" % (user, str(one).encode(), calls, calls / 7)
             for (user, one), calls in rows.items()]  # fmt: skip
    return [texts[at : at + 2] for at in range(0, len(texts), 2)]


def turn(moved, rows, now=0.0):
    base = moved.begin(now, full=False)
    values, total = moved.look(lines(rows))
    moved.commit(now, f"at {now}")
    return base, sorted(int(value) for value in values), total


def test_the_first_turn_is_full_and_then_what_moved_is_told():
    moved = Moved(KEY, BY)
    assert turn(moved, {(1, 5): 1, (1, 6): 1}) == (None, [5, 6], 2)
    assert turn(moved, {(1, 5): 1, (1, 6): 2}, 60) == ("at 0.0", [6], 2)
    assert turn(moved, {(1, 5): 1, (1, 6): 2}, 120) == ("at 0.0", [], 2)
    assert turn(moved, {(1, 5): 1}, FULL_EVERY)[0] is None


def test_a_turn_that_failed_is_not_remembered():
    moved = Moved(KEY, BY)
    turn(moved, {(1, 5): 1})
    moved.begin(60, full=False)
    moved.look(lines({(1, 5): 2}))
    assert turn(moved, {(1, 5): 2}, 120)[1] == [5]


def test_rows_that_fell_or_went_away_tell_of_a_reset_where_they_are_most():
    moved = Moved(KEY, BY)
    turn(moved, {(1, n): 100 for n in range(10)})
    turn(moved, {(1, n): 100 for n in range(1, 10)}, 60)
    assert not moved.reset
    turn(moved, {(1, n): 100 if n > 3 else 1 for n in range(1, 10)}, 120)
    assert not moved.reset
    turn(moved, {(1, n): 2 for n in range(1, 10)}, 180)
    assert moved.reset
    turn(moved, {(1, n): 2 for n in range(1, 10)}, 240)
    assert not moved.reset
    turn(moved, {(1, 20): 2}, 300)
    assert moved.reset


def look(moved, found):
    moved.begin(0, full=False)
    seen = moved.look([found])
    moved.commit(0, "at 0")
    return seen


def test_rows_that_may_not_be_seen_are_counted_and_not_asked_for():
    hidden = b"1\t\\N\t5\t0.1\n"
    assert look(Moved(KEY, BY), [hidden, hidden, b"1\t7\t5\t0.1\n"]) == ([b"7"], 3)


def test_rows_that_may_not_be_seen_tell_of_no_reset():
    moved = Moved(KEY, BY)
    hidden = [b"%d\t\\N\t5\t0.1\n" % user for user in range(2, 9)]
    look(moved, [b"1\t7\t5\t0.1\n", *hidden])
    look(moved, [b"1\t7\t6\t0.1\n", *(line.replace(b"\t5", b"\t6") for line in hidden)])
    assert not moved.reset, "they moved"
    assert look(moved, [b"1\t7\t7\t0.1\n"]) == ([b"7"], 1)
    assert not moved.reset, "they went away"


@given(
    st.lists(
        st.dictionaries(
            st.tuples(st.integers(1, 2), st.integers(0, 6)), st.integers(0, 9), max_size=9
        ),
        max_size=6,
    )
)
def test_what_is_told_is_always_what_is_another(turns):
    moved = Moved(KEY, BY)
    before: dict[tuple[int, int], int] = {}
    for rows in turns:
        wanted = sorted(key[1] for key, calls in rows.items() if before.get(key) != calls)
        _, told, total = turn(moved, rows)
        assert (told, total) == (wanted, len(rows))
        before = rows
