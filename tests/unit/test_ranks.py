import math

from hypothesis import given
from hypothesis import strategies as st

from pg_collector.changes import Chosen, Ranks

NOW = 1_000.0  # s


def choose(ranks, measures, top=10):
    """Take the measures as the server gives them: lines, in chunks of three."""
    lines = [b"%d\t%d\n" % one for one in measures.items()]
    assert ranks.begin(math.inf, 60.0)
    ranks.choose([lines[at : at + 3] for at in range(0, len(lines), 3)], top, NOW)
    return ranks.ids


def turn(ranks, measures, top=10):
    chosen = choose(ranks, measures, top)
    ranks.commit()
    return chosen


def test_the_first_turn_chooses_all_that_count_and_nothing_at_rest():
    assert turn(Ranks(60.0), {1: 5, 2: 0, 3: 9}) == [3, 1]


def test_the_next_turn_goes_by_what_moved_and_not_by_what_is_large():
    ranks = Ranks(60.0)
    turn(ranks, {1: 1_000_000, 2: 10, 3: 10})
    assert turn(ranks, {1: 1_000_001, 2: 30, 3: 10}) == [2, 1]
    assert turn(ranks, {1: 1_000_001, 2: 30, 3: 10}) == []


def test_no_more_than_the_top_are_chosen_and_those_moved_most():
    ranks = Ranks(60.0)
    turn(ranks, dict.fromkeys(range(50), 100))
    assert turn(ranks, {key: 100 + key for key in range(50)}, top=3) == [49, 48, 47]


def test_an_object_that_is_new_or_began_anew_moved_by_all_it_counts():
    ranks = Ranks(60.0)
    turn(ranks, {1: 100, 2: 100, 3: 100})
    assert turn(ranks, {1: 105, 2: 7, 3: 100, 4: 6}) == [2, 4, 1]


def test_an_object_that_came_back_moved_by_all_it_counts():
    ranks = Ranks(60.0)
    turn(ranks, {1: 5, 2: 5})
    turn(ranks, {2: 5})
    assert turn(ranks, {1: 5, 2: 5}) == [1]


def test_a_turn_that_failed_is_not_remembered():
    ranks = Ranks(60.0)
    turn(ranks, {1: 5})
    assert choose(ranks, {1: 8}, 10) == [1]
    assert choose(ranks, {1: 8}, 10) == [1]
    ranks.commit()
    assert turn(ranks, {1: 8}) == []


def test_all_objects_are_counted_those_at_rest_too():
    ranks = Ranks(60.0)
    turn(ranks, {1: 5, 2: 5})
    choose(ranks, {1: 5, 2: 6, 3: 0}, 1)
    assert ranks.total == 3


def test_most_measures_falling_tells_of_a_reset_and_a_few_do_not():
    ranks = Ranks(60.0)
    turn(ranks, dict.fromkeys(range(4), 100))
    assert not ranks.reset
    choose(ranks, {0: 1, 1: 1, 2: 100, 3: 100}, 10)
    assert not ranks.reset
    choose(ranks, {0: 1, 1: 1, 2: 1, 3: 100}, 10)
    assert ranks.reset
    ranks.commit()
    choose(ranks, {0: 1, 1: 1, 2: 1, 3: 100}, 10)
    assert not ranks.reset


@given(st.lists(st.dictionaries(st.integers(0, 8), st.integers(0, 20)), max_size=6))
def test_the_chosen_are_always_those_whose_measure_is_another_and_not_0(turns):
    ranks = Ranks(60.0)
    before: dict[int, int] = {}
    for measures in turns:
        moved = {key for key, now in measures.items() if now and now != before.get(key, 0)}
        assert set(turn(ranks, measures, top=100)) == moved
        before = measures


def test_what_is_chosen_holds_for_its_time_once_moves_are_known():
    ranks = Ranks(60.0)
    turn(ranks, {1: 5, 2: 5})
    assert ranks.begin(NOW + 15, 15.0), "the first choice knew of no moves"
    turn(ranks, {1: 5, 2: 6})
    assert not ranks.begin(NOW + 45, 15.0)
    assert ranks.ids == [2]
    assert ranks.total == 2
    assert ranks.begin(NOW + 53, 15.0), "half a turn early"
    assert ranks.begin(NOW + 60, 60.0)


def test_a_choice_that_did_not_reach_the_buffer_is_made_again():
    chosen = Chosen(60.0)
    assert chosen.begin(NOW, 15.0)
    chosen.take([1, 2], NOW)
    assert chosen.ids == [1, 2]
    assert chosen.begin(NOW + 15, 15.0)
    chosen.take([3], NOW + 15)
    chosen.commit()
    assert not chosen.begin(NOW + 30, 15.0)
    assert chosen.ids == [3]


def test_a_row_that_is_as_it_was_did_not_move():
    ranks = Ranks(60.0)
    turn(ranks, {1: 5, 2: 5})
    ranks.begin(NOW, 15.0)
    assert ranks.moved((1, 7))
    assert ranks.moved((2, 7))
    ranks.commit()
    ranks.begin(NOW + 15, 15.0)
    assert not ranks.moved((1, 7))
    assert ranks.moved((2, 8))
    ranks.begin(NOW + 15, 15.0)  # the turn failed: it is taken again
    assert ranks.moved((2, 8))
    ranks.forget()
    assert ranks.begin(NOW + 15, 15.0)
    assert ranks.moved((1, 7))
