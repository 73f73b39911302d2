"""A campaign does every trial once, whatever the trials, or it itself, run into."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.fault.campaign import Campaign, Record, Result, Trial, main, summarize, table
from tests.support.until import until

ROOT = Path(__file__).parents[2]


def honest(_kind: str, seed: int, directory: Path) -> Result:
    (directory / "scratch").touch()
    return Result({"lines": seed, "max_seconds": seed / 10})


def violated(_kind: str, seed: int, directory: Path) -> Result:
    (directory / "evidence").touch()
    assert seed != 2, "lost: 17"
    return Result({"lines": 1})


def broken(_kind: str, _seed: int, _directory: Path) -> Result:
    raise RuntimeError("cannot be carried out")


def killed(_kind: str, _seed: int, _directory: Path) -> Result:
    os.kill(os.getpid(), signal.SIGBUS)
    raise AssertionError("still here")


def hanging(_kind: str, _seed: int, directory: Path) -> Result:
    with subprocess.Popen(["sleep", "infinity"]) as child:
        (directory / "child").write_text(str(child.pid))
    return Result({})


def released(_kind: str, seed: int, directory: Path) -> Result:
    """Wait until somebody makes a file, and count the attempts."""
    with (directory.parent / f"attempts-{seed}").open("a") as attempts:
        attempts.write(f"{os.getpid()} ")
    until(lambda: (directory.parent / "go").exists() or seed == 1, 60.0)
    return Result({})


TRIALS: dict[str, Trial] = {
    "honest": honest, "violated": violated, "broken": broken, "killed": killed,
    "hanging": hanging, "released": released,
}  # fmt: skip


def run(place: Path, *, longest: float = 60.0, **counts: int) -> dict[tuple[str, int], Record]:
    campaign = Campaign(TRIALS, counts, place, longest=longest, out=io.StringIO())
    return {(one.kind, one.seed): one for one in campaign.run()}


def test_every_trial_leaves_one_record_and_no_directory(tmp_path: Path):
    records = run(tmp_path, honest=5)
    assert [one.figures["lines"] for one in records.values()] == [1, 2, 3, 4, 5]
    assert not any(one.violation for one in records.values())
    assert len((tmp_path / "trials.jsonl").read_text().splitlines()) == 5
    assert not list(tmp_path.glob("honest-*"))


def test_a_violation_is_recorded_and_its_directory_kept(tmp_path: Path):
    records = run(tmp_path, violated=3)
    assert "lost: 17" in records["violated", 2].violation
    assert not records["violated", 3].violation
    assert (tmp_path / "violated-2" / "evidence").exists()
    assert not (tmp_path / "violated-3").exists()


def test_a_trial_that_cannot_be_carried_out_or_dies_is_a_violation(tmp_path: Path):
    records = run(tmp_path, broken=1, killed=1, honest=2)
    assert "cannot be carried out" in records["broken", 1].violation
    assert "SIGBUS" in records["killed", 1].violation
    assert not records["honest", 2].violation


def test_a_trial_that_hangs_is_ended_with_what_it_started(tmp_path: Path):
    records = run(tmp_path, longest=3.0, hanging=1)
    assert records["hanging", 1].violation == "not done within 3 s"
    child = Path("/proc", (tmp_path / "hanging-1" / "child").read_text())
    until(lambda: not child.exists() or "Z (zombie)" in (child / "status").read_text())


def test_a_rerun_does_what_is_left(tmp_path: Path):
    first = run(tmp_path, honest=2, violated=2)
    with (tmp_path / "trials.jsonl").open("a") as state:
        state.write('{"kind":"honest","se')  # the campaign was killed here
    second = run(tmp_path, honest=4, violated=2)
    assert len(second) == 6
    for one, record in first.items():
        assert second[one] == record, "nothing is done twice"
    assert len((tmp_path / "trials.jsonl").read_text().splitlines()) == 6


def test_a_killed_campaign_goes_on_where_it_was(tmp_path: Path):
    program = (
        "from pathlib import Path; import sys; from tests.fault.campaign import main\n"
        "from tests.fault.test_campaign import TRIALS\n"
        "if __name__ == '__main__': main(TRIALS, sys.argv[1:])\n"
    )
    script = tmp_path / "nightly.py"
    script.write_text(program)
    place = tmp_path / "place"
    with subprocess.Popen(
        [sys.executable, str(script), str(place), "released=3"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as process:
        attempts = [place / f"attempts-{n}" for n in (1, 2, 3)]
        until(lambda: all(one.exists() for one in attempts), 30.0)
        process.kill()
    for attempt in attempts[1:]:
        orphan = Path("/proc", attempt.read_text().strip())
        until(lambda orphan=orphan: not orphan.exists(), what="its trials ended with it")  # type: ignore[misc]
    (place / "go").touch()
    records = run(place, released=3)
    assert len(records) == 3
    assert [len(one.read_text().split()) for one in attempts] == [1, 2, 2]


def test_two_campaigns_do_not_share_a_directory(tmp_path: Path):
    first = threading.Thread(target=run, args=(tmp_path,), kwargs={"released": 2})
    first.start()
    until((tmp_path / "attempts-2").exists)
    with pytest.raises(BlockingIOError):
        run(tmp_path, honest=1)
    (tmp_path / "go").touch()
    first.join(20)
    assert not first.is_alive()


def test_the_command_line_writes_a_summary_and_fails_on_a_violation(tmp_path: Path):
    out = io.StringIO()
    assert main(TRIALS, [str(tmp_path / "a"), "honest=3"], out) == 0
    assert "honest 3/3, 0 violations" in out.getvalue()
    assert main(TRIALS, [str(tmp_path / "b"), "violated=2", "honest=1"], out) == 1
    assert "lost: 17" in out.getvalue()
    (summary, _) = json.loads((tmp_path / "b" / "summary.json").read_text())
    assert (summary["kind"], summary["trials"], summary["violations"]) == ("violated", 2, 1)
    assert "| violated | 2 | 1 |" in (tmp_path / "b" / "summary.md").read_text()


@pytest.mark.parametrize("arguments", [[], ["place"], ["place", "unknown=1"], ["place", "honest"]])
def test_wrong_arguments_are_explained(arguments: list[str]):
    out = io.StringIO()
    assert main(TRIALS, arguments, out) == 2
    assert "kinds: honest, violated" in out.getvalue()


def test_figures_are_added_up_and_extremes_kept():
    records = [
        Record("kills", 1, 2.0, "", {"committed": 1500, "max_reopen_ms": 12.5, "min_rate": 7}),
        Record("kills", 2, 3.0, "", {"committed": 500, "max_reopen_ms": 8.0, "min_rate": 9}),
        Record("cuts", 1, 1.0, "order", {"duplicates": 0}),
    ]
    summaries = summarize(records)
    assert summaries[0].figures == {"committed": 2000, "max_reopen_ms": 12.5, "min_rate": 7}
    assert summaries[0].seconds == 5.0
    assert table(summaries) == (
        "| kind | trials | violations | committed | max reopen ms | min rate | duplicates |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| kills | 2 | 0 | 2,000 | 12.5 | 7 | - |\n"
        "| cuts | 1 | 1 | - | - | - | 0 |\n"
    )
