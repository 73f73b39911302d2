"""Which authorities are trusted: the operating system's bundle, found by looking; and why not.

The OpenSSL inside psycopg's and Python's wheels looks in places that no distribution uses, so the
bundle is always passed on by name.
"""

import os
import ssl
from pathlib import Path
from typing import Final

# What is wrong with a certificate, by X509_V_ERR_*:
# https://docs.openssl.org/3.0/man3/X509_STORE_CTX_get_error/
UNTRUSTED: Final = "is signed by an authority that is not trusted here"
FAULTS: Final = {
    3: "cannot be looked up: there is no revocation list of its authority",
    9: "is not valid yet",
    10: "has expired",
    11: "cannot be looked up: the revocation list is not valid yet",
    12: "cannot be looked up: the revocation list has expired",
    18: "is signed by itself, not by an authority that is trusted here",
    19: UNTRUSTED,
    20: UNTRUSTED,
    21: UNTRUSTED,
    23: "was revoked",
    62: "is not for this host name",
    64: "is not for this address",
}

_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Red Hat, Fedora, Amazon Linux
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # Alpine, macOS
)


def load_revoked(context: ssl.SSLContext, path: Path) -> None:
    """Let a context look at a file with lists of revoked certificates, for each authority.

    Raises OSError where it cannot be read or holds no list, ValueError where it holds certificates,
    too: these would be trusted from then on.
    """
    before = context.cert_store_stats()
    context.load_verify_locations(path)
    after = context.cert_store_stats()
    if after["x509"] > before["x509"]:
        raise ValueError("it holds certificates beside lists")
    if after["crl"] <= before["crl"]:
        raise OSError("it holds no list")
    context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_CHAIN


# What shows that a file was written or replaced: its number, times and size.
Stamp = tuple[int, int, int, int]


def stamp(path: Path) -> Stamp | None:
    """Return the stamp of a file; None where none can be seen."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size


def system_bundle() -> Path | None:
    """Return the file with the system's certificate authorities, or None where there is none.

    SSL_CERT_FILE wins, as it does in OpenSSL; certifi's list is the last resort.
    """
    named = os.environ.get("SSL_CERT_FILE")
    for path in (named, *_BUNDLES) if named else _BUNDLES:
        if Path(path).is_file():
            return Path(path)
    return _certifi()


def _certifi() -> Path | None:
    try:
        import certifi  # noqa: PLC0415  # seldom needed, and not a dependency of our own
    except ImportError:
        return None
    return Path(certifi.where())
