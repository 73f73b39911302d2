"""Vitals: what follows from the answers of the parts."""

import itertools
import threading
from typing import cast

import pytest

from pg_collector import survey
from pg_collector.health.vitals import OK, State, Vital, Vitals
from pg_collector.metrics import Metrics
from pg_collector.plan import OpenGrant
from pg_collector.survey import Survey
from pg_collector.target import Target
from tests.support.hand_clock import HandClock


class Bench:
    def __init__(self) -> None:
        self.clock = HandClock()
        self.metrics = Metrics(self.clock)
        self.vitals = Vitals(
            self.clock, self.metrics, scrub=lambda text: text.replace("hunter2", "***")
        )

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"pg_collector_{name}", labels)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_an_agent_without_parts_is_well(bench: Bench):
    assert bench.vitals.health().status is State.OK
    assert bench.value("health_status") == 2


@pytest.mark.parametrize("state", [State.DEGRADED, State.DOWN, State.STOPPED])
def test_a_part_that_is_not_essential_degrades_the_whole(bench: Bench, state: State):
    bench.vitals.register("buffer", lambda: OK)
    bench.vitals.register("target prod", lambda: Vital(state=state, reason="gone"))
    report = bench.vitals.health()
    assert report.status is State.DEGRADED
    assert report.well
    assert report.parts["target prod"].reason == "gone"
    assert bench.value("health_status") == 1


def test_an_essential_part_takes_the_whole_down(bench: Bench):
    bench.vitals.register("sender", lambda: Vital(state=State.DOWN, essential=True))
    assert bench.vitals.health().status is State.DOWN
    assert not bench.vitals.health().well
    assert bench.value("health_status") == 0
    bench.vitals.register("device", lambda: Vital(state=State.STOPPED, essential=True))
    assert bench.vitals.health().status is State.STOPPED


def test_a_part_that_cannot_know_yet_says_nothing_of_the_whole_until_that_lasts(bench: Bench):
    bench.vitals.register("buffer", lambda: OK)
    bench.vitals.register("target prod", lambda: Vital(state=State.UNKNOWN, reason="not yet"))
    bench.vitals.require("a database", lambda: Vital(state=State.UNKNOWN, reason="not yet"))
    for _ in range(20):
        assert bench.vitals.health().status is State.OK
        assert bench.vitals.readiness().status is State.UNKNOWN
        bench.clock.advance(1)
    bench.clock.advance(1)
    assert bench.vitals.health().status is State.DEGRADED
    assert bench.vitals.health().well
    assert bench.value("health_status") == 1


def test_an_essential_part_that_is_unknown_makes_the_whole_unknown_and_not_well(bench: Bench):
    bench.vitals.register("scheduler", lambda: Vital(state=State.UNKNOWN, essential=True))
    bench.vitals.register("target prod", lambda: Vital(state=State.DOWN))
    report = bench.vitals.health()
    assert report.status is State.UNKNOWN
    assert not report.well
    assert bench.value("health_status") == 0


def test_an_essential_part_that_is_degraded_only_degrades(bench: Bench):
    bench.vitals.register("sender", lambda: Vital(state=State.DEGRADED, essential=True))
    assert bench.vitals.health().status is State.DEGRADED


def test_a_part_can_be_replaced_and_forgotten(bench: Bench):
    bench.vitals.register("a", lambda: Vital(state=State.DOWN))
    bench.vitals.register("a", lambda: OK)
    assert bench.vitals.health().status is State.OK
    bench.vitals.forget("a")
    assert bench.vitals.health().parts == {}


def test_a_check_that_fails_is_unknown_counted_and_says_nothing_secret(bench: Bench, caplog):
    broken = [True]

    def check() -> Vital:
        if broken[0]:
            raise RuntimeError("password=hunter2")
        return OK

    bench.vitals.register("broken", check)
    bench.vitals.look()
    bench.vitals.look()
    report = bench.vitals.health()
    assert report.status is State.DEGRADED
    assert report.parts["broken"].state is State.UNKNOWN
    assert report.parts["broken"].reason == "its check failed: RuntimeError"
    assert report.parts["broken"].remedy
    assert (bench.value("panics_recovered_total", component="health") or 0) >= 3
    told = "the health check of broken failed"
    assert caplog.messages == [told], "once, however often it is asked"
    broken[0] = False
    assert bench.vitals.health().status is State.OK
    broken[0] = True
    bench.vitals.look()
    assert caplog.messages == [told, told]


def test_a_check_that_does_not_come_back_costs_one_thread_and_is_unknown_to_others(bench: Bench):
    asked, release = threading.Event(), threading.Event()

    def check() -> Vital:
        asked.set()
        release.wait(60)
        return OK

    bench.vitals.register("stuck", check)
    bench.vitals.register("other", lambda: OK)
    bench.vitals.heart("sender")
    first = threading.Thread(target=bench.vitals.health)
    first.start()
    assert asked.wait(10)
    bench.clock.advance(1.5)
    try:
        report = bench.vitals.health()
        assert report.status is State.DEGRADED
        assert report.parts["stuck"].state is State.UNKNOWN
        assert report.parts["stuck"].reason == "its check has not come back for 1.5 s"
        assert report.parts["stuck"].remedy
        assert report.parts["other"].state is State.OK
        assert bench.vitals.liveness().status is State.OK
    finally:
        release.set()
        first.join(10)
    assert bench.vitals.health().status is State.OK


def test_since_is_when_the_state_changed_and_a_reason_does_not_move_it(bench: Bench):
    answers = {"state": State.OK, "reason": ""}
    bench.vitals.register("output", lambda: Vital(**answers))  # type: ignore[arg-type]
    bench.vitals.require("database", lambda: Vital(**answers))  # type: ignore[arg-type]

    def since() -> tuple[str, str]:
        dates = (
            bench.vitals.health().parts["output"].since,
            (bench.vitals.readiness().parts["database"].since),
        )
        return dates[0][11:19], dates[1][11:19]

    assert since() == ("18:00:00", "18:00:00")
    bench.clock.advance(60)
    answers |= {"state": State.DOWN, "reason": "refused"}
    bench.vitals.look()  # nobody else asks
    bench.clock.advance(60)
    answers["reason"] = "no answer"
    assert since() == ("18:01:00", "18:01:00")
    bench.clock.step(-86_400)
    assert since() == ("18:01:00", "18:01:00")
    bench.vitals.register("output", lambda: Vital(state=State.DOWN))
    assert since()[0] == "18:01:00", "the same part, registered anew"
    bench.vitals.forget("output")
    bench.vitals.register("output", lambda: Vital(state=State.DOWN))
    assert since()[0] == "18:02:00", "another part of that name"


def test_reasons_are_scrubbed(bench: Bench):
    bench.vitals.register(
        "t", lambda: Vital(state=State.DOWN, reason="password hunter2", remedy="not hunter2")
    )
    vital = bench.vitals.health().parts["t"]
    assert (vital.reason, vital.remedy) == ("password ***", "not ***")


def test_a_thread_that_says_when_it_is_back_is_alive_until_then(bench: Bench):
    heart = bench.vitals.heart("sender", patience=30)
    heart.beat(3600)
    bench.clock.advance(3600)
    assert bench.value("watchdog_component_overdue_seconds", component="sender") == 0
    bench.clock.advance(29)
    assert bench.value("watchdog_component_overdue_seconds", component="sender") == 29
    assert bench.vitals.liveness().well
    bench.clock.advance(2)
    report = bench.vitals.liveness()
    assert report.status is State.DOWN
    assert "3631 s" in report.parts["thread sender"].reason
    assert bench.value("watchdog_component_age_seconds", component="sender") == 3631
    assert bench.vitals.health().status is State.DOWN
    heart.beat()
    assert bench.vitals.liveness().status is State.OK


def test_no_wall_clock_step_kills_a_thread(bench: Bench):
    bench.vitals.heart("scheduler")
    for step in (86_400, -172_800):
        bench.clock.step(step)
        assert bench.vitals.liveness().well


def test_liveness_knows_nothing_of_databases(bench: Bench):
    bench.vitals.heart("scheduler")
    bench.vitals.register("target prod", lambda: Vital(state=State.DOWN, essential=True))
    bench.vitals.require("a database", lambda: Vital(state=State.DOWN))
    assert bench.vitals.liveness().status is State.OK


def test_readiness_needs_every_condition(bench: Bench):
    answers = {"config": OK, "plan": OK, "database": OK}
    for name in list(answers):
        bench.vitals.require(name, lambda name=name: answers[name])  # type: ignore[misc]
    assert bench.vitals.readiness().well
    for name, state in itertools.product(answers, (State.DOWN, State.STOPPED)):
        answers[name] = Vital(state=state, reason="UNPROVISIONED", remedy="Set api_key.")
        report = bench.vitals.readiness()
        assert not report.well
        assert report.parts[name].remedy == "Set api_key."
        answers[name] = OK


def test_a_condition_that_cannot_be_asked_does_not_hold(bench: Bench):
    def check() -> Vital:
        raise RuntimeError

    bench.vitals.require("database", check)
    report = bench.vitals.readiness()
    assert not report.well
    assert "its check failed" in report.parts["database"].reason


def test_an_agent_that_stops_is_neither_healthy_nor_ready_but_alive(bench: Bench):
    bench.vitals.heart("sender")
    bench.vitals.ending()
    assert bench.vitals.health().status is State.STOPPED
    assert not bench.vitals.readiness().well
    assert bench.vitals.liveness().well


def test_what_ends_with_the_agent_is_not_to_blame_and_what_is_wrong_stays_so(bench: Bench):
    thread = threading.Thread(target=bench.vitals.heart("sender").beat)
    thread.start()
    thread.join(10)
    bench.vitals.register("scheduler", lambda: Vital(state=State.DOWN, essential=True))
    bench.vitals.register("postgres:a", lambda: Vital(state=State.UNKNOWN, reason="not yet"))
    bench.vitals.register("postgres:b", lambda: Vital(state=State.DOWN, reason="refused"))
    bench.vitals.require("plan", lambda: OK)
    bench.vitals.ending()
    parts = bench.vitals.health().parts
    for name in ("agent", "thread sender", "scheduler", "postgres:a"):
        assert parts[name].state is State.STOPPED, name
        assert parts[name].reason == "the agent is stopping"
    assert (parts["postgres:b"].state, parts["postgres:b"].reason) == (State.DOWN, "refused")
    assert bench.vitals.readiness().parts["agent"].state is State.STOPPED


def test_a_part_that_cannot_know_yet_is_not_told_as_unwell(bench: Bench):
    class Parts:
        clock, vitals, targets = bench.clock, bench.vitals, dict[str, Target]()
        grants = OpenGrant()

    said = Survey(cast(survey.Parts, Parts()), str).sentence
    bench.vitals.register("postgres:prod", lambda: Vital(state=State.UNKNOWN))
    assert said() == "ok: 0 of 0 targets up; not known: postgres:prod"
    bench.vitals.register("output", lambda: Vital(state=State.DEGRADED, reason="away"))
    assert said().startswith("degraded: 0 of 0 targets up; not well: output; not known: postgres:")
