"""Which authorities are trusted: the operating system's bundle, found by looking.

The OpenSSL inside psycopg's and Python's wheels looks in places that no distribution uses, so the
bundle is always passed on by name.
"""

import os
from pathlib import Path

_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Red Hat, Fedora, Amazon Linux
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # Alpine, macOS
)


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
