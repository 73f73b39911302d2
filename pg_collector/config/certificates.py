"""The certificate of the agent's own endpoints, as the server uses it and the check tries it."""

import ssl
from pathlib import Path

from pg_collector.config.files import Unreadable, readable


def server_context(certificate: Path, key: Path | None) -> ssl.SSLContext:
    """Return a context that shows the certificate chain of a PEM file, with its key.

    Raises `Unreadable` for a file that is not there, not regular, not PEM, or of another pair.
    """

    def ask() -> str:
        # Without this OpenSSL would ask on the terminal, and wait.
        raise Unreadable(
            key or certificate,
            "is encrypted, and nobody is there to ask for its password",
            "write it without one, mode 0600: openssl pkey -in ENCRYPTED -out KEY",
        )

    for file in (certificate, key):
        if file is not None:  # OpenSSL would wait for the other end of a named pipe
            readable(file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password=ask)
    except OSError as error:  # ssl.SSLError is one
        raise Unreadable(
            certificate,
            f"cannot be used: {error}",
            "cert_file holds the certificate chain as PEM, key_file the key of that certificate",
        ) from error
    return context


def pinned_context(certificate: Path | None) -> ssl.SSLContext:
    """Return a client's context that trusts the certificate of a PEM file, whatever its names are.

    For who asks the agent on its own host. Raises OSError where the file cannot be used.
    """
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    return context
