"""How often what is asked for a view may be taken, and which texts are wanted."""

from pg_collector.watching import LEAST, PAUSE, TEXTS_AT_ONCE, TEXTS_WANTED, Pace, Said, Watching


def test_two_looks_may_follow_each_other_and_then_each_waits_for_its_pause():
    pace, now, taken = Pace(), 0.0, []
    while now < 100:
        if pace.ready(now):
            taken.append(now)
            pace.ended(now, 0.5)
        now += 0.1
    assert taken[1] - taken[0] < LEAST + 0.2
    assert len(taken) <= 2 + 100 / (PAUSE * 0.5)
    assert len(taken) > 100 / (PAUSE * 0.5)


def test_what_costs_nothing_is_taken_as_often_as_a_view_compares():
    pace = Pace()
    pace.ended(10.0, 0.0)
    assert not pace.ready(10.0 + LEAST / 2)
    assert pace.ready(10.0 + LEAST)
    assert LEAST < 2  # `pgc top` has its second picture after two seconds


def test_texts_wait_for_their_pause_and_stay_wanted_until_they_were_asked_for():
    one = Watching()
    assert not one.texts_due(0.0)
    ids = [str(number) for number in range(150)]
    one.want(ids)
    first = one.next_texts()
    assert first == tuple(ids[:TEXTS_AT_ONCE])
    one.put_texts_off(0.0, 60.0)
    one.looked_up(first, first[50:])  # half of them in another batch
    assert not one.texts_due(59.0)
    assert one.texts_due(60.0)
    assert one.next_texts() == tuple(ids[50:])
    one.want([str(number) for number in range(5_000)])
    everything = 0
    while one.texts_due(60.0):
        everything += len(one.next_texts())
        one.looked_up(one.next_texts(), ())
    assert everything == TEXTS_WANTED


def test_when_nobody_watches_any_more_only_pauses_are_remembered():
    one = Watching()
    one.failed("locks", Said(error="gone"), 0.0)
    one.want(["1"])
    one.paces["locks"] = Pace()
    one.paces["locks"].ended(0.0, 10.0)
    assert not one.left_alone(100.0)
    assert (one.troubles, one.texts_due(100.0)) == ({}, False)
    assert not one.paces["locks"].ready(1.0)
    assert one.left_alone(200.0)
