"""A client certificate instead of a password (mutual TLS).

libpq reads certificate and key at each attempt, so what was renewed is shown by the next session.
https://www.postgresql.org/docs/current/auth-cert.html
"""

from collections.abc import Mapping
from typing import Final

from pg_collector.errors import ConfigurationError

_ALWAYS_TLS: Final = ("require", "verify-ca", "verify-full")


def refuse_impossible(target: str, tls: Mapping[str, str], *, found: bool) -> None:
    """Raise `ConfigurationError` where no certificate could be shown.

    `tls` are libpq's parameters for hosts that are no Unix sockets, empty where there are none;
    `found` says whether there is a certificate.
    """
    if not tls:
        raise ConfigurationError(
            f"{target}: auth_method cert works over TLS, which a Unix socket has not",
            remedy="Name a host, or use auth_method peer",
        )
    if tls["sslmode"] not in _ALWAYS_TLS:
        raise ConfigurationError(
            f"{target}: auth_method cert needs TLS, and sslmode={tls['sslmode']} can go without",
            remedy="Leave sslmode out: verify-full is the default",
        )
    if not found:
        raise ConfigurationError(
            f"{target}: auth_method cert without a client certificate",
            remedy="Set postgres.tls.cert_file and key_file",
        )
