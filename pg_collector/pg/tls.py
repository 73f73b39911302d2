"""Why a server's certificate does not hold: libpq says of all reasons that verification failed.

So the handshake is made once more, by Python's ssl, which names the reason. Nothing follows it: no
role is named and nobody is logged in. https://www.postgresql.org/docs/current/protocol-flow.html
"""

import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pg_collector.errors import TargetRefused
from pg_collector.trust import FAULTS
from pg_collector.wire import Wire

UNVERIFIED: Final = "certificate verify failed"
_SSL_REQUEST: Final = struct.pack("!II", 8, 80877103)
_WITHIN: Final = 2.0  # seconds


def explained(
    text: str, tls: Mapping[str, str], where: tuple[str, str], deadline: float, wire: Wire
) -> str:
    """Return what libpq said of a failed attempt, with the reason where it said none.

    `where` is the address and the port. Takes no longer than to `deadline` (of `time.monotonic`),
    and two seconds at most; without an answer the text stays as it is. Raises WireCut.
    """
    if UNVERIFIED not in text or tls.get("sslrootcert") is None:
        return text
    fault: str | None = None
    # The server may be gone by now, or well: then it stays with what was said.
    with contextlib.suppress(OSError, ValueError):
        fault = _fault(tls, where, min(deadline, time.monotonic() + _WITHIN), wire)
    if fault is None:
        return text
    return text.replace(UNVERIFIED, f"{UNVERIFIED} (the server's certificate {fault})")


def refuse_unusable(target: str, tls: Mapping[str, str]) -> None:
    """Raise `TargetRefused` for a file that is named and that libpq would pass over.

    So it does with a client certificate that is not there, and with a list of revoked certificates
    that is missing or none.
    """
    own, revoked = tls.get("sslcert"), tls.get("sslcrl")
    if own and not Path(own).exists():
        raise TargetRefused(
            f"{target}: the client certificate {own} does not exist",
            remedy="Write it there, or name another one: postgres.tls.cert_file",
        )
    if not revoked:
        return
    try:
        _context().load_verify_locations(revoked)
    except OSError as error:  # ssl.SSLError is one
        said = "is no list" if isinstance(error, ssl.SSLError) else str(error.strerror).lower()
        raise TargetRefused(
            f"{target}: the list of revoked certificates {revoked}: {said}",
            remedy="Write the list of the server's authority there, as PEM: postgres.tls.crl_file",
        ) from None


def _fault(
    tls: Mapping[str, str], where: tuple[str, str], deadline: float, wire: Wire
) -> str | None:
    context = _context()
    context.load_verify_locations(tls["sslrootcert"])
    if "sslcrl" in tls:
        context.load_verify_locations(tls["sslcrl"])
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_CHAIN
    link = socket.create_connection(
        (where[0], int(where[1])), max(deadline - time.monotonic(), 0.01)
    )
    with link, wire.holding(link.fileno()):
        link.settimeout(max(deadline - time.monotonic(), 0.01))
        link.sendall(_SSL_REQUEST)
        if link.recv(1) != b"S":
            return None
        try:
            context.wrap_socket(link).close()
        except ssl.SSLCertVerificationError as error:
            return FAULTS.get(error.verify_code, error.verify_message)
    return None


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # libpq tells of a wrong name itself
    return context
