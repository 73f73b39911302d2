"""A real agent, a platform and a Prometheus: the page, its size, the dashboard and the rules."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families as parsed

from tests.docs import metrics_page
from tests.docs.test_monitoring import DASHBOARD, RECORDED
from tests.support.conditions.statements import run_distinct
from tests.support.daemon import Daemon
from tests.support.lab.server import Server
from tests.support.pki import Pki
from tests.support.prometheus import Prometheus, promtool
from tests.support.reference_platform import ReferencePlatform
from tests.support.sampling import SAMPLERS
from tests.support.until import until

TARGETS = ("one", "two", "three")
ROLE = "monitors"
PLANS = f"""
whole:
  max_databases: null
  min_interval: {json.dumps(dict.fromkeys(SAMPLERS, 0))}
  masking_levels: [basic]
  pii: basic
  audit_log: false
  outputs: [platform]
  grace_s: 600
  heartbeat_s: 2
  ingest: {{max_batch_bytes: 1000000, max_line_bytes: 200000, encodings: [zstd, gzip]}}
"""


@contextmanager
def crowded(server: Server, databases: int, statements: int) -> Iterator[list[str]]:
    """Fill a server with databases and statements; yield the names of the databases."""
    names = [f"crowd_{number}" for number in range(databases)]
    how = "strategy file_copy" if server.major >= 15 else ""
    server.query(f"create role {ROLE} login; grant pg_monitor to {ROLE}")
    for name in names:
        server.query(f"create database {name} {how}")
    run_distinct(server.database(), statements)
    try:
        yield names
    finally:
        for name in names:
            server.database(name).drop()
        server.query(f"drop role {ROLE}")


@contextmanager
def watched(home: Path, server: Server, pki: Pki) -> Iterator[Daemon]:
    """Run a device with three targets, one of which covers every database."""
    leaf = pki.issue("shown", "agent", client=True)
    shown = {"cert_file": str(leaf.certificate), "key_file": str(leaf.key)}
    with ReferencePlatform(home, plans=PLANS) as platform:
        daemon = Daemon(
            home,
            dict.fromkeys(TARGETS, server.dsn(ROLE)),
            "device",
            api_key=platform.new_key("whole"),
            local={"enabled": False},
            platform={
                "url": platform.url,
                "linger": "0.5s",
                "resume_delay_max": "0s",
                "client_cert": shown,
            },
            buffers={"durability": "wal"},
            state_dir=str(home / "state"),
        )
        daemon.keys["databases"][0]["discover"] = {"enabled": True}
        daemon.write()
        with daemon:
            yield daemon


def no_value_is_a_users(text: str, names: list[str]) -> int:
    """Hold each series against what is documented; return how many there are."""
    described = {one.name: one for one in metrics_page.described()}
    told = {
        f"{family.name}_total" if family.type == "counter" else family.name: family
        for family in parsed(text)
    }
    assert told.keys() == described.keys()
    count = 0
    for name, family in told.items():
        one = described[name]
        for sample in family.samples:
            count += 1
            labels = {key: value for key, value in sample.labels.items() if key != "le"}
            assert labels.keys() == set(one.labels), name
            for label, value in labels.items():
                values = metrics_page.allowed(one, label, TARGETS)
                assert values is None or value in values, (name, label, value)
                assert value not in names
    return count


def queries() -> list[str]:
    """Return the queries of the dashboard as Grafana asks them, and the names of what is recorded.

    A rate is over ten seconds, as the agent is scraped each second.
    """
    chosen = {"job": "pg-collector", "instance": ".*", "target": ".*", "__rate_interval": "10s"}
    panels: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    asked = [one["expr"] for panel in panels for one in panel.get("targets", ())]
    return [re.sub(r"\$(\w+)", lambda found: chosen[found[1]], text) for text in asked] + list(
        RECORDED
    )


@pytest.mark.parametrize(
    ("databases", "statements"),
    [
        (8, 300),
        pytest.param(200, 5000, marks=[pytest.mark.long, pytest.mark.timeout(400)]),
    ],
)
def test_page_dashboard_and_rules_show_an_agent_whatever_its_servers_hold(
    newest_server: Server, pki: Pki, tmp_path: Path, databases: int, statements: int
):
    with (
        crowded(newest_server, databases, statements) as names,
        watched(tmp_path, newest_server, pki) as daemon,
    ):
        agents = {"one": f"127.0.0.1:{daemon.port}"}
        rules = ("alerts.yml", "recording.yml")
        with Prometheus(tmp_path, agents, rules=rules) as prometheus:
            daemon.sampled_by("statements", TARGETS[0], 2)
            left = queries()

            def all_answer() -> bool:
                left[:] = [one for one in left if not prometheus.query(one)]
                return not left

            try:
                until(all_answer, deadline=60, what="every query has an answer")
            except AssertionError:
                pytest.fail(f"no data: {left}")
            assert not prometheus.broken_rules()
        page = daemon.get("/metrics")
        promtool("check", "metrics", given=page.encode())
        most = metrics_page.most_series(TARGETS)
        assert no_value_is_a_users(page, names) <= most
        visited = daemon.metric('sampler_interval_seconds{sampler="vacuum",target="one"}')
        assert (visited or 0) > databases, "it goes from database to database"
