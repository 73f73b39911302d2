"""The way to a server before anybody logs in: its name, its addresses, how far they are."""

import socket
import time
from collections.abc import Iterator
from typing import NamedTuple

from pg_collector.checkup.asked import Asked
from pg_collector.checkup.finding import Finding, Level
from pg_collector.config.model import Database
from pg_collector.pg import tls
from pg_collector.pg.conninfo import Endpoint, Route
from pg_collector.pg.tls import Shown
from pg_collector.resolve import Resolver
from pg_collector.wire import Wire


class Place(NamedTuple):
    """One address of a server, and what it showed; `fault` where it did not answer."""

    endpoint: Endpoint
    address: str
    shown: Shown | None = None
    fault: str = ""
    remedy: str = ""


def places(database: Database, route: Route, asked: Asked) -> list[Place]:
    """Go to every address within the target's own bound for connecting."""
    seconds = min(database.postgres.connect_timeout, max(asked.left(), 0.1))
    return [one for endpoint in route.endpoints for one in _visited(route, endpoint, seconds)]


def findings(target: str, found: list[Place], *, lent: bool) -> Iterator[Finding]:
    """Say where the server is, and how far; a warning where only some addresses answer.

    `lent`: the agent has a session all the same.
    """
    well = [one for one in found if not one.fault]
    said = ", ".join(_said(one) for one in well)
    milliseconds = {
        one.address: round(one.shown.seconds * 1000, 1) for one in well if one.shown is not None
    }
    if well:
        yield Finding(
            section="network", target=target, level=Level.OK, found=said,
            measured={"connect_ms": milliseconds},
        )  # fmt: skip
    for one in found:
        if one.fault:
            bad = Level.WARN if well or lent else Level.FAIL
            yield Finding(
                section="network",
                target=target,
                level=bad,
                found=f"{one.endpoint.place}: {one.fault}",
                remedy=one.remedy,
                unreachable=bad is Level.FAIL,
            )


def _visited(route: Route, endpoint: Endpoint, seconds: float) -> Iterator[Place]:
    """Yield each address of a host."""
    until = time.monotonic() + seconds
    if endpoint.is_socket:
        yield _unix(endpoint, seconds)
        return
    if endpoint.address is not None:
        addresses: tuple[str, ...] = (endpoint.address,)
    else:
        answer = Resolver().addresses([endpoint.host], seconds / 2, Wire())[endpoint.host]
        if isinstance(answer, OSError):
            yield Place(
                endpoint, "", fault=f"the name cannot be resolved: {answer.strerror or answer}",
                remedy=f"getent hosts {endpoint.host}   # no answer: mend the name in conn_string, "
                "the name servers in /etc/resolv.conf, or give hostaddr",
            )  # fmt: skip
            return
        addresses = answer
    asks = route.tls.get("sslmode", "disable") not in {"disable", "allow"}
    for number, address in enumerate(addresses):
        share = max(0.0, until - time.monotonic()) / (len(addresses) - number)
        yield _connected(endpoint, address, time.monotonic() + share, asks=asks)


def _connected(endpoint: Endpoint, address: str, until: float, *, asks: bool) -> Place:
    try:
        return Place(endpoint, address, tls.shown(endpoint, address, until, Wire(), asks=asks))
    except TimeoutError:
        return Place(
            endpoint, address, fault=f"{address} does not answer",
            remedy="Is the server up, and does a firewall drop packets on the way? "
            f"nc -vz {address} {endpoint.port}",
        )  # fmt: skip
    except ConnectionRefusedError:
        return Place(
            endpoint, address, fault=f"{address}: connection refused",
            remedy=f"Is PostgreSQL running, and does it listen there? On its host: "
            f"ss -ltn 'sport = :{endpoint.port}'; listen_addresses and port say where",
        )  # fmt: skip
    except OSError as error:
        # The address is there; what came after is told by whoever logs in.
        if isinstance(error, ConnectionResetError) or error.errno is None:
            return Place(endpoint, address)
        said = error.strerror or type(error).__name__
        remedy = f"ip route get {address}"
        return Place(endpoint, address, fault=f"{address}: {said}", remedy=remedy)


def _unix(endpoint: Endpoint, seconds: float) -> Place:
    if not endpoint.host.startswith("/"):
        return Place(endpoint, "")  # libpq's own directory, or an abstract name
    path = f"{endpoint.host}/.s.PGSQL.{endpoint.port}"
    began = time.monotonic()
    try:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(seconds)
            link.connect(path)
    except OSError as error:
        return Place(
            endpoint, path, fault=f"{path}: {error.strerror or error}",
            remedy="Is PostgreSQL running? SHOW unix_socket_directories; says where its socket is",
        )  # fmt: skip
    return Place(endpoint, path, Shown(time.monotonic() - began))


def _said(one: Place) -> str:
    where = f" -> {one.address}" if one.address and one.address != one.endpoint.host else ""
    if one.endpoint.is_socket:
        where = ""
    ms = f"  {one.shown.seconds * 1000:.0f} ms" if one.shown is not None else ""
    return f"{one.endpoint.place}{where}{ms}"
