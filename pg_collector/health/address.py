"""Where the agent's HTTP server listens: how an address is written, and what it becomes."""

import errno
import socket
from typing import cast

from pg_collector.config import listening
from pg_collector.errors import ConfigurationError

_REMEDY = "Write it as 127.0.0.1:8080, [::1]:8080, :8080 for every interface, or off."


def parse_address(address: str) -> tuple[str, int]:
    """Split `127.0.0.1:8080`, `[::1]:8080` or `:8080` (every interface) into host and port.

    Raises ConfigurationError for anything else.
    """
    try:
        return listening.parse(address)
    except ValueError:
        raise ConfigurationError(
            f"http.address {address!r} is not an address", remedy=_REMEDY
        ) from None


def resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """Return the family and the address to bind; no host is every interface, IPv6 and IPv4.

    Raises OSError if the name has no address, ConfigurationError if it is no name.
    """
    if not host:
        if socket.has_dualstack_ipv6():
            return socket.AF_INET6, ("::", port)
        return socket.AF_INET, ("0.0.0.0", port)  # noqa: S104  # every interface was asked for
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except UnicodeError:  # of the idna codec: a label is empty or too long
        raise ConfigurationError(
            f"http.address: {host!r} is not a name of a host", remedy=_REMEDY
        ) from None
    family, _, _, _, address = found[0]
    return family, cast("tuple[str, int]", address[:2])


def remedy(error: OSError, port: int) -> str:
    """Say what helps when the address cannot be bound."""
    if error.errno == errno.EADDRINUSE:
        return f"Stop what listens there (ss -ltnp sport = :{port}), or set http.address."
    if error.errno in {errno.EACCES, errno.EPERM}:
        return "Ports below 1024 need a privilege: set http.address to a higher one."
    return "Set http.address to an address of this machine, or to off."
