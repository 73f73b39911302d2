"""One target, many databases: visited one after the other with the two sessions there are."""

import json
import signal

import pytest

from tests.support.agents import written
from tests.support.daemon import Daemon
from tests.support.until import until

pytestmark = pytest.mark.ends

DATABASES = ("shop_a", "shop_b", "shut", "else_where")


@pytest.fixture
def many(fresh_server):
    """A server with a table in each of some databases; nobody may enter one of them."""
    for name in DATABASES:
        fresh_server.query(f"create database {name}")
        fresh_server.query(f"create table of_{name} as select 1 as id", dbname=name)
    fresh_server.query("revoke connect on database shut from public")
    return fresh_server


def databases(daemon, sampler, name):
    return {line.head.get("database") for line in written(daemon.output, "prod", sampler)
            if line.head["set"] == name}  # fmt: skip


def test_per_database_samplers_visit_each_database_and_the_others_do_not(many, tmp_path):
    dsn = many.dsn("pgcollector")
    daemon = Daemon(
        tmp_path,
        {},
        databases=[
            {
                "name": "prod",
                "postgres": {"conn_string": f"{dsn} sslmode=disable"},
                "discover": {"enabled": True, "exclude": ["template*", "else*"]},
            }
        ],
    )
    with daemon:
        wanted = {"postgres", "shop_a", "shop_b"}
        until(
            lambda: all(
                wanted <= databases(daemon, name, f"{name}.tables")
                for name in ("vacuum", "statio", "bloat")
            ),
            deadline=60,
            what="each was everywhere",
        )
        most = many.query("select count(*) from pg_stat_activity where usename = 'pgcollector'")[0][
            0
        ]
        assert most <= 2
        health = json.loads(daemon.get("/healthz"))
        assert health["parts"]["postgres:prod"]["state"] == "ok"
        daemon.sampled(count=5)
        daemon.signal(signal.SIGTERM)
        assert daemon.ended()[0] == 0
    assert databases(daemon, "vacuum", "vacuum.tables") == wanted
    assert databases(daemon, "vacuum", "vacuum.wraparound") == {None}, "once for the whole server"
    vacuum = [one for one in written(daemon.output, "prod", "vacuum")
              if one.head["set"] == "vacuum.tables"]  # fmt: skip
    for line in vacuum:
        seen = {row["relname"] for row in line.rows}
        there = line.head["database"]
        assert not {f"of_{name}" for name in DATABASES if name != there} & seen
    assert {one.head["every_s"] for one in vacuum} >= {3.0}
    assert min(one.head["every_s"] for one in written(daemon.output, "prod", "activity")) == 1.0
    servers = written(daemon.output, "prod", "server")
    assert len(servers) <= 2, "a visit does not introduce the server anew"


def test_a_database_that_is_dropped_or_closed_costs_the_target_nothing(many, tmp_path):
    dsn = many.dsn("pgcollector")
    daemon = Daemon(
        tmp_path,
        {},
        databases=[
            {
                "name": "prod",
                "postgres": {"conn_string": f"{dsn} sslmode=disable"},
                "discover": {"enabled": True, "include": ["shop*"]},
            }
        ],
    )
    with daemon:
        until(
            lambda: "shop_b" in databases(daemon, "vacuum", "vacuum.tables"),
            deadline=40,
            what="it is visited",
        )
        ends = "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'shop_b'"

        def dropped():
            many.query(ends)
            many.query("drop database shop_b")
            return True

        until(dropped, deadline=20, what="it is dropped", not_yet=(Exception,))
        until(
            lambda: any(
                line.rows[0]["state"] == "down" and line.head.get("database") == "shop_b"
                for line in written(daemon.output, "prod", "sampler_state")
            ),
            deadline=40,
            what="it is told",
        )
        before = daemon.metric('samples_total{sampler="vacuum",target="prod"}')
        daemon.sampled_by("vacuum", "prod", 4)
        assert before
        assert "shop_b" not in daemon.get("/healthz")
        daemon.signal(signal.SIGTERM)
        assert daemon.ended()[0] == 0
