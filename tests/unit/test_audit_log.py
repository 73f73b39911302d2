"""The audit log: its file, when it is written, what becomes of it when it is full or lost."""

import json
import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pg_collector.audit_log import KEPT, AuditLog, RotatingSink, records
from pg_collector.config.model import Config, Database, Security
from pg_collector.errors import StateError
from pg_collector.health import vitals
from pg_collector.health.guests import Seldom
from pg_collector.plan import DEMO, OpenGrant

OPEN = OpenGrant().grant()


@dataclass
class Bench:
    path: Path
    audit: AuditLog

    def config(self, *, wanted: bool = True, path: Path | None = None) -> Config:
        security = Security(audit_logging=wanted, audit_log_path=path or self.path)
        return Config(databases=(Database(name="prod"),), security=security)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def said(self) -> list[str]:
        return [line["msg"] for line in self.lines()]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    found = Bench(tmp_path / "audit.log", AuditLog())
    yield found
    found.audit.close()
    assert records.handlers == []


def test_records_are_lines_of_json_for_their_owner_only(bench: Bench) -> None:
    bench.audit.follow(bench.config(), OPEN)
    records.info("let in: %s", "a", extra={"uid": 5, "url": "postgres://u:hunter2@h/db"})
    bench.audit.close()
    begins, told, ends = bench.lines()
    assert (begins["msg"], ends["msg"]) == ("the audit log begins", "the audit log ends")
    assert begins["uid"] == os.getuid()
    assert (told["msg"], told["uid"], told["url"]) == ("let in: a", 5, "postgres://?@h/db")
    assert list(told)[:4] == ["ts", "level", "msg", "component"]
    assert stat.S_IMODE(bench.path.stat().st_mode) == 0o600


def test_it_is_written_where_it_is_wanted_and_the_plan_has_it(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    for config, grant in (
        (bench.config(wanted=False), OPEN),
        (bench.config(), DEMO),
        (bench.config(), DEMO),
        (bench.config(), None),
    ):
        bench.audit.follow(config, grant)
        assert not bench.path.exists()
    assert caplog.text.count("the plan demo has no audit log") == 1
    bench.audit.follow(bench.config(), OPEN)
    records.info("one")
    bench.audit.follow(bench.config(), OPEN)
    bench.audit.follow(bench.config(), DEMO)
    records.info("two")
    assert bench.said() == ["the audit log begins", "one", "the audit log ends"]


def test_another_path_is_followed(bench: Bench, tmp_path: Path) -> None:
    bench.audit.follow(bench.config(), OPEN)
    bench.audit.follow(bench.config(path=tmp_path / "other.log"), OPEN)
    assert bench.said()[-1] == "the audit log ends"
    assert (tmp_path / "other.log").exists()


def test_a_level_of_the_agents_own_log_leaves_it_whole(bench: Bench) -> None:
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        bench.audit.follow(bench.config(), OPEN)
        records.info("one")
    finally:
        root.setLevel(before)
    assert bench.said()[-1] == "one"


def test_a_path_that_cannot_be_written_is_refused_and_nothing_changes(bench: Bench) -> None:
    bench.audit.follow(bench.config(), OPEN)
    for path in (bench.path.parent, bench.path / "below", Path("/proc/nowhere/audit.log")):
        with pytest.raises(StateError, match="cannot write the audit log to") as refused:
            bench.audit.follow(bench.config(path=path), OPEN)
        assert refused.value.remedy
    records.info("one")
    assert bench.said()[-1] == "one"


def test_later_it_is_told_and_the_agent_goes_on(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    config = bench.config(path=bench.path.parent)
    for _ in range(3):
        bench.audit.follow_later(config, OPEN)
    assert caplog.text.count("cannot write the audit log") == 1
    assert bench.audit.vital().state is vitals.State.DEGRADED
    bench.audit.follow_later(bench.config(), OPEN)
    assert bench.audit.vital() == vitals.OK


def test_a_full_file_is_put_aside_and_a_few_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    sink = RotatingSink(path, largest=100)
    for number in range(40):
        sink.put(f"line {number:03d} {'x' * 30}\n", "info")
    sink.close()
    names = sorted(one.name for one in tmp_path.iterdir())
    assert names == ["audit.log", *(f"audit.log.{number}" for number in range(1, KEPT + 1))]
    newest = [path, *(Path(f"{path}.{number}") for number in range(1, KEPT + 1))]
    kept = [line for file in reversed(newest) for line in file.read_text().splitlines()]
    numbers = [int(line.split()[1]) for line in kept]
    assert numbers == list(range(numbers[0], 40))
    for file in newest:
        assert file.stat().st_size <= 100
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_file_that_others_could_read_is_closed_to_them(bench: Bench) -> None:
    bench.path.touch(0o644)
    bench.audit.follow(bench.config(), OPEN)
    assert stat.S_IMODE(bench.path.stat().st_mode) == 0o600


def test_what_was_lost_is_told_in_json(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    sink = RotatingSink(folder / "audit.log")
    folder.rename(tmp_path / "away")  # nobody can open it anew
    sink.put("{}\n", "info")
    sink.put("{}\n", "info")
    (tmp_path / "away").rename(folder)
    sink.put("{}\n", "info")
    sink.close()
    lines = [json.loads(line) for line in (folder / "audit.log").read_text().splitlines()]
    assert [one.get("msg") for one in lines] == ["2 records were lost", None]


def test_a_file_that_somebody_moved_away_is_made_anew(bench: Bench) -> None:
    bench.audit.follow(bench.config(), OPEN)
    bench.path.rename(bench.path.with_suffix(".old"))
    records.info("after")
    assert bench.said() == ["after"]


def test_the_same_refusal_is_told_once_a_minute() -> None:
    told: list[tuple[str, int]] = []
    now = [0.0]
    seldom = Seldom(lambda thing, times: told.append((thing, times)), lambda: now[0])
    for _ in range(5):
        seldom.note("a")
    seldom.note("b")
    assert told == [("a", 1), ("b", 1)]
    now[0] = 61.0
    seldom.note("a")
    assert told[2:] == [("a", 5)]
    for number in range(1_000):
        seldom.note(str(number))
    assert len(seldom._told) <= Seldom.MOST
