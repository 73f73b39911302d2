"""The status document: of every part, over HTTP and the control socket, while the agent runs."""

import json
import urllib.request

import msgspec
import pytest

from pg_collector import control
from pg_collector.status import SamplerStatus, Status, StatusRequest
from tests.support.agents import configuration, running
from tests.support.ports import free_port
from tests.support.sampling import SAMPLERS
from tests.support.until import until


def page(agent, path="/status"):
    host, port = agent.health.address
    with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=5) as reply:
        return reply.read()


def status(agent) -> Status:
    return msgspec.json.decode(page(agent), type=Status)


def in_time(one: SamplerStatus) -> bool:
    """Whether it is `activity`, and its turns come as they should; not so on a busy machine."""
    took, age, due = one.took_ms, one.last_age_s, one.next_in_s
    if one.name != "activity" or took is None or age is None or due is None:
        return False
    return 0 < took < 1000 and age < 5 and due <= 1.0


@pytest.fixture
def agent(newest_server, tmp_path):
    dsns = {
        "prod": newest_server.dsn("pgcollector"),
        "gone": f"host=127.0.0.1 port={free_port()} user=nobody dbname=postgres",
    }
    with running(configuration(dsns, tmp_path / "out"), tmp_path / "pgc.sock") as agent:
        yield agent


def test_it_says_how_everything_is(agent, tmp_path):
    def settled():
        now = status(agent)
        prod, gone = now.targets
        lived = all(one.state != "waiting" and one.ok > 1 for one in prod.samplers)
        settled = lived and gone.state == "down" and now.output.last_delivery_at
        return now if settled and any(map(in_time, prod.samplers)) else None

    now = until(settled, 20.0)
    prod, gone = now.targets
    assert now.status == "degraded"
    assert {one.part for one in now.troubles} == {"postgres:gone"}
    assert prod.state == "ok"
    assert prod.role == "primary"
    assert prod.version.startswith("18")
    assert prod.connections == 2
    assert {one.name for one in prod.samplers} == set(SAMPLERS)
    by_name = {one.name: one for one in prod.samplers}
    activity = by_name["activity"]
    assert activity.state == "ok"
    assert activity.rows > 0
    assert in_time(activity)
    assert activity.last_at is not None
    assert activity.every_s == 1.0
    assert by_name["wal_receiver"].state == "unavailable"
    assert by_name["wal_receiver"].reason == "not a standby"
    assert "Connection refused" in gone.reason
    assert all(one.failed and one.state == "down" for one in gone.samplers)
    assert gone.version is None
    assert now.output.name == "file"
    assert now.output.lines > 0
    assert now.buffer.produced == (
        now.buffer.delivered
        + now.buffer.lines
        + now.buffer.quarantined
        + sum(now.buffer.lost.values())
    )
    assert now.device.state == "LOCAL"
    assert now.process.resident_bytes > 10_000_000
    asked = control.ask(StatusRequest(), tmp_path / "pgc.sock")
    assert asked is not None
    over_the_socket = msgspec.convert(asked.result, Status)
    assert over_the_socket.targets[0].name == "prod"
    assert over_the_socket.process.pid == now.process.pid


def test_the_watchdog_page_names_each_thread(agent):
    threads = json.loads(page(agent, "/watchdog"))
    assert {"http", "sender", "scheduler", "control"} <= threads.keys()
    assert all(one["alive"] and one["age_s"] < 10 for one in threads.values())
