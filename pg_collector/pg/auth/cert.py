"""A client certificate instead of a password (mutual TLS).

libpq reads certificate and key at each attempt, so what was renewed is shown by the next session.
https://www.postgresql.org/docs/current/auth-cert.html
"""

from collections.abc import Mapping
from pathlib import Path

from pg_collector.errors import ConfigurationError


def refuse_missing(target: str, tls: Mapping[str, str]) -> None:
    """Raise `ConfigurationError` where no certificate could be shown.

    `tls` are libpq's parameters for hosts that are no Unix sockets; empty where there are none.
    """
    if not tls:
        raise ConfigurationError(
            f"{target}: auth_method cert works over TLS, which a Unix socket has not",
            remedy="Name a host, or use auth_method peer",
        )
    # The file that libpq looks for where none is named.
    if "sslcert" not in tls and not (Path.home() / ".postgresql" / "postgresql.crt").exists():
        raise ConfigurationError(
            f"{target}: auth_method cert without a client certificate",
            remedy="Set postgres.tls.cert_file and key_file",
        )
