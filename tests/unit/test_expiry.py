"""Certificates that end soon."""

import datetime as dt
import os
import ssl
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from pg_collector import certificates
from pg_collector.config.model import (
    ClientCert,
    Config,
    Database,
    Http,
    HttpTls,
    Platform,
    Postgres,
    Tls,
)
from pg_collector.expiry import ANEW, Expiry
from pg_collector.health.vitals import OK, State
from pg_collector.metrics import Metrics
from pg_collector.secret import Secret
from tests.support.hand_clock import HandClock
from tests.support.pki import Leaf, Pki

DAY = 86_400.0


def config(*, postgres: Path | None = None, http: Path | None = None) -> Config:
    tls = Tls(cert_file=postgres, key_file=postgres)
    conn_string = Secret("host=db1.example.test user=x")
    database = Database(name="prod", postgres=Postgres(conn_string=conn_string, tls=tls))
    return Config(databases=(database,), http=Http(tls=HttpTls(cert_file=http, key_file=http)))


class Bench:
    def __init__(self) -> None:
        self.clock = HandClock()
        self.clock.wall = dt.datetime.now(dt.UTC)
        self.metrics = Metrics(self.clock)
        self.expiry = Expiry(self.metrics, self.clock)

    def ends(self, role: str) -> float | None:
        return self.metrics.registry.get_sample_value(
            "pg_collector_cert_expiry_timestamp_seconds", {"path_role": role}
        )

    def begins(self, role: str) -> float | None:
        return self.metrics.registry.get_sample_value(
            "pg_collector_cert_not_before_timestamp_seconds", {"path_role": role}
        )


@pytest.fixture
def bench() -> Bench:
    return Bench()


def leaf(pki: Pki, days: int, begin: int = -1) -> Leaf:
    return pki.issue(f"leaf{begin}{days}", "pgcollector", client=True, days=(begin, days))


def test_it_warns_thirty_seven_and_one_day_before_the_end_and_after_it(
    bench: Bench, pki: Pki, caplog: pytest.LogCaptureFixture
):
    wanted = config(postgres=leaf(pki, 365).certificate)
    told = []
    for _day in range(370):
        bench.expiry.look(wanted)
        told += [(_day, record.getMessage()) for record in caplog.records]
        vital = bench.expiry.vital()
        assert (vital == OK) is (_day < 335), _day
        assert vital.state is (State.OK if _day < 335 else State.DEGRADED)
        caplog.clear()
        bench.clock.advance(DAY)
    assert [day for day, _ in told] == [335, 358, 364, 365]
    assert "the certificate of postgres:prod" in told[0][1]
    assert "expires in 30 days, on " in told[0][1]
    assert "expired on " in told[-1][1]
    assert "no restart is needed" in bench.expiry.vital().remedy


def test_one_that_lives_shorter_is_not_warned_about_all_its_life(bench: Bench, pki: Pki):
    bench.expiry.look(config(postgres=leaf(pki, 20, begin=0).certificate))
    assert bench.expiry.vital() == OK, "20 days are more than 7"
    bench.clock.advance(13.5 * DAY)
    assert "expires in 6 days" in bench.expiry.vital().reason or (
        "expires in 7 days" in bench.expiry.vital().reason
    )


def test_a_file_that_is_replaced_is_seen_at_the_next_look(
    bench: Bench, pki: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    file = tmp_path / "client.crt"
    file.write_bytes(leaf(pki, 5, begin=-300).certificate.read_bytes())
    bench.expiry.look(config(postgres=file))
    before = bench.ends("postgres:prod")
    assert before == pytest.approx(bench.clock.now().timestamp() + 5 * DAY, abs=60)
    begin = bench.clock.now().timestamp() - 300 * DAY
    assert bench.begins("postgres:prod") == pytest.approx(begin, abs=60)
    assert len(caplog.records) == 1
    other = tmp_path / "new.crt"
    other.write_bytes(leaf(pki, 365).certificate.read_bytes())
    other.replace(file)
    bench.expiry.look(config(postgres=file))
    assert bench.expiry.vital() == OK
    after = bench.ends("postgres:prod")
    assert before is not None
    assert after is not None
    assert after > before + 300 * DAY
    assert len(caplog.records) == 1


def test_what_did_not_change_is_read_once_an_hour(
    bench: Bench, pki: Pki, monkeypatch: pytest.MonkeyPatch
):
    read: list[Path] = []
    actual = certificates.validity

    def counted(path: Path) -> certificates.Validity:
        read.append(path)
        return actual(path)

    monkeypatch.setattr(certificates, "validity", counted)
    wanted = config(postgres=leaf(pki, 300).certificate)
    for _ in range(60):
        bench.expiry.look(wanted)
        bench.clock.advance(ANEW / 30)
    assert len(read) == 2


def test_a_certificate_that_is_configured_no_more_is_forgotten(bench: Bench, pki: Pki):
    one = leaf(pki, 5, begin=-300).certificate
    bench.expiry.look(config(postgres=one, http=one))
    assert "postgres:prod" in bench.expiry.vital().reason
    assert "certificate of http" in bench.expiry.vital().reason
    bench.expiry.look(config(http=one))
    assert "postgres:prod" not in bench.expiry.vital().reason
    assert bench.ends("postgres:prod") is None
    assert bench.begins("postgres:prod") is None
    assert bench.ends("http") is not None


@pytest.mark.parametrize("content", [b"", b"no certificate", b"\xff\xfe\x00"])
def test_a_file_that_is_none_is_left_to_whoever_uses_it(
    bench: Bench, tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
):
    file = tmp_path / "x.crt"
    bench.expiry.look(config(postgres=file))
    file.write_bytes(content)
    bench.expiry.look(config(postgres=file))
    assert bench.expiry.vital() == OK
    assert caplog.records == []


@pytest.mark.parametrize(
    "conn_string",
    ["host=db1 sslcert={file}", "host=db1,/tmp sslcert={file}", "host=db1"],
)
def test_the_certificate_is_the_one_that_libpq_shows(
    bench: Bench, pki: Pki, conn_string: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    file = leaf(pki, 5, begin=-300).certificate
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".postgresql").mkdir()
    if "{file}" not in conn_string:
        (tmp_path / ".postgresql" / "postgresql.crt").write_bytes(file.read_bytes())
    text = Secret(conn_string.format(file=file))
    other = Tls(cert_file=leaf(pki, 300).certificate, key_file=file)
    for tls in (Tls(), other) if "{file}" in conn_string else (Tls(),):
        database = Database(name="prod", postgres=Postgres(conn_string=text, tls=tls))
        bench.expiry.look(Config(databases=(database,)))
        assert "postgres:prod" in bench.expiry.vital().reason


def test_certificates_that_nobody_is_shown_are_not_watched(bench: Bench, pki: Pki):
    one = leaf(pki, 5, begin=-300).certificate
    pair = ClientCert(cert_file=one, key_file=one)
    socket = Postgres(conn_string=Secret("host=/tmp"), tls=Tls(cert_file=one, key_file=one))
    quiet = Config(
        databases=(Database(name="prod", postgres=socket),),
        http=Http(address="off", tls=HttpTls(cert_file=one, key_file=one)),
        platform=Platform(client_cert=pair),
    )
    bench.expiry.look(quiet)
    assert bench.expiry.vital() == OK
    bench.expiry.look(replace(quiet, platform=Platform(url="https://x", client_cert=pair)))
    assert "the certificate of platform" in bench.expiry.vital().reason


def test_a_file_that_cannot_be_read_any_more_has_no_date(bench: Bench, pki: Pki, tmp_path: Path):
    file = tmp_path / "client.crt"
    file.write_bytes(leaf(pki, 5, begin=-300).certificate.read_bytes())
    bench.expiry.look(config(postgres=file))
    assert bench.ends("postgres:prod") is not None
    file.unlink()
    os.mkfifo(file)  # nobody writes into it: reading would wait for ever
    bench.expiry.look(config(postgres=file))
    assert bench.ends("postgres:prod") is None
    assert bench.begins("postgres:prod") is None


# --- reading


def test_of_a_chain_the_certificate_that_ends_first_counts(pki: Pki, tmp_path: Path):
    file = tmp_path / "chain.pem"
    short, long = leaf(pki, 9).certificate, leaf(pki, 90).certificate
    file.write_bytes(long.read_bytes() + b"\n# a comment\n" + short.read_bytes())
    assert certificates.validity(file) == certificates.validity(short)
    assert certificates.validity(file).end < certificates.validity(long).end


def test_two_digits_of_a_year_may_be_of_the_last_century(pki: Pki):
    valid = certificates.validity(leaf(pki, 30, begin=-365 * 50).certificate)
    assert 1970 < valid.begin.year < 1980


@pytest.mark.parametrize(("days", "year"), [(365 * 10, 2036), (365 * 40, 2066)])
def test_both_forms_of_a_date_are_read(pki: Pki, days: int, year: int):
    valid = certificates.validity(leaf(pki, days).certificate)
    assert year - 1 <= valid.end.year <= year + 1
    assert valid.begin < dt.datetime.now(dt.UTC) < valid.end


def test_the_systems_bundle_can_be_read():
    path = Path("/etc/ssl/certs/ca-certificates.crt")
    if not path.exists():
        pytest.skip("no bundle here: apt-get install ca-certificates")
    certificates.validity(path)


def _made() -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        text = Pki(Path(directory)).client.certificate.read_text()
    return ssl.PEM_cert_to_DER_cert(text)


DER = _made()


@given(cut=st.integers(1, 400), change=st.integers(0, 255), at=st.integers(0, 400))
def test_a_damaged_certificate_raises_nothing_but_value_error(cut: int, change: int, at: int):
    der = bytearray(DER)
    der[at % len(der)] = change
    for one in (bytes(der), bytes(der[:cut])):
        try:
            certificates._validity(one)
        except ValueError:
            continue
