"""TLS beyond what libpq does: files that it passes over, and reasons that it does not tell.

Of every fault of a server's certificate libpq says that verification failed. So the handshake is
made once more, by Python's ssl, which names the reason. Nothing follows it: no role is named and
nobody is logged in. https://www.postgresql.org/docs/current/protocol-flow.html
"""

import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from pg_collector.config.files import Unreadable, readable
from pg_collector.errors import TargetRefused
from pg_collector.pg.conninfo import Endpoint, Route
from pg_collector.pg.tls_parameters import default_file
from pg_collector.trust import FAULTS, load_revoked
from pg_collector.wire import Wire

UNVERIFIED: Final = "certificate verify failed"
_SSL_REQUEST: Final = struct.pack("!II", 8, 80877103)
_WITHIN: Final = 2.0  # seconds
_LEAST: Final = 0.001  # seconds: 0 would mean not to wait


def explained(
    text: str, route: Route, where: tuple[Endpoint, str], deadline: float, wire: Wire
) -> str:
    """Return what libpq said of a failed attempt, with the reason where it said none.

    `where` is the host and its address. Takes no longer than to `deadline` (of `time.monotonic`),
    and two seconds at most; without an answer the text stays as it is. Raises WireCut.
    """
    root = route.tls.get("sslrootcert") or default_file("root.crt")
    if UNVERIFIED not in text or root is None:
        return text
    fault: str | None = None
    # The server may be gone by now, or well: then it stays with what was said.
    with contextlib.suppress(OSError, ValueError):
        context = _context()
        context.load_verify_locations(root)
        if route.revoked is not None:
            load_revoked(context, route.revoked)
        until = min(deadline, time.monotonic() + _WITHIN)
        fault = _fault(context, *where, until, wire)
    if fault is None:
        return text
    return text.replace(UNVERIFIED, f"{UNVERIFIED} (the server's certificate {fault})")


def refuse_unusable(route: Route) -> None:
    """Raise `TargetRefused` for a file that has to be there and that libpq would pass over.

    So it does with a client certificate that is not there, and with a list of revoked certificates
    that is missing or none.
    """
    for what, path, remedy in (
        ("client certificate", route.certificate, "postgres.tls.cert_file names it"),
        ("list of revoked certificates", route.revoked, "postgres.tls.crl_file names it"),
    ):
        if path is not None:
            _refuse_unreadable(route.target, what, path, remedy)
    if route.revoked is None:
        return
    try:
        load_revoked(_context(), route.revoked)
    except (OSError, ValueError):
        raise TargetRefused(
            f"{route.target}: {route.revoked} is no list of revoked certificates, or more",
            remedy="Write the list of the server's authority there, as PEM: postgres.tls.crl_file",
        ) from None


def _refuse_unreadable(target: str, what: str, path: Path, remedy: str) -> None:
    try:
        readable(path)
    except Unreadable as error:
        raise TargetRefused(
            f"{target}: the {what} {error}", remedy=f"{error.remedy}; {remedy}"
        ) from None


class Shown(NamedTuple):
    """What an address showed before anybody named a role."""

    seconds: float  # until it was connected
    certificate: bytes | None = None  # DER; None: none was asked for, or it speaks no TLS
    speaks: bool = False  # TLS


def shown(endpoint: Endpoint, address: str, until: float, wire: Wire, *, asks: bool) -> Shown:
    """Connect to an address and, where one `asks`, look at its certificate; trust nothing.

    Nobody is logged in. Until the moment `until` of `time.monotonic`; raises OSError, WireCut.
    """
    context = _context()
    context.verify_mode = ssl.CERT_NONE
    began = time.monotonic()
    with _linked(endpoint, address, until, wire) as link:
        seconds = time.monotonic() - began
        if not asks or not _speaks(link, until):
            return Shown(seconds)
        link.settimeout(_left(until))
        with context.wrap_socket(link, server_hostname=endpoint.host or address) as secured:
            return Shown(seconds, secured.getpeercert(binary_form=True), speaks=True)


def _fault(
    context: ssl.SSLContext, endpoint: Endpoint, address: str, until: float, wire: Wire
) -> str | None:
    with _linked(endpoint, address, until, wire) as link:
        if not _speaks(link, until):
            return None
        link.settimeout(_left(until))
        try:
            # The time-out is that of the whole handshake. A server may have several certificates.
            context.wrap_socket(link, server_hostname=endpoint.host or address).close()
        except ssl.SSLCertVerificationError as error:
            return FAULTS.get(error.verify_code, error.verify_message)
    return None


@contextlib.contextmanager
def _linked(endpoint: Endpoint, address: str, until: float, wire: Wire) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    link = socket.socket(family)
    with link, wire.holding(link.fileno()):
        link.settimeout(_left(until))
        link.connect((address, int(endpoint.port)))
        yield link


def _speaks(link: socket.socket, until: float) -> bool:
    """Ask for TLS, and say whether the far side agrees."""
    link.settimeout(_left(until))
    link.sendall(_SSL_REQUEST)
    link.settimeout(_left(until))
    return link.recv(1) == b"S"


def _left(until: float) -> float:
    return max(until - time.monotonic(), _LEAST)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # libpq tells of a wrong name itself
    return context
