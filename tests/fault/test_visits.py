"""What a visit leaves behind in a database: nothing that stands in its owner's way."""

import os
import resource
import threading
from contextlib import contextmanager

import pytest
from msgspec.structs import replace

from pg_collector.breaker import State
from pg_collector.config.model import Discover
from pg_collector.errors import LoginRefused, TargetDown
from pg_collector.metrics import Metrics
from pg_collector.pg import databases
from pg_collector.pg.lanes import REFUSED
from pg_collector.privacy.mask import Masker
from pg_collector.runner import Runner
from pg_collector.samplers._sampler import LaneName
from pg_collector.schedule import Job
from pg_collector.spot import Tray
from pg_collector.target import Target
from tests.support.agents import configuration, running
from tests.support.conditions.session import sessions
from tests.support.hand_clock import HandClock
from tests.support.proxy import Mode
from tests.support.sampling import SAMPLERS, Line
from tests.support.target import target
from tests.support.until import until

NAME = 'A "Näme" to quote'
QUOTED = '"A ""Näme"" to quote"'
WAITING = "select count(*) from pg_locks where classid = 'pg_database'::regclass and not granted"


@pytest.fixture
def visited(newest_server):
    """A server with a database to visit."""
    newest_server.query(f"create database {QUOTED}")
    yield newest_server
    newest_server.vacated().query(f"drop database if exists {QUOTED} with (force)")


def test_a_visited_database_is_left_after_the_round_and_can_be_dropped(visited, tmp_path):
    config = configuration({"prod": visited.dsn("pgcollector")}, tmp_path, every=0.5)
    one = replace(
        config.databases[0], samplers=("vacuum",), discover=Discover(enabled=True, include=(NAME,))
    )
    with running(replace(config, databases=(one,))) as agent:
        there = agent.targets["prod"]
        until(
            lambda: there.connections == 0 and there.spare_lane is LaneName.SLOW,
            what="its one session was in the visited database, and is closed",
        )
        assert up(agent.metrics) == 1, "nothing is wrong"
        agent.scheduler.withdraw("prod")
        visited.query(f"drop database {QUOTED}")


def up(metrics):
    """Return `pg_up` of the one target."""
    ((_, labels, value, *_),) = next(iter(metrics.pg_up.collect())).samples
    assert labels
    return value


@pytest.fixture
def there(visited, fault_proxy):
    """Its target, and what takes a turn of `vacuum` there: the first in its own database."""
    clock, tray = HandClock(), Tray()
    proxy = fault_proxy(visited)
    database = replace(
        target(visited.dsn("pgcollector", port=proxy.port), connect_timeout=0.5),
        discover=Discover(enabled=True, include=(NAME,)),
    )
    metrics = Metrics(clock)
    one = Target(
        database, SAMPLERS, Runner(tray, Masker(), metrics, clock),
        buffer=tray, metrics=metrics, clock=clock, stopping=threading.Event(),
    )  # fmt: skip

    def take():
        clock.advance(10)
        tray.lines.clear()
        one.take(Job("lab", "vacuum", 10.0, LaneName.SLOW))
        return [Line(raw) for raw in tray.lines]

    take()
    yield one, take, metrics, proxy, clock
    one.close()


@pytest.fixture
def renamed(visited):
    """Somebody renames the database, and has not committed it."""
    with sessions(visited.database(), "owner") as (owner,):
        owner.do("begin")
        owner.do(f"alter database {QUOTED} rename to elsewhere")
        yield owner


def told(lines):
    """Return what was told of the visited database."""
    return [row for line in lines if line.head.get("database") == NAME for row in line.rows]


def test_a_database_that_is_being_copied_or_moved_is_not_entered_until_it_is_free(
    visited, there, renamed
):
    one, take, *_ = there
    (state,) = told(take())
    assert (state["state"], state["reason"]) == ("down", "refused")
    assert "a lock keeps sessions out" in state["message"]
    assert {line.head.get("database") for line in take()} >= {"postgres"}
    assert visited.query(WAITING) == [(0,)], "it would keep a place of the role"
    assert one.trouble is None
    renamed.do("rollback")
    until(lambda: {line.set for line in take() if line.head.get("database") == NAME}
          >= {"vacuum.tables"}, what="it is visited")  # fmt: skip


@pytest.mark.usefixtures("renamed")
def test_a_database_that_lets_no_session_begin_is_left_out_and_costs_one_wait(
    visited, there, monkeypatch
):
    """Where it was locked just after the look: each attempt leaves a process that waits there."""
    one, take, *_ = there
    monkeypatch.setattr(databases, "refuse_occupied", lambda *_: None)
    visited.query("alter role pgcollector connection limit -1")
    try:
        (state,) = told(take())
        assert (state["state"], state["reason"]) == ("down", "refused")
        assert "waited for: log-in" in state["message"]
        assert "copied, moved or renamed" in state["remedy"]
        for _ in range(2):
            assert {line.head.get("database") for line in take()} >= {"postgres"}
        assert one.trouble is None
        assert visited.query(WAITING) == [(1,)]
    finally:
        visited.query("alter role pgcollector connection limit 2")


@pytest.mark.parametrize("broken", [True, False], ids=["breaker open", "closed"])
def test_between_two_visits_a_target_is_up_until_an_attempt_fails(there, broken):
    one, take, metrics, proxy, clock = there
    take()
    one.come_back(LaneName.SLOW)
    assert (one.connections, one.connected, up(metrics)) == (0, True, 1)
    proxy.set(Mode.REFUSE)
    for _ in range(5 * broken):  # the other lane finds out
        clock.advance(17)
        with pytest.raises(TargetDown):
            one.lend(LaneName.FAST, id)
    assert (one.breaker.state is State.OPEN) == broken
    take()
    assert (one.connected, up(metrics)) == (False, 0)


def test_on_the_way_from_one_database_to_the_next_a_target_is_up(there):
    one, take, metrics, proxy, _ = there
    lane = one._lanes[LaneName.SLOW]
    seen, tell = [], lane._on_change

    def look(connected):
        tell(connected)
        seen.append((connected, up(metrics)))

    lane._on_change = look
    take()
    assert seen == [(False, 1), (True, 1)]
    proxy.set(Mode.REFUSE)
    take()
    assert seen[2:] == [(False, 1), (False, 0)]


def test_where_the_own_database_lets_nobody_in_it_is_the_target_that_is_down(visited, there):
    one, take, _, _, clock = there
    one.rest_lane(LaneName.SLOW)
    visited.query("alter role pgcollector nologin")
    try:
        assert not told(take()), "nobody has asked the one that would be visited"
        assert isinstance(one.trouble, LoginRefused)
        assert one.down
    finally:
        visited.query("alter role pgcollector login")
    clock.advance(REFUSED[1])
    assert told(take()), "the visit is made up for"
    assert one.trouble is None


def test_where_the_whole_server_goes_away_next_the_refusal_before_counts_no_more(visited, there):
    _, take, _, proxy, _ = there
    visited.query(f"alter database {QUOTED} allow_connections false")
    (state,) = told(take())
    assert (state["state"], state["reason"]) == ("down", "refused")
    visited.query(f"alter database {QUOTED} allow_connections true")
    proxy.set(Mode.REFUSE)
    take()
    proxy.set(Mode.PASS)
    found = {line.set for _ in range(3) for line in take() if line.head.get("database") == NAME}
    assert "vacuum.tables" in found, "it is not left out for ten minutes"


def test_a_lane_without_turns_keeps_no_target_up(there):
    """As where a reload takes its samplers away between two visits."""
    one, take, metrics, proxy, _ = there
    one.lend(LaneName.FAST, id)
    take()
    one.come_back(LaneName.SLOW)
    one.expect(("activity",))
    assert (one.connected, up(metrics)) == (True, 1)
    proxy.set(Mode.RESET)
    one.take(Job("lab", "activity", 10.0, LaneName.FAST))
    assert (one.connected, up(metrics)) == (False, 0)


@contextmanager
def without_descriptors():
    """Let this process open nothing meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_visit_that_cannot_be_ended_is_no_end_of_the_agent(there):
    one, take, metrics, _, _ = there
    take()
    with without_descriptors():
        one.come_back(LaneName.SLOW)
    assert metrics.panics_recovered_total.labels(component="runner")._value.get() == 1
    assert one.connections == 1
    one.come_back(LaneName.SLOW)
    assert one.connections == 0
