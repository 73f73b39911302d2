"""A lane holds one session at most, comes back by itself, and never sooner than its back-off."""

import datetime as dt
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

from pg_collector.clock import SystemClock
from pg_collector.config.model import Database as Target
from pg_collector.errors import CollectorError, TargetDown, TargetRefused
from pg_collector.pg import lanes
from pg_collector.pg.lanes import Lane
from pg_collector.pg.session import LEAVE_WITHIN, Session
from tests.conftest import Lab
from tests.support.lab.replication import Pair
from tests.support.lab.server import Database, Server
from tests.support.proxy import FaultProxy, Mode
from tests.support.target import target
from tests.support.until import until

MINE = "select pid from pg_stat_activity where usename = 'pgcollector'"


class HandClock(SystemClock):
    """A monotonic clock that the test moves on."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead

    def now(self) -> dt.datetime:
        return super().now() + dt.timedelta(seconds=self.ahead)


@pytest.fixture
def server(lab: Lab) -> Server:
    return lab.newest().vacated()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


Make = Callable[..., Lane]


@pytest.fixture
def lane(clock: HandClock) -> Iterator[Make]:
    """Call it with a target to get a lane that is closed after the test."""
    made: list[Lane] = []

    def make(database: Target, name: str = "fast", **more: Any) -> Lane:
        more = {"stopping": threading.Event(), "clock": clock, **more}
        made.append(Lane(database, name, relations=frozenset(), **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


def quick(dsn: str) -> Target:
    return target(dsn, connect_timeout=1.0, query_timeout=1.0)


def backing_off(one: lanes.Lane) -> bool:
    with pytest.raises(TargetDown) as waiting:
        one.session()
    return waiting.value.retry_in is not None


def ask(lane: Lane) -> None:
    """Take one turn as the runner does."""
    session = lane.session()
    try:
        session.fetch("select 1")
    except TargetDown as error:
        lane.drop(error)
        raise


def recovered(lane: Lane) -> Session:
    """Wait until the lane is back, by itself."""
    return until(lane.session, 20.0, "the lane is back", not_yet=(TargetDown,))


def test_a_lane_opens_when_needed_and_keeps_its_session(lane: Make, server: Server):
    changes: list[bool] = []
    one = lane(quick(server.dsn()), on_change=changes.append)
    assert not one.connected
    session = one.session()
    assert one.session() is session
    assert (one.connected, changes) == (True, [True])
    one.close()
    assert (one.connected, changes) == (False, [True, False])
    until(lambda: not server.query(MINE))


def test_while_backing_off_the_network_is_left_alone(
    lane: Make, server: Server, clock: HandClock, fault_proxy: Callable[[Server], FaultProxy]
):
    proxy = fault_proxy(server)
    proxy.set(Mode.RESET)
    one = lane(quick(server.dsn(port=proxy.port)))
    with pytest.raises(TargetDown):
        one.session()
    while proxy.accepted == 1:
        assert clock.ahead <= lanes.DOWN[0] + 0.01
        with pytest.raises(TargetDown) as down:
            one.session()
        assert proxy.accepted == 2 or down.value.retry_in
        clock.ahead += 0.05
    assert clock.ahead >= lanes.DOWN[0] / 2


def test_the_back_off_grows_to_a_minute_and_no_further(lane: Make, clock: HandClock):
    one = lane(quick("host=127.0.0.1 port=1 user=u"))
    for failure in range(9):
        longest = min(lanes.DOWN[0] * 2**failure, lanes.DOWN[1])
        with pytest.raises(TargetDown, match=r"refused$|connections\?$"):
            one.session()
        clock.ahead += longest / 2 - 0.1
        assert backing_off(one)
        clock.ahead += longest / 2 + 0.1


def test_a_refusal_is_not_asked_again_for_minutes(lane: Make, server: Server, clock: HandClock):
    one = lane(quick(server.dsn(dbname="nope")))
    with pytest.raises(TargetRefused):
        one.session()
    clock.ahead += lanes.REFUSED[0] / 2 - 1
    with pytest.raises(TargetRefused) as refused:
        one.session()
    assert refused.value.retry_in
    assert refused.value.sqlstate == "3D000"
    assert refused.value.remedy
    server.query("create database nope")
    clock.ahead += lanes.REFUSED[0]
    assert one.session().facts.database == "nope"
    one.close()
    server.database("nope").drop()


def test_a_refusal_of_its_own_database_is_not_held_against_another_one(lane: Make, server: Server):
    one = lane(quick(server.dsn(dbname="nope")))
    with pytest.raises(TargetRefused):
        one.session()
    with pytest.raises(TargetDown) as down:
        one.session("template1")
    assert down.value.retry_in
    assert down.value.sqlstate == "3D000"


@pytest.fixture(params=["full", "locked"])
def closed(request: pytest.FixtureRequest, database: Database) -> Iterator[Database]:
    """A database in which no session can be had: at its limit, or its catalogs are locked."""
    with database.connect() as holder, holder.transaction():
        if request.param == "full":
            database.query(f"alter database {database.name} connection limit 0")
        else:
            holder.execute("lock table pg_depend in access exclusive mode")
        yield database


SQLSTATES = {"full": "53300", "locked": "55P03"}


def test_a_database_that_is_full_or_locked_holds_nobody_up(
    lane: Make, server: Server, closed: Database, request: pytest.FixtureRequest
):
    one = lane(quick(server.dsn()))
    with pytest.raises(TargetRefused) as refused:
        one.session(closed.name)
    assert refused.value.sqlstate == SQLSTATES[request.node.callspec.params["closed"]]
    one.session().fetch("select 1")
    with pytest.raises(TargetDown):
        lane(quick(closed.dsn())).session()


def test_a_lost_session_is_replaced_after_the_back_off(lane: Make, server: Server):
    one = lane(quick(server.dsn()))
    pid = one.session().backend_pid
    server.query("select pg_terminate_backend(%s)", [pid])
    with pytest.raises(TargetDown):
        until(lambda: ask(one))
    assert backing_off(one)
    assert recovered(one).backend_pid != pid


def test_a_session_that_died_young_does_not_reset_the_back_off(
    lane: Make, server: Server, clock: HandClock
):
    one = lane(quick(server.dsn()))
    for failure in range(4):
        clock.ahead += lanes.DOWN[0] * 2**failure
        one.session()
        one.drop(TargetDown("lost"))
    clock.ahead += lanes.DOWN[0] * 2**3 / 2 - 0.1
    assert backing_off(one)
    clock.ahead += lanes.DOWN[0] * 2**3
    one.session()
    clock.ahead += lanes.STEADY
    one.drop(TargetDown("lost"))
    clock.ahead += lanes.DOWN[0]
    one.session()


def test_going_from_database_to_database_ends_no_steady_time(
    lane: Make, server: Server, clock: HandClock
):
    one = lane(quick(server.dsn()))
    one.session()
    clock.ahead += lanes.STEADY
    for failure in range(4):
        one.session()
        one.drop(TargetDown("lost"))
        clock.ahead += lanes.DOWN[0] * 2**failure / 2 - 0.1
        assert backing_off(one), "what was before the last failure does not count"
        clock.ahead += lanes.DOWN[0] * 2**failure / 2 + 0.1
    for place in ("template1", None, "template1", None):
        one.session(place)
        clock.ahead += lanes.STEADY / 4
    one.drop(TargetDown("lost"))
    clock.ahead += lanes.DOWN[0]
    one.session()


def test_what_was_sent_stays_a_base_from_database_to_database_until_there_is_a_break(
    lane: Make, server: Server, clock: HandClock
):
    one = lane(quick(server.dsn()))
    lineages = [one.session().lineage]
    assert one.session("template1").lineage is lineages[0]
    assert one.session().lineage is lineages[0]
    one.rest()
    lineages.append(one.session().lineage)
    one.drop(TargetDown("lost"))
    clock.ahead += lanes.DOWN[0]
    lineages.append(one.session().lineage)
    clock.ahead += lanes.LIFETIME * (1 + lanes.LIFETIME_JITTER)
    lineages.append(one.session("template1").lineage)
    assert len(set(lineages)) == len(lineages)


def test_an_old_session_is_replaced_without_a_gap(lane: Make, server: Server, clock: HandClock):
    one = lane(quick(server.dsn()))
    pid = one.session().backend_pid
    clock.ahead += lanes.LIFETIME * (1 - lanes.LIFETIME_JITTER) - 1
    assert one.session().backend_pid == pid
    clock.ahead += lanes.LIFETIME * 2 * lanes.LIFETIME_JITTER + 2
    assert one.session().backend_pid != pid


@contextmanager
def leaving(one: Lane, proxy: FaultProxy) -> Iterator[Future[Session]]:
    """Let it go to another database while the process behind its session takes its time to end."""
    backend = psutil.Process(one.session().backend_pid)
    sent = proxy.up_bytes
    backend.suspend()
    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(one.session, "template1")
        try:
            until(lambda: proxy.up_bytes > sent, what="it is told to end")
            yield going
        finally:
            backend.resume()


def test_going_to_another_database_takes_no_third_place(
    lane: Make, server: Server, fault_proxy: Callable[[Server], FaultProxy]
):
    proxy = fault_proxy(server)
    one = lane(quick(server.dsn(port=proxy.port)))
    with leaving(one, proxy) as going:
        assert not wait([going], LEAVE_WITHIN / 4).done, "its place is not free yet"
    assert going.result().facts.database == "template1"


def test_stopping_frees_a_thread_that_goes_to_another_database(
    lane: Make, server: Server, fault_proxy: Callable[[Server], FaultProxy]
):
    proxy = fault_proxy(server)
    one = lane(quick(server.dsn(port=proxy.port)))
    with leaving(one, proxy) as going:
        began = time.monotonic()
        one.close()
        with pytest.raises(TargetDown, match="interrupted"):
            going.result(timeout=LEAVE_WITHIN)
        assert time.monotonic() - began < LEAVE_WITHIN / 2


def test_two_lanes_are_all_the_connections_there_ever_are(
    lane: Make, server: Server, fault_proxy: Callable[[Server], FaultProxy]
):
    proxy = fault_proxy(server)
    database = quick(server.dsn(port=proxy.port))
    both = [lane(database, "fast"), lane(database, "slow")]

    def work(one: Lane) -> int:
        turns = 0
        end = time.monotonic() + 6
        while time.monotonic() < end:
            try:
                ask(one)
                turns += 1
            except CollectorError:
                threading.Event().wait(0.05)
        return turns

    with ThreadPoolExecutor(2) as pool:
        working = [pool.submit(work, one) for one in both]
        for mode in (Mode.PASS, Mode.RESET, Mode.PASS, Mode.BLACKHOLE, Mode.PASS):
            proxy.set(mode)
            threading.Event().wait(0.8)
        assert all(one.result(timeout=20) > 0 for one in working)
    assert proxy.peak <= 2


def test_stopping_frees_a_thread_that_connects(
    lane: Make, server: Server, fault_proxy: Callable[[Server], FaultProxy]
):
    proxy = fault_proxy(server)
    proxy.set(Mode.BLACKHOLE)
    one = lane(target(server.dsn(port=proxy.port), connect_timeout=60.0))
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(one.session)
        until(lambda: proxy.accepted)
        one.close()
        with pytest.raises(TargetDown, match="interrupted"):
            opening.result(timeout=1)
    with pytest.raises(TargetDown, match="stopping"):
        one.session()


def test_stopping_frees_a_thread_that_asks(lane: Make, server: Server):
    one = lane(target(server.dsn(), query_timeout=4))
    session = one.session()
    waits = "select 1 from pg_stat_activity where pid = %s and wait_event = 'PgSleep'"
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(session.fetch, "select pg_sleep(3)")
        until(lambda: server.query(waits, [session.backend_pid]))
        one.close()
        with pytest.raises(TargetDown):
            asked.result(timeout=1)
    assert not one.connected


def test_a_stopping_agent_opens_nothing(lane: Make, server: Server):
    stopping = threading.Event()
    one = lane(quick(server.dsn()), stopping=stopping)
    stopping.set()
    with pytest.raises(TargetDown, match="stopping"):
        one.session()


def test_a_frozen_server_comes_back_by_itself(lane: Make, server: Server):
    one = lane(quick(server.dsn()))
    one.session()
    with server.paused(), pytest.raises(TargetDown):
        ask(one)
    recovered(one).fetch("select 1")
    until(lambda: len(server.query(MINE)) == 1, what="one session, no more")


def test_a_role_over_its_limit_comes_back_when_there_is_room(lane: Make, server: Server):
    taken = [lane(quick(server.dsn())) for _ in range(2)]
    for one in taken:
        one.session()
    third = lane(quick(server.dsn()))
    with pytest.raises(TargetDown) as down:
        third.session()
    assert down.value.sqlstate == "53300"
    taken[0].close()
    recovered(third)


@pytest.mark.parametrize("ended", ["refused", "at rest"])
def test_a_place_that_its_own_last_process_may_hold_is_waited_for(
    lane: Make, server: Server, clock: HandClock, ended: str
):
    first, second, third = (lane(quick(server.dsn())) for _ in range(3))
    first.session()
    if ended == "refused":
        with pytest.raises(TargetRefused, match="does not exist"):
            third.session("nope")
    else:
        third.session()
        third.rest()
    clock.ahead -= 60  # the moment in which it may be so lasts as long as the test needs
    recovered(second)  # now both places are taken
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(third.session)
        assert not wait([waiting], 0.3).done
        first.close()
        waiting.result(timeout=20).fetch("select 1")


def test_a_database_without_places_is_asked_once_where_the_last_process_is_gone(
    lane: Make, server: Server, database: Database, fault_proxy: Callable[[Server], FaultProxy]
):
    database.query(f"alter database {database.name} connection limit 0")
    proxy = fault_proxy(server)
    one = lane(quick(server.dsn(port=proxy.port)))
    one.session()
    with pytest.raises(TargetRefused) as refused:
        one.session(database.name)
    assert refused.value.sqlstate == "53300"
    assert proxy.accepted == 2


def test_once_it_must_be_gone_a_want_of_places_is_told(
    lane: Make, server: Server, clock: HandClock
):
    first, second, third = (lane(quick(server.dsn())) for _ in range(3))
    first.session()
    with pytest.raises(TargetRefused, match="does not exist"):
        third.session("nope")
    clock.ahead += LEAVE_WITHIN
    recovered(second)
    with pytest.raises(TargetDown) as down:
        third.session()
    assert down.value.sqlstate == "53300"


def test_a_restart_of_the_server_is_survived(lane: Make, fresh_server: Server):
    one = lane(quick(fresh_server.dsn()))
    before = one.session().facts
    fresh_server.restart()
    with pytest.raises(TargetDown):
        ask(one)
    assert recovered(one).facts.started_at != before.started_at


def test_promotion_while_sampling_needs_no_reconnection(lane: Make, fresh_pair: Pair):
    one = lane(quick(fresh_pair.standby.dsn()))
    session = one.session()
    stop = threading.Event()

    def sample() -> list[bool]:
        seen: list[bool] = []
        while not stop.wait(0.02):
            seen.append(one.session().moment().in_recovery)
            one.session().fetch("select * from pg_stat_activity")
        return seen

    with ThreadPoolExecutor(1) as pool:
        sampling = pool.submit(sample)
        try:
            fresh_pair.promote()
            until(lambda: not session.facts.in_recovery)
        finally:
            stop.set()
        seen = sampling.result(timeout=10)
    assert seen == sorted(seen, reverse=True)
    assert one.session() is session
    assert session.facts.timeline == 2
