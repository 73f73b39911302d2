"""What a target says of its server, and what of that is masked."""

from types import SimpleNamespace
from typing import Any, cast

from pg_collector.config.model import Database
from pg_collector.introduction import Introduction
from pg_collector.pg.session import Session
from pg_collector.privacy.mask import Masker
from pg_collector.privacy.pii import Detector
from pg_collector.sample import Facts
from pg_collector.samplers._sampler import LaneName
from pg_collector.schedule import Job
from pg_collector.spot import Tray
from tests.support.hand_clock import HandClock
from tests.support.sampling import Line

FACTS = Facts(
    version=180000,
    database="shop",
    role="bob",
    in_recovery=False,
    columns={},
    settings={"cluster_name": "acme of bob@x.com", "max_connections": "100"},
)


def test_names_that_people_gave_are_masked_and_told_anew_when_the_masker_is_another() -> None:
    tray, maskers = Tray(), [Masker(detector=Detector())]
    introduction = Introduction(Database(name="prod"), tray, HandClock(), lambda: maskers[-1])
    job = Job("prod", "activity", 1.0, LaneName.FAST)
    session = cast("Session", SimpleNamespace(facts=FACTS))

    def told() -> dict[str, Any]:
        (row,) = Line(tray.lines[-1]).rows
        return row

    introduction.tell(job, session)
    introduction.tell(job, session)
    assert len(tray.lines) == 1
    assert told()["current_user"] == "bob"
    assert told()["settings"] == {"cluster_name": "acme of <email>", "max_connections": "100"}
    maskers.append(Masker("full", secret=bytes(32)))
    introduction.tell(job, session)
    assert len(tray.lines) == 2
    assert told()["current_user"] == maskers[-1].name("bob")
    assert b"acme" not in tray.lines[-1]
