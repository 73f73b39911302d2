"""Packets that are dropped on the way, and name servers that never answer (needs root)."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.conftest import chosen_majors
from tests.support.lab.server import Server
from tests.support.netns import AGENT, Network
from tests.support.until import until

pytestmark = pytest.mark.root

CONNECT, QUERY, GRACE = 2.0, 1.5, 0.5

# Runs in the agent's namespace: takes a turn per line of its input, and says how it went.
PROGRAM = f"""
import json, sys, threading, time
from pg_collector.errors import CollectorError, TargetError
from pg_collector.pg.lanes import Lane
from tests.support.target import target
database = target(sys.argv[1], connect_timeout={CONNECT}, query_timeout={QUERY})
lane = Lane(database, "fast", relations=frozenset(), stopping=threading.Event())
for line in sys.stdin:
    started, outcome = time.monotonic(), "ok"
    try:
        lane.session().fetch("select 1")
    except CollectorError as error:
        outcome = f"{{type(error).__name__}}: {{error}}"
        if isinstance(error, TargetError):
            if error.retry_in is not None:
                outcome = "waits"
            lane.drop(error)
    print(json.dumps([outcome, time.monotonic() - started]), flush=True)
lane.close()
"""


class Agent:
    """A lane in the agent's namespace."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def turn(self) -> tuple[str, float]:
        """Take a turn; return what came of it and the seconds it took."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        outcome, seconds = json.loads(self._process.stdout.readline())
        return outcome, seconds

    def turn_that_touches_the_network(self) -> tuple[str, float]:
        """Take turns until one is past its back-off."""
        seen: list[tuple[str, float]] = []

        def tried() -> bool:
            seen.append(self.turn())
            return seen[-1][0] != "waits"

        until(tried, 30.0, "an attempt")
        return seen[-1]


@contextmanager
def agent(network: Network, dsn: str) -> Iterator[Agent]:
    process = subprocess.Popen(
        [*network.agent.prefix, sys.executable, "-c", PROGRAM, dsn],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        try:
            yield Agent(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(20)


@pytest.fixture
def far(netns: Network) -> Iterator[Server]:
    """A server at the other end of the cable."""
    with Server(
        max(chosen_majors()), host=netns.server.address, inside=netns.server.prefix,
        hba=[f"host all all {AGENT}/32 trust"],
    ) as server:  # fmt: skip
        yield server


def test_dropped_packets_hold_neither_a_statement_nor_an_attempt(netns: Network, far: Server):
    with agent(netns, far.dsn()) as one:
        assert one.turn()[0] == "ok"
        netns.server.drop(f"tcp dport {far.port}")
        outcome, seconds = one.turn()
        assert outcome.startswith("TargetDown: the session was lost")
        assert QUERY <= seconds < QUERY + GRACE
        outcome, seconds = one.turn_that_touches_the_network()
        assert "TCP connection" in outcome
        assert CONNECT - 0.1 <= seconds < CONNECT + GRACE
        netns.server.accept()
        until(lambda: one.turn()[0] == "ok", 30.0, "the lane is back by itself")


@pytest.mark.slow
def test_the_server_frees_the_place_of_a_session_that_vanished(netns: Network, far: Server):
    mine = "select pid from pg_stat_activity where usename = 'pgcollector'"
    with agent(netns, far.dsn()) as one:
        assert one.turn()[0] == "ok"
        [lost] = far.query(mine)
        netns.server.drop('iifname "lab0"')
        one.turn()
        until(lambda: lost not in far.query(mine), 35.0, "keepalives ended the session")


def test_rejected_packets_are_known_at_once(netns: Network, far: Server):
    netns.server.run(
        ["nft", "-f", "-"],
        text="table inet lab {\n chain input {\n type filter hook input priority 0;\n"
        f" tcp dport {far.port} reject with icmpx admin-prohibited\n }}\n}}\n",
    )
    with agent(netns, far.dsn()) as one:
        outcome, seconds = one.turn()
        assert outcome.startswith("TargetDown")
        assert seconds < GRACE


def test_silent_name_servers_do_not_hold_an_attempt(netns: Network, far: Server):
    netns.silence_dns()
    with agent(netns, far.dsn(host="db.example.test")) as one:
        outcome, seconds = one.turn()
        assert "cannot be resolved: no answer from the name servers" in outcome
        assert seconds < CONNECT + GRACE
    with agent(netns, far.dsn(host=f"db.example.test,{far.host}", port=f"5432,{far.port}")) as one:
        outcome, seconds = one.turn()
        assert outcome == "ok"
        assert seconds < CONNECT + GRACE
