"""The whole agent while its servers, its output and its own parts misbehave."""

import itertools
import json
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request

import msgspec
import pytest

from pg_collector.agent import Agent
from pg_collector.config.model import Config, Http
from pg_collector.errors import StateError
from pg_collector.outlets import Receipt
from pg_collector.plan import LocalGrant, NoGrant, OpenGrant
from pg_collector.samplers._sampler import LaneName
from tests.support.agents import configuration, running, written
from tests.support.conditions.statements import distinct_statement
from tests.support.proxy import Mode
from tests.support.sampling import SAMPLERS, target
from tests.support.until import until

QUERY_TIMEOUT = 2.0

pytestmark = pytest.mark.ends


def get(agent, path):
    host, port = agent.health.address
    try:
        with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=5) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def moments(output, sampler="activity"):
    return {line.head["at"] for line in written(output, "prod", sampler)}


def sampled(output, count=2, deadline=20.0):
    """Wait for that many more turns of every sampler."""
    before = {name: len(moments(output, name)) for name in SAMPLERS if name != "wal_receiver"}

    def all_did():
        return all(len(moments(output, one)) >= before[one] + count for one in before)

    until(all_did, deadline=deadline, what=f"{count} turns of every sampler")


def test_samples_arrive_and_the_endpoints_say_so(server, tmp_path):
    config = configuration({"prod": server.dsn("pgcollector")}, tmp_path)
    with running(config) as agent:
        sampled(tmp_path)
        for path in ("/healthz", "/livez", "/readyz"):
            assert get(agent, path)[0] == 200, path
        metrics = get(agent, "/metrics")[1]
        assert 'pg_collector_pg_up{target="prod"} 1.0' in metrics
        assert 'pg_collector_pg_connections{target="prod"} 2.0' in metrics
        assert 'pg_collector_samples_total{sampler="activity",target="prod"}' in metrics
    server_lines = written(tmp_path, "prod", "server")
    assert server_lines[0].rows[0]["server_version_num"] // 10_000 == server.major
    assert server_lines[0].rows[0]["extensions"]["pg_stat_statements"]
    account = agent.buffer.account()
    assert account.balanced
    assert account.produced == account.delivered


@pytest.mark.parametrize("fault", ["paused", "black hole"])
def test_a_server_that_goes_silent_frees_the_lanes_and_all_resumes(
    server, fault_proxy, tmp_path, fault
):
    proxy = fault_proxy(server)
    dsn = server.dsn("pgcollector", port=proxy.port)
    config = configuration(
        {"prod": dsn}, tmp_path, query_timeout=QUERY_TIMEOUT, connect_timeout=2.0
    )
    with running(config) as agent:
        sampled(tmp_path)
        if fault == "paused":
            server.pause()
        else:
            proxy.set(Mode.BLACKHOLE)
        silent = time.monotonic()
        try:
            until(lambda: agent.targets["prod"].down, what="the trouble is noticed")
            interval = 1.0
            assert time.monotonic() - silent < interval + QUERY_TIMEOUT + 0.5
            for lane in LaneName:
                asked = time.monotonic()
                agent.scheduler.borrow("prod", lane, lambda: None, 10.0)
                assert time.monotonic() - asked < QUERY_TIMEOUT + 0.5
            assert get(agent, "/livez")[0] == 200
            assert get(agent, "/readyz")[0] == 503
        finally:
            if fault == "paused":
                server.resume()
            else:
                proxy.set(Mode.PASS)
        sampled(tmp_path, deadline=40.0)
        assert until(lambda: get(agent, "/readyz")[0] == 200)
        assert proxy.peak <= 2
    told = [row for line in written(tmp_path, "prod", "sampler_state") for row in line.rows]
    assert "down" in {row["state"] for row in told}
    assert "ok" in {row["state"] for row in told}


def test_a_promotion_while_sampling_loses_nothing_but_the_role(fresh_pair, tmp_path):
    config = configuration({"prod": fresh_pair.standby.dsn("pgcollector")}, tmp_path)
    last = 'pg_collector_last_sample_timestamp_seconds{sampler="wal_receiver",target="prod"}'
    with running(config) as agent:
        sampled(tmp_path)
        until(lambda: last in get(agent, "/metrics")[1], what="what it receives is sampled")
        fresh_pair.promote()
        sampled(tmp_path)
        until(lambda: last not in get(agent, "/metrics")[1], what="nothing is expected any more")
    roles = [x.rows[0]["in_recovery"] for x in written(tmp_path, "prod", "server")]
    assert roles == sorted(roles, reverse=True)
    assert roles[0] is True
    assert roles[-1] is False
    told = [row for line in written(tmp_path, "prod", "sampler_state") for row in line.rows]
    assert not [row for row in told if row["state"] == "error"]


def test_a_crashed_backend_begins_an_epoch(fresh_server, tmp_path):
    config = configuration({"prod": fresh_server.dsn("pgcollector")}, tmp_path)
    with running(config):
        sampled(tmp_path)
        with fresh_server.connect() as victim:
            fresh_server.kill_backend(victim.info.backend_pid)
        sampled(tmp_path, deadline=60.0)
        changed = until(
            lambda: [
                line
                for line in written(tmp_path, "prod", "database")
                if line.head.get("epoch_changed")
            ],
            what="the counters are said to begin anew",
        )
    assert len(changed) == 1


def test_a_server_that_is_down_at_the_start_is_waited_for(fresh_server, tmp_path):
    fresh_server.stop()
    config = configuration({"prod": fresh_server.dsn("pgcollector")}, tmp_path)
    with running(config) as agent:
        until(lambda: agent.targets["prod"].trouble, what="it says why")
        status, body = get(agent, "/readyz")
        assert status == 503
        assert "refused" in body
        fresh_server.start()
        sampled(tmp_path, deadline=40.0)


def test_a_stop_takes_less_than_ten_seconds_with_a_server_that_hangs(server, tmp_path):
    config = configuration({"prod": server.dsn("pgcollector")}, tmp_path)
    with running(config) as agent:
        sampled(tmp_path)
        with server.paused():
            until(lambda: agent.scheduler.busy, what="a turn hangs")
            started = time.monotonic()
            agent.stop()
            assert time.monotonic() - started < 10
    assert agent.buffer.account().balanced
    assert not [one for one in threading.enumerate() if one.name.startswith(("prod:", "sender"))]


def test_without_a_plan_it_stays_up_collects_nothing_and_says_what_to_do(server):
    there = target(server.dsn("pgcollector"))
    config = Config(databases=(there,), http=Http(address="127.0.0.1:0"))
    with Agent(config, NoGrant()) as agent:
        status, body = get(agent, "/readyz")
        assert status == 503
        assert "UNPROVISIONED" in body
        assert "--local" in body
        status, body = get(agent, "/healthz")
        assert status == 200, "nothing is broken, and a restart mends nothing"
        found = json.loads(body)
        assert (found["status"], found["parts"]["activation"]["state"]) == ("degraded", "down")
        assert "UNPROVISIONED" in found["parts"]["activation"]["reason"]
        assert "add api_key (and platform.url)" in found["parts"]["activation"]["remedy"]
        assert get(agent, "/livez")[0] == 200
        assert agent.layout.jobs == ()


def test_an_address_in_use_ends_the_start_with_the_remedy(server, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = msgspec.structs.replace(
            configuration({"prod": server.dsn("pgcollector")}, tmp_path),
            http=Http(address=f"127.0.0.1:{taken.getsockname()[1]}"),
        )
        with pytest.raises(StateError, match="cannot listen") as caught, running(config):
            pass
    assert caught.value.remedy


class Poison:
    """An outlet that takes its thread down."""

    name = "poison"

    def deliver(self, batch):  # noqa: ARG002  # the outlet's interface
        raise SystemExit

    def close(self):
        """Nothing is open."""


def test_an_essential_part_that_dies_ends_the_wait_with_one(server, tmp_path):
    config = configuration({"prod": server.dsn("pgcollector")}, tmp_path)
    agent = Agent(config, OpenGrant(), lambda _clock, _metrics: Poison())
    with agent:
        assert agent.wait() == 1
    account = agent.buffer.account()
    assert account.balanced
    assert account.lost["shutdown"] > 0


def test_an_output_that_cannot_be_written_degrades_and_recovers(server, tmp_path):
    output = tmp_path / "output"
    config = configuration({"prod": server.dsn("pgcollector")}, output)
    with running(config) as agent:
        sampled(output)
        shutil.rmtree(output)
        output.write_text("in the way")
        until(lambda: '"degraded"' in get(agent, "/healthz")[1], what="it is degraded")
        assert get(agent, "/livez")[0] == 200
        output.unlink()
        sampled(output, deadline=40.0)
    account = agent.buffer.account()
    assert account.balanced
    assert account.produced == account.delivered


def test_lanes_that_learnt_at_different_times_do_not_contradict_each_other(fresh_server, tmp_path):
    config = configuration({"prod": fresh_server.dsn("pgcollector")}, tmp_path)
    with running(config):
        sampled(tmp_path)
        fresh_server.query("alter system set track_io_timing = off")
        fresh_server.query("select pg_reload_conf()")
        names = [one.name for one in SAMPLERS.values() if one.lane == LaneName.SLOW]
        slow = f"/[*] pgc:({'|'.join(names)}) "
        fresh_server.query(
            "select pg_terminate_backend(pid) from pg_stat_activity where query ~ %s", [slow]
        )
        sampled(tmp_path, count=4, deadline=30.0)
    seen = [x.rows[0]["settings"]["track_io_timing"] for x in written(tmp_path, "prod", "server")]
    assert [value for value, _ in itertools.groupby(seen)] == ["on", "off"]


def test_one_lane_in_trouble_degrades_the_target_and_does_not_take_it_down(fresh_server, tmp_path):
    fresh_server.query("alter role pgcollector connection limit 1")
    config = configuration({"prod": fresh_server.dsn("pgcollector")}, tmp_path)
    with running(config) as agent:
        target = agent.targets["prod"]
        until(lambda: target.trouble and target.connected, what="one lane finds no place")
        for _ in range(20):
            assert get(agent, "/readyz")[0] == 200
        body = get(agent, "/healthz")[1]
        assert '"degraded"' in body
        assert "too many connections" in body
        assert '"remedy":"' in body


def test_a_database_beyond_the_plan_is_paused_not_broken(server, tmp_path):
    dsn = server.dsn("pgcollector")
    config = configuration({"a": dsn, "b": dsn}, tmp_path)
    with Agent(config, LocalGrant()) as agent:
        until(lambda: get(agent, "/readyz")[0] == 200)
        status, body = get(agent, "/healthz")
        assert status == 200
        assert "paused: the plan demo covers 1 database" in body
        assert '"degraded"' not in body
        assert 'pg_up{target="b"}' not in get(agent, "/metrics")[1]


@pytest.mark.ends(oldest="long")
def test_a_first_start_with_many_large_texts_loses_nothing(fresh_server, tmp_path):
    with fresh_server.connect() as session:
        for number in range(1_000):  # 7 kB each
            session.execute(f"{distinct_statement(number)}{', 1' * 1000}", prepare=False)
    config = configuration({"prod": fresh_server.dsn("pgcollector")}, tmp_path)
    with running(config) as agent:
        sizes = [0]

        def all_came():
            files = (tmp_path / "prod" / "query_text").glob("*")
            size = sum(path.stat().st_size for path in files)
            if size == sizes[-1]:
                return False  # to read them takes long
            sizes.append(size)
            lines = written(tmp_path, "prod", "query_text")
            return len({row["queryid"] for line in lines for row in line.rows}) >= 1_000

        # After each batch the server is left in peace for twenty times as long as it took.
        until(all_came, deadline=110.0, what="all texts")
        account = agent.buffer.account()
        assert account.balanced
        assert not account.lost


def test_an_output_that_hangs_does_not_hold_the_end(server, tmp_path):
    release = threading.Event()

    class Hanging(Poison):
        """An outlet that never comes back, as a dead network file system."""

        def deliver(self, batch):
            release.wait(60)
            return Receipt(batch.last)

    config = configuration({"prod": server.dsn("pgcollector")}, tmp_path)
    agent = Agent(config, OpenGrant(), lambda _clock, _metrics: Hanging())
    agent.start()
    try:
        until(lambda: agent.buffer.account().buffered > 0)
        started = time.monotonic()
        agent.stop()
        assert time.monotonic() - started < 10
        assert agent.buffer.account().balanced
    finally:
        release.set()
