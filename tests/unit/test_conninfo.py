"""What libpq is told: the configuration, its environment, and what the collector adds."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from pg_collector.config import conninfo as strings
from pg_collector.config.model import AuthMethod, Database, Postgres, Tls, TlsMode
from pg_collector.errors import ConfigurationError, TargetDown
from pg_collector.pg import conninfo
from pg_collector.pg.auth import password
from pg_collector.pg.tls_parameters import default_file
from pg_collector.resolve import Resolver
from pg_collector.secret import Secret
from pg_collector.trust import system_bundle
from pg_collector.wire import Wire, WireCut
from tests.support.until import until


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No PG* variable and no ~/.postgresql of this machine."""
    for name in ("PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGSERVICE", "PGSSLMODE",
                 "PGOPTIONS", "PGPASSWORD", "PGSSLROOTCERT", "PGTARGETSESSIONATTRS"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def database(conn_string: str, **postgres: Any) -> Database:
    return Database(name="prod", postgres=Postgres(conn_string=Secret(conn_string), **postgres))


def told(conn_string: str, number: int = 0, **postgres: Any) -> dict[str, Any]:
    """Return what libpq is told about one endpoint."""
    route = conninfo.route(database(conn_string, **postgres))
    endpoint = route.endpoints[number]
    return conninfo_to_dict(route.conninfo(endpoint, endpoint.address, route.session_attrs))


# --- where to


def test_an_empty_connection_string_is_the_unix_socket_as_for_psql():
    route = conninfo.route(database(""))
    assert [one.is_socket for one in route.endpoints] == [True]
    assert route.params["dbname"] == route.params["user"]


def test_the_environment_fills_in_what_the_connection_string_leaves_open(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("PGHOST", "10.0.0.1")
    monkeypatch.setenv("PGPORT", "6000")
    monkeypatch.setenv("PGUSER", "watcher")
    seen = told("dbname=shop")
    assert (seen["host"], seen["port"], seen["user"]) == ("10.0.0.1", "6000", "watcher")
    assert seen["dbname"] == "shop"


def test_a_service_file_is_read_by_libpq(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    services = tmp_path / "services"
    services.write_text(
        "[shop]\nhost=10.0.0.1,10.0.0.2\nport=6001\nuser=watcher\nsslmode=require\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    route = conninfo.route(database("service=shop"))
    assert [one.place for one in route.endpoints] == ["10.0.0.1:6001", "10.0.0.2:6001"]
    assert told("service=shop", 1)["sslmode"] == "require"
    assert told("service=shop", 1)["user"] == "watcher"


def test_several_hosts_become_one_endpoint_each():
    route = conninfo.route(database("host=10.0.0.1,db2,/run/pg port=5432,6000,7000 user=u"))
    assert [one.place for one in route.endpoints] == [
        "10.0.0.1:5432",
        "db2:6000",
        "/run/pg (port 7000)",
    ]
    assert [one.address for one in route.endpoints] == ["10.0.0.1", None, None]


def test_a_name_keeps_its_host_beside_the_address_so_that_tls_can_verify_it():
    route = conninfo.route(database("host=db1 user=u"))
    seen = conninfo_to_dict(route.conninfo(route.endpoints[0], "10.0.0.9", "any"))
    assert (seen["host"], seen["hostaddr"]) == ("db1", "10.0.0.9")


def test_read_write_means_the_primary_because_our_sessions_are_read_only():
    assert (
        told("host=10.0.0.1 target_session_attrs=read-write")["target_session_attrs"] == "primary"
    )


def test_another_database_of_the_server_can_be_visited():
    route = conninfo.route(database("host=10.0.0.1 dbname=a user=u"), dbname="b=c")
    assert route.params["dbname"] == "b=c"


# --- settings


def test_the_sessions_settings_come_after_the_users_own_options(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PGOPTIONS", "-c role=monitor -c statement_timeout=0")
    options = str(told("host=10.0.0.1")["options"])
    assert options.startswith("-c role=monitor -c statement_timeout=0 -c ")
    assert options.rindex("statement_timeout=4000") > options.index("statement_timeout=0")
    assert "-c default_transaction_isolation=read\\ committed" in options


@pytest.mark.parametrize(("client", "server"), [(5.0, 4.0), (2.0, 1.0), (1.0, 0.5), (0.2, 0.1)])
def test_the_servers_limit_ends_before_the_clients(client: float, server: float):
    assert conninfo.statement_timeout(client) == server


def test_a_limit_is_never_zero_which_would_mean_none():
    assert conninfo.milliseconds(0.0001) == 1


def test_keepalives_of_the_connection_string_win():
    seen = told("host=10.0.0.1 keepalives_idle=99")
    assert (seen["keepalives_idle"], seen["keepalives_count"]) == ("99", "3")


# --- TLS


@pytest.mark.parametrize(
    ("conn_string", "mode", "environment", "expected"),
    [
        ("sslmode=allow", TlsMode.REQUIRE, "disable", "allow"),
        ("", TlsMode.REQUIRE, "disable", "require"),
        ("", None, "disable", "disable"),
        ("", None, "prefer", "prefer"),
        ("", None, None, "verify-full"),
    ],
)
def test_sslmode_is_the_connection_strings_then_the_sections_then_the_environments(
    monkeypatch: pytest.MonkeyPatch,
    conn_string: str,
    mode: TlsMode | None,
    environment: str | None,
    expected: str,
):
    if environment is not None:
        monkeypatch.setenv("PGSSLMODE", environment)
    assert told(f"host=10.0.0.1 {conn_string}", tls=Tls(mode=mode))["sslmode"] == expected


def test_a_unix_socket_knows_no_tls():
    seen = told("host=/tmp,10.0.0.1", tls=Tls(mode=TlsMode.VERIFY_FULL, ca_file="/no/such/file"))
    assert seen["sslmode"] == "disable"
    assert "sslrootcert" not in seen


def test_the_systems_bundle_is_named_to_libpq_where_certificates_are_verified(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    bundle = tmp_path / "bundle.pem"
    bundle.touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    assert system_bundle() == bundle
    assert told("host=10.0.0.1")["sslrootcert"] == str(bundle)
    assert told("host=10.0.0.1 sslrootcert=system")["sslrootcert"] == str(bundle)
    assert "sslrootcert" not in told("host=10.0.0.1 sslmode=require")


def test_a_root_certificate_in_the_home_directory_is_left_to_libpq(tmp_path: Path):
    (tmp_path / ".postgresql").mkdir()
    (tmp_path / ".postgresql" / "root.crt").touch()
    assert "sslrootcert" not in told("host=10.0.0.1")


def test_files_of_the_tls_section_reach_libpq_unless_the_connection_string_names_others():
    tls = Tls(ca_file="/ca", cert_file=Path("/cert"), key_file=Path("/key"))
    seen = told("host=10.0.0.1 sslkey=/other", tls=tls)
    assert (seen["sslrootcert"], seen["sslcert"], seen["sslkey"]) == ("/ca", "/cert", "/other")


def test_a_list_of_revoked_certificates_needs_a_server_that_is_verified(tmp_path: Path):
    crl = tmp_path / "crl"
    tls = Tls(crl_file=crl)
    assert told("host=10.0.0.1", tls=tls)["sslcrl"] == str(crl)
    for mode in ("disable", "prefer", "require"):
        with pytest.raises(ConfigurationError, match="crl_file would be passed over"):
            conninfo.route(database(f"host=10.0.0.1 sslmode={mode}", tls=tls))
    sure = Tls(crl_file=crl, ca_file="/ca")
    assert told("host=10.0.0.1 sslmode=require", tls=sure)["sslcrl"] == str(crl)


def test_less_than_tls_1_2_is_refused():
    key = "ssl_min_protocol_version"
    for weak in ("TLSv1", "tlsv1.1"):
        with pytest.raises(ConfigurationError, match=f"{key}={weak}: less than"):
            conninfo.route(database(f"host=10.0.0.1 {key}={weak}"))
    with pytest.raises(ConfigurationError):  # libpq's own: less than its default for the least
        conninfo.route(database("host=10.0.0.1 ssl_max_protocol_version=TLSv1.1"))
    assert told(f"host=10.0.0.1 {key}=TLSv1.3")[key] == "TLSv1.3"


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer"])
def test_a_certificate_instead_of_a_password_needs_tls(mode: str):
    tls = Tls(cert_file=Path("/cert"), key_file=Path("/key"))
    with pytest.raises(ConfigurationError, match="auth_method cert needs TLS"):
        conninfo.route(
            database(f"host=10.0.0.1 sslmode={mode}", auth_method=AuthMethod.CERT, tls=tls)
        )
    with pytest.raises(ConfigurationError, match="Unix socket has not"):
        conninfo.route(database("host=/tmp", auth_method=AuthMethod.CERT, tls=tls))


def test_a_certificate_that_only_the_environment_names_need_not_be_there(
    monkeypatch: pytest.MonkeyPatch,
):
    """Some point PGSSLCERT to nowhere, so that libpq does not look for one that it may not read."""
    monkeypatch.setenv("PGSSLCERT", "/nowhere/at/all")
    assert conninfo.route(database("host=10.0.0.1")).certificate is None
    named = Tls(cert_file=Path("/cert"), key_file=Path("/key"))
    assert conninfo.route(database("host=10.0.0.1", tls=named)).certificate == Path("/cert")
    asked = database("host=10.0.0.1", auth_method=AuthMethod.CERT)
    assert conninfo.route(asked).certificate == Path("/nowhere/at/all")


@pytest.mark.parametrize(
    ("conn_string", "environ", "weak"),
    [
        ("host=10.0.0.1", {}, False),
        ("host=10.0.0.1 sslmode=require", {}, True),
        ("", {"PGHOST": "db1.example.test", "PGSSLMODE": "disable"}, True),
        ("sslmode=verify-ca", {"PGHOST": "db1.example.test"}, True),
        ("host=localhost,10.0.0.1 sslmode=prefer", {}, True),
        ("host=localhost,127.0.0.1,/tmp sslmode=disable", {}, False),
        ("host=db1 hostaddr=::1 sslmode=disable", {}, False),
    ],
)
def test_what_is_weak_is_known_wherever_it_was_said(
    conn_string: str, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, *, weak: bool
):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert bool(conninfo.weakness(conninfo.route(database(conn_string)))) is weak


def test_a_user_whom_nobody_knows_has_no_files_of_his_own(monkeypatch: pytest.MonkeyPatch):
    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", unknown)
    assert not [
        one for one in conninfo.files(database("host=10.0.0.1")) if ".postgresql" in str(one)
    ]
    assert default_file("root.crt") is None


def test_every_file_that_logging_in_depends_on_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PGPASSFILE", "/passfile")
    tls = Tls(ca_file="/ca", cert_file=Path("/cert"), key_file=Path("/key"), crl_file=Path("/crl"))
    password = Path("/password")
    found = conninfo.files(database("host=10.0.0.1", tls=tls, password_file=password))
    named = {"/ca", "/cert", "/key", "/crl", "/passfile", "/password"}
    assert set(map(str, found)) == named
    home = str(tmp_path)
    bare = {str(one).removeprefix(home) for one in conninfo.files(database("host=/tmp"))}
    assert bare >= {"/.postgresql/postgresql.crt", "/.postgresql/root.crt"}


# --- secrets

PASSWORD = "hunter2"  # noqa: S105


@pytest.mark.parametrize(
    "text",
    [
        f"host=db pasword={PASSWORD}",
        f"host=db password=a {PASSWORD}",
        f"postgresql://u:{PASSWORD}%zz@db/x",
        f"postgresql://u:{PASSWORD}@db:{PASSWORD}/x",
        f"postgresql://u:a@{PASSWORD}:b@c/x?nope=1",
        f"postgresql://u:a@{PASSWORD}@db/x",
        f"postgresql://u:@{PASSWORD}@db,other/x",
        f"host=a,b port=1,2,3 password={PASSWORD}",
        f"host=db password={PASSWORD} sslmode={PASSWORD}",
        f"service={PASSWORD} password={PASSWORD}",
        f"host=db user='{PASSWORD}",
    ],
)
def test_a_wrong_connection_string_is_refused_without_quoting_it(text: str):
    with pytest.raises(ConfigurationError) as refused:
        conninfo.route(database(text))
    assert PASSWORD not in refused.value.sentence()
    assert refused.value.remedy
    assert refused.value.__cause__ is None


@pytest.mark.parametrize("start", ["?", "a?", "?a=b&", "?user=me@"])
def test_a_question_mark_in_a_password_ends_no_credentials(start: str):
    text = f"postgresql://u:{start}{PASSWORD}@127.0.0.1:5433/shop"
    assert strings.has_password(text)
    assert not strings.may_be_shown(text)
    added = strings.add(text, {"sslmode": "require"})
    assert conninfo_to_dict(added)["sslmode"] == "require"
    assert strings.parse(added)["sslmode"] == "require"
    assert strings.parse("postgresql://db/x?user=me@corp")["user"] == "me@corp"


def test_a_misspelt_parameter_is_recognised():
    with pytest.raises(ConfigurationError, match=r"did you mean user\?"):
        conninfo.route(database("host=db usr=x"))


def test_the_password_is_scrubbed_from_what_libpq_says():
    route = conninfo.route(database(f"host=10.0.0.1 password={PASSWORD}"), sign=lambda *_: "sesame")
    assert route.scrub("sesame, open") == "***, open"
    for secret in (PASSWORD, "sesame"):
        assert secret not in repr(route)
        assert secret not in str(route)


# --- passwords


def test_a_password_file_is_read_at_each_connection_and_loses_its_line_end(tmp_path: Path):
    file = tmp_path / "password"
    postgres = Postgres(password_file=file)
    for written, expected in (("one\n", "one"), (" two \r\n", " two "), ("three", "three")):
        file.write_bytes(written.encode())
        assert password.find(postgres) == expected


def test_a_missing_password_file_is_an_outage_not_the_end(tmp_path: Path):
    with pytest.raises(TargetDown, match="does not exist"):
        password.find(Postgres(password_file=tmp_path / "none"))


@pytest.mark.parametrize("method", [AuthMethod.CERT, AuthMethod.PEER])
def test_certificates_and_peer_send_no_password(method: AuthMethod):
    assert password.find(Postgres(auth_method=method, password=Secret("x"))) is None


def test_peer_needs_a_unix_socket():
    with pytest.raises(ConfigurationError, match="Unix socket"):
        conninfo.route(database("host=10.0.0.1", auth_method=AuthMethod.PEER))
    assert conninfo.route(database("host=/tmp", auth_method=AuthMethod.PEER)).tls == {}


# --- names


def test_a_name_is_resolved_once_for_all_who_ask():
    found = Resolver().addresses(["localhost", "localhost"], 5.0, Wire())
    addresses = found["localhost"]
    assert not isinstance(addresses, OSError)
    assert set(addresses) <= {"127.0.0.1", "::1"}
    assert len(addresses) == len(set(addresses))


def test_an_unknown_name_is_an_error_of_its_own():
    found = Resolver().addresses(["localhost", "no such name"], 5.0, Wire())
    assert isinstance(found["no such name"], OSError)
    assert not isinstance(found["localhost"], OSError)


def test_no_thread_stays_behind_after_an_answer():
    Resolver().addresses(["localhost"], 5.0, Wire())
    until(lambda: not [one for one in threading.enumerate() if one.name.startswith("resolve")])


def test_a_cut_wire_refuses_to_wait():
    wire = Wire()
    wire.cut()
    started = time.monotonic()
    with pytest.raises(WireCut):
        Resolver().addresses(["localhost"], 60.0, wire)
    assert time.monotonic() - started < 1
