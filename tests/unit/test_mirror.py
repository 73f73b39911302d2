"""What is kept for those who watch, for how long, and that it is little."""

import gc
import tracemalloc

import msgspec

from pg_collector.mirror import HOLDS, ROOM, Mirror
from pg_collector.sample import Keep
from pg_collector.spot import Tray
from tests.support.sampling import MovableClock


def line(set_name, number, target="prod", size=0, **more):
    head = {"v": 1, "set": set_name, "target": target, "at": f"{number}", **more}
    return msgspec.json.encode(head | {"c": ["x"], "r": [["x" * size]]})


def mirror():
    clock = MovableClock()
    return Mirror(Tray(), clock), clock


def put(there, *lines):
    for one in lines:
        there.put(one, Keep.EVENT)


def kept(there):
    return sum(len(one) for one in there.since("prod", 0).lines)


def test_nothing_is_kept_while_nobody_watches_and_the_buffer_has_every_line():
    tray = Tray()
    there = Mirror(tray, MovableClock())
    lines = [line("activity.sessions", number, size=100_000) for number in range(20)]
    put(there, *lines)
    assert kept(there) == 0
    assert tray.lines == lines
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for one in lines:
        there.put(one, Keep.EVENT)
    tray.lines.clear()
    gc.collect()
    assert tracemalloc.get_traced_memory()[0] - before < 10_000
    tracemalloc.stop()


def test_whoever_watches_gets_what_came_since_and_only_of_that_target():
    there, _ = mirror()
    assert there.watch("prod")
    assert not there.watch("prod")
    last = there.since("prod", 0).last
    mine = [line("database", 1), line("locks", 2)]
    put(there, mine[0], line("database", 1, target="other"), mine[1], line("vacuum.tables", 3))
    seen = there.since("prod", last)
    assert (list(seen.lines), seen.lost) == (mine, False)
    assert there.since("prod", seen.last).lines == ()


def test_a_line_takes_the_place_of_what_it_makes_obsolete_and_a_delta_stands_behind_its_base():
    there, _ = mirror()
    there.watch("prod")
    base = [line("statements", 1, part=[1, 2]), line("statements", 1, part=[2, 2])]
    deltas = [line("statements", number, delta=True, base="1") for number in (2, 3)]
    states = [line("sampler_state", 1), line("sampler_state", 2)]
    put(there, line("database", 1), *base, *deltas, *states, line("database", 2))
    kept = [*base, *deltas, *states, line("database", 2)]
    assert list(there.since("prod", 0).lines) == kept
    put(there, line("statements", 4))
    assert list(there.since("prod", 0).lines) == [
        *states,
        line("database", 2),
        line("statements", 4),
    ]


def test_there_is_a_bound_and_whoever_missed_lines_for_it_is_told():
    there, _ = mirror()
    there.watch("prod")
    for number in range(100):
        put(there, line("statements", number, size=ROOM // 10, delta=True))
        assert 0 < kept(there) <= ROOM
    seen = there.since("prod", 0)
    assert seen.lost
    assert len(seen.lines) == 9
    assert not there.since("prod", seen.last - 5).lost


def test_it_lets_go_when_nobody_asks_any_more_and_says_so_to_who_comes_back():
    there, clock = mirror()
    there.watch("prod")
    put(there, line("database", 1, size=1_000_000))
    last = there.since("prod", 0).last
    clock.ahead = HOLDS - 1
    assert there.rest() == ()
    assert kept(there) > 1_000_000
    there.watch("prod")
    clock.ahead += HOLDS - 1
    assert there.rest() == ()
    clock.ahead += 2
    assert there.rest() == ("prod",)
    assert kept(there) == 0
    put(there, line("database", 2))
    assert there.watch("prod")
    assert there.since("prod", last - 1).lost
    assert there.since("prod", last - 1).lines == ()


def test_an_answer_has_a_bound_and_says_where_it_goes_on():
    there, _ = mirror()
    there.watch("prod")
    lines = [line("statements", number, size=1_000, delta=True) for number in range(10)]
    put(there, *lines)
    last, told = 0, []
    for _ in range(4):
        seen = there.since("prod", last, most=2_500)
        last = seen.last
        told.append((len(seen.lines), seen.more))
    assert told == [(3, True), (3, True), (3, True), (1, False)]
    assert there.since("prod", 0).lines == tuple(lines)


def test_what_is_held_of_a_sampler_is_given_beside_what_came_since():
    there, _ = mirror()
    there.watch("prod")
    held = [line("statements", 1), line("query_text", 1)]
    put(there, *held, line("locks", 1))
    last = there.since("prod", 0).last
    put(there, line("database", 1))
    seen = there.since("prod", last, held=("statements",))
    assert list(seen.lines) == [*held, line("database", 1)]


def test_only_heads_of_a_watched_target_are_read():
    there, _ = mirror()
    there.watch("prod")
    nothing = b'{"v":1,"set":"locks","target":"other","at":"1","c":["x"],"r":['
    put(there, nothing, b'{"v":1,"set":"locks","target":"prod","at":"1","c":["x"],"r":[')
    put(there, line("locks", 2, target="o", size=0, epoch='"target":"prod",'))
    assert len(there.since("prod", 0).lines) == 1
