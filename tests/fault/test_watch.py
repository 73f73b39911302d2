"""What those who ask at the socket cost the servers, whose names are told, and what they keep."""

import concurrent.futures
import functools
import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pg_collector import control, spot
from pg_collector.control import NamesRequest
from pg_collector.errors import OrderRefused
from pg_collector.pg.session import Session
from pg_collector.privacy.mask import Masker
from pg_collector.watch_verbs import WatchRequest
from tests.support.agents import configuration, running, turned
from tests.support.conditions.statements import reset_statements
from tests.support.sampling import RELATIONS, SAMPLERS, target
from tests.support.until import until


@pytest.fixture
def database(newest_server):
    """A database of its own; statistics are the server's."""
    return newest_server.database()


@pytest.fixture
def agent(database, tmp_path):
    """An agent whose samplers have had one turn, and have none for long; its socket."""
    dsn = database.dsn("plain")
    path = tmp_path / "pgc.sock"
    with running(configuration({"prod": dsn}, tmp_path / "out", every=600.0), path) as one:
        until(lambda: turned(one.targets["prod"], one.layout.jobs), what="a turn of each")
        yield one, path


def asked(path: Path, **what: Any) -> Any:
    """Ask as one who watches; return the reply."""
    return control.ask(WatchRequest(**what), path)


def test_what_was_taken_away_meanwhile_is_not_taken_and_no_session_stays(agent):
    one, path = agent
    target = one.targets["prod"]
    before = target.tally("database")[:2]
    job = next(job for job in one.layout.jobs if job.sampler == "database")
    go = threading.Event()
    one.scheduler.lend("prod", job.lane, go.wait)
    last = asked(path, look=("database",)).result["last"]  # waits behind
    order = {"sampler": "database"}
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        collected = pool.submit(one._orders.perform, "collect_once", order)
        waiting = one.scheduler._lanes[f"prod/{job.lane}"].pool._work_queue
        until(lambda: waiting.qsize() == 2, what="both wait")
        for name in SAMPLERS:
            one._orders.perform("pause", {"sampler": name})
        one.apply()
        go.set()
        with pytest.raises(OrderRefused, match="at work on no target"):
            collected.result(10)
    assert target.tally("database")[:2] == before
    until(lambda: target.connections == 0, what="it rests")
    assert one.mirror.since("prod", last).lines == ()
    connection = control.fingerprint(target.database)
    names = control.ask(NamesRequest(target="prod", connection=connection, kind="database"), path)
    assert names is not None
    assert names.lines
    until(lambda: target.connections == 0, deadline=5, what="it rests again")


def test_whoever_asks_in_a_loop_costs_the_server_a_look_now_and_then(agent, caplog):
    one, path = agent
    target = one.targets["prod"]
    first = asked(path, look=("database",)).result["last"]
    until(lambda: database_lines(path, first), what="the look is there")
    began, last = time.monotonic(), first
    pictures = 0
    while time.monotonic() - began < 1.0:
        reply = asked(path, after=last, look=("database",))
        last = reply.result["last"]
        pictures += sum('"set":"database"' in line for line in reply.lines)
    assert pictures <= 2
    anew = asked(path, look=("database",))
    assert sum('"set":"database"' in line for line in anew.lines) == 1, "what is there serves"
    assert any("pg_ls_tmpdir" in line for line in anew.lines), "with what it lacks"
    until(lambda: database_lines(path, last), what="who goes on has it later")
    assert target._budget._loads["database"].seconds is not None, "it counts"
    told = [each for each in caplog.records if each.name == "pg_collector.states"]
    assert not told, "what is long known is not logged at each look"


def database_lines(path, after):
    """Return the databases' lines after a number."""
    return [one for one in asked(path, after=after).lines if '"set":"database"' in one]


def test_texts_that_are_wanted_while_others_are_looked_up_are_not_forgotten(agent, database):
    one, path = agent
    texts = ("select 1 as one", "select 2 as two, 3 as more")
    reset_statements(database)  # of two texts with one queryid the first stays
    with psycopg.connect(database.dsn("plain"), autocommit=True) as there:
        for text in texts:
            there.execute(text)
        (job,) = (job for job in one.layout.jobs if job.sampler == "statements")
        found = there.execute(
            "select queryid::text from pg_stat_statements where query like 'select $1 as %'"
        )
        ids = [row[0] for row in found]
    assert len(ids) == 2
    go = threading.Event()
    one.scheduler.lend("prod", job.lane, go.wait)
    last = asked(path, texts=ids[:1]).result["last"]
    asked(path, after=last, texts=ids[1:])
    go.set()

    def both():
        lines = "".join(asked(path, after=last).lines)
        return "as one" in lines and "as two" in lines

    until(both, what="both texts are there")


def test_who_has_a_server_asked_is_written_down_and_a_trouble_goes_with_its_cause(
    agent, database, caplog
):
    one, path = agent
    caplog.set_level(logging.INFO, "pg_collector.audit")

    def recorded(message):
        return [each for each in caplog.records if each.getMessage() == message]

    last = asked(path).result["last"]
    asked(path, after=last)
    assert len(recorded("local command: watch")) == 1
    (watched,) = recorded("prod is watched")
    assert watched.pid == os.getpid()
    database.query(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
        " where usename = 'plain' and application_name <> ''"
    )
    asked(path, after=last, look=("database",))
    assert len(recorded("local command: watch")) == 2, "the server is asked"

    def troubles():
        return asked(path, after=last).result["troubles"]

    until(lambda: "database" in troubles(), what="it is told")
    job = next(job for job in one.layout.jobs if job.sampler == "database")
    turn = functools.partial(one.targets["prod"].take, job)

    def taken():
        one.scheduler.borrow("prod", job.lane, turn, 10)
        return "database" not in troubles()

    until(taken, what="a turn went well since")


def test_a_look_up_says_what_is_left_and_when_the_next_may_be(database):
    ids = [str(number) for number in range(1, 61)]
    session = Session.open(target(database.dsn("plain")), relations=RELATIONS)
    try:
        found = spot.look_up(
            SAMPLERS["statements"], "prod", session, ids, masker=Masker(), batch=20
        )
    finally:
        session.leave()
    assert found.left == ids[20:]
    assert found.batch == 40
    assert found.pause < 60
