"""A real child process: signals that end it or reload it, and a stop that hangs."""

import json
import signal
from functools import partial

import pytest

from pg_collector.agent import LAST_RESORT, RESCUE, STOP_BUDGET
from tests.support.daemon import Daemon
from tests.support.until import until

REASONS = ("memory_full", "quarantine_full", "too_large", "shutdown")


def lost(daemon):
    return sum(daemon.metric(f'lines_lost_total{{reason="{one}"}}') or 0 for one in REASONS)


def reloaded(daemon, times):
    return [one["msg"] for one in daemon.said()].count("configuration reloaded") >= times


def test_hangups_in_the_middle_of_batches_lose_no_line(newest_server, tmp_path):
    with Daemon(tmp_path, {"prod": newest_server.dsn("pgcollector")}) as daemon:
        daemon.sampled()
        for round_ in range(8):
            daemon.keys["sampling"]["activity"] = f"{2 - round_ % 2}s"
            daemon.keys["databases"][0]["postgres"]["query_timeout"] = f"{6 + round_ % 2}s"
            daemon.write()
            daemon.signal(signal.SIGHUP)
            until(partial(reloaded, daemon, round_ + 1), what="it reloads")
        daemon.sampled(count=2)
        assert daemon.metric("config_last_reload_successful") == 1
        assert lost(daemon) == 0
        produced = daemon.metric("lines_produced_total")
        daemon.signal(signal.SIGTERM)
        code, seconds = daemon.ended()
    assert (code, seconds < 10) == (0, True)
    assert produced
    files = tmp_path.glob("output/prod/*/*.jsonl")
    assert sum(len(file.read_bytes().splitlines()) for file in files) >= produced
    said = daemon.said()
    assert [one for one in said if one["level"] != "info"] == []
    (first, *_) = [one for one in said if one["msg"] == "configuration reloaded"]
    assert "databases.prod.postgres.query_timeout" in first["accepted"]


def test_reload_tells_what_changed_and_what_needs_a_restart_and_keeps_the_last_good_one(
    newest_server, tmp_path
):
    with Daemon(tmp_path, {"prod": newest_server.dsn("pgcollector")}) as daemon:
        daemon.sampled()
        text = daemon.file.read_text()
        daemon.write(text.replace("activity:", "activitee:").replace("1s", "soon"))
        done = daemon.pgc("reload")
        assert done.returncode == 78, done.stderr
        assert "activitee" in done.stderr
        assert "sampling.database" in done.stderr  # every problem at once
        assert daemon.metric("config_last_reload_successful") == 0
        health = json.loads(daemon.get("/healthz"))
        assert health["status"] == "degraded"
        assert "activitee" in health["parts"]["config"]["reason"]
        assert health["parts"]["config"]["remedy"]
        daemon.sampled()

        daemon.keys["sampling"]["database"] = "2s"
        daemon.keys["http"]["read_timeout"] = "7s"
        daemon.write()
        done = daemon.pgc("reload", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {
            "accepted": ["sampling.database"],
            "refused": ["http.read_timeout"],
        }
        assert "needs a restart  http.read_timeout" in daemon.pgc("reload").stdout  # still
        assert daemon.metric("config_last_reload_successful") == 1
        assert json.loads(daemon.get("/healthz"))["status"] == "ok"
        daemon.sampled()
        assert lost(daemon) == 0


def test_reload_without_an_agent_ends_with_69_and_an_invalid_file_with_78(tmp_path):
    daemon = Daemon(tmp_path, {"prod": "host=127.0.0.1"})
    done = daemon.pgc("reload")
    assert (done.returncode, done.stdout) == (69, "")
    assert "no agent runs here" in done.stderr
    daemon.write("nonsense: 1\n")
    assert daemon.pgc("reload").returncode == 78


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_everything_hangs_and_a_signal_ends_it_in_time(newest_server, tmp_path, number):
    how = "hanging" if number is signal.SIGTERM else "away"
    dsns = {"prod": newest_server.dsn("pgcollector")}
    with Daemon(tmp_path, dsns, how, local={"enabled": False}) as daemon:
        until(lambda: (daemon.metric("lines_buffered") or 0) > 10, deadline=20, what="lines")
        with newest_server.paused():
            daemon.signal(number)
            code, seconds = daemon.ended()
    assert (code, seconds < 10) == (0, True)
    assert any("not delivered" in one["msg"] for one in daemon.said())


def test_a_second_signal_ends_it_at_once(newest_server, tmp_path):
    dsns = {"prod": newest_server.dsn("pgcollector")}
    with Daemon(tmp_path, dsns, "hanging", local={"enabled": False}) as daemon:
        until(lambda: (daemon.metric("lines_buffered") or 0) > 10, deadline=20, what="lines")
        with newest_server.paused():
            daemon.signal(signal.SIGTERM)
            until(lambda: "stopping: SIGTERM" in [one["msg"] for one in daemon.said()])
            daemon.signal(signal.SIGTERM)
            code, seconds = daemon.ended()
    assert (code, seconds < 2.5) == (0, True), seconds
    assert any("not delivered" in one["msg"] for one in daemon.said())  # counted all the same


@pytest.mark.parametrize("times", [1, 2])
def test_what_could_not_be_delivered_before_the_end_is_delivered_after_the_next_start(
    newest_server, tmp_path, times
):
    dsns = {"prod": newest_server.dsn("pgcollector")}
    wal = {"durability": "wal"}
    with Daemon(tmp_path, dsns, "hanging", buffers=wal) as daemon:
        until(lambda: (daemon.metric("lines_buffered") or 0) > 50, deadline=20, what="lines")
        produced = daemon.metric("lines_produced_total")
        for _ in range(times):
            daemon.signal(signal.SIGTERM)
            until(lambda: any("stopping: " in one["msg"] for one in daemon.said()))
        assert daemon.ended()[0] == 0
        assert not any("are lost" in one["msg"] for one in daemon.said())
    with Daemon(tmp_path, dsns, buffers=wal) as daemon:
        assert produced
        until(lambda: (daemon.metric("lines_delivered_total") or 0) >= produced, deadline=20)
        assert lost(daemon) == 0
        daemon.signal(signal.SIGTERM)
        assert daemon.ended()[0] == 0


def test_a_stop_that_hangs_ends_with_one_after_the_last_resort(newest_server, tmp_path):
    dsns = {"prod": newest_server.dsn("pgcollector")}
    with Daemon(tmp_path, dsns, "stop hangs") as daemon:
        daemon.sampled()
        daemon.signal(signal.SIGTERM)
        code, seconds = daemon.ended()
    assert (code, seconds < 4) == (1, True), seconds
    assert STOP_BUDGET < LAST_RESORT < 10 - RESCUE
    assert any("something hangs in it" in one["msg"] for one in daemon.said())
