"""A whole agent with a plan: PostgreSQL on one side, the reference platform on the other."""

import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pg_collector.errors import OrderRefused
from tests.support.agents import configuration, running
from tests.support.clocks import faked
from tests.support.conditions.statements import statements
from tests.support.daemon import Daemon
from tests.support.lab.server import Server
from tests.support.reference_platform import COMPRESSED, ReferencePlatform
from tests.support.until import until

PLANS = (
    COMPRESSED
    + """
five: {inherits: fast, max_databases: 5}
all: {inherits: fast, max_databases: null, min_interval: {locks: 0, wal: 0, vacuum: 3600}}
narrow:
  inherits: fast
  ingest: {max_batch_bytes: 70000, max_line_bytes: 65536, encodings: [gzip]}
  min_interval: {vacuum: 0, statio: 0, locks: 0}
calm:
  inherits: fast
  grace_s: 600
  heartbeat_s: 5
  min_interval: {activity: 0, database: 0, statements: 0, vacuum: 0}
files: {inherits: calm, outputs: [local]}
"""
)


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[ReferencePlatform]:
    with ReferencePlatform(tmp_path, plans=PLANS) as platform:
        yield platform


def device(
    home: Path, platform: ReferencePlatform, server: Server, key: str, *names: str, **keys: Any
) -> Daemon:
    """Return an agent with a key, each second, on targets of these names."""
    dsn = server.dsn("many" if names else "pgcollector")
    return Daemon(
        home,
        dict.fromkeys(names or ("prod",), dsn),
        "device",
        **{
            "api_key": key,
            "local": {"enabled": False},
            "platform": {"url": platform.url, "linger": "0s", "resume_delay_max": "0s"},
            "buffers": {"durability": "wal"},
            "breakers": {"platform": {"reset": "1s"}, "identity": {"reset": "1s"}},
            "state_dir": str(home / "state"),
            **keys,
        },
    )


def state(daemon: Daemon) -> str:
    """Return the state of the device, as the metrics say it."""
    for name in ("UNPROVISIONED", "ACTIVE", "GRACE", "STOPPED"):
        if daemon.metric(f'device_state{{state="{name}"}}'):
            return name
    return ""


def stored(platform: ReferencePlatform) -> Counter[str]:
    """Return how many lines are stored, by stream."""
    told = platform.get("/v1/devices")["devices"]
    return Counter({one["stream"]: one["lines"] for dev in told for one in dev["streams"]})


def gaps(platform: ReferencePlatform) -> list[Any]:
    told = platform.get("/v1/devices")["devices"]
    return [gap for dev in told for one in dev["streams"] for gap in one["gaps"]]


def told(daemon: Daemon) -> dict[str, Any]:
    done = daemon.pgc("device", "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_a_key_makes_a_device_whose_samples_arrive(platform, newest_server, tmp_path):
    key = platform.new_key("fast")
    with device(tmp_path, platform, newest_server, key) as daemon:
        until(lambda: sum(stored(platform).values()) > 20, deadline=30, what="lines are stored")
        assert state(daemon) == "ACTIVE"
        now = time.time()
        for name in ("policy_received", "platform_last_contact"):
            heard = daemon.metric(f"{name}_timestamp_seconds")
            assert heard == pytest.approx(now, abs=30), name
        assert 3 < (daemon.metric("grace_seconds_remaining") or 0) <= 4.5
        assert '"status":"ok"' in daemon.get("/readyz")
        found = told(daemon)
        assert (found["state"], found["policy"]["plan"]) == ("ACTIVE", "fast")
        shown = daemon.pgc("device").stdout
        assert "fast (policy" in shown
        assert daemon.pgc("activate").returncode == 0, "it is activated already"
        daemon.signal(signal.SIGTERM)
        assert daemon.ended()[0] == 0
    first = sum(stored(platform).values())
    del daemon.keys["api_key"]
    daemon.write()
    with daemon:
        until(lambda: sum(stored(platform).values()) > first, deadline=30, what="it goes on")
        daemon.signal(signal.SIGTERM)
        assert daemon.ended()[0] == 0
    assert platform.metric("activations_total") == 1
    assert gaps(platform) == []
    assert len(stored(platform)) == 1
    text = daemon.log.read_text() + platform.log.read_text()
    assert key not in text


def test_six_databases_on_a_plan_of_five_and_then_on_one_without_limit(
    platform, newest_server, tmp_path
):
    key = platform.new_key("five")
    newest_server.query("drop role if exists many; create role many login in role pg_monitor")
    names = [f"db{n}" for n in range(1, 7)]
    with device(tmp_path, platform, newest_server, key, *names) as daemon:

        def at_work() -> set[str]:
            turns = (
                (name, daemon.metric(f'samples_total{{sampler="activity",target="{name}"}}'))
                for name in names
            )
            return {name for name, count in turns if count}

        until(lambda: at_work() == set(names[:5]), deadline=30, what="five are collected")
        health = json.loads(daemon.get("/healthz"))
        assert "the plan five covers 5 database(s)" in health["parts"]["postgres:db6"]["reason"]
        shown = daemon.pgc("samplers").stdout
        assert "paused: the plan five does not include it" in shown
        assert "allowed: every 1 s on 5 database(s)" in shown
        assert "db6: paused: the plan five covers 5 database(s)" in shown
        platform.change_plan(key, "all")
        until(lambda: at_work() == set(names), deadline=10, what="the upgrade is in force")
        until(
            lambda: daemon.metric('samples_total{sampler="locks",target="db1"}'),
            deadline=10,
            what="a sampler of the new plan",
        )
        platform.change_plan(key, "five")
        before = daemon.metric('samples_total{sampler="locks",target="db1"}')
        until(
            lambda: "db6: the plan five covers" in daemon.log.read_text().rpartition("all")[2],
            deadline=10,
            what="the downgrade is in force",
        )
        until(
            lambda: daemon.metric('pg_connections{target="db6"}') == 0,
            deadline=10,
            what="the sessions of what is paused are closed",
        )
        daemon.sampled_by("activity", "db1", 3)
        after = daemon.metric('samples_total{sampler="locks",target="db1"}') or 0
        assert after <= (before or 0) + 1
        daemon.signal(signal.SIGTERM)
        assert daemon.ended()[0] == 0
    assert gaps(platform) == []
    assert {one["msg"] for one in daemon.said() if one["level"] in {"error", "critical"}} == set()


def test_a_platform_away_means_grace_then_a_stop_then_all_is_delivered(
    platform, newest_server, tmp_path
):
    """Over a kill, and with the wall clock set back by a day in between."""
    key = platform.new_key("fast")  # a heartbeat of 0.5 s, grace of 3 s
    setting = tmp_path / "offset"
    setting.write_text("+0\n")
    daemon = device(tmp_path, platform, newest_server, key)
    daemon.environment |= faked(setting)
    with daemon:
        until(lambda: sum(stored(platform).values()) > 10, deadline=30, what="lines are stored")
        platform.kill()
        until(lambda: state(daemon) == "GRACE", deadline=10, what="grace mode")
        turns = daemon.metric('samples_total{sampler="activity",target="prod"}') or 0
        until(
            lambda: (daemon.metric('samples_total{sampler="activity",target="prod"}') or 0) > turns,
            deadline=5,
            what="collecting goes on in grace",
        )
        daemon.signal(signal.SIGKILL)
        daemon.process.wait(10)
    setting.write_text("-86400\n")
    with daemon:
        until(lambda: state(daemon) == "STOPPED", deadline=15, what="grace has expired")
        assert "grace period expired" in daemon.get("/readyz")
        assert daemon.metric("grace_seconds_remaining") == 0
        until(
            lambda: daemon.metric('pg_up{target="prod"}') is None,
            what="a target where nothing is sampled is neither up nor down",
        )
        waiting = daemon.metric("lines_buffered")
        assert waiting
        platform.start()
        until(lambda: state(daemon) == "ACTIVE", deadline=30, what="it is resumed")
        until(
            lambda: (daemon.metric("lines_delivered_total") or 0) >= waiting,
            deadline=30,
            what="all that waited is delivered",
        )
        before = sum(stored(platform).values())
        until(lambda: sum(stored(platform).values()) > before, deadline=20, what="fresh lines")
        daemon.signal(signal.SIGTERM)
        assert daemon.ended()[0] == 0
    assert gaps(platform) == []
    messages = " ".join(one["msg"] for one in daemon.said())
    assert "the device is ACTIVE again" in messages


def test_deactivate_through_the_agent_stops_collecting_and_frees_the_place(
    platform, newest_server, tmp_path
):
    key = platform.new_key("calm", devices=1)
    with device(tmp_path, platform, newest_server, key) as daemon:
        until(lambda: state(daemon) == "ACTIVE", deadline=30, what="it is activated")
        platform.kill()
        done = daemon.pgc("deactivate")
        assert done.returncode == 69, done.stderr
        assert "pgc deactivate --local-only" in done.stderr
        assert told(daemon)["state"] == "ACTIVE", "nothing has changed"
        platform.start()
        done = daemon.pgc("deactivate")
        assert (done.returncode, done.stdout) == (0, "the device is deactivated\n")
        until(lambda: state(daemon) == "UNPROVISIONED", deadline=10, what="it is deactivated")
        assert daemon.metric("token_expiry_timestamp_seconds") == 0
        assert told(daemon)["state"] == "UNPROVISIONED"
        daemon.signal(signal.SIGTERM)
        assert daemon.ended()[0] == 0
    (tmp_path / "other").mkdir()
    with device(tmp_path / "other", platform, newest_server, key) as another:
        until(lambda: state(another) == "ACTIVE", deadline=30, what="the place is free")


def test_the_verbs_do_without_an_agent(platform, newest_server, tmp_path):
    key = platform.new_key("calm")
    daemon = device(tmp_path, platform, newest_server, key)
    assert told(daemon)["state"] == "UNPROVISIONED"
    done = daemon.pgc("activate", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["policy"]["plan"] == "calm"
    assert told(daemon)["state"] == "ACTIVE"
    platform.kill()
    done = daemon.pgc("deactivate")
    assert done.returncode == 69
    assert "--local-only" in done.stderr
    assert daemon.pgc("deactivate", "--local-only").returncode == 0
    assert daemon.pgc("activate").returncode == 69
    assert key not in done.stderr


def test_who_takes_a_single_turn_keeps_to_the_plan_and_leaves_orders_alone(
    platform, newest_server, tmp_path
):
    key = platform.new_key("narrow")
    daemon = device(tmp_path, platform, newest_server, key)
    assert daemon.pgc("activate").returncode == 0
    name = told(daemon)["device_id"]
    platform.command(name, "flush")
    with statements(newest_server.database(), 1000):
        for verb in (("start", "--once"), ("activate",), ("start", "--once")):
            done = daemon.pgc(*verb)
            assert done.returncode == 0, done.stderr
    with platform._identity() as identity:
        assert [one["status"] for one in identity.results(name)] == [None]
    platform.change_plan(key, "files")
    done = daemon.pgc("start", "--once")
    assert done.returncode == 78
    assert "the plan files does not include the output platform" in done.stderr
    assert platform.stop() == 0
    (longest,) = platform.query("SELECT max(length(line)) FROM samples")
    assert 30_000 < longest[0] <= 65_536
    assert platform.query("SELECT count(*) FROM rejected") == [(0,)]


def test_the_verbs_about_the_device_work_beside_an_agent_without_a_platform(
    newest_server, tmp_path
):
    dsn = newest_server.dsn("pgcollector")
    with Daemon(tmp_path, {"prod": dsn}, "files", state_dir=str(tmp_path / "state")) as daemon:
        daemon.sampled()
        assert told(daemon)["state"] == "UNPROVISIONED"
        done = daemon.pgc("activate")
        assert done.returncode == 78
        assert "no platform is configured" in done.stderr


def test_orders_are_carried_out(platform, newest_server, tmp_path):
    key = platform.new_key("calm")
    with device(tmp_path, platform, newest_server, key) as daemon:
        until(lambda: sum(stored(platform).values()) > 10, deadline=30, what="lines are stored")
        name = told(daemon)["device_id"]
        platform.command(name, "pause", {"sampler": "statements"})
        platform.command(name, "set_interval", {"sampler": "database", "seconds": 3600})
        platform.command(name, "collect_once", {"sampler": "database"})
        platform.command(name, "pause", {"sampler": "vacuum"})
        platform.command(name, "resume", {"sampler": "vacuum"})
        platform.command(name, "collect_once", {"sampler": "vacuum"})
        platform.command(name, "resync")
        platform.command(name, "pause", {"sampler": "no such"})

        def jobs() -> float:
            return daemon.metric('samples_total{sampler="statements",target="prod"}') or 0

        def done() -> list[str]:
            return [line["msg"] for line in daemon.said() if line["component"] == "audit"]

        until(lambda: sum("command " in one for one in done()) >= 8, deadline=30, what="all done")
        paused = jobs()
        daemon.sampled_by("activity", "prod", 3)
        assert jobs() <= paused + 1
        assert any("command pause refused: there is no sampler" in one for one in done())
        for sampler in ("database", "vacuum"):
            words = f"command collect_once done: a turn of {sampler}"
            assert any(words in one for one in done())


def test_what_was_just_resumed_can_be_collected_at_once(newest_server, tmp_path):
    """Before the jobs are laid out anew: nobody waits in this agent, who would do that."""
    config = configuration({"prod": newest_server.dsn("pgcollector")}, tmp_path)
    with running(config) as agent:
        agent._orders.perform("pause", {"sampler": "vacuum"})
        agent.apply()
        assert "vacuum" not in {job.sampler for job in agent.layout.jobs}
        agent._orders.perform("resume", {"sampler": "vacuum"})
        assert agent._orders.perform("collect_once", {"sampler": "vacuum"}).startswith("a turn")
        agent._orders.perform("pause", {"sampler": "wal"})
        with pytest.raises(OrderRefused, match="at work on no target"):
            agent._orders.perform("collect_once", {"sampler": "wal"})


def test_the_platforms_limits_hold_for_lines_and_batches(platform, newest_server, tmp_path):
    key = platform.new_key("narrow")
    with (
        statements(newest_server.database(), 1000),
        device(tmp_path, platform, newest_server, key) as daemon,
    ):
        until(lambda: sum(stored(platform).values()) > 50, deadline=30, what="lines are stored")
        daemon.signal(signal.SIGTERM)
        assert daemon.ended()[0] == 0
    assert platform.stop() == 0
    (longest,) = platform.query("SELECT max(length(line)) FROM samples")
    assert longest[0] <= 65_536
    assert platform.query("SELECT count(*) FROM rejected") == [(0,)]
    parts = platform.query("SELECT count(*) FROM samples WHERE line LIKE '%\"part\":[2,%'")
    assert parts[0][0] > 0, "something was cut"
