"""One target, many databases: visited one after the other with the two sessions there are."""

import json
import signal
import threading
from functools import partial

import psycopg
import pytest
from msgspec.structs import replace

from pg_collector import target as module
from pg_collector.config.model import Breaker, Discover
from pg_collector.metrics import Metrics
from pg_collector.pg.auth.login import Plain
from pg_collector.pg.session import Session
from pg_collector.privacy.mask import Masker
from pg_collector.runner import Runner
from pg_collector.samplers._sampler import LaneName
from pg_collector.schedule import Job
from pg_collector.spot import Tray
from pg_collector.target import Target
from pg_collector.tour import LEARNS_EVERY
from tests.support.agents import written
from tests.support.daemon import Daemon
from tests.support.hand_clock import HandClock
from tests.support.proxy import Mode
from tests.support.sampling import SAMPLERS, Line, target
from tests.support.until import until

pytestmark = pytest.mark.ends

DATABASES = ("shop_a", "shop_b", "shop_full", "shut", "else_where")
NOT_VISITED = "this database is not visited any more"


@pytest.fixture
def many(fresh_server):
    """A server with a table in each of some databases; two of them may not be entered."""
    for name in DATABASES:
        fresh_server.query(f"create database {name}")
        fresh_server.query(f"create table of_{name} as select 1 as id", dbname=name)
    fresh_server.query("revoke connect on database shut from public")
    fresh_server.query("alter database shop_full connection limit 0")
    return fresh_server


def visiting(server, home, **discover):
    """Return an agent that goes from database to database, not yet started."""
    daemon = Daemon(home, {"prod": server.dsn("pgcollector")})
    daemon.keys["databases"][0]["discover"] = {"enabled": True, **discover}
    daemon.write()
    return daemon


def lines(daemon, sampler, name):
    return [one for one in written(daemon.output, "prod", sampler) if one.set == name]


def databases(daemon, sampler, name):
    return {line.head.get("database") for line in lines(daemon, sampler, name)}


def full_and_changes(found):
    """Return when lines were full ones, and when they held what had changed."""
    found = list(found)
    full = {one.head["at"] for one in found if "delta" not in one.head}
    return full, {one.head["at"] for one in found} - full


def told(found):
    """Return the databases, the states and the messages that were told, in their order."""
    return [(line.head.get("database"), row["state"], row["message"])
            for line in found if line.set == "sampler_state" for row in line.rows]  # fmt: skip


def test_per_database_samplers_visit_each_database_and_the_others_do_not(many, tmp_path):
    daemon = visiting(many, tmp_path, exclude=["template*", "else*"])
    wanted = {"postgres", "shop_a", "shop_b"}

    def tables(database):
        found = lines(daemon, "vacuum", "vacuum.tables")
        return full_and_changes(one for one in found if one.head["database"] == database)

    with daemon:
        until(
            lambda: all(
                wanted <= databases(daemon, name, f"{name}.tables")
                for name in ("vacuum", "statio", "bloat")
            ),
            deadline=60,
            what="each was everywhere",
        )
        most = many.value("select count(*) from pg_stat_activity where usename = 'pgcollector'")
        assert most <= 2
        health = json.loads(daemon.get("/healthz"))
        assert health["parts"]["postgres:prod"]["state"] == "ok"
        until(
            lambda: all(tables(one)[1] for one in wanted),
            deadline=30,
            what="one was everywhere again",
        )
        daemon.signal(signal.SIGTERM)
        assert daemon.ended()[0] == 0
    assert databases(daemon, "vacuum", "vacuum.tables") == wanted
    assert databases(daemon, "vacuum", "vacuum.wraparound") == {None}, "once for the whole server"
    vacuum = lines(daemon, "vacuum", "vacuum.tables")
    for line in vacuum:
        seen = {row["relname"] for row in line.rows}
        there = line.head["database"]
        assert not {f"of_{name}" for name in DATABASES if name != there} & seen
    assert {one.head["every_s"] for one in vacuum} >= {4.0}
    assert {len(tables(one)[0]) for one in wanted} == {1}, "then what has changed"
    full, changes = full_and_changes(lines(daemon, "statements", "statements"))
    assert len(full) == 1, "the lane's session comes and goes all the time"
    assert len(changes) > 2
    assert min(one.head["every_s"] for one in written(daemon.output, "prod", "activity")) == 1.0
    servers = written(daemon.output, "prod", "server")
    assert len(servers) <= 2, "a visit does not introduce the server anew"


def test_a_database_that_is_dropped_or_full_costs_the_target_nothing(many, tmp_path):
    daemon = visiting(many, tmp_path, include=["shop*"])

    def states():
        return told(written(daemon.output, "prod", "sampler_state"))

    def are(state, message=""):
        return {there for there, seen, said in states() if seen == state and message in said}

    with daemon:
        until(
            lambda: "shop_b" in databases(daemon, "vacuum", "vacuum.tables"),
            deadline=40,
            what="it is visited",
        )

        def dropped():
            many.database("shop_b").drop()
            return True

        until(dropped, deadline=20, what="it is dropped", not_yet=(psycopg.Error,))
        until(lambda: "shop_b" in are("down"), deadline=40, what="it is told")
        daemon.sampled_by("vacuum", "prod", 2)
        health = daemon.get("/healthz")
        assert json.loads(health)["parts"]["postgres:prod"]["state"] == "ok"
        assert "shop" not in health
        assert are("down") == {"shop_b", "shop_full"}
        daemon.keys["databases"][0]["discover"]["enabled"] = False
        daemon.write()
        daemon.signal(signal.SIGHUP)
        until(
            lambda: are("unavailable", NOT_VISITED) == {"shop_b", "shop_full"},
            what="both are forgotten",
        )
        daemon.signal(signal.SIGTERM)
        assert daemon.ended()[0] == 0


class Visits:
    """A target whose turns are taken by hand, every ten seconds of a clock moved by hand."""

    def __init__(self, dsn, budget=None, password=None, **discover):
        self.clock = HandClock()
        self.tray = Tray()
        metrics = Metrics(self.clock)
        database = replace(target(dsn), discover=Discover(enabled=True, **discover))
        self.target = Target(
            database,
            SAMPLERS,
            Runner(self.tray, Masker(), metrics, self.clock),
            buffer=self.tray,
            metrics=metrics,
            clock=self.clock,
            stopping=threading.Event(),
            budget=budget,
            login=Plain(database.postgres, password),
        )

    def take(self):
        """Take a turn of `vacuum`; return its lines."""
        self.clock.advance(10)
        self.tray.lines.clear()
        self.target.take(Job("prod", "vacuum", 10.0, LaneName.SLOW))
        return [Line(raw) for raw in self.tray.lines]

    def look_again(self):
        """Let the target look at once what databases there are, as with another configuration."""
        discover = replace(self.target.database.discover, exclude=("template*",))
        self.target.adopt(replace(self.target.database, discover=discover), Breaker(), None)

    def tables(self):
        """Take a turn; return of which database the tables came, and whether all of them."""
        return [(line.head["database"], "delta" not in line.head)
                for line in self.take() if line.set == "vacuum.tables"]  # fmt: skip


@pytest.fixture
def visits():
    """Call it with a connection string to get a target that is closed after the test."""
    made = []

    def make(dsn, **keys):
        made.append(Visits(dsn, **keys))
        return made[-1]

    yield make
    for one in made:
        one.target.close()


def test_a_database_that_is_gone_is_forgotten_until_it_is_back(database, visits):
    name = database.name
    there = visits(database.server.dsn("pgcollector"), include=(name,))
    for full in (True, False):
        assert there.tables() == [("postgres", full)]
        assert there.tables() == [(name, full)]
    there.tables()
    database.drop()
    ((where, state, _),) = told(there.take())
    assert (where, state) == (name, "down")
    there.clock.advance(LEARNS_EVERY)
    assert not told(there.take())
    assert told(there.take()) == [(name, "unavailable", NOT_VISITED)]
    database.server.query(f"create database {name}")
    there.look_again()
    turns = [there.take(), there.take()]
    back = [line for turn in turns for line in turn if line.head.get("database") == name]
    assert told(back) == [(name, "ok", None)]
    full, changes = full_and_changes(line for line in back if line.set == "vacuum.tables")
    assert (len(full), len(changes)) == (1, 0)


@pytest.mark.parametrize(
    "bound", [pytest.param(("VISITS_KEPT", 1), marks=pytest.mark.long), ("ROWS_KEPT", 300)]
)
def test_of_more_databases_than_can_be_remembered_the_first_ones_are(
    database, visits, monkeypatch, bound
):
    """With the last ones, none would ever be known when its turn comes again."""
    monkeypatch.setattr(module, *bound)
    others = [f"{database.name}_{letter}" for letter in "ab"]
    reset = (
        "select stats_reset is not null from pg_stat_database where datname = current_database()"
    )
    for one in others:
        database.server.query(f"create database {one} template {database.name}")
        place = database.server.database(one)
        place.query("select pg_stat_reset()")  # what counts from another time on is sent whole
        until(partial(place.value, reset), what="it counts from now on")
    try:
        there = visits(database.server.dsn("pgcollector"), include=tuple(others))
        for full in ((True, True), (False, True)):
            there.tables()  # at home
            assert [*there.tables(), *there.tables()] == list(zip(others, full, strict=True))
        there.target.close()
    finally:
        for one in others:
            database.server.database(one).drop()


def test_a_visit_that_a_lost_server_spoilt_is_made_up_for(database, visits, fault_proxy):
    proxy = fault_proxy(database.server)
    dsn = database.server.dsn("pgcollector", port=proxy.port)
    there = visits(dsn, include=(database.name,))
    assert there.tables() == [("postgres", True)]
    proxy.set(Mode.RESET)
    assert [state for _, state, _ in told(there.take())] == ["down"]
    assert there.target.trouble
    proxy.set(Mode.PASS)
    found = there.take()
    assert {line.head.get("database") for line in found} == {database.name, None}
    assert told(found) == [(None, "ok", None)], "its turn at home may be long to come"
    assert not there.target.trouble


def test_opening_sessions_is_part_of_the_budget(database, visits, monkeypatch):
    opened = Session.open

    def slowly(*arguments, **options):
        there.clock.advance(2)  # seconds until a session is open: a fifth of a core
        return opened(*arguments, **options)

    monkeypatch.setattr(Session, "open", slowly)
    there = visits(database.server.dsn("pgcollector"), budget=0.1, include=(database.name,))
    limited = [one for _ in range(8) for one in told(there.take()) if one[1] == "limited"]
    assert {where for where, _, _ in limited} == {None, database.name}
    assert "every 20 s" in limited[0][2]


def test_what_is_waited_for_before_the_server_is_asked_is_not(database, visits):
    def slowly():
        there.clock.advance(2)  # seconds until a password is there
        return "secret"

    there = visits(
        database.server.dsn("pgcollector"),
        budget=0.1,
        password=slowly,
        include=(database.name,),
    )
    assert not [one for _ in range(8) for one in told(there.take()) if one[1] == "limited"]
