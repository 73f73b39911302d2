from hypothesis import given
from hypothesis import strategies as st

from pg_collector.changes import CROWD, FULL_EVERY, Changes, Known


def turn(changes, now, rows, *, full=False):
    base = changes.begin(now, full=full)
    sent = [row for row in rows if changes.changed(row)]
    changes.commit(now, f"at {now}")
    return base, sent


def test_the_first_line_is_full_and_the_next_holds_what_changed():
    changes = Changes([0], counter=1)
    assert turn(changes, 0, [("a", 1), ("b", 1)]) == (None, [("a", 1), ("b", 1)])
    assert turn(changes, 60, [("a", 1), ("b", 2)]) == ("at 0", [("b", 2)])


def test_a_full_line_follows_in_time():
    changes = Changes([0], counter=None)
    turn(changes, 0, [("a", 1)])
    assert turn(changes, FULL_EVERY - 1, [("a", 1)]) == ("at 0", [])
    assert turn(changes, FULL_EVERY, [("a", 1)]) == (None, [("a", 1)])


def test_a_turn_that_failed_is_not_remembered():
    changes = Changes([0], counter=None)
    turn(changes, 0, [("a", 1)])
    changes.begin(60, full=False)
    changes.changed(("a", 2))
    assert turn(changes, 120, [("a", 2)]) == ("at 0", [("a", 2)])


def test_a_row_that_was_away_is_sent_again():
    changes = Changes([0], counter=None)
    turn(changes, 0, [("a", 1), ("b", 1)])
    turn(changes, 60, [("b", 1)])
    assert turn(changes, 120, [("a", 1), ("b", 1)])[1] == [("a", 1)]


def read(changes, now, rows):
    changes.begin(now, full=False)
    for row in rows:
        changes.changed(row)
    return changes.reset


def test_a_counter_that_fell_tells_of_a_reset():
    changes = Changes([0], counter=1)
    turn(changes, 0, [("a", 5)])
    assert not read(changes, 60, [("a", 6)])
    assert read(changes, 60, [("a", 1)])


def test_most_rows_going_away_tells_of_a_reset_and_a_few_do_not():
    changes = Changes([0], counter=1)
    rows = [(key, 5) for key in range(20)]
    turn(changes, 0, rows)
    assert not read(changes, 60, rows[1:])
    assert read(changes, 60, [("new", 1)])


turns = st.lists(
    st.tuples(st.dictionaries(st.integers(0, 5), st.integers(0, 3)), st.booleans()), max_size=30
)


@given(turns)
def test_a_reader_who_applies_every_line_sees_the_rows_of_the_server(history):
    changes = Changes([0], counter=None)
    seen: dict[int, int] = {}
    for number, (state, full) in enumerate(history):
        base, sent = turn(changes, number * 60, list(state.items()), full=full)
        if base is None:
            seen = {}
        seen.update(dict(sent))
        assert {key: seen[key] for key in state} == state


def test_a_key_is_asked_for_once_a_day():
    known = Known(refresh=100, batch=10)
    known.note((1,), "id1", 0)
    assert known.wanted() == ["id1"]
    known.commit({"id1"}, 0)
    known.note((1,), "id1", 60)
    assert known.wanted() == []
    known.commit((), 60)
    known.note((1,), "id1", 100)
    assert known.wanted() == ["id1"]


def test_a_batch_bounds_what_is_asked_at_once_and_forgets_nobody():
    known = Known(refresh=100, batch=2)
    asked: list[str] = []
    for now in range(3):
        for key in range(5):
            known.note((key,), f"id{key}", now)
        wanted = known.wanted()
        asked += wanted
        known.commit(frozenset(wanted), now)
    assert asked == [f"id{key}" for key in range(5)]


def test_our_own_entries_are_recognised_from_then_on():
    known = Known(refresh=100, batch=10)
    assert not known.note((1,), "id1", 0)
    known.found((1,), own=True)
    known.commit({"id1"}, 0)
    assert known.note((1,), "id1", 60)


def test_an_entry_that_was_evicted_is_looked_up_when_it_is_back():
    known = Known(refresh=100, batch=10)
    known.note((1,), "id1", 0)
    known.commit({"id1"}, 0)
    shown(known, [], 1)
    known.note((1,), "id1", 2)
    assert known.wanted() == ["id1"]


def shown(known, keys, now, *, partly=False):
    """Take a turn that shows these keys, and looks everything up."""
    known.begin(partly=partly)
    for key in keys:
        known.note((key,), key, now)
    known.end()
    wanted = known.wanted()
    known.commit(frozenset(wanted), now)
    return wanted


def test_a_turn_that_broke_off_forgets_nothing():
    known = Known(refresh=100, batch=10)
    assert shown(known, [1, 2], 0) == [1, 2]
    known.begin(partly=False)
    known.note((1,), 1, 1)
    known.commit((), 1)
    assert shown(known, [1, 2], 2) == []


def test_entries_of_our_own_making_are_forgotten_when_they_went_away():
    known = Known(refresh=100, batch=10)
    shown(known, [1, 2], 0)
    for key in (1, 2):
        known.found((key,), own=True)
    shown(known, [2], 1)
    assert known.note((2,), 2, 2)
    assert not known.note((1,), 1, 2)


def test_keys_of_rows_that_went_away_are_a_crowd_until_all_rows_are_shown():
    known = Known(refresh=100, batch=2 * CROWD)
    rows = CROWD
    shown(known, range(rows), 0)
    for turn in range(1, 3):
        assert not known.crowded(rows)
        shown(known, range(turn * rows, turn * rows + rows), turn, partly=True)
    assert known.crowded(rows)
    shown(known, range(2 * rows, 3 * rows), 3)
    assert not known.crowded(rows)


def test_a_batch_shrinks_to_a_least_and_no_further():
    known = Known(refresh=100, batch=100)
    for key in range(200):
        known.note((key,), key, 0)
    sizes = []
    while known.shrink():
        sizes.append(len(known.wanted()))
    assert sizes == [50, 25]
