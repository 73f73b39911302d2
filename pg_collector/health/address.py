"""Where the agent's HTTP server listens: how an address is written, and what it becomes."""

import errno
import re
import socket
from typing import Final, cast

from pg_collector.errors import ConfigurationError

_ADDRESS: Final = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^:\[\]]*)):(?P<port>\d{1,5})")
_HIGHEST_PORT: Final = 65_535


def parse_address(address: str) -> tuple[str, int]:
    """Split `127.0.0.1:8080`, `[::1]:8080` or `:8080` (every interface) into host and port.

    Raises ConfigurationError for anything else.
    """
    found = _ADDRESS.fullmatch(address)
    if not found or int(found["port"]) > _HIGHEST_PORT:
        raise ConfigurationError(
            f"http.address {address!r} is not an address",
            remedy="Write it as 127.0.0.1:8080, [::1]:8080, :8080 for every interface, or off.",
        )
    return found["v6"] or found["host"], int(found["port"])


def resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """Return the family and the address to bind; no host is every interface, IPv6 and IPv4.

    Raises OSError if the name has no address.
    """
    if not host:
        if socket.has_dualstack_ipv6():
            return socket.AF_INET6, ("::", port)
        return socket.AF_INET, ("0.0.0.0", port)  # noqa: S104  # every interface was asked for
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = found[0]
    return family, cast("tuple[str, int]", address[:2])


def remedy(error: OSError, port: int) -> str:
    """Say what helps when the address cannot be bound."""
    if error.errno == errno.EADDRINUSE:
        return f"Stop what listens there (ss -ltnp sport = :{port}), or set http.address."
    if error.errno in {errno.EACCES, errno.EPERM}:
        return "Ports below 1024 need a privilege: set http.address to a higher one."
    return "Set http.address to an address of this machine, or to off."
