"""One exchange over HTTP, bounded: sockets and connections that keep to a deadline.

The time-outs of requests and urllib3 hold for one operation of a socket each: a peer that sends a
byte a second, or one `100 Continue` after another, keeps a caller for ever. Here every operation of
the socket gets what is left of the whole exchange; a single operation keeps to its time-out in any
case (https://docs.python.org/3/library/socket.html#socket-timeouts). Names are resolved within the
same bound, and what a peer may send at all is capped.

Which exchange a socket works for is the thread's own: an `Exchange` is entered, and everything that
is connected, sent and read in the `with` block belongs to it.
"""

import errno
import ipaddress
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from pathlib import Path
from typing import Any, Final, Self, cast

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from pg_collector.clock import Clock
from pg_collector.errors import Unexpected, Unreachable
from pg_collector.resolve import Resolver
from pg_collector.trust import load_revoked
from pg_collector.wire import Wire, WireCut

MAX_REPLY: Final = 64 * 1024  # bytes, headers included, before and after inflating

_SOCKET_OPTIONS: Final = ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),)


class Exchange:
    """One request and its answer, with whom and until when; for one thread.

    `total` counts from the creation, `connect` from each beginning to connect, in seconds.
    `received` counts what has arrived, `fresh` says whether a connection was opened for it.
    """

    def __init__(
        self,
        place: str,
        *,
        connect: float,
        total: float,
        clock: Clock,
        wire: Wire,
        resolver: Resolver,
    ) -> None:
        self.place = place
        self.received = 0
        self.fresh = False
        self._connect = connect
        self._total = total
        self._clock = clock
        self._wire = wire
        self._resolver = resolver
        self._started = clock.monotonic()
        self._connect_until: float | None = None  # on the clock, while connecting
        self._token: Token[Exchange | None] | None = None

    def __enter__(self) -> Self:
        self._token = _under_way.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            _under_way.reset(self._token)

    @property
    def seconds(self) -> float:
        """How long it has taken so far."""
        return self._clock.monotonic() - self._started

    def left(self) -> float:
        """Return the seconds that are left, more than none. Raises Unreachable."""
        left = self._total - self.seconds
        if self._connect_until is not None:
            left = min(left, self._connect_until - self._clock.monotonic())
        if left <= 0:
            raise self.late()
        return left

    def late(self) -> Unreachable:
        """Return what the end of the time means."""
        if self._connect_until is not None:
            return Unreachable(
                f"{self.place}: no connection within {self._connect:g} s",
                remedy="Does a firewall drop packets on the way? Is the address right?",
            )
        return Unreachable(
            f"{self.place}: no complete answer within {self._total:g} s",
            remedy="The far side or the way to it is slow; see platform.timeout.total.",
        )

    def count(self, received: int) -> None:
        """Count what arrived. Raises Unexpected where it is more than any answer has."""
        self.received += received
        if self.received > MAX_REPLY:
            raise Unexpected(
                f"{self.place}: unexpected answer, larger than {MAX_REPLY // 1024} kB",
                remedy="Is platform.url the platform, and nothing in between?",
            )

    @contextmanager
    def connecting(self) -> Iterator[None]:
        """Make the bound that of connecting: names, addresses, a proxy's consent, TLS."""
        self.fresh = True
        self._connect_until = self._clock.monotonic() + self._connect
        try:
            yield
        finally:
            self._connect_until = None

    @contextmanager
    def waiting(self, link: socket.socket, seconds: float | None = None) -> Iterator[None]:
        """Let the block wait on a socket for what is left, or for `seconds` of it."""
        left = self.left()
        link.settimeout(left if seconds is None else min(left, seconds))
        try:
            with self._wire.holding(link.fileno()):
                yield
        except WireCut:
            raise self._interrupted() from None
        except TimeoutError:
            if seconds is not None and seconds < left:
                raise
            raise self.late() from None
        if self._wire.is_cut:
            raise self._interrupted()

    def addresses(self, host: str) -> tuple[str, ...]:
        """Resolve a name. Raises Unreachable."""
        host = host.removeprefix("[").removesuffix("]")
        if _is_address(host):
            return (host,)
        left = self.left()
        try:
            found = self._resolver.addresses([host], left, self._wire)[host]
        except WireCut:
            raise self._interrupted() from None
        if self._wire.is_cut:
            raise self._interrupted()
        if isinstance(found, OSError):
            # No figures: the same trouble is to read the same.
            slow = isinstance(found, TimeoutError)
            why = "the name servers do not answer" if slow else found.strerror or str(found)
            raise Unreachable(
                f"{self.place}: the name {host} cannot be resolved: {why}",
                remedy="Check the name, and the name servers of this host.",
            )
        return found

    def _interrupted(self) -> Unreachable:
        return Unreachable(f"{self.place}: interrupted, the agent stops")


_under_way: ContextVar[Exchange | None] = ContextVar("exchange under way", default=None)


@contextmanager
def _waiting(link: socket.socket) -> Iterator[Exchange | None]:
    exchange = _under_way.get()
    if exchange is None:  # closing, between two exchanges
        yield None
        return
    with exchange.waiting(link):
        yield exchange


class _BoundedSocket(socket.socket):
    """A socket whose operations keep to the exchange that its thread is in."""

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        with _waiting(self) as exchange:
            count = super().recv_into(buffer, nbytes or 0, flags)
        if exchange is not None:
            exchange.count(count)
        return count

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        with _waiting(self) as exchange:
            found = super().recv(buflen, flags)
        if exchange is not None:
            exchange.count(len(found))
        return found

    def send(self, data: Any, flags: int = 0) -> int:
        with _waiting(self):
            return super().send(data, flags)


class PlainSocket(_BoundedSocket):
    """A bounded socket without TLS."""

    def sendall(self, data: Any, flags: int = 0) -> None:
        with _waiting(self):
            super().sendall(data, flags)


class TlsSocket(_BoundedSocket, ssl.SSLSocket):
    """A bounded socket with TLS; its `sendall` is a row of `send`."""

    def send(self, data: Any, flags: int = 0) -> int:
        try:
            return super().send(data, flags)
        except ssl.SSLEOFError:
            # As urllib3 knows it: it reads then what the far side said before it left.
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)) from None

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002  # as in ssl
        try:
            with _waiting(self):
                super().do_handshake(block)
        except BaseException:
            self.close()  # nobody knows this socket yet
            raise


class _Connection(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _connect(self._dns_host, self.port)

    def connect(self) -> None:
        with _exchange().connecting():
            super().connect()


class _TlsConnection(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return _connect(self._dns_host, self.port)

    def connect(self) -> None:
        with _exchange().connecting():
            super().connect()


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


POOLS: Final = {"http": _Pool, "https": _TlsPool}  # for `pool_classes_by_scheme`


def tls_context(revoked: str | None = None) -> ssl.SSLContext:
    """Return a context that verifies certificates and host names, and makes bounded sockets.

    It trusts nobody yet. `revoked` is a file with lists of revoked certificates, which then have to
    be there for each authority. Raises Unreachable where it cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = TlsSocket
    if revoked is not None:
        try:
            load_revoked(context, Path(revoked))
        except (OSError, ValueError):
            raise Unreachable(
                f"the list of revoked certificates {revoked} cannot be used",
                remedy="Write the list of the platform's authority there, as PEM.",
            ) from None
    return context


def _exchange() -> Exchange:
    exchange = _under_way.get()
    if exchange is None:
        raise RuntimeError("a connection is opened outside of an exchange")
    return exchange


def _connect(host: str, port: int | None) -> socket.socket:
    """Open a connection to the first address that answers; what is left is shared fairly.

    Raises Unreachable.
    """
    exchange = _exchange()
    addresses = exchange.addresses(host)
    failure: OSError | None = None
    for number, address in enumerate(addresses):
        share = exchange.left() / (len(addresses) - number)
        try:
            return _connect_to(exchange, address, port or 0, share)
        except OSError as error:
            failure = error
    if failure is None or isinstance(failure, TimeoutError):
        raise exchange.late()
    raise Unreachable(
        f"{exchange.place}: no connection: {failure.strerror or type(failure).__name__}",
        remedy="Is the far side up, and does a firewall let this host through?",
    )


def _connect_to(exchange: Exchange, address: str, port: int, seconds: float) -> socket.socket:
    family, kind, protocol, _, place = socket.getaddrinfo(
        address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
    )[0]
    link = PlainSocket(family, kind, protocol)
    try:
        for option in _SOCKET_OPTIONS:
            link.setsockopt(*option)
        with exchange.waiting(link, seconds):
            link.connect(cast("Any", place))
    except BaseException:
        link.close()
        raise
    return link


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
