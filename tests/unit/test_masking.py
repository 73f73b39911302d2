"""What masks follows the configuration and the plan; the secret of level full stays where it is."""

import os
import stat
import threading
from pathlib import Path

import pytest

from pg_collector.clock import SystemClock
from pg_collector.config.kinds import MaskingLevel
from pg_collector.config.model import Config, Database, Security
from pg_collector.errors import ConfigurationError, StateError
from pg_collector.health import vitals
from pg_collector.masking import FILE, Masking, as_configured, installation_secret
from pg_collector.metrics import Metrics
from pg_collector.plan import DEMO, Features, Grant, OpenGrant
from pg_collector.privacy.mask import Masker
from pg_collector.privacy.segments import TOKEN

OPEN = OpenGrant().grant()


def config(level: str = "basic", *patterns: str) -> Config:
    security = Security(query_masking_level=MaskingLevel(level), masking_patterns=patterns)
    return Config(databases=(Database(name="prod"),), security=security)


@pytest.fixture
def masking(tmp_path: Path) -> Masking:
    return Masking(Metrics(SystemClock()), tmp_path)


def found(masking: Masking, kind: str) -> float | None:
    registry = masking._metrics.registry
    return registry.get_sample_value("pg_collector_pii_found_total", {"kind": kind})


@pytest.mark.parametrize("level", ["none", "full", "custom"])
def test_a_level_that_the_plan_lacks_is_basic(
    masking: Masking, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    asked = config(level, *(["ssn"] if level == "custom" else []))
    for grant in (None, DEMO):
        masking.follow(asked, grant)
        assert masking.masker.level == "basic" or (grant is None and level != "none")
    assert "the plan has no" in caplog.text
    masking.follow(asked, OPEN)
    assert masking.masker.level == level
    masking.follow(asked, DEMO)
    assert masking.masker.level == "basic"


def test_the_same_terms_keep_the_masker_and_its_cache(masking: Masking) -> None:
    masking.follow(config(), OPEN)
    first = masking.masker
    masking.follow(config(), OPEN)
    assert masking.masker is first
    masking.follow(config("custom", "ssn"), OPEN)
    assert masking.masker is not first


def test_the_plan_says_how_much_personal_data_is_looked_for(masking: Masking) -> None:
    phone, address = "call +49 30 1234567", "mail bob@x.com"
    masking.follow(config(), DEMO)
    assert masking.masker.free(phone) == phone
    assert masking.masker.free(address) == "mail <email>"
    masking.follow(config(), OPEN)
    assert masking.masker.free(phone) == "call <phone>"
    assert (found(masking, "email"), found(masking, "phone")) == (1.0, 1.0)
    odd = Grant(plan="odd", samplers={}, max_databases=1, features=Features(pii="off"))
    masking.follow(config(), odd)
    assert masking.masker.free(address) == "mail <email>", "it cannot be switched off"


def test_patterns_that_cannot_be_used_change_nothing(masking: Masking) -> None:
    masking.follow(config(), OPEN)
    before = masking.masker
    with pytest.raises(ConfigurationError):
        masking.follow(config("custom", "re:["), OPEN)
    assert masking.masker is before


def test_level_none_is_told_in_the_health_report(masking: Masking) -> None:
    masking.follow(config(), OPEN)
    assert masking.vital().reason == ""
    masking.follow(config("none"), OPEN)
    assert "as they are" in masking.vital().reason


def test_the_secret_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    secret = installation_secret(tmp_path)
    assert len(secret) == 32
    assert installation_secret(tmp_path) == secret
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == [FILE]  # noqa: PTH208  # names are enough


def test_of_processes_that_make_it_together_one_wins(tmp_path: Path) -> None:
    made: list[bytes] = []
    together = threading.Barrier(8)

    def make() -> None:
        together.wait(10)
        made.append(installation_secret(tmp_path))

    threads = [threading.Thread(target=make, name=f"make-{n}") for n in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(10)
    assert len(made) == 8
    assert set(made) == {installation_secret(tmp_path)}


def test_a_secret_that_is_damaged_or_cannot_be_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE).write_bytes(b"short")
    with pytest.raises(StateError, match="5 bytes instead of 32") as damaged:
        installation_secret(tmp_path)
    assert damaged.value.remedy
    with pytest.raises(StateError, match="cannot be kept") as refused:
        installation_secret(tmp_path / FILE / "below")
    assert refused.value.remedy
    # Names are hidden all the same, with tokens that end with this process.
    masking = Masking(Metrics(SystemClock()), tmp_path)
    masking.follow(config("full"), OPEN)
    assert TOKEN.fullmatch(masking.masker.name("orders"))
    assert "5 bytes instead of 32" in caplog.text
    assert masking.vital().state is vitals.State.DEGRADED


def test_a_state_directory_is_made(tmp_path: Path) -> None:
    assert installation_secret(tmp_path / "a" / "b") == installation_secret(tmp_path / "a" / "b")


def test_a_command_makes_no_secret_and_uses_the_agents(tmp_path: Path) -> None:
    asked = config("full")
    assert TOKEN.fullmatch(as_configured(asked, tmp_path).name("t"))
    assert list(tmp_path.iterdir()) == []
    secret = installation_secret(tmp_path)
    assert as_configured(asked, tmp_path).name("t") == Masker("full", secret=secret).name("t")


def test_which_tags_are_kept_follows_the_configuration(masking: Masking, tmp_path: Path) -> None:
    text = "select 1 /*action='go',route='here'*/"
    masking.follow(config(), OPEN)
    assert masking.masker.tags(text) is None
    security = Security(keep_query_tags=("route",))
    asked = Config(databases=(Database(name="prod"),), security=security)
    before = masking.masker
    masking.follow(asked, OPEN)
    assert masking.masker is not before
    assert masking.masker.tags(text) == {"route": "here"}
    assert as_configured(asked, tmp_path).tags(text) == {"route": "here"}
    masking.follow(config(), OPEN)
    assert masking.masker.tags(text) is None
