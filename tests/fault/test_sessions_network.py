"""Packets that are dropped on the way, and name servers that never answer (needs root)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.lab.home import MAJORS
from tests.support.lab.server import Server
from tests.support.netns import AGENT, Network
from tests.support.until import until

pytestmark = pytest.mark.root

# Runs inside the agent's namespace: opens a session, then takes turns as told on its input.
PROGRAM = """
import json, sys, threading, time
from pg_collector.errors import CollectorError
from pg_collector.pg.lanes import Lane
from tests.support.target import target
dsn, turns, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
one = Lane(target(dsn, connect_timeout=2.0, query_timeout=1.5), "fast",
           relations=frozenset(), stopping=threading.Event())
for turn in range(turns):
    started = time.monotonic()
    try:
        one.session().fetch("select 1")
        outcome = "ok"
    except CollectorError as error:
        outcome = f"{type(error).__name__}: {error}"
        if hasattr(error, "sqlstate") and one.connected:
            one.drop(error)
    print(json.dumps([outcome, time.monotonic() - started]), flush=True)
    if turn + 1 < turns:
        sys.stdin.readline()
one.close()
"""


@pytest.fixture
def far(netns: Network) -> Iterator[Server]:
    """A server behind the cable."""
    with Server(
        MAJORS[-1], host=netns.server.address, inside=netns.server.prefix,
        hba=[f"host all all {AGENT}/32 trust"],
    ) as server:  # fmt: skip
        yield server
