"""A server on which sampling takes more than it may: it becomes rarer, says so, and comes back."""

import signal

import pytest

from tests.support.agents import written
from tests.support.daemon import Daemon
from tests.support.sampling import SAMPLERS
from tests.support.until import until

pytestmark = pytest.mark.ends

INTERVAL = 'sampler_interval_seconds{sampler="%s",target="prod"}'


def paces(output, sampler):
    """Return the intervals that each set's lines carried, in their order."""
    found: dict[str, list[float]] = {}
    for line in written(output, "prod", sampler):
        found.setdefault(line.set, []).append(line.head["every_s"])
    return found.values()


def test_sampling_that_takes_too_much_becomes_rarer_says_so_and_comes_back(server, tmp_path):
    sampling = {**dict.fromkeys(SAMPLERS, "1s"), "budget": "0.1%"}
    daemon = Daemon(tmp_path, {"prod": server.dsn("pgcollector")}, sampling=sampling)
    with daemon:
        until(
            lambda: any((daemon.metric(INTERVAL % one) or 0) >= 2 for one in SAMPLERS),
            deadline=30,
            what="one is slowed",
        )
        until(
            lambda: daemon.metric('sampler_skipped_total{reason="budget",sampler="vacuum"}') or 0,
            deadline=30,
            what="turns are left out",
        )

        def told():
            rows = [line.rows[0] for line in written(daemon.output, "prod", "sampler_state")]
            return [row for row in rows if row["reason"] == "budget"]

        until(told, deadline=30, what="it is told")
        assert told()[0]["state"] == "limited"
        assert "sampling.budget" in told()[0]["remedy"]
        assert any("of the server's time" in one["msg"] for one in daemon.said())
        daemon.keys["sampling"]["budget"] = "off"
        daemon.write()
        daemon.signal(signal.SIGHUP)
        until(
            lambda: all(daemon.metric(INTERVAL % one) in {1.0, None} for one in SAMPLERS),
            deadline=60,
            what="all are back",
        )
        slowed = {row["sampler"] for row in told()}
        until(
            lambda: any(
                max(every) >= 2 and every[-1] == 1.0
                for one in slowed
                for every in paces(daemon.output, one)
            ),
            what="the lines of one say that they were rarer, and are no more",
        )
        daemon.signal(signal.SIGTERM)
        assert daemon.ended()[0] == 0
