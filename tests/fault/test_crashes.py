"""A bounded selection of the long run (tests/fault/nightly.py): kills, power cuts, damaged files.

Nothing that was promised is lost, order is kept, payloads are right, what damage took is counted.
"""

from pathlib import Path

import pytest

from tests.fault.crash import trials


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", [1, 2])
def test_an_agent_that_is_killed_again_and_again_loses_nothing(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(trials, "KILLS", 6)
    figures = trials.kills("kills", seed, tmp_path).figures
    assert figures["kills"] == 6
    # One more may arrive: committed, and killed before that was noted.
    assert 0 < figures["lines_committed"] <= figures["lines_delivered"]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_an_agent_and_a_platform_that_are_both_killed_hold_every_number_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(trials, "KILLS", 4)
    figures = trials.pairs("pairs", 1, tmp_path).figures
    assert figures["kills_of_the_agent"] == figures["kills_of_the_platform"] == 4
    assert 0 < figures["lines_committed"] <= figures["lines_delivered"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [pytest.param(1, marks=pytest.mark.long), 3])
def test_after_a_power_cut_at_any_moment_what_was_durable_is_there(seed: int, tmp_path: Path):
    figures = trials.cuts("cuts", seed, tmp_path).figures
    assert figures["images"] == 2 * trials.POINTS
    assert figures["lines_after_cuts"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [pytest.param(1, marks=pytest.mark.long), 3])
def test_whichever_file_is_damaged_the_rest_arrives_and_the_loss_is_counted(
    seed: int, tmp_path: Path
):
    figures = trials.corruptions("corruptions", seed, tmp_path).figures
    assert figures["images"] == trials.POINTS


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_an_hour_without_the_platform_is_delivered_in_order_and_quickly(tmp_path: Path):
    figures = trials.outage(1, tmp_path, hours=1, factor=250.0).figures
    assert figures["lines_delivered"] == 3601
    assert figures["min_lines_a_second_lifted"] >= 1000
    assert figures["max_drain_seconds_lifted"] < 60
