"""Why an exchange over HTTP failed, in words of ours and with what helps.

Texts of the libraries are not passed on: they hold addresses of objects, and may hold a proxy's
password. What they wrap is looked through to the first error that says something.
"""

import errno
import http.client
import re
import ssl
from collections.abc import Iterator
from typing import Final

from pg_collector.errors import DeliveryError, Unreachable
from pg_collector.trust import FAULTS

_TUNNEL: Final = re.compile(r"Tunnel connection failed: (\d{3})")
_CLOCK: Final = "Is this host's clock right? Else the far side has to renew its certificate."
_AUTHORITY: Final = (
    "Name the file with the authority's certificate: platform.ca_file. If something on the way "
    "looks into TLS, that is whose authority it has to be."
)
_NAME: Final = "Is platform.url right? The certificate is another host's."
_OWN: Final = "Renew platform.client_cert, or ask the platform which one it wants."

_LIST: Final = "Renew the list in platform.crl_file; it has to be of the certificate's authority."
_CERTIFICATE: Final = {
    3: _LIST, 9: _CLOCK, 10: _CLOCK, 11: _LIST, 12: _LIST, 18: _AUTHORITY, 19: _AUTHORITY,
    20: _AUTHORITY, 21: _AUTHORITY, 23: "The far side has to renew its certificate.", 62: _NAME,
    64: _NAME,
}  # fmt: skip
# The reasons of OpenSSL as Python names them; an ALERT is what the far side said.
_TLS: Final = {
    "WRONG_VERSION_NUMBER": ("it does not speak TLS", "Is platform.url right? Try the port."),
    "HTTP_REQUEST": ("it does not speak TLS", "Is platform.url right? Try the port."),
    "UNSUPPORTED_PROTOCOL": ("it speaks no TLS 1.2", "The far side has to be brought up to date."),
    "TLSV1_ALERT_PROTOCOL_VERSION": (
        "it refuses TLS 1.2 and 1.3",
        "The far side has to be brought up to date.",
    ),
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": ("it wants a client certificate", _OWN),
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": ("it says that our client certificate has expired", _OWN),
    "SSLV3_ALERT_CERTIFICATE_REVOKED": ("it says that our client certificate was revoked", _OWN),
    "SSLV3_ALERT_BAD_CERTIFICATE": ("it refuses our client certificate", _OWN),
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": ("it refuses our client certificate", _OWN),
    "SSLV3_ALERT_HANDSHAKE_FAILURE": ("it refuses our client certificate, or to have none", _OWN),
    "TLSV1_ALERT_UNKNOWN_CA": ("it does not know our client certificate's authority", _OWN),
    "KEY_VALUES_MISMATCH": ("our client certificate and its key do not belong together", _OWN),
    "NO_CERTIFICATE_OR_CRL_FOUND": ("there is no certificate in platform.ca_file", _AUTHORITY),
    "UNEXPECTED_EOF_WHILE_READING": ("it ended the connection", "Look at the far side's log."),
}
_CUT: Final = "If it lasts, something on the way breaks connections: a proxy, a load balancer."
_ERRNO: Final = {
    errno.ECONNREFUSED: "Is the far side up?",
    errno.EMFILE: "Raise the limit of open files (ulimit -n).",
    errno.EACCES: "Make platform.client_cert and platform.ca_file readable for the agent.",
}


def unreachable(error: BaseException, place: str) -> DeliveryError:
    """Return what an exchange with `place` raises, given what a library raised."""
    causes = list(_causes(error))
    for translate in (_ours, _tunnel, _tls, _cut, _system, _key):
        for cause in causes:
            if found := translate(cause, place):
                return found
    return Unreachable(f"{place}: the exchange failed ({type(causes[-1]).__name__})", remedy=_CUT)


def refused_by_proxy(status: int, place: str) -> Unreachable:
    """Return what it means that a proxy answered in the far side's place."""
    if status == http.client.PROXY_AUTHENTICATION_REQUIRED:
        return Unreachable(
            f"{place}: the proxy wants a login (407)",
            remedy="Put user and password into platform.proxy: http://user:password@host:port",
        )
    return Unreachable(
        f"{place}: the proxy does not connect to it ({status})",
        remedy="Ask who runs the proxy, or name the host in platform.no_proxy.",
    )


def _ours(error: BaseException, _place: str) -> DeliveryError | None:
    return error if isinstance(error, DeliveryError) else None


def _tunnel(error: BaseException, place: str) -> Unreachable | None:
    found = _TUNNEL.search(str(error))
    return refused_by_proxy(int(found[1]), place) if found else None


def _tls(error: BaseException, place: str) -> Unreachable | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        said = FAULTS.get(error.verify_code, "cannot be verified")
        remedy = _CERTIFICATE.get(error.verify_code, _AUTHORITY)
        return Unreachable(f"{place}: TLS: its certificate {said}", remedy=remedy)
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        said, remedy = _TLS.get(reason, (reason.replace("_", " ").lower() or "it failed", _CUT))
        return Unreachable(f"{place}: TLS: {said}", remedy=remedy)
    return None


def _cut(error: BaseException, place: str) -> Unreachable | None:
    if isinstance(error, http.client.HTTPException | EOFError):
        return Unreachable(f"{place}: the answer is cut short, or no HTTP", remedy=_CUT)
    return None


def _system(error: BaseException, place: str) -> Unreachable | None:
    if isinstance(error, OSError) and error.errno is not None:
        said = error.strerror or type(error).__name__
        return Unreachable(f"{place}: {said}", remedy=_ERRNO.get(error.errno, _CUT))
    return None


def _key(error: BaseException, place: str) -> Unreachable | None:
    if "key is encrypted" in str(error):
        return Unreachable(f"{place}: the key of our client certificate is encrypted", remedy=_OWN)
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it wraps, in whatever way, from the outside in."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        inside = (getattr(one, "reason", None), *one.args, one.__cause__, one.__context__)
        waiting += [each for each in inside if isinstance(each, BaseException)]
