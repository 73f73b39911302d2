"""A running agent takes another configuration: only what changed is built anew, no line is lost."""

import logging
import threading
import time
from pathlib import Path

import msgspec
import pytest

from pg_collector.agent import Agent
from pg_collector.config.model import (
    AuthMethod,
    Breaker,
    Breakers,
    Local,
    Log,
    LogLevel,
    MaskingLevel,
    Platform,
    Sampling,
    Security,
)
from pg_collector.errors import ConfigurationError, StateError
from pg_collector.logs import LineHandler
from pg_collector.plan import OpenGrant
from pg_collector.sample import Keep
from pg_collector.secret import Secret
from tests.support.agents import configuration, running, written
from tests.support.delivery import line
from tests.support.far_side import Answer, FarSide
from tests.support.sampling import SAMPLERS
from tests.support.until import until

replace = msgspec.structs.replace


def changed(config, name, **postgres):
    """Return the configuration with other connection settings of one target."""
    databases = tuple(
        replace(one, postgres=replace(one.postgres, **postgres)) if one.name == name else one
        for one in config.databases
    )
    return replace(config, databases=databases)


def sampled(output, target="prod", count=1):
    before = len(written(output, target, "activity"))
    until(
        lambda: len(written(output, target, "activity")) >= before + count,
        deadline=20,
        what=f"{target} samples",
    )


def series(agent, target):
    return f'pg_up{{target="{target}"}}' in agent.metrics.render("")[0].decode()


def test_only_the_target_that_changed_connects_anew_and_never_with_a_third_session(
    newest_server, fault_proxy, tmp_path
):
    moved, kept = fault_proxy(newest_server), fault_proxy(newest_server)
    dsns = {
        "moved": newest_server.dsn("pgcollector", port=moved.port),
        "kept": newest_server.dsn("plain", port=kept.port),
    }
    config = configuration(dsns, tmp_path)
    with running(config) as agent:
        until(lambda: (moved.accepted, kept.accepted) == (2, 2), what="two sessions each")
        before = agent.targets["kept"]
        for seconds in (6.0, 7.0, 8.0):
            told = agent.adopt(changed(config, "moved", query_timeout=seconds))
            assert told.accepted == ("databases.moved.postgres.query_timeout",)
            sampled(tmp_path, "moved")
        until(lambda: agent.targets["moved"].trouble is None, what="it is well")
        assert agent.targets["kept"] is before
        assert kept.accepted == 2
        assert moved.accepted >= 5
        assert moved.peak <= 2
        sampled(tmp_path, "kept")
    account = agent.buffer.account()
    assert account.balanced
    assert account.produced == account.delivered
    states = [row for line in written(tmp_path, "moved", "sampler_state") for row in line.rows]
    assert not [row for row in states if row["state"] in {"down", "error"}]  # we ended it ourselves


def test_targets_come_and_go_without_a_trace(newest_server, tmp_path):
    dsn = newest_server.dsn("pgcollector")
    one = configuration({"a": dsn}, tmp_path)
    other = configuration({"b": dsn}, tmp_path)
    with running(one) as agent:
        sampled(tmp_path, "a")
        told = agent.adopt(other)
        assert set(told.accepted) == {"databases.a", "databases.b"}
        sampled(tmp_path, "b")
        assert (series(agent, "a"), series(agent, "b")) == (False, True)
        assert "postgres:a" not in agent.vitals.health().parts
        assert "postgres:b" in agent.vitals.health().parts
        until(
            lambda: not [t for t in threading.enumerate() if t.name.startswith("a:")],
            what="its lanes' threads have ended",
        )
        agent.adopt(replace(other, databases=(replace(other.databases[0], enabled=False),)))
        assert agent.targets == {}
        assert agent.layout.jobs == ()
    assert agent.buffer.account().balanced
    assert not agent.buffer.account().lost


def test_intervals_samplers_and_tags_change_without_a_new_session(
    newest_server, fault_proxy, tmp_path
):
    proxy = fault_proxy(newest_server)
    config = configuration({"prod": newest_server.dsn("pgcollector", port=proxy.port)}, tmp_path)
    with running(config) as agent:
        until(lambda: proxy.accepted == 2, what="both lanes are there")
        sampled(tmp_path)
        wanted = replace(
            config,
            sampling=Sampling(
                budget=None,
                every=dict.fromkeys(SAMPLERS, 1.0) | {"activity": 2.0},
                enabled={"wal": False},
            ),
            databases=(replace(config.databases[0], tags={"env": "prod"}),),
            breakers=Breakers(postgres=Breaker(failures=9, reset=9.0)),
        )
        told = agent.adopt(wanted)
        assert set(told.accepted) == {
            "sampling.activity",
            "sampling.enabled.wal",
            "databases.prod.tags.env",
            "breakers.postgres.failures",
            "breakers.postgres.reset",
        }
        assert agent.targets["prod"].breaker.reset == 9.0
        assert "wal" not in {job.sampler for job in agent.layout.jobs}
        until(
            lambda: written(tmp_path, "prod", "activity")[-1].head["every_s"] == 2.0,
            what="the new interval",
        )
        until(
            lambda: written(tmp_path, "prod", "server")[-1].rows[0]["tags"] == {"env": "prod"},
            what="the new tags are told",
        )
        assert proxy.accepted == 2


def test_utility_texts_are_kept_or_dropped_as_the_new_configuration_says(newest_server, tmp_path):
    config = configuration({"prod": newest_server.dsn("pgcollector")}, tmp_path)

    def texts():
        lines = written(tmp_path, "prod", "query_text")
        return " ".join(str(row) for line in lines for row in line.rows).lower()

    def count():
        return texts().count("'listen")

    with newest_server.connect() as session, running(config) as agent:
        session.execute("listen channel_before")
        until(lambda: count() >= 1, deadline=20, what="the command alone")
        agent.adopt(replace(config, security=Security(drop_utility_text=False)))
        session.execute("listen channel_between")
        until(lambda: "channel_between" in texts(), deadline=20, what="the text is kept now")
        agent.adopt(config)
        session.execute("listen channel_after")
        until(lambda: count() >= 3, deadline=20, what="the command alone again")
        assert "channel_before" not in texts()
        assert "channel_after" not in texts()


def test_tags_are_kept_or_not_as_the_new_configuration_says(newest_server, tmp_path):
    config = configuration({"prod": newest_server.dsn("pgcollector")}, tmp_path)

    def last():
        lines = written(tmp_path, "prod", "activity")
        sessions = [line for line in lines if line.set == "activity.sessions"][-1:]
        rows = [row for line in sessions for row in line.rows if "canary" in str(row["query"])]
        return [row.get("tags", "no column") for row in rows]

    with newest_server.connect() as session, running(config) as agent:
        session.autocommit = False
        session.execute("select 1 as canary /*action='go',route='%2Fusers'*/")
        until(lambda: last() == ["no column"], deadline=20, what="there are no tags")
        agent.adopt(replace(config, security=Security(keep_query_tags=("route",))))
        until(lambda: last() == [{"route": "/users"}], deadline=20, what="this one is kept")
        agent.adopt(replace(config, security=Security(keep_query_tags=("action",))))
        until(lambda: last() == [{"action": "go"}], deadline=20, what="and now the other")
        agent.adopt(config)
        until(lambda: last() == ["no column"], deadline=20, what="and now none")
    everything = b"".join(line.raw for line in written(tmp_path, "prod", "query_text"))
    assert b"%2F" not in everything


def test_a_target_that_hangs_does_not_hold_the_reload(newest_server, tmp_path):
    config = configuration({"prod": newest_server.dsn("pgcollector")}, tmp_path, query_timeout=30.0)
    with running(config) as agent:
        sampled(tmp_path)
        with newest_server.paused():
            until(lambda: agent.scheduler.busy, what="a turn hangs")
            started = time.monotonic()
            agent.adopt(changed(config, "prod", query_timeout=5.0))
            assert time.monotonic() - started < 5
        sampled(tmp_path)
    assert agent.buffer.account().balanced


@pytest.mark.parametrize(
    ("section", "error"),
    [
        (
            {
                "security": Security(
                    query_masking_level=MaskingLevel.CUSTOM, masking_patterns=("re:[",)
                )
            },
            ConfigurationError,
        ),
        ({"log": Log(file=Path("/proc/self/nowhere"))}, StateError),
    ],
    ids=["masking", "log file"],
)
def test_what_cannot_be_had_changes_nothing_at_all(newest_server, tmp_path, section, error):
    config = configuration({"prod": newest_server.dsn("pgcollector")}, tmp_path)
    with running(config) as agent:
        before, jobs = agent.targets["prod"], agent.layout.jobs
        wanted = changed(replace(config, sampling=Sampling(), **section), "prod", query_timeout=9.0)
        with pytest.raises(error):
            agent.adopt(wanted)
        assert agent.config is config
        assert agent.targets["prod"] is before
        assert agent.layout.jobs == jobs
        sampled(tmp_path)


@pytest.fixture
def own_log():
    """Put the process's log back as it was."""
    root = logging.getLogger()
    level = root.level
    yield root
    for handler in list(root.handlers):
        if isinstance(handler, LineHandler):
            root.removeHandler(handler)
            handler.close()
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def test_the_log_follows(newest_server, tmp_path, own_log):
    config = configuration({"prod": newest_server.dsn("pgcollector")}, tmp_path)
    with running(config) as agent:
        file = tmp_path / "agent.log"
        wanted = replace(config, log=Log(level=LogLevel.DEBUG, file=file))
        assert set(agent.adopt(wanted).accepted) == {"log.level", "log.file"}
        assert own_log.level == logging.DEBUG
        until(file.read_text, what="the file gets the lines")


def test_another_platform_is_sent_to_from_the_next_batch_on(newest_server, tmp_path):
    with FarSide() as first, FarSide() as second:
        config = replace(
            configuration({"prod": newest_server.dsn("pgcollector")}, tmp_path),
            local=Local(),
            platform=Platform(url=first.url, linger=0.1, resume_delay_max=0.0),
        )
        agent = Agent(config, OpenGrant(), token=lambda: "token", state_dir=tmp_path / "state")
        with agent:
            until(lambda: first.ledger.lines, what="lines arrive")
            nowhere = Platform(url=first.url, proxy=Secret("gopher://127.0.0.1:70"))
            bad = replace(config, platform=nowhere)
            with pytest.raises(ConfigurationError):
                agent.adopt(bad)
            wanted = replace(config, platform=replace(config.platform, url=second.url))
            assert agent.adopt(wanted).accepted == ("platform.url",)
            second.script.append(Answer(status=503))
            # It knows nothing of the stream and asks for the first line: what is still held comes
            # again, the rest as a gap.
            until(lambda: second.ledger.lines, what="lines arrive at the other one")
        first.ledger.check()
        second.ledger.check()
        assert agent.buffer.account().balanced
        assert not agent.buffer.account().lost


def test_who_hurries_waits_neither_for_the_disk_nor_for_the_next_look(newest_server, tmp_path):
    with FarSide() as far:
        config = replace(
            configuration({"prod": newest_server.dsn("pgcollector")}, tmp_path),
            local=Local(),
            platform=Platform(url=far.url, linger=300.0),
        )
        with Agent(config, OpenGrant(), token=lambda: "token", state_dir=tmp_path / "state") as one:
            for number in range(5):
                mine = line(number)
                one.buffer.put(mine, Keep.EVENT)
                one.delivery.hurry()
                until(lambda: any(each.line == mine for each in far.ledger.lines))  # noqa: B023


def test_the_longest_pause_between_two_attempts_follows_the_configuration(newest_server, tmp_path):
    with FarSide() as far:
        config = replace(
            configuration({"prod": newest_server.dsn("pgcollector")}, tmp_path),
            local=Local(),
            platform=Platform(url=far.url, linger=0.1, retry_max=1.0),
            breakers=Breakers(platform=Breaker(failures=1000)),
        )
        agent = Agent(config, OpenGrant(), token=lambda: "token", state_dir=tmp_path / "state")
        far.answer(*[Answer(status=503)] * 12)  # two minutes and more with the usual pauses
        with agent:
            until(lambda: far.ledger.lines, deadline=20, what="lines arrive")
        assert far.statuses()[:13] == [503] * 12 + [200]
        assert agent.buffer.account().balanced


def test_the_breaker_of_the_endpoint_that_gives_tokens_follows_the_configuration(
    newest_server, tmp_path
):
    dsn = newest_server.dsn("pgcollector").replace("127.0.0.1", "db.example.test")
    config = configuration({"prod": f"{dsn} hostaddr=127.0.0.1"}, tmp_path / "output")
    config = changed(config, "prod", auth_method=AuthMethod.GCP_IAM)

    def shown(agent):
        return (
            'circuit_breaker_state{component="token:prod"}' in agent.metrics.render("")[0].decode()
        )

    with running(config, tmp_path / "socket") as agent:
        assert shown(agent)
        config = replace(config, breakers=Breakers(postgres=Breaker(reset=7.0)))
        agent.adopt(config)
        target = agent.targets["prod"]
        both = target.breaker, target._token_breaker
        assert [one and one.reset for one in both] == [7.0, 7.0]
        agent.adopt(changed(config, "prod", auth_method=AuthMethod.AUTO))
        assert not shown(agent)
        agent.adopt(config)
        assert shown(agent)
        agent.adopt(replace(config, databases=()))
        assert not shown(agent)


def test_a_weak_connection_is_told_once_in_the_log(newest_server, tmp_path, caplog, monkeypatch):
    # An address that is no loopback's, as far as the configuration shows.
    monkeypatch.setattr("pg_collector.pg.conninfo._is_near", lambda _endpoint: False)
    config = configuration({"prod": newest_server.dsn("pgcollector")}, tmp_path / "output")
    with running(config, tmp_path / "socket"):
        sampled(tmp_path / "output", count=3)
    told = [one.getMessage() for one in caplog.records if "can take its place" in one.getMessage()]
    assert len(told) == 1
    assert told[0].startswith("prod: sslmode=disable: whoever is on the way to 127.0.0.1:")
