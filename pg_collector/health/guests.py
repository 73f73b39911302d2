"""Who may ask the agent's HTTP server: addresses, and what proxies say of theirs.

A header can be written by anybody: X-Forwarded-For is believed of named proxies only, and read from
its end, where the nearest of them wrote; the first address that is no proxy's is the client's.
"""

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeAlias

from pg_collector.config.model import Http, IpAllowlist

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

FORWARDED: Final = "X-Forwarded-For"
_MOST_HOPS: Final = 32
_WRAPPED: Final = 96  # bits before an IPv4 address that IPv6 wraps: ::ffff:192.0.2.7


class Guests:
    """Knows who is let in. Without an allow-list that is everybody."""

    def __init__(self, http: Http, allowlist: IpAllowlist) -> None:
        """Take networks that the configuration has checked."""
        self._proxies = _networks(http.trusted_proxies)
        self._allowed = _networks(allowlist.allowlist) if allowlist.enabled else None

    def may_knock(self, peer: str) -> bool:
        """Whether a connection from an address may ask at all, for itself or for somebody."""
        if self._allowed is None:
            return True
        address = read(peer)
        return address is not None and (
            _among(address, self._allowed) or _among(address, self._proxies)
        )

    def may_enter(self, peer: str, forwarded: Sequence[str]) -> bool:
        """Whether a request may be answered; `forwarded` are its X-Forwarded-For, in order."""
        if self._allowed is None:
            return True
        client = self.client(peer, forwarded)
        return client is not None and _among(client, self._allowed)

    def client(self, peer: str, forwarded: Sequence[str]) -> Address | None:
        """Return whose request it is; None where a proxy that is believed says nothing sensible."""
        address = read(peer)
        if address is None or not _among(address, self._proxies):
            return address
        hops = [hop for line in forwarded for hop in line.split(",")]
        if len(hops) > _MOST_HOPS:
            return None
        for hop in reversed(hops):
            address = read(hop)
            if address is None or not _among(address, self._proxies):
                break
        return address


def read(text: str) -> Address | None:
    """Return an address as proxies and sockets write it, perhaps with a port or a zone."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _networks(texts: Iterable[str]) -> tuple[Network, ...]:
    return tuple(_plain(ipaddress.ip_network(text, strict=False)) for text in texts)


def _plain(network: Network) -> Network:
    """Return a network of IPv4 addresses as such where IPv6 wraps them, as `read` does."""
    first = network.network_address
    mapped = first.ipv4_mapped if isinstance(first, ipaddress.IPv6Address) else None
    if mapped is None or network.prefixlen < _WRAPPED:
        return network
    return ipaddress.IPv4Network((mapped, network.prefixlen - _WRAPPED))


def _among(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)


class Seldom:
    """Lets the same thing be told once a minute, and says how often it came meanwhile."""

    EVERY: Final = 60.0  # seconds
    MOST: Final = 256  # things that are remembered

    def __init__(
        self, tell: Callable[[str, int], None], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """`tell` is called with a thing, and how often it came since it was told before."""
        self._tell = tell
        self._monotonic = monotonic
        self._lock = threading.Lock()  # guards what follows
        self._told: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def note(self, thing: str) -> None:
        """Note that a thing came. From any thread."""
        now = self._monotonic()
        with self._lock:
            at, count = self._told.get(thing, (None, 0))
            if at is not None and now - at < self.EVERY:
                self._told[thing] = (at, count + 1)
                return
            self._told[thing] = (now, 0)
            self._told.move_to_end(thing)
            while len(self._told) > self.MOST:
                self._told.popitem(last=False)
        self._tell(thing, count + 1)
