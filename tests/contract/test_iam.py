"""Logging in with tokens of AWS, Google and Azure: their endpoints, their SDKs, a real server."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from pg_collector.breaker import Breaker
from pg_collector.clock import SystemClock
from pg_collector.config.model import AuthMethod, AwsIam, AzureAd, Database, Tls
from pg_collector.errors import (
    ConfigurationError,
    LoginRefused,
    TargetDown,
    TargetError,
    TargetRefused,
)
from pg_collector.metrics import Metrics
from pg_collector.pg.auth import methods
from pg_collector.pg.lanes import Lane
from pg_collector.pg.session import Session
from tests.support import sigv4
from tests.support.clouds import ROLE, Answer, Clouds
from tests.support.iam_front import IamFront
from tests.support.lab.server import Server
from tests.support.managed import HOST
from tests.support.pki import Leaf, Pki
from tests.support.target import target
from tests.support.until import until

NONE: frozenset[str] = frozenset()
METHODS = [AuthMethod.AWS_IAM, AuthMethod.GCP_IAM, AuthMethod.AZURE_AD]


@pytest.fixture(scope="module")
def leaf(pki: Pki) -> Leaf:
    return pki.issue("rds", HOST, (HOST,))


@pytest.fixture(autouse=True)
def _no_identity_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_", "GCE_", "IDENTITY_", "MSI_", "PG")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))


@pytest.fixture
def clouds(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clouds]:
    """Every kind of machine at once: the metadata services of all three clouds."""
    with Clouds() as clouds:
        place = f"127.0.0.1:{clouds.port}"
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://{place}")
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://{place}")
        monkeypatch.setenv("GCE_METADATA_IP", place)
        # Google's SDK reads this variable once, when it is imported.
        monkeypatch.setenv("GCE_METADATA_HOST", place)
        monkeypatch.setattr("google.auth.compute_engine._metadata._GCE_METADATA_HOST", place)
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", f"http://{place}")
        yield clouds


class Bench:
    """A managed server, a database's configuration, and a lane."""

    def __init__(self, server: Server, clouds: Clouds, pki: Pki, leaf: Leaf) -> None:
        self.clouds = clouds
        self.metrics = Metrics(SystemClock())
        self.front = IamFront(("127.0.0.1", server.port), self._judge, tls=leaf)
        self.method = AuthMethod.AWS_IAM
        self._tls = Tls(ca_file=str(pki.ca))
        self._lanes: list[Lane] = []

    def database(self, method: AuthMethod, **more: Any) -> Database:
        self.method = method
        sslmode = more.pop("sslmode", None)
        where = more.pop("where", f"host={HOST} hostaddr=127.0.0.1 port={self.front.port}")
        dsn = f"{where} user=pgcollector dbname=postgres"
        return target(dsn, sslmode=sslmode, auth_method=method, tls=self._tls, **more)

    def lane(self, database: Database, *, failures: int = 5, reset: float = 30.0) -> Lane:
        guard = Breaker(
            "token:lab", failures=failures, reset=reset, counts=(TargetDown,),
            metrics=self.metrics, clock=SystemClock(),
        )  # fmt: skip
        login = methods.login(database, guard=guard)
        lane = Lane(database, "fast", relations=NONE, stopping=threading.Event(), login=login)
        self._lanes.append(lane)
        return lane

    def tokens_asked(self) -> int:
        return sum("token" in one or "/latest/meta-data" in one for one in self.clouds.asked)

    def close(self) -> None:
        for lane in self._lanes:
            lane.close()
        self.front.__exit__()

    def _judge(self, user: str, password: str) -> str | None:
        if self.method is not AuthMethod.AWS_IAM:
            return self.clouds.books.judge(user, password)
        return sigv4.fault(
            password, self.clouds.books.keys, host=HOST, port=self.front.port, user=user,
            region="eu-west-1",
        )  # fmt: skip


@pytest.fixture
def bench(newest_server: Server, clouds: Clouds, pki: Pki, leaf: Leaf) -> Iterator[Bench]:
    bench = Bench(newest_server, clouds, pki, leaf)
    yield bench
    bench.close()


def _answers(lane: Lane) -> bool:
    try:
        return works(lane)
    except TargetError:
        return False


def works(lane: Lane) -> bool:
    query = "select current_user, 1 as one"
    return lane.session().fetch(query).rows == [("pgcollector", 1)]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pg_collector.pg.lanes.DOWN", (0.0, 0.0))
    monkeypatch.setattr("pg_collector.pg.lanes.REFUSED", (0.0, 0.0))


@pytest.mark.parametrize("method", METHODS)
def test_a_token_lets_in_to_every_version_over_tls(
    server: Server, clouds: Clouds, pki: Pki, leaf: Leaf, method: AuthMethod
):
    bench = Bench(server, clouds, pki, leaf)
    try:
        assert works(bench.lane(bench.database(method)))
        ((user, _, fault),) = bench.front.tried
        assert (user, fault) == ("pgcollector", None)
    finally:
        bench.close()


@pytest.mark.parametrize("method", METHODS)
def test_a_session_that_ends_logs_in_with_the_token_that_is_kept(bench: Bench, method: AuthMethod):
    lane = bench.lane(bench.database(method))
    assert works(lane)
    asked = bench.tokens_asked()
    bench.front.cut()
    until(lambda: not lane.connected or not _answers(lane), what="the session is lost")
    assert works(lane)
    assert bench.tokens_asked() == asked
    assert [one.fault for one in bench.front.tried] == [None, None]


@pytest.mark.parametrize("method", METHODS)
def test_a_token_is_replaced_before_it_expires(
    bench: Bench, method: AuthMethod, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pg_collector.pg.auth.aws_iam._CREDENTIALS_LAST", 0.2)
    bench.clouds.books.lasts = 3.0
    lane = bench.lane(bench.database(method))
    deadline = time.monotonic() + 3.6
    sessions = 0
    while time.monotonic() < deadline:
        assert works(lane)
        sessions += 1
        lane.rest()
    assert {one.fault for one in bench.front.tried} == {None}
    different = {one.password.partition("Signature")[0] for one in bench.front.tried}
    assert len(different) > 2
    assert sessions > len(bench.clouds.books.tokens) or method is AuthMethod.AWS_IAM


@pytest.mark.parametrize("method", METHODS)
def test_an_endpoint_that_fails_is_told_left_alone_and_recovers(bench: Bench, method: AuthMethod):
    bench.clouds.trouble = Answer(500, "{}")
    lane = bench.lane(bench.database(method), failures=1, reset=1.0)
    with pytest.raises(TargetDown) as told:
        lane.session()
    assert told.value.remedy
    assert "identity" in told.value.remedy or "service account" in told.value.remedy
    assert bench.front.tried == [], "the server is not asked without a token"
    asked = len(bench.clouds.asked)
    with pytest.raises(TargetDown) as again:
        lane.session()
    assert str(again.value) == str(told.value)
    assert len(bench.clouds.asked) == asked, "the breaker is open"
    component = {"component": "token:lab"}
    state = "pg_collector_circuit_breaker_state"
    assert bench.metrics.registry.get_sample_value(state, component) == 2
    bench.clouds.trouble = None
    until(lambda: _answers(lane), what="it is let in")
    assert bench.metrics.registry.get_sample_value(state, component) == 0


@pytest.mark.parametrize("method", METHODS)
def test_an_endpoint_that_is_silent_holds_a_lane_within_its_bound(bench: Bench, method: AuthMethod):
    bench.clouds.silent.set()
    database = bench.database(method)
    login = methods.login(database)
    login._within = 0.5  # type: ignore[attr-defined]
    lane = Lane(database, "fast", relations=NONE, stopping=threading.Event(), login=login)
    began = time.monotonic()
    with pytest.raises(TargetDown, match=r"did not come within 0\.5 s"):
        lane.session()
    assert time.monotonic() - began < 1.5
    login._within = 60.0  # type: ignore[attr-defined]
    cut = threading.Timer(0.2, lane.interrupt)
    cut.start()
    began = time.monotonic()
    with pytest.raises(TargetDown, match="interrupted"):
        lane.session()
    assert time.monotonic() - began < 5
    cut.join()


@pytest.mark.parametrize(
    ("method", "remedy"),
    [
        (AuthMethod.AWS_IAM, "GRANT rds_iam TO pgcollector"),
        (AuthMethod.GCP_IAM, "cloudsql.instanceUser"),
        (AuthMethod.AZURE_AD, "pgaadauth_create_principal('pgcollector'"),
    ],
)
def test_a_token_that_the_server_refuses_names_the_remedy_and_a_newer_one_lets_in(
    bench: Bench, method: AuthMethod, remedy: str, monkeypatch: pytest.MonkeyPatch
):
    lane = bench.lane(bench.database(method))
    judge, bench.front.judge = bench.front.judge, lambda *_: "no such grant"
    with pytest.raises(TargetRefused, match="authentication failed") as refused:
        lane.session()
    assert remedy in refused.value.remedy
    assert refused.value.sqlstate == "28000"
    assert len(bench.front.tried) == 1, "one that is new is not tried twice"
    bench.front.judge = judge
    assert works(lane)
    # One that was kept for a while is refused: it is replaced, and the session comes at once.
    monkeypatch.setattr("pg_collector.pg.auth.tokens._JUST_FETCHED", 0.0)
    lane.rest()
    bench.clouds.books.tokens.clear()
    bench.clouds.books.keys.clear()
    assert works(lane)
    assert [one.fault is None for one in bench.front.tried][1:] == [True, False, True]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sslmode", ["disable", "allow", "prefer"])
def test_a_token_never_travels_in_the_clear(bench: Bench, method: AuthMethod, sslmode: str):
    with pytest.raises(ConfigurationError, match="in the clear") as refused:
        bench.lane(bench.database(method, sslmode=sslmode)).session()
    assert "verify-full" in refused.value.remedy
    assert bench.front.tried == []


@pytest.mark.parametrize("method", METHODS)
def test_a_token_is_not_shown_to_a_server_that_cannot_prove_who_it_is(
    newest_server: Server, clouds: Clouds, pki: Pki, method: AuthMethod
):
    bench = Bench(newest_server, clouds, pki, pki.other.issue("rds", HOST, (HOST,)))
    try:
        with pytest.raises(TargetRefused, match="signed by an authority that is not trusted"):
            bench.lane(bench.database(method)).session()
        assert bench.front.tried == []
    finally:
        bench.close()


def test_a_token_that_is_refused_is_shown_once(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pg_collector.pg.auth.tokens._JUST_FETCHED", 0.0)
    bench.front.judge = lambda *_: "no"
    lane = bench.lane(bench.database(AuthMethod.GCP_IAM))
    for _ in range(3):
        with pytest.raises(LoginRefused):
            lane.session()
    shown = [one.password for one in bench.front.tried]
    assert len(shown) == len(set(shown))


@pytest.mark.parametrize("dbname", [None, "another"])
def test_who_gives_no_token_is_asked_once_and_left_alone_whichever_database_is_wanted(
    bench: Bench, dbname: str | None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pg_collector.pg.lanes.REFUSED", (120.0, 600.0))
    bench.clouds.books.refused_roles.add(ROLE)
    lane = bench.lane(bench.database(AuthMethod.AWS_IAM, aws_iam=AwsIam(role_arn=ROLE)))
    kind = LoginRefused if dbname is None else TargetDown
    with pytest.raises(kind, match="sts:AssumeRole"):
        lane.session(dbname)
    asked = len(bench.clouds.asked)
    assert bench.clouds.asked.count("POST /") == 1
    with pytest.raises(TargetError) as again:
        lane.session(dbname)
    assert again.value.retry_in is not None
    assert again.value.retry_in > 50
    assert len(bench.clouds.asked) == asked


def test_the_time_until_a_token_comes_costs_the_server_nothing(bench: Bench):
    bench.clouds.silent.set()
    free = threading.Timer(1.5, bench.clouds.silent.clear)
    free.start()
    lane = bench.lane(bench.database(AuthMethod.GCP_IAM))
    began = time.monotonic()
    assert works(lane)
    free.join()
    assert lane.preparing > 1.4
    assert time.monotonic() - began - lane.preparing < 1.4, "the rest is the server's"


# --- AWS


@pytest.fixture
def pod(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clouds: Clouds) -> Callable[[str], None]:
    """Say where AWS credentials come from, instead of the metadata service of a VM."""

    def be(kind: str) -> None:
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        if kind == "container":
            url = f"http://127.0.0.1:{clouds.port}/ecs"
            monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
            monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "let me in")
        elif kind == "web identity":
            token = tmp_path / "token"
            token.write_text("a pod's token")
            monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
            monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
        elif kind == "environment":
            key, _ = clouds.books.key()
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", key.access)
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key.secret)
            monkeypatch.setenv("AWS_SESSION_TOKEN", key.session)

    return be


@pytest.mark.parametrize("kind", ["container", "web identity", "environment"])
def test_aws_credentials_come_from_the_usual_places(
    bench: Bench, pod: Callable[[str], None], kind: str
):
    pod(kind)
    assert works(bench.lane(bench.database(AuthMethod.AWS_IAM)))


def test_an_aws_role_is_assumed_and_its_refusal_named(bench: Bench):
    database = bench.database(AuthMethod.AWS_IAM, aws_iam=AwsIam(role_arn=ROLE))
    lane = bench.lane(database)
    bench.clouds.books.refused_roles.add(ROLE)
    with pytest.raises(TargetRefused, match="not authorized to perform: sts:AssumeRole") as told:
        lane.session()
    assert f"sts:AssumeRole on {ROLE}" in told.value.remedy
    bench.clouds.books.refused_roles.clear()
    assert works(lane)
    assert "POST /" in bench.clouds.asked


def test_without_aws_credentials_the_remedy_is_named(bench: Bench, pod: Callable[[str], None]):
    pod("none")
    with pytest.raises(TargetDown, match="no AWS credentials were found") as told:
        bench.lane(bench.database(AuthMethod.AWS_IAM)).session()
    assert "instance profile" in told.value.remedy


def test_a_host_without_a_region_needs_one_to_be_named(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    where = f"host=db.example.test hostaddr=127.0.0.1 port={bench.front.port}"
    database = bench.database(AuthMethod.AWS_IAM, where=where)
    with pytest.raises(ConfigurationError, match="names no AWS region") as told:
        bench.lane(database).session()
    assert "aws_iam.region" in told.value.remedy
    named = bench.database(AuthMethod.AWS_IAM, where=where, aws_iam=AwsIam(region="eu-west-1"))
    with pytest.raises(TargetRefused, match="does not match host name"):
        bench.lane(named).session()
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    with pytest.raises(TargetRefused, match="does not match host name"):
        bench.lane(database).session()


def test_the_environment_names_the_region_as_aws_calls_it(
    pod: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
):
    from pg_collector.pg.auth import aws_iam  # noqa: PLC0415

    pod("environment")
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    token = aws_iam.Source("lab", AwsIam()).fetch(anew=False).sign("db1", "5432", "u")
    assert token is not None
    assert "%2Feu-north-1%2Frds-db%2F" in token


def test_sts_is_asked_in_the_region_of_the_server(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    import botocore.session  # noqa: PLC0415

    asked: list[Any] = []
    create = botocore.session.Session.create_client

    def noted(self: Any, service: str, **options: Any) -> Any:
        asked.append((service, options["region_name"]))
        return create(self, service, **options)

    monkeypatch.setattr(botocore.session.Session, "create_client", noted)
    assert works(bench.lane(bench.database(AuthMethod.AWS_IAM, aws_iam=AwsIam(role_arn=ROLE))))
    assert asked == [("sts", "eu-west-1")]


@pytest.mark.parametrize("where", ["host=/tmp", "host=2001:db8::1", "hostaddr=::1"])
def test_aws_needs_the_name_of_the_server(bench: Bench, pod: Callable[[str], None], where: str):
    pod("environment")
    database = bench.database(AuthMethod.AWS_IAM, where=where, aws_iam=AwsIam(region="eu-west-1"))
    with pytest.raises(ConfigurationError, match="with a host name only"):
        bench.lane(database).session()


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("a.b.us-east-1.rds.amazonaws.com", "us-east-1"),
        ("c.cluster-ro-x.ap-southeast-2.rds.amazonaws.com.", "ap-southeast-2"),
        ("A.B.EU-Central-1.RDS.amazonaws.com", "eu-central-1"),
        ("d.x.rds.cn-north-1.amazonaws.com.cn", "cn-north-1"),
    ],
)
def test_the_region_is_in_the_host_name(
    bench: Bench, pod: Callable[[str], None], host: str, region: str
):
    from pg_collector.pg.auth import aws_iam  # noqa: PLC0415

    pod("environment")
    sign = aws_iam.Source("lab", AwsIam()).fetch(anew=False).sign
    token = sign(host, "5432", "jo=e&f")
    assert token is not None
    fault = sigv4.fault(
        token, bench.clouds.books.keys, host=host.lower(), port=5432, user="jo=e&f", region=region
    )
    assert fault is None


# --- Google


def test_cloud_sql_is_reached_through_the_auth_proxys_socket(
    newest_server: Server, bench: Bench, clouds: Clouds, tmp_path: Path
):
    with IamFront(
        ("127.0.0.1", newest_server.port), clouds.books.judge, folder=tmp_path
    ) as socket_front:
        database = bench.database(AuthMethod.GCP_IAM, where=f"host={tmp_path} port=5432")
        assert works(bench.lane(database))
        assert socket_front.tried[0].fault is None


def test_a_google_key_file_is_used_and_one_that_was_deleted_named(
    bench: Bench, clouds: Clouds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = tmp_path / "key.json"
    file.write_text(
        '{"type": "service_account", "client_email": "m@p.iam.gserviceaccount.com",'
        f' "private_key": {key.decode()!r}, "private_key_id": "1", "project_id": "p",'
        f' "token_uri": "http://127.0.0.1:{clouds.port}/google/token"}}'.replace("'", '"')
    )
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    lane = bench.lane(bench.database(AuthMethod.GCP_IAM))
    clouds.trouble = Answer(400, '{"error": "invalid_grant", "error_description": "Invalid JWT"}')
    with pytest.raises(TargetRefused, match="invalid_grant") as told:
        lane.session()
    assert "service account" in told.value.remedy
    clouds.trouble = None
    assert works(lane)
    assert "POST /google/token" in clouds.asked


def test_without_google_credentials_the_remedy_is_named(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "gone.json"))
    with pytest.raises(TargetDown, match="no Google credentials") as told:
        bench.lane(bench.database(AuthMethod.GCP_IAM)).session()
    assert "GOOGLE_APPLICATION_CREDENTIALS" in told.value.remedy


# --- Azure


@pytest.fixture
def entra(pki: Pki, monkeypatch: pytest.MonkeyPatch, bench: Bench) -> Iterator[Clouds]:
    with Clouds(tls=pki.server) as entra:
        entra.books = bench.clouds.books
        monkeypatch.setenv("AZURE_AUTHORITY_HOST", entra.url)
        monkeypatch.setenv("AZURE_TENANT_ID", "tenant-1")
        monkeypatch.setenv("AZURE_CLIENT_ID", "client-1")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(pki.ca))
        yield entra


def test_an_azure_service_principal_logs_in_and_a_wrong_secret_is_named(
    bench: Bench, entra: Clouds, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "another")
    lane = bench.lane(bench.database(AuthMethod.AZURE_AD))
    with pytest.raises(TargetRefused, match="AADSTS7000215") as told:
        lane.session()
    assert "client id and secret" in told.value.remedy
    assert "another" not in told.value.sentence()
    monkeypatch.setenv("AZURE_CLIENT_SECRET", entra.secret)
    assert works(bench.lane(bench.database(AuthMethod.AZURE_AD)))


def test_an_azure_workload_identity_logs_in(
    bench: Bench, entra: Clouds, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    token = tmp_path / "token"
    token.write_text("a pod's token")
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(token))
    assert works(bench.lane(bench.database(AuthMethod.AZURE_AD)))
    assert "POST /tenant-1/oauth2/v2.0/token" in entra.asked


def test_an_azure_identity_that_is_not_there_is_named(bench: Bench):
    settings = AzureAd(client_id="no-such-identity")
    with pytest.raises(TargetDown, match="no Azure identity") as told:
        bench.lane(bench.database(AuthMethod.AZURE_AD, azure_ad=settings)).session()
    assert "azure_ad.client_id" in told.value.remedy


# --- secrets


@pytest.mark.parametrize("method", METHODS)
def test_no_token_reaches_the_log_or_the_disk(
    bench: Bench, method: AuthMethod, caplog: pytest.LogCaptureFixture, tmp_path: Path
):
    with caplog.at_level(logging.DEBUG):
        assert works(bench.lane(bench.database(method)))
        bench.front.judge = lambda *_: "no"
        lane = bench.lane(bench.database(method))
        with pytest.raises(TargetRefused) as refused:
            lane.session()
    shown = [one.password for one in bench.front.tried]
    keys = [part for key in bench.clouds.books.keys.values() for part in (key.secret, key.session)]
    for secret in (*shown, *keys):
        assert secret not in caplog.text
        assert secret not in refused.value.sentence()
        assert secret not in repr(lane.__dict__)
    assert [one for one in tmp_path.rglob("*") if one.is_file()] == []


def test_the_session_alone_uses_the_configured_method(bench: Bench):
    """`pgc sample --dsn` and its like have no lane."""
    session = Session.open(bench.database(AuthMethod.GCP_IAM), relations=NONE)
    session.close()
    assert bench.front.tried[0].fault is None


def test_a_token_that_came_late_is_used_by_the_next_attempt_as_long_as_it_is_good(bench: Bench):
    database = bench.database(AuthMethod.GCP_IAM)
    login = methods.login(database)
    bench.clouds.silent.set()
    login._within = 0.1  # type: ignore[attr-defined]
    lane = Lane(database, "fast", relations=NONE, stopping=threading.Event(), login=login)
    with pytest.raises(TargetDown, match="did not come"):
        lane.session()
    bench.clouds.silent.clear()
    until(lambda: len(bench.clouds.books.tokens) == 1, what="the token comes")
    login._within = 10.0  # type: ignore[attr-defined]
    assert works(lane)
    lane.close()
    assert len(bench.clouds.books.tokens) == 1
