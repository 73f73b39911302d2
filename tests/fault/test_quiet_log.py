"""What the log says does not grow with the rounds: changes are told, not events."""

import io
import json
import logging

import msgspec
import pytest

from pg_collector import logs
from pg_collector.agent import Agent
from pg_collector.config.model import Database, Log, Postgres
from pg_collector.plan import Grant, OpenGrant
from pg_collector.privacy.scrub import scrub
from pg_collector.secret import Secret
from tests.support.agents import configuration
from tests.support.until import until

EVERY = 0.05  # seconds
QUICK = ("activity", "database", "bgwriter")
FIRST = 10  # rounds in which everything has been told
ROUNDS = 60


class Swift(OpenGrant):
    """Every sampler, as often as one likes."""

    def grant(self) -> Grant | None:
        open_grant = super().grant()
        assert open_grant is not None
        return msgspec.structs.replace(open_grant, floor=0.0)


@pytest.fixture(autouse=True)
def as_it_was():
    yield
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, logs.LineHandler):
            root.removeHandler(handler)
            handler.close()
    logging.captureWarnings(capture=False)


def test_sixty_rounds_say_no_more_than_the_first(newest_server, tmp_path):
    stream = io.StringIO()
    logs.setup(Log(repeat_window=0.0), scrub=scrub, stream=stream)
    config = configuration({"prod": newest_server.dsn()}, tmp_path, every=EVERY)
    dead = Database(name="dead", postgres=Postgres(conn_string=Secret("host=127.0.0.1 port=1")))
    few = [msgspec.structs.replace(one, samplers=QUICK) for one in (*config.databases, dead)]
    config = msgspec.structs.replace(config, databases=tuple(few))
    with Agent(config, Swift()) as agent:
        taken = agent.metrics.samples_total.labels("prod", "activity")

        def rounds(count: int) -> None:
            until(lambda: taken._value.get() >= count, 30, f"{count} rounds")

        rounds(FIRST)
        until(lambda: agent.targets["dead"].trouble, what="nobody answers for the other target")
        sender = agent.delivery.sender
        assert sender is not None
        until(lambda: sender._synced, what="all that the start gathered is delivered")
        said = stream.getvalue().splitlines()
        rounds(int(taken._value.get()) + ROUNDS)
        later = stream.getvalue().splitlines()[len(said) :]
    messages = {json.loads(line)["msg"] for line in later}
    # Its breaker may open in between, which is a change.
    assert messages <= {"circuit breaker opened"}
    assert len(later) <= 1
    assert all(list(json.loads(line))[:3] == ["ts", "level", "msg"] for line in said)
