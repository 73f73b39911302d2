"""Which databases are visited, and in which order."""

from collections import Counter

from pg_collector.config.model import Discover
from pg_collector.tour import AGAIN_AFTER, LEARNS_EVERY, MANAGED, Tour


def tour(**keys):
    found = Tour(Discover(enabled=True, **keys))
    found.learn(["app", "billing", "home", "shop_1", "shop_2", *MANAGED, "template1"], "home", 0.0)
    return found


def places(one, sampler, count, now=0.0):
    return [one.next(sampler, now) for _ in range(count)]


def test_a_round_begins_at_home_and_has_each_database_once():
    one = tour()
    assert one.length == 5
    assert places(one, "vacuum", 6) == [None, "app", "billing", "shop_1", "shop_2", None]
    assert places(one, "statio", 2) == [None, "app"], "each sampler has a round of its own"


def test_patterns_choose_and_home_always_stays():
    assert set(places(tour(include=("shop_*",)), "vacuum", 9)) == {None, "shop_1", "shop_2"}
    without = tour(exclude=("shop_*", "app"))
    assert set(places(without, "vacuum", 9)) == {None, "billing", "template1"}
    assert set(places(tour(include=()), "vacuum", 9)) == {None}


def test_what_a_service_keeps_for_itself_is_never_visited():
    assert not MANAGED & set(places(tour(exclude=()), "vacuum", 20))


def test_the_newest_refusal_is_pardoned_where_the_whole_server_was_away():
    one = tour()
    one.refused("app", 0.0)
    one.refused("billing", 1.0)
    one.pardon()
    one.pardon()
    assert places(one, "vacuum", 4, 2.0) == [None, "billing", "shop_1", "shop_2"]


def test_a_database_that_refuses_is_left_out_for_a_while():
    one = tour()
    one.refused("app", 0.0)
    assert "app" not in places(one, "vacuum", 20, AGAIN_AFTER - 1)
    assert Counter(places(one, "vacuum", 10, AGAIN_AFTER))["app"] == 2


def test_without_discovery_there_is_nowhere_to_go():
    one = Tour(Discover())
    assert not one.stale(1e9)
    assert places(one, "vacuum", 3) == [None] * 3


def test_it_looks_again_now_and_then():
    one = Tour(Discover(enabled=True))
    assert one.stale(0.0)
    one.learn(["a"], "home", 0.0)
    assert not one.stale(LEARNS_EVERY - 1)
    assert one.stale(LEARNS_EVERY)
    one.learn([], "home", LEARNS_EVERY)
    assert places(one, "vacuum", 3) == [None] * 3


def test_what_came_to_nothing_is_gone_to_once_more():
    one = tour()
    assert places(one, "vacuum", 2) == [None, "app"]
    one.again("vacuum")
    assert places(one, "vacuum", 2) == ["app", "billing"]
    new = tour()
    new.again("vacuum")
    assert places(new, "vacuum", 2) == [None, "app"], "it came with another configuration"


def test_the_refusal_of_a_database_goes_with_it():
    one = tour()
    one.refused("app", 0.0)
    one.learn(["billing"], "home", 1.0)
    one.learn(["app", "billing"], "home", 2.0)
    assert places(one, "vacuum", 3, 2.0) == [None, "app", "billing"]


def test_what_is_visited_are_the_others():
    assert tour(include=("shop_*", "home")).visited == {"shop_1", "shop_2"}
    assert not Tour(Discover(enabled=True)).visited, "it has not looked yet"
