"""Certificates of both sides that are not as they should be: refused, named, well once replaced.

The lanes here back off as they do in an agent: minutes after a refusal. That a file was replaced
ends the wait.
"""

import contextlib
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from pg_collector.breaker import Breaker, State
from pg_collector.clock import SystemClock
from pg_collector.config.model import AuthMethod, Database, Tls
from pg_collector.errors import ConfigurationError, TargetDown, TargetRefused
from pg_collector.metrics import Metrics
from pg_collector.pg import conninfo, tls
from pg_collector.pg.lanes import Lane
from pg_collector.pg.session import Session
from pg_collector.wire import Wire
from tests.support import process
from tests.support.lab.server import Server
from tests.support.pki import Leaf, Pki
from tests.support.target import target
from tests.support.until import until

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
        files = Tls(ca_file=str(self.ca), **more)
        dsn = self.server.dsn(host=host, hostaddr="127.0.0.1")
        return target(dsn, sslmode=None, auth_method=method, tls=files)

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

    def rested(self, lane: Lane) -> None:
        """Close its session, and wait until the server has heard of it."""
        lane.rest()
        until(lambda: self.server.query(OURS) == [(0,)], what="nobody of ours is left")

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
        files = Tls(ca_file=str(pki.ca), cert_file=client.certificate, key_file=client.key)
        for user, method in (("plain", AuthMethod.PASSWORD), ("pgcollector", AuthMethod.CERT)):
            dsn = server.dsn(user, host="localhost", hostaddr="127.0.0.1")
            database = target(dsn, sslmode=None, auth_method=method, tls=files, password_file=file)
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
    bench.rested(lane)
    bench.put(bench.pki.revocations(revoked), bench.crl)
    bench.refused(lane, "certificate was revoked", "crl_file lists this one")
    bench.present(bench.pki.server)
    lane._not_before = 0.0
    assert works(lane)


@pytest.mark.ends
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist"),
        (b"", "is no list"),
        (b"hello", "is no list"),
        (b"CA", "is no list of revoked certificates, or more"),
    ],
)
def test_a_list_of_revoked_certificates_that_cannot_be_read_lets_nobody_through(
    bench: Bench, content: bytes | None, words: str
):
    if content == b"CA":  # its certificates would be trusted from then on
        content = bench.pki.revocations().read_bytes() + bench.pki.other.ca.read_bytes()
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
    bench.rested(lane)
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
def test_the_authority_that_libpq_finds_by_itself_is_looked_at_too(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(bench.ca.parent))
    folder = bench.ca.parent / ".postgresql"
    folder.mkdir()
    shutil.copy(bench.pki.ca, folder / "root.crt")
    bench.present(bench.pki.expired_server)
    dsn = bench.server.dsn(host="localhost", hostaddr="127.0.0.1")
    with pytest.raises(TargetRefused, match="server's certificate has expired"):
        Session.open(target(dsn, sslmode=None), relations=NONE)


@pytest.mark.ends
def test_a_file_of_ours_that_cannot_be_used_says_nothing_of_the_server(bench: Bench):
    metrics = Metrics(SystemClock())
    breaker = Breaker(
        "postgres:lab", failures=1, reset=0.1, counts=(TargetDown,),
        metrics=metrics, clock=SystemClock(),
    )  # fmt: skip
    with pytest.raises(TargetDown), breaker.guard():
        raise TargetDown("nobody there")
    database = bench.database(cert_file=bench.cert, key_file=bench.key)
    lane = Lane(database, "fast", relations=NONE, stopping=threading.Event(), breaker=breaker)
    until(lambda: breaker.trouble is not None and breaker.trouble.retry_in <= 0, what="a probe")
    with pytest.raises(TargetRefused, match="does not exist"):
        lane.session()
    assert breaker.state is State.OPEN
    with pytest.raises(TargetDown, match="does not exist") as visit:
        Lane(database, "fast", relations=NONE, stopping=threading.Event(), breaker=breaker).session(
            "another"
        )
    assert visit.value.remedy


@pytest.mark.parametrize("mode", ["silent", "after the request", "in the handshake"])
def test_the_reason_is_not_waited_for_longer_than_the_bound(
    pki: Pki, mode: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pg_collector.pg.tls._WITHIN", 0.8)
    route = conninfo.route(
        target("host=localhost user=x", sslmode=None, tls=Tls(ca_file=str(pki.ca)))
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        ended = threading.Event()

        def serve() -> None:
            link, _ = listener.accept()
            with link:
                if mode != "silent":
                    link.recv(8)
                    if mode == "in the handshake":
                        link.sendall(b"S")
                ended.wait(5)

        thread = threading.Thread(target=serve)
        thread.start()
        endpoint = conninfo.Endpoint("localhost", "127.0.0.1", str(port))
        text, where = "SSL error: certificate verify failed", (endpoint, "127.0.0.1")
        began = time.monotonic()
        assert tls.explained(text, route, where, began + 60, Wire()) == text
        assert 0.7 < time.monotonic() - began < 1.5
        ended.set()
        thread.join(5)


def test_looking_for_the_reason_can_be_interrupted(pki: Pki, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pg_collector.pg.tls._WITHIN", 20.0)
    route = conninfo.route(
        target("host=localhost user=x", sslmode=None, tls=Tls(ca_file=str(pki.ca)))
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = conninfo.Endpoint("localhost", "127.0.0.1", str(listener.getsockname()[1]))
        wire = Wire()
        cut = threading.Timer(0.2, wire.cut)
        cut.start()
        began = time.monotonic()
        text, where = "SSL error: certificate verify failed", (endpoint, "127.0.0.1")
        assert tls.explained(text, route, where, began + 60, wire) == text
        assert time.monotonic() - began < 5
        cut.join()


def test_a_server_with_several_certificates_is_asked_for_the_one_that_was_meant(pki: Pki):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.other.server.certificate, pki.other.server.key)
    expired = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    expired.load_cert_chain(pki.expired_server.certificate, pki.expired_server.key)

    def choose(link: Any, name: str | None, _context: Any) -> None:
        if name == "localhost":
            link.context = expired

    context.sni_callback = choose
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for _ in range(2):
                link, _ = listener.accept()
                with link, contextlib.suppress(OSError):
                    link.recv(8)
                    link.sendall(b"S")
                    context.wrap_socket(link, server_side=True).close()

        thread = threading.Thread(target=serve)
        thread.start()
        port = listener.getsockname()[1]
        dsn = f"host=localhost hostaddr=127.0.0.1 port={port} user=x dbname=x"
        with pytest.raises(TargetRefused, match="server's certificate has expired"):
            Session.open(target(dsn, sslmode=None, tls=Tls(ca_file=str(pki.ca))), relations=NONE)
        thread.join(5)


@pytest.mark.ends
def test_a_password_file_that_changes_ends_the_back_off(bench: Bench, tmp_path: Path):
    file = tmp_path / "password"
    file.write_text("wrong")
    bench.server.allow(["hostssl all plain 127.0.0.1/32 scram-sha-256"])
    bench.server.query("set password_encryption = 'scram-sha-256'; alter role plain password 'x'")
    dsn = bench.server.dsn("plain", host="localhost", hostaddr="127.0.0.1")
    ca = Tls(ca_file=str(bench.ca))
    lane = bench.lane(target(dsn, sslmode=None, tls=ca, password_file=file))
    bench.refused(lane, "authentication failed", "password")
    file.write_text("x")
    assert lane.session().facts.role == "plain"


@pytest.mark.ends
def test_the_reason_of_a_refusal_is_looked_for_without_a_session(bench: Bench):
    """The second handshake holds no place of the role."""
    bench.present(bench.pki.expired_server)
    before = bench.server.query("select count(*) from pg_stat_activity")
    with pytest.raises(TargetRefused, match="has expired"):
        Session.open(bench.database(), relations=NONE)
    assert bench.server.query("select count(*) from pg_stat_activity") == before
