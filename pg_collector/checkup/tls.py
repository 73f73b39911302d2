"""TLS to a server: how strict it is, and for how long the certificates are good."""

import datetime as dt
from collections.abc import Iterator
from typing import Final

from pg_collector import certificates
from pg_collector.certificates import Validity
from pg_collector.checkup.finding import Finding, Level
from pg_collector.checkup.network import Place
from pg_collector.config.model import Database
from pg_collector.errors import ConfigurationError
from pg_collector.expiry import WARN_AT
from pg_collector.pg import conninfo
from pg_collector.pg.conninfo import Route
from pg_collector.pg.examination import Examination

_DAY: Final = 86_400.0  # seconds
_SERVER: Final = (
    "Renew the server's certificate (ssl_cert_file, ssl_key_file), then: SELECT pg_reload_conf();"
)


def findings(
    database: Database, route: Route, places: list[Place], examined: Examination | None
) -> Iterator[Finding]:
    """Say how sessions are encrypted, and warn of what ends soon. `examined` is a session's."""
    if not route.tls:
        return  # a Unix socket
    name = database.name
    mode = route.tls["sslmode"]
    if examined is not None and examined.late and examined.tls is None:
        examined = None  # there was no time to look
    said = [f"{examined.tls} {mode}" if examined is not None and examined.tls else mode]
    if examined is not None and not examined.tls:
        said = [f"not encrypted, sslmode={mode}"]
    measured: dict[str, float] = {}
    worse: list[Finding] = []
    for what, valid, remedy in _certificates(database, places):
        days = (valid.end - dt.datetime.now(dt.UTC)).total_seconds() / _DAY
        said.append(f"{what} {days:.0f} d")
        measured[f"{what.replace(' ', '_')}_days"] = round(days, 1)
        worse += _judged(name, what, valid, days, remedy)
    if weak := conninfo.weakness(route):
        worse.append(
            Finding(
                section="tls",
                target=name,
                level=Level.WARN,
                found=weak,
                remedy=_stricter(database),
            )
        )
    if examined is not None:
        yield Finding(
            section="tls", target=name, level=Level.OK, found=", ".join(said), measured=measured
        )
    yield from worse


def _stricter(database: Database) -> str:
    if database.postgres.tls.mode is not None:
        return "Set postgres.tls.mode: verify-full, and postgres.tls.ca_file to the authority's"
    return "Write sslmode=verify-full in conn_string, and set postgres.tls.ca_file"


def _certificates(database: Database, places: list[Place]) -> Iterator[tuple[str, Validity, str]]:
    """Yield what is known of the server's certificate, and of ours."""
    seen = [one.shown.certificate for one in places if one.shown and one.shown.certificate]
    ends: list[Validity] = []
    for der in dict.fromkeys(seen):
        try:
            ends.append(certificates.of(der))
        except ValueError:
            continue
    if ends:
        yield "server cert", min(ends, key=lambda one: one.end), _SERVER
    path = conninfo.shown_certificate(database)
    if path is None:
        return
    try:
        valid = certificates.validity(path)
    except (ConfigurationError, ValueError):
        return  # whoever connects tells of it
    yield (
        "client cert", valid,
        f"Renew {path} and its key: openssl x509 -in {path} -noout -enddate says until when",
    )  # fmt: skip


def _judged(target: str, what: str, valid: Validity, days: float, remedy: str) -> Iterator[Finding]:
    life = (valid.end - valid.begin).total_seconds() / _DAY
    if days <= 0:
        level, said = Level.FAIL, f"{what} expired on {valid.end:%Y-%m-%d %H:%M} UTC"
    elif days <= WARN_AT[0] and days < life / 2:
        level, said = (
            Level.WARN,
            f"{what} ends in {days:.0f} d, on {valid.end:%Y-%m-%d}: renew soon",
        )
    else:
        return
    yield Finding(section="tls", target=target, level=level, found=said, remedy=remedy)
