"""`pgc top` beside a real agent, on a real terminal: what it shows, its keys, its ends."""

import concurrent.futures
import contextlib
import json
import re
import signal
import time

import psutil
import pytest

from pg_collector import control
from pg_collector.mirror import HOLDS
from pg_collector.status import StatusRequest
from pg_collector.watch_verbs import WatchRequest
from tests.support.agents import configuration, running, turned
from tests.support.conditions.locks import blocked_chain
from tests.support.daemon import PGC, Daemon
from tests.support.scratch import new_directory
from tests.support.until import until
from tests.support.vt import Running


@pytest.fixture(scope="module")
def database(lab):
    """A database of its own; statistics are the server's."""
    return lab.newest().vacated().database()


@pytest.fixture(scope="module")
def agent(database):
    """An agent with one target that is up, at its usual intervals, and one that is down."""
    dsns = {"prod": database.dsn("pgcollector"), "down": "host=127.0.0.1 port=1 user=x dbname=x"}
    with Daemon(new_directory("top"), dsns, sampling={"budget": "off"}) as one:
        one.sampled()
        yield one


def top(agent, *words, size=(80, 24), **environment):
    """Run it on a terminal of this size."""
    there = {**agent.environment, "TERM": "xterm", **environment}
    return Running([*PGC, "top", *words, "--config", str(agent.file)], there, agent.home, size)


def test_the_keys_do_what_the_help_says_and_q_gives_the_terminal_back(agent, database):
    with blocked_chain(database) as chain, top(agent) as view:
        began = time.monotonic()
        view.sees("PostgreSQL 1", f"└ {chain.middle}", f"└ {chain.tail}", "Lock/transactionid")
        assert time.monotonic() - began < 10  # 0.5 s on a machine that does nothing else
        view.sees("agent ", "ShareLock on transac", "waits", "idle in transaction", " over ")
        for _ in range(3):
            database.query("select count(*) from pg_class where relname <> 'canary-4711'")
        view.press("ns")
        view.sees("esc all", "select count(*) from pg_class", "mean ms")
        view.press("p")
        view.sees("by calls")
        view.press("a")
        view.sees("Sessions at work", "update blocked set v = ?")
        view.press("\t")
        view.sees("b Blocked", "esc all")
        view.press("?")
        view.sees("this help")
        view.press("?\x1b")
        view.sees("d Databases", "a b s d r v panel")
        view.resize(132, 40)
        view.sees("conflicts", "middle", f"update {chain.table} set v = ? where id = ?")
        view.press("+")
        view.sees("every 1s")
        view.press(" ")
        view.sees("paused")
        view.press(" \x1b[C")
        view.sees("down 2/2", "DOWN", "is down: ", "127.0.0.1")
        view.press("1")
        view.sees("prod 1/2", f"└ {chain.middle}")
        view.press("q")
        assert view.process.wait(10) == 0
        until(view.restored, what="the terminal is as it was")
        assert view.screen.strange == []
        assert "canary" not in view.raw
        assert "Traceback" not in view.raw


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGQUIT, 131)],
    ids=["TERM", "INT", "QUIT"],
)
def test_a_signal_ends_it_and_the_terminal_is_as_it_was(agent, number, code):
    with top(
        agent, NO_COLOR="1", LANG="C", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"
    ) as view:
        view.sees("Databases", "commits/s")
        assert not view.restored()
        view.process.send_signal(number)
        assert view.process.wait(10) == code
        until(view.restored, what="the terminal is as it was")
        assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", view.raw)  # NO_COLOR
        assert view.raw.isascii()
        assert "Traceback" not in view.raw


def test_it_can_be_stopped_and_goes_on_where_it_was(agent):
    with top(agent) as view:
        view.sees("Databases", "commits/s")
        process = psutil.Process(view.process.pid)
        view.process.send_signal(signal.SIGTSTP)
        until(lambda: process.status() == psutil.STATUS_STOPPED, what="it is stopped")
        until(view.restored, what="the terminal is as it was")
        view.process.send_signal(signal.SIGCONT)
        until(lambda: not view.restored(), what="it has the terminal again")
        view.sees("Databases", "commits/s")
        view.press("q")
        assert view.process.wait(10) == 0
        until(view.restored, what="the terminal is as it was")


def test_once_names_who_blocks_whom_for_people_and_for_machines(agent, database):
    with blocked_chain(database) as chain:
        # What was taken for a view a moment ago, before the chain, serves the next one, too.
        until(lambda: f"└ {chain.middle}" in agent.pgc("top", "--once").stdout, deadline=30)
        with concurrent.futures.ThreadPoolExecutor(2) as together:
            people = together.submit(agent.pgc, "top", "--once")
            machines = together.submit(agent.pgc, "top", "--json", "--target", "prod")
        assert people.result().returncode == 0, people.result().stderr
        assert f"└ {chain.middle}" in people.result().stdout
        assert "\x1b" not in people.result().stdout
        told = json.loads(machines.result().stdout)
        blocked = {one["pid"]: one["blocked_by"] for one in told["blocking"]}
        assert blocked == {chain.head: [], chain.middle: [chain.head], chain.tail: [chain.middle]}
        assert told["status"]["process"]["pid"] == agent.process.pid
        assert told["statements_over_s"] > 0
        assert not any("pgc:" in (one["query"] or "") for one in told["statements"])


def test_what_cannot_be_shown_is_told_with_its_remedy_and_its_code(agent, tmp_path):
    done = agent.pgc("top", "--once", "--target", "down")
    assert done.returncode == 69
    assert "down is down: " in done.stdout
    done = agent.pgc("top", "--once", "--target", "\x1bx")
    assert done.returncode == 2
    assert "There are: prod, down" in done.stderr
    assert "\x1b" not in done.stderr
    done = agent.pgc("top")
    assert (done.returncode, "--once" in done.stderr) == (2, True)
    alone = Daemon(tmp_path, {"prod": "host=127.0.0.1 port=1 dbname=x"})
    done = alone.pgc("top", "--once")
    assert done.returncode == 69
    assert "no agent runs here. Start it: pgc start" in done.stderr


def test_an_agent_that_ends_meanwhile_is_told_and_found_again(database, tmp_path):
    daemon = Daemon(tmp_path, {"prod": database.dsn("plain")}, sampling={"budget": "off"})
    with daemon, contextlib.ExitStack() as stack:
        daemon.sampled()
        view = stack.enter_context(top(daemon, "--interval", "0.5"))
        view.sees("Databases", "agent ok")
        daemon.process.kill()
        view.sees("The agent cannot be asked", "no agent runs here", "Databases")
        daemon.process.wait(10)
        with daemon:
            view.sees("agent ok", "tps")
            until(lambda: "cannot be asked" not in view.screen.text, what="it is found again")
            view.press("q")
            assert view.process.wait(10) == 0


def test_nothing_is_kept_when_nobody_watches_any_more_and_no_session_more_is_used(
    database, fault_proxy, tmp_path
):
    proxy = fault_proxy(database.server)
    path = tmp_path / "pgc.sock"
    dsn = database.dsn("plain", port=proxy.port)  # pgcollector may have two sessions only
    with running(configuration({"prod": dsn}, tmp_path / "out", every=30.0), path) as one:
        until(lambda: turned(one.targets["prod"], one.layout.jobs), what="a turn of each")
        looks = ("activity", "locks", "database", "statements", "vacuum")
        assert control.ask(WatchRequest(look=looks, texts=("1", "2")), path)

        def looked_at():
            reply = control.ask(WatchRequest(target="prod", after=0), path)
            return reply and any('"set":"statements"' in line for line in reply.lines)

        until(looked_at, what="the first picture is there")
        assert one.mirror.since("prod", 0).lines
        assert proxy.peak <= 2
        produced = one.buffer.account().produced
        control.ask(WatchRequest(after=0, look=("statements",)), path)
        assert one.buffer.account().produced == produced  # what is looked at does not leave
        one.mirror._until["prod"] = one.clock.monotonic()  # as `HOLDS` seconds later
        control.ask(StatusRequest(), path)  # it looks after each question, and every 5 s
        until(lambda: not one.mirror.since("prod", 0).lines, deadline=10, what="it lets go")
        assert HOLDS == 30
