"""Certificates of both sides that are not as they should be: refused, named, well once replaced.

The lanes here back off as they do in an agent: minutes after a refusal. That a file was replaced
ends the wait.
"""

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from pg_collector.config.model import AuthMethod, Database, Tls
from pg_collector.errors import ConfigurationError, TargetRefused
from pg_collector.pg.lanes import Lane
from pg_collector.pg.session import Session
from tests.support import process
from tests.support.lab.server import Server
from tests.support.pki import Leaf, Pki
from tests.support.target import target

NONE: frozenset[str] = frozenset()
TRUST: Final = "hostssl all pgcollector 127.0.0.1/32 trust"
CERT: Final = "hostssl all pgcollector 127.0.0.1/32 cert"
SCRAM: Final = {"password_encryption": "scram-sha-256"}
OURS: Final = "select count(*) from pg_stat_activity where usename = 'pgcollector'"


@pytest.fixture(scope="module")
def secured(major: int, pki: Pki) -> Iterator[Server]:
    with Server(major, tls=pki) as server:
        yield server


class Bench:
    """A server, and a lane whose files may be replaced."""

    def __init__(self, server: Server, pki: Pki, folder: Path) -> None:
        self.server = server
        self.pki = pki
        self.ca, self.crl = folder / "ca.crt", folder / "ca.crl"
        self.cert, self.key = folder / "client.crt", folder / "client.key"
        self.put(pki.ca, self.ca)
        self._lanes: list[Lane] = []

    @staticmethod
    def put(source: Path, place: Path) -> None:
        """Replace a file as tools do: at once, by another one."""
        new = place.with_suffix(".new")
        shutil.copy(source, new)
        new.replace(place)

    def own(self, leaf: Leaf) -> None:
        """Be this client from now on."""
        self.put(leaf.certificate, self.cert)
        self.put(leaf.key, self.key)
        self.key.chmod(0o600)

    def present(self, leaf: Leaf) -> None:
        """Let the server show this certificate from now on."""
        for source, name in ((leaf.certificate, "server.crt"), (leaf.key, "server.key")):
            process.give(Path(shutil.copy(source, self.server.base / name)), 0o600)
        self.server.reload()

    def refuse(self, *revoked: Leaf) -> None:
        """Let the server know a list of revoked clients."""
        place = self.server.base / "clients.crl"
        process.give(Path(shutil.copy(self.pki.revocations(*revoked), place)), 0o600)
        self.server.query(f"alter system set ssl_crl_file = '{place}'")
        self.server.reload()

    def database(self, host: str = "localhost", **more: Any) -> Database:
        method = more.pop("auth_method", AuthMethod.AUTO)
        tls = Tls(ca_file=str(self.ca), **more)
        dsn = self.server.dsn(host=host, hostaddr="127.0.0.1")
        return target(dsn, sslmode=None, auth_method=method, tls=tls)

    def lane(self, database: Database) -> Lane:
        lane = Lane(database, "fast", relations=NONE, stopping=threading.Event())
        self._lanes.append(lane)
        return lane

    def with_cert(self) -> Lane:
        return self.lane(
            self.database(auth_method=AuthMethod.CERT, cert_file=self.cert, key_file=self.key)
        )

    def refused(self, lane: Lane, words: str, remedy: str) -> None:
        """See that a lane is refused and says why, and that nobody of ours is on the server."""
        with pytest.raises(TargetRefused) as told:
            lane.session()
        assert words in str(told.value), told.value
        assert remedy in told.value.remedy, told.value.remedy
        assert self.server.query(OURS) == [(0,)]
        with pytest.raises(TargetRefused) as again:
            lane.session()
        assert again.value.retry_in is not None
        assert again.value.retry_in > 50, "it is left alone for minutes"

    def close(self) -> None:
        for lane in self._lanes:
            lane.close()
        self.present(self.pki.server)
        self.server.allow([TRUST])
        self.server.query("alter system reset ssl_crl_file")
        self.server.reload()


@pytest.fixture
def bench(secured: Server, pki: Pki, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(secured, pki, tmp_path)
    secured.allow([TRUST])
    yield bench
    bench.close()


def works(lane: Lane) -> bool:
    query = "select ssl, version >= 'TLSv1.2' from pg_stat_ssl where pid = pg_backend_pid()"
    return lane.session().fetch(query).rows == [(True, True)]


def test_a_password_and_a_certificate_let_in_to_every_version(major: int, pki: Pki, tmp_path: Path):
    file = tmp_path / "password"
    file.write_text("correct horse")
    hba = ["hostssl all plain 127.0.0.1/32 scram-sha-256", CERT]
    with Server(major, tls=pki, hba=hba, settings=SCRAM) as server:
        server.query("alter role plain password 'correct horse'")
        client = pki.client
        tls = Tls(ca_file=str(pki.ca), cert_file=client.certificate, key_file=client.key)
        for user, method in (("plain", AuthMethod.PASSWORD), ("pgcollector", AuthMethod.CERT)):
            dsn = server.dsn(user, host="localhost", hostaddr="127.0.0.1")
            database = target(dsn, sslmode=None, auth_method=method, tls=tls, password_file=file)
            session = Session.open(database, relations=NONE)
            query = "select current_user, ssl from pg_stat_ssl where pid = pg_backend_pid()"
            assert session.fetch(query).rows == [(user, True)]
            session.close()


# --- the server's

SERVERS: dict[str, tuple[Callable[[Pki], Leaf], str, str]] = {
    "expired": (lambda pki: pki.expired_server, "certificate has expired", "clock right"),
    "not yet valid": (
        lambda pki: pki.issue("early", "localhost", ("localhost",), days=(1, 9)),
        "certificate is not valid yet",
        "clock right",
    ),
    "another name": (
        lambda pki: pki.wrong_name_server,
        'for "db.example.test" does not match host name "localhost"',
        "hostaddr",
    ),
    "another authority": (
        lambda pki: pki.other.server,
        "certificate is signed by an authority that is not trusted here",
        "postgres.tls.ca_file",
    ),
}


@pytest.mark.ends
@pytest.mark.parametrize("wrong", SERVERS)
def test_a_wrong_server_certificate_is_refused_named_and_well_once_it_is_replaced(
    bench: Bench, wrong: str
):
    make, words, remedy = SERVERS[wrong]
    bench.present(make(bench.pki))
    lane = bench.lane(bench.database())
    bench.refused(lane, words, remedy)
    bench.present(bench.pki.server)
    lane._not_before = 0.0  # what happens at the server shows with the next attempt
    assert works(lane)


@pytest.mark.ends
def test_the_authorities_file_may_be_replaced(bench: Bench):
    bench.put(bench.pki.other.ca, bench.ca)
    lane = bench.lane(bench.database())
    bench.refused(lane, "an authority that is not trusted here", "postgres.tls.ca_file")
    bench.put(bench.pki.ca, bench.ca)
    assert works(lane)


@pytest.mark.ends
def test_a_revoked_server_is_refused_until_it_shows_another_certificate(bench: Bench):
    revoked = bench.pki.issue("stolen", "localhost", ("localhost",))
    bench.put(bench.pki.revocations(revoked), bench.crl)
    bench.present(revoked)
    lane = bench.lane(bench.database(crl_file=bench.crl))
    bench.refused(lane, "certificate was revoked", "crl_file lists this one")
    bench.put(bench.pki.revocations(), bench.crl)
    assert works(lane)
    lane.rest()
    bench.put(bench.pki.revocations(revoked), bench.crl)
    bench.refused(lane, "certificate was revoked", "crl_file lists this one")
    bench.present(bench.pki.server)
    lane._not_before = 0.0
    assert works(lane)


@pytest.mark.ends
@pytest.mark.parametrize(
    ("content", "words"), [(None, "no such file"), (b"", "is no list"), (b"hello", "is no list")]
)
def test_a_list_of_revoked_certificates_that_cannot_be_read_lets_nobody_through(
    bench: Bench, content: bytes | None, words: str
):
    if content is not None:
        bench.crl.write_bytes(content)
    lane = bench.lane(bench.database(crl_file=bench.crl))
    bench.refused(lane, words, "postgres.tls.crl_file")
    bench.put(bench.pki.revocations(), bench.crl)
    assert works(lane)


@pytest.mark.ends
def test_a_list_of_another_authority_is_none_of_this_server(bench: Bench):
    bench.put(bench.pki.other.revocations(), bench.crl)
    lane = bench.lane(bench.database(crl_file=bench.crl))
    bench.refused(lane, "no revocation list of its authority", "every authority in the chain")


# --- ours


CLIENTS: dict[str, tuple[Callable[[Pki], Leaf], str, str]] = {
    "expired": (lambda pki: pki.expired_client, "certificate expired", "Renew"),
    "another name": (
        lambda pki: pki.issue("somebody", "somebody", client=True),
        'certificate authentication failed for user "pgcollector"',
        "has to be pgcollector",
    ),
    "another authority": (lambda pki: pki.other.client, "unknown ca", "ssl_ca_file"),
}


@pytest.mark.ends
@pytest.mark.parametrize("wrong", CLIENTS)
def test_a_wrong_client_certificate_is_refused_named_and_well_once_it_is_replaced(
    bench: Bench, wrong: str
):
    make, words, remedy = CLIENTS[wrong]
    bench.server.allow([CERT])
    bench.own(make(bench.pki))
    lane = bench.with_cert()
    bench.refused(lane, words, remedy)
    bench.own(bench.pki.client)
    assert works(lane)


@pytest.mark.ends
def test_a_revoked_client_certificate_is_refused_and_named_until_it_is_replaced(bench: Bench):
    revoked = bench.pki.issue("lost", "pgcollector", client=True)
    bench.refuse(revoked)
    bench.server.allow([CERT])
    bench.own(revoked)
    lane = bench.with_cert()
    bench.refused(lane, "certificate revoked", "Renew postgres.tls.cert_file")
    bench.own(bench.pki.client)
    assert works(lane)


@pytest.mark.ends
def test_a_client_certificate_that_is_missing_is_named(bench: Bench, monkeypatch: Any):
    bench.server.allow([CERT])
    bench.refused(bench.lane(bench.database()), "valid client certificate", "cert_file")
    monkeypatch.setenv("HOME", str(bench.ca.parent))
    nobody = bench.lane(bench.database(auth_method=AuthMethod.CERT))
    with pytest.raises(ConfigurationError, match="without a client certificate") as told:
        nobody.session()
    assert "postgres.tls.cert_file" in told.value.remedy
    lane = bench.with_cert()
    bench.refused(lane, "does not exist", "postgres.tls")
    bench.own(bench.pki.client)
    assert works(lane)


@pytest.mark.ends
def test_a_key_of_another_certificate_or_open_to_others_is_named(bench: Bench):
    bench.server.allow([CERT])
    bench.own(bench.pki.client)
    bench.put(bench.pki.server.key, bench.key)
    bench.key.chmod(0o600)
    lane = bench.with_cert()
    bench.refused(lane, "key values mismatch", "postgres.tls")
    bench.own(bench.pki.client)
    assert works(lane)
    lane.rest()
    bench.key.chmod(0o644)
    lane._not_before = 0.0
    bench.refused(lane, "has group or world access", "postgres.tls")
    bench.key.chmod(0o600)
    assert works(lane)


@pytest.mark.ends
def test_a_certificate_that_is_renewed_is_shown_by_the_next_session(bench: Bench):
    bench.server.allow([CERT])
    bench.own(bench.pki.client)
    lane = bench.with_cert()
    serial = "select client_serial from pg_stat_ssl where pid = pg_backend_pid()"
    (first,) = lane.session().fetch(serial).rows
    bench.own(bench.pki.issue("renewed", "pgcollector", client=True))
    assert lane.session().fetch(serial).rows == [first], "a session that stands stays"
    lane.rest()
    (second,) = lane.session().fetch(serial).rows
    assert second != first


# --- how strong


@pytest.mark.ends
@pytest.mark.parametrize("weak", ["TLSv1", "TLSv1.1"])
def test_less_than_tls_1_2_is_not_spoken(bench: Bench, weak: str, monkeypatch: Any):
    monkeypatch.setenv("PGSSLMINPROTOCOLVERSION", weak)
    with pytest.raises(ConfigurationError, match=r"less than TLS 1\.2"):
        Session.open(bench.database(), relations=NONE)


@pytest.mark.ends
def test_the_reason_of_a_refusal_is_looked_for_within_the_bound(bench: Bench):
    """The second handshake is no session, and holds no place of the role."""
    bench.present(bench.pki.expired_server)
    before = bench.server.query("select count(*) from pg_stat_activity")
    with pytest.raises(TargetRefused, match="has expired"):
        Session.open(bench.database(), relations=NONE)
    assert bench.server.query("select count(*) from pg_stat_activity") == before
