"""How an address to listen on is written. One rule, for who checks it and for who binds it."""

import ipaddress
import re
from typing import Final

_ADDRESS: Final = re.compile(
    r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<host>[A-Za-z0-9._-]*)):(?P<port>[0-9]{1,5})"
)
_EVERY_INTERFACE: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
_HIGHEST_PORT: Final = 65_535
_LONGEST_LABEL: Final = 63  # RFC 1035, 2.3.4; what resolves names raises beyond it
_LONGEST_NAME: Final = 253


def parse(address: str) -> tuple[str, int]:
    """Split `127.0.0.1:8080`, `[::1]:8080` or `:8080` (every interface) into host and port.

    Raises `ValueError` for anything else, also for names that no resolver takes.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None or int(found["port"]) > _HIGHEST_PORT:
        raise ValueError("not host:port")
    if found["v6"]:
        ipaddress.IPv6Address(found["v6"])
    elif found["host"] and not _is_name(found["host"]):
        raise ValueError("not a name of a host")
    return found["v6"] or found["host"], int(found["port"])


def reach(address: str) -> tuple[str, int]:
    """Return host and port at which this host reaches what listens there. Raises as `parse`."""
    host, port = parse(address)
    return _EVERY_INTERFACE.get(host, host), port


def _is_name(host: str) -> bool:
    labels = host.removesuffix(".").split(".")
    return len(host) <= _LONGEST_NAME and all(0 < len(one) <= _LONGEST_LABEL for one in labels)
