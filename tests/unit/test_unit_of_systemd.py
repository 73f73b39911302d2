"""What `pgc check` takes from the unit, as systemd would give it to the agent."""

import os
import signal
import stat
from pathlib import Path

import pytest

from pg_collector.checkup import unit
from pg_collector.checkup.finding import Level
from tests.support.until import until

OURS = Path(__file__).parents[2] / "packaging" / "linux" / "pg-collector.service"


@pytest.fixture
def places(tmp_path: Path) -> list[Path]:
    """Give directories of units, the first going first; the packages' unit is in the last."""
    found = [tmp_path / "etc", tmp_path / "lib"]
    for one in found:
        (one / f"{unit.NAME}.d").mkdir(parents=True)
    text = OURS.read_text()
    for name in ("api_key", "postgres_password"):
        text = text.replace(f"/etc/pg-collector/credentials/{name}", str(tmp_path / name))
    for name in ("default", "sysconfig"):
        text = text.replace(f"/etc/{name}/pg-collector", str(tmp_path / name))
    (found[1] / unit.NAME).write_text(text)
    return found


def drop_in(places: list[Path], text: str, name: str = "override.conf") -> None:
    (places[0] / f"{unit.NAME}.d" / name).write_text(f"[Service]\n{text}\n")


def test_without_a_unit_nothing_is_given(tmp_path):
    assert unit.given([tmp_path]) == unit.Given()
    assert [*unit.findings(unit.Given())] == []


def test_the_packages_unit_gives_what_is_there_and_misses_nothing(places, tmp_path):
    assert unit.given(places)[1:5] == ({}, {}, (), ()), "blank credentials count as none"
    (tmp_path / "api_key").write_text("k-1\n")
    (tmp_path / "default").write_text(
        '# a comment\nHTTPS_PROXY=http://p:3128\nQUOTED="two words"\nPLAIN=two words\nnonsense\n'
    )
    found = unit.given(places)
    assert found.credentials == {"api_key": b"k-1\n"}
    assert found.variables == {
        "HTTPS_PROXY": "http://p:3128", "QUOTED": "two words", "PLAIN": "two words"
    }  # fmt: skip
    assert (found.beyond, found.missing) == ((), ())
    (told,) = unit.findings(found)
    assert told.level is Level.OK
    assert "credential api_key" in told.found
    assert "k-1" not in repr(told)


def test_drop_ins_add_and_take_away_as_they_do_for_systemd(places, tmp_path):
    (tmp_path / "default").write_text("DROPPED=1\nKEPT=1\n")
    (tmp_path / "more").write_text("FROM=more\n")
    (tmp_path / "prod").write_text("p-1")
    drop_in(places, f"Environment=A=1 'B=two words'\nLoadCredential=prod:{tmp_path}/prod")
    drop_in(places, f"EnvironmentFile={tmp_path}/more\nUnsetEnvironment=DROPPED", "z.conf")
    found = unit.given(places)
    assert found.variables == {"A": "1", "B": "two words", "KEPT": "1", "FROM": "more"}
    assert found.credentials == {"prod": b"p-1"}
    drop_in(places, "EnvironmentFile=\nLoadCredential=\nSetCredential=", "z.conf")
    found = unit.given(places)
    assert found.variables == {"A": "1", "B": "two words"}
    assert found.credentials == {}


def test_what_only_systemd_reads_and_what_is_not_there_is_named(places, tmp_path):
    drop_in(
        places,
        f"LoadCredentialEncrypted=api_key:{tmp_path}/api_key.cred\n"
        f"LoadCredential=prod:{tmp_path}/absent\nEnvironmentFile={tmp_path}/absent",
    )
    well, *ill = unit.findings(unit.given(places))
    assert well.level is Level.OK
    assert [one.level for one in ill] == [Level.FAIL, Level.FAIL, Level.WARN]
    assert "EnvironmentFile=" in ill[0].found
    assert "LoadCredential=prod:" in ill[1].found
    assert "LoadCredentialEncrypted=api_key" in ill[2].found
    assert ill[2].remedy.startswith("systemd-run --pty --wait")
    assert f"EnvironmentFile=-{tmp_path}/default" in ill[2].remedy
    assert f"LoadCredentialEncrypted=api_key:{tmp_path}/api_key.cred" in ill[2].remedy


def test_what_is_set_is_read_as_systemd_reads_it_or_named(places):
    drop_in(
        places,
        "SetCredential=a:two\\swords \\x41 \\\\s ü\nSetCredential=b:\\u20ac\nSetCredential=c:\\x",
    )
    found = unit.given(places)
    assert found.credentials == {"a": b"two words A \\s " + "ü".encode()}
    assert found.beyond == ("SetCredential=b:…", "SetCredential=c:…")


def test_a_source_that_cannot_be_read_is_missing_whatever_is_set_in_its_place(places, tmp_path):
    (tmp_path / "api_key").mkdir()
    assert unit.given(places).missing == (f"LoadCredential=api_key:{tmp_path}/api_key",)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_the_check_leaves_no_credential(number):
    what = unit.Given(credentials={"api_key": b"k-1"})
    before = signal.getsignal(number)
    places = []

    def check() -> None:
        with unit.applied(what):
            places.append(Path(os.environ["CREDENTIALS_DIRECTORY"]))
            os.kill(os.getpid(), number)
            until(lambda: False, what="the signal arrives")

    with pytest.raises(SystemExit) as ended:
        check()
    assert ended.value.code == 128 + number
    assert not places[0].exists()
    assert signal.getsignal(number) is before


def test_a_check_that_outlives_its_terminal_goes_on():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with unit.applied(unit.Given(credentials={"api_key": b"k-1"})):
            os.kill(os.getpid(), signal.SIGHUP)
            assert Path(os.environ["CREDENTIALS_DIRECTORY"]).exists()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_is_given_holds_for_a_while_and_leaves_nothing(monkeypatch):
    monkeypatch.setenv("SAME", "before")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    what = unit.Given(variables={"SAME": "of the unit"}, credentials={"api_key": b"k-1"})
    with unit.applied(what):
        place = Path(os.environ["CREDENTIALS_DIRECTORY"])
        assert (place / "api_key").read_bytes() == b"k-1"
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        assert stat.S_IMODE((place / "api_key").stat().st_mode) == 0o600
        assert os.environ["SAME"] == "of the unit"
    assert not place.exists()
    assert os.environ["SAME"] == "before"
    assert "CREDENTIALS_DIRECTORY" not in os.environ
