"""A target's circuit breaker: a dead server costs nothing and delays nobody, and is found again."""

import logging
import time

import msgspec

from pg_collector.breaker import State
from pg_collector.config.model import Breaker, Breakers
from tests.support.agents import configuration, running, written
from tests.support.ports import free_port
from tests.support.proxy import Mode
from tests.support.until import until


def value(agent, name, **labels):
    return agent.metrics.registry.get_sample_value(f"pg_collector_{name}", labels)


def with_breaker(config, failures=3, reset=2.0):
    limits = Breakers(postgres=Breaker(failures=failures, reset=reset))
    return msgspec.structs.replace(config, breakers=limits)


def test_a_dead_target_is_left_alone_then_probed_once_and_its_neighbour_notices_nothing(
    newest_server, fault_proxy, tmp_path, caplog
):
    caplog.set_level(logging.INFO)
    server = newest_server
    dying, well = fault_proxy(server), fault_proxy(server)
    dsns = {
        # Without a limit of sessions: the server counts a lost one for a while.
        "dead": server.dsn("plain", port=dying.port),
        "well": server.dsn("plain", port=well.port),
    }
    bounds = {"connect_timeout": 1.0, "query_timeout": 1.0}
    config = with_breaker(configuration(dsns, tmp_path, **bounds), failures=2, reset=1.0)
    with running(config) as agent:
        dead = agent.targets["dead"]
        until(lambda: written(tmp_path, "dead", "statio"), deadline=20, what="both sample")
        until(lambda: written(tmp_path, "well", "statio"), deadline=20, what="both sample")
        dying.set(Mode.BLACKHOLE)
        until(lambda: dead.breaker.state is State.OPEN, deadline=40, what="the breaker opens")
        assert value(agent, "circuit_breaker_state", component="postgres:dead") == 2
        assert value(agent, "circuit_breaker_state", component="postgres:well") == 0
        assert value(agent, "pg_up", target="dead") == 0
        assert value(agent, "pg_up", target="well") == 1

        accepted, since, used = dying.accepted, time.monotonic(), time.process_time()
        turns = len(written(tmp_path, "well", "activity"))
        until(lambda: dying.accepted >= accepted + 2, deadline=20, what="it is probed")
        seconds = time.monotonic() - since
        assert seconds >= 1.0  # one attempt at a time, and only after `reset`
        assert time.process_time() - used < seconds * 0.9
        until(
            lambda: len(written(tmp_path, "well", "activity")) > turns + int(seconds) - 2,
            what="the neighbour kept its pace",
        )
        dying.set(Mode.PASS)
        until(lambda: dead.breaker.state is State.CLOSED, deadline=20, what="it closes")
        until(lambda: value(agent, "pg_connections", target="dead") == 2, deadline=20)
        until(lambda: dead.trouble is None, deadline=20, what="both lanes are well")
    told = [row for line in written(tmp_path, "dead", "sampler_state") for row in line.rows]
    assert [row for row in told if row["state"] == "down"]
    for sampler in {row["sampler"] for row in told}:
        states = [row["state"] for row in told if row["sampler"] == sampler and row["set"] is None]
        assert states.count("down") <= 2, (sampler, states)  # its session lost, then nobody answers
    logged = [
        one.getMessage()
        for one in caplog.records
        if getattr(one, "component", "") == "postgres:dead"
    ]
    assert logged == ["circuit breaker opened", "circuit breaker closed"]


def test_a_refusal_is_an_answer_and_opens_nothing(newest_server, tmp_path):
    dsn = newest_server.dsn("no_such_role")
    config = with_breaker(configuration({"prod": dsn}, tmp_path), failures=1)
    with running(config) as agent:
        target = agent.targets["prod"]
        until(lambda: target.down, what="both lanes are refused")
        assert target.breaker.state is State.CLOSED
        assert "no_such_role" in str(target.trouble)


def test_a_lane_that_has_not_tried_says_what_the_other_one_saw(newest_server, tmp_path):
    gone = newest_server.dsn("pgcollector", port=free_port("127.0.0.1"))
    config = with_breaker(configuration({"prod": gone}, tmp_path), failures=1, reset=60.0)
    with running(config) as agent:
        target = agent.targets["prod"]
        until(lambda: target.down, what="both lanes say why")
        reasons = {str(error) for error in target._troubles.values()}
        assert len(reasons) == 1
        assert "Connection refused" in reasons.pop()
