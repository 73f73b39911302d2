"""From the configuration to what libpq is told, per address.

libpq itself fills in what `conn_string` leaves open (service file, environment, defaults), so that
an empty one behaves as psql does; what the collector needs is laid over that.
https://www.postgresql.org/docs/current/libpq-connect.html
"""

import difflib
import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pg_collector.config.model import AuthMethod, Database, Postgres
from pg_collector.errors import ConfigurationError
from pg_collector.pg import tls_parameters
from pg_collector.pg.auth import cert
from pg_collector.pg.auth.login import Sign
from pg_collector.pg.trouble import Peer, Scrub, scrubber
from pg_collector.secret import Secret

_SECRETS = ("password", "sslpassword", "oauth_client_secret", "scram_client_key")
# Ours to decide, per address.
_TAKEN = (
    "service", "servicefile", "host", "hostaddr", "port", "options", "connect_timeout",
    "target_session_attrs", "load_balance_hosts", "fallback_application_name",
)  # fmt: skip
_KEEPALIVES = {
    "keepalives": "1",
    "keepalives_idle": "10",  # s
    "keepalives_interval": "5",  # s
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",  # ms
}
_PORTS = 65_535
# Our sessions are read-only themselves, so libpq's test for "read-write" could never pass.
_ATTRS = {"read-write": "primary", "read-only": "standby"}


def _unsigned(_host: str, _port: str, _user: str) -> None:
    return None


class Endpoint(NamedTuple):
    """A host of the list: a name, an address, or the directory of a Unix socket."""

    host: str
    hostaddr: str
    port: str

    @property
    def is_socket(self) -> bool:
        """Whether it is a Unix socket (`@` is the abstract namespace)."""
        return not self.hostaddr and (not self.host or self.host[0] in "/@")

    @property
    def address(self) -> str | None:
        """Return the numeric address if no look-up is needed."""
        return self.hostaddr or (self.host if _is_address(self.host) else None)

    @property
    def place(self) -> str:
        """Return words for messages: `db1:5432`."""
        if self.is_socket:
            return f"{self.host or 'Unix socket'} (port {self.port})"
        host = self.host or self.hostaddr
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """Where the sessions of a target go to, and with which parameters.

    `passwords` are of the endpoints that have one of their own, beside `params`. `certificate` is
    the file of the client certificate that has to be there, and `revoked` that of the list.
    """

    target: str
    endpoints: tuple[Endpoint, ...]
    session_attrs: str
    shuffled: bool
    params: Mapping[str, str]  # for every endpoint
    tls: Mapping[str, str]  # for those that are no Unix sockets
    passwords: Mapping[Endpoint, Secret]
    certificate: Path | None
    revoked: Path | None
    method: AuthMethod
    scrub: Scrub

    def __repr__(self) -> str:
        return f"Route({self.target})"  # `params` may hold a password

    def conninfo(self, endpoint: Endpoint, address: str | None, session_attrs: str) -> str:
        """Return the connection string for one address. It holds the password."""
        where = {"port": endpoint.port, "target_session_attrs": session_attrs}
        if endpoint.host:
            where["host"] = endpoint.host
        if endpoint in self.passwords:
            where["password"] = self.passwords[endpoint].reveal()
        if endpoint.is_socket:
            return make_conninfo("", **{**self.params, **where, "sslmode": "disable"})
        return make_conninfo("", **{**self.params, **self.tls, **where, "hostaddr": address})

    def peer(self, endpoint: Endpoint) -> Peer:
        """Return the names that messages about `endpoint` use."""
        return Peer(
            self.target, endpoint.place, self.params["user"], self.params["dbname"], self.method
        )


def route(database: Database, *, sign: Sign = _unsigned, dbname: str | None = None) -> Route:
    """Work out the route to `database`; passwords of `sign` and `dbname` win over `conn_string`.

    Raises `ConfigurationError`, whose text never quotes the connection string.
    """
    postgres = database.postgres
    own = parse(database)
    if dbname is not None:
        own["dbname"] = dbname
    scrub = scrubber(own.get(name, "") for name in _SECRETS)
    values = _filled_in(database.name, own, scrub)
    endpoints = _endpoints(database.name, values)
    if postgres.auth_method is AuthMethod.PEER and not all(one.is_socket for one in endpoints):
        raise ConfigurationError(
            f"{database.name}: auth_method peer works on a Unix socket only",
            remedy="Name the socket's directory: host=/var/run/postgresql",
        )
    networked = not all(one.is_socket for one in endpoints)
    tls = tls_parameters.parameters(postgres.tls, own, values) if networked else {}
    if postgres.auth_method is AuthMethod.CERT:
        cert.refuse_impossible(
            database.name, tls, found=tls_parameters.certificate(postgres, tls) is not None
        )
    if networked:
        tls_parameters.refuse_weak(database.name, postgres, tls)
    signed = ((one, sign(one.host or one.hostaddr, one.port, values["user"])) for one in endpoints)
    passwords = {one: Secret(text) for one, text in signed if text is not None}
    known = (one.reveal() for one in passwords.values())
    attrs = values.get("target_session_attrs", "any")
    return Route(
        target=database.name,
        endpoints=endpoints,
        session_attrs=_ATTRS.get(attrs, attrs),
        shuffled=values.get("load_balance_hosts") == "random",
        params=_params(postgres, own, values),
        tls=tls,
        passwords=passwords,
        certificate=tls_parameters.certificate(postgres, tls),
        revoked=Path(tls["sslcrl"]) if tls.get("sslcrl") else None,
        method=postgres.auth_method,
        scrub=scrubber([*known, *(values.get(name, "") for name in _SECRETS)]),
    )


def files(database: Database) -> tuple[Path, ...]:
    """Return the files that logging in to `database` depends on, there or not."""
    postgres = database.postgres
    try:
        one = route(database)
        named = {**one.params, **one.tls}
    except ConfigurationError:
        named = {}
    found = [Path(named[name]) for name in _FILES if named.get(name)]
    if (home := tls_parameters.home()) is not None:
        found += [home / _FILES[name] for name in _FILES if not named.get(name)]
    if postgres.password_file is not None:
        found.append(postgres.password_file)
    return tuple(found)


_FILES = {
    "sslrootcert": ".postgresql/root.crt",
    "sslcert": ".postgresql/postgresql.crt",
    "sslkey": ".postgresql/postgresql.key",
    "sslcrl": ".postgresql/root.crl",
    "passfile": ".pgpass",
}


def parse(database: Database) -> dict[str, str]:
    """Read `conn_string` as libpq does. Raises `ConfigurationError` without quoting it."""
    text = database.postgres.conn_string.reveal()
    try:
        return {name: str(value) for name, value in conninfo_to_dict(text).items()}
    except (psycopg.Error, UnicodeError) as error:
        raise ConfigurationError(
            f"{database.name}: conn_string is not a valid connection string{_hint(str(error))}",
            remedy="Write postgresql://user@host:5432/dbname?sslmode=verify-full (special "
            "characters percent-encoded), or host=... port=... dbname=... user=...",
        ) from None  # libpq quotes the part it stumbled over, which can be the password


def libpq_version() -> str:
    """Return the version of libpq, as in 17.2."""
    major, minor = divmod(pq.version(), 10_000)
    return f"{major}.{minor}"


def settings(postgres: Postgres) -> dict[str, str]:
    """Return the settings that a session of ours starts with (PostgreSQL 12 knows them all)."""
    return {
        "default_transaction_read_only": "on",
        "default_transaction_isolation": "read committed",
        "statement_timeout": str(milliseconds(statement_timeout(postgres.query_timeout))),
        "lock_timeout": str(milliseconds(postgres.lock_timeout)),
        "idle_in_transaction_session_timeout": "10000",
        "search_path": "pg_catalog",
        # pg_stat_statements gives 5 MB where there are 10,000 entries, and with a look at texts all
        # of them, 22 MB for 5,000 of 4 kB: with less, each reading would write a temporary file,
        # and log_temp_files tell of it. Nothing else of ours comes near.
        "work_mem": "64MB",
        "jit": "off",
        "max_parallel_workers_per_gather": "0",
        "TimeZone": "UTC",
        "DateStyle": "ISO",
        "IntervalStyle": "postgres",
        "extra_float_digits": "1",
        # A session that lost its agent frees its place after 25 s, or 15 s if it was sending.
        "tcp_keepalives_idle": "10",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "3",
        "tcp_user_timeout": "15000",
    }


def statement_timeout(seconds: float) -> float:
    """Return the server's share of a client-side bound: it must end first."""
    return max(seconds - 1.0, seconds / 2)


def milliseconds(seconds: float) -> int:
    """Return whole milliseconds, at least one: 0 would switch a limit off."""
    return max(1, round(seconds * 1000))


def _filled_in(target: str, own: Mapping[str, str], scrub: Scrub) -> dict[str, str]:
    """Return what libpq makes of `own`: with service file, environment and defaults.

    libpq checks parameters after it has filled them in and before it touches the network, so one
    bad value makes it stop there. The value that was replaced for it comes from a second look.
    """
    values = _look(target, own, "target_session_attrs", scrub)
    other = _look(target, own, "channel_binding", scrub)
    values["target_session_attrs"] = other.get("target_session_attrs", "any")
    return values


def _look(target: str, own: Mapping[str, str], stop_at: str, scrub: Scrub) -> dict[str, str]:
    pgconn = pq.PGconn.connect_start(make_conninfo("", **{**own, stop_at: "?"}).encode())
    try:
        text = pgconn.get_error_message("utf-8")
        if f"invalid {stop_at} value" not in text:
            raise ConfigurationError(
                f"{target}: {scrub(text)}",
                remedy="Check conn_string, the PG* environment variables and the service file",
            )
        return {
            one.keyword.decode(): one.val.decode("utf-8", "replace")
            for one in pgconn.info
            if one.val is not None
        }
    finally:
        pgconn.finish()


def _endpoints(target: str, values: Mapping[str, str]) -> tuple[Endpoint, ...]:
    hosts = values.get("host", "").split(",")
    addresses = values.get("hostaddr", "").split(",")
    ports = values.get("port", "").split(",")
    count = max(len(hosts), len(addresses))
    if not all(port.isdecimal() and 0 < int(port) <= _PORTS for port in ports if port):
        raise ConfigurationError(
            f"{target}: a port of the connection is not a number from 1 to {_PORTS}",
            remedy="Check conn_string and PGPORT; percent-encode special characters of a password",
        )
    if any("@" in host[1:] and host[0] != "/" for host in hosts):  # what follows may be shown
        raise ConfigurationError(
            f"{target}: a host of the connection holds an @, and may be part of a password",
            remedy="Percent-encode special characters of a password: @ is %40",
        )
    if len(ports) == 1:
        ports *= count
    hosts += [""] * (count - len(hosts))
    addresses += [""] * (count - len(addresses))
    return tuple(
        Endpoint(*one) for one in zip(hosts, addresses, (p or "5432" for p in ports), strict=True)
    )


def _params(
    postgres: Postgres, own: Mapping[str, str], values: Mapping[str, str]
) -> dict[str, str]:
    params = {k: v for k, v in values.items() if k not in _TAKEN and not k.startswith("ssl")}
    params.setdefault("dbname", params["user"])
    for name, value in _KEEPALIVES.items():
        params.setdefault(name, value)
    params["application_name"] = own.get("application_name", postgres.application_name)
    params["client_encoding"] = "UTF8"
    ours = (f"-c {name}={_escaped(value)}" for name, value in settings(postgres).items())
    params["options"] = " ".join((values.get("options", ""), *ours)).strip()
    return params


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


def shown_certificate(database: Database) -> Path | None:
    """Return the file of the client certificate that sessions show, if there is one."""
    try:
        one = route(database)
    except ConfigurationError:
        return None  # whoever connects tells of it
    if not one.tls:
        return None
    named = one.tls.get("sslcert")
    return Path(named) if named else tls_parameters.default_file("postgresql.crt")


def weakness(route: Route) -> str:
    """Say what somebody on the way to the server could do; empty where nothing."""
    mode = route.tls.get("sslmode", "verify-full")
    far = [one for one in route.endpoints if not one.is_socket and not _is_near(one)]
    if mode == "verify-full" or not far:
        return ""
    return (
        f"sslmode={mode}: whoever is on the way to {far[0].place} can take its place; verify-full, "
        "the default, notices"
    )


def _is_near(endpoint: Endpoint) -> bool:
    where = endpoint.address
    return endpoint.host == "localhost" or (
        where is not None and ipaddress.ip_address(where).is_loopback
    )


def _hint(text: str) -> str:
    """Name the parameter that was meant, if one is close, without quoting what was written."""
    _, found, rest = text.partition('"')
    known = [one.keyword.decode() for one in pq.Conninfo.get_defaults()]
    close = difflib.get_close_matches(rest.partition('"')[0], known, 1, 0.7) if found else []
    return f" (did you mean {close[0]}?)" if close and close[0] not in text else ""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
