"""A server on which sampling takes more than it may: it becomes rarer, says so, and comes back."""

import signal

import pytest

from tests.support.agents import written
from tests.support.daemon import Daemon
from tests.support.sampling import SAMPLERS
from tests.support.until import until

pytestmark = pytest.mark.ends

INTERVAL = 'sampler_interval_seconds{sampler="%s",target="prod"}'


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
        daemon.signal(signal.SIGTERM)
        assert daemon.ended()[0] == 0
    every = {line.head["every_s"] for line in written(daemon.output, "prod", "activity")}
    assert every >= {1.0}
