"""One session wanted: look up, try every address, all within one bound."""

import random
import time
from typing import NamedTuple

from pg_collector.errors import SessionUnfinished, TargetDown, TargetError, TargetRefused
from pg_collector.pg import tls, trouble
from pg_collector.pg.connection import (
    ConnectFailed,
    Connection,
    ConnectTimeout,
    SessionTimeout,
    connect,
)
from pg_collector.pg.conninfo import Endpoint, Route
from pg_collector.resolve import Resolver
from pg_collector.wire import Wire, WireCut

_UNFINISHED = (
    "Is the server up and not overloaded? Is the database being copied, moved or renamed, or does "
    "a firewall drop packets on the way?"
)


class _Attempt(NamedTuple):
    endpoint: Endpoint
    address: str | None
    session_attrs: str


def dial(route: Route, seconds: float, *, wire: Wire, resolver: Resolver) -> Connection:
    """Open a connection to the first address that answers as wanted.

    Looking up may take half of the bound; what is left is shared fairly, so that an address that
    swallows packets leaves time for the next. As in libpq, a host that answers and refuses ends
    the search. Raises `TargetDown` or `TargetRefused`.
    """
    deadline = time.monotonic() + seconds
    try:
        attempts, failures = _attempts(route, seconds / 2, wire, resolver)
        for number, attempt in enumerate(attempts):
            now = time.monotonic()
            share = max(0.0, deadline - now) / (len(attempts) - number)
            try:
                return _try(route, attempt, now + share, wire)
            except TargetRefused:
                raise
            except TargetError as error:
                failures.append(error)
    except WireCut:
        raise TargetDown(f"{route.target}: the attempt to connect was interrupted") from None
    raise _together(failures)


def _try(route: Route, attempt: _Attempt, deadline: float, wire: Wire) -> Connection:
    peer = route.peer(attempt.endpoint)
    bound = deadline - time.monotonic()
    try:
        return connect(route.conninfo(*attempt), deadline, wire)
    except ConnectFailed as error:
        text = str(error)
        if attempt.address is not None:
            text = tls.explained(text, route, (attempt.endpoint, attempt.address), deadline, wire)
        raise trouble.connection_failed(text, peer, scrub=route.scrub) from None
    except ConnectTimeout as error:
        text = f"{peer.place}: no answer within {bound:.1f} s (waited for: {error})"
        if isinstance(error, SessionTimeout):
            raise SessionUnfinished(text, remedy=_UNFINISHED) from None
        raise TargetDown(
            text, remedy="Is the server up, and does a firewall drop packets on the way?"
        ) from None


def _attempts(
    route: Route, seconds: float, wire: Wire, resolver: Resolver
) -> tuple[list[_Attempt], list[TargetError]]:
    names = [one.host for one in route.endpoints if not one.is_socket and one.address is None]
    found = resolver.addresses(names, seconds, wire) if names else {}
    places: list[tuple[Endpoint, str | None]] = []
    failures: list[TargetError] = []
    for one in route.endpoints:
        if one.is_socket or one.address is not None:
            places.append((one, one.address))
            continue
        addresses = found[one.host]
        if isinstance(addresses, OSError):
            failures.append(_unresolved(one.host, addresses))
        else:
            places += [(one, address) for address in addresses]
    if route.shuffled:
        random.shuffle(places)
    if route.session_attrs == "prefer-standby":
        first = [_Attempt(*place, "standby") for place in places]
        return first + [_Attempt(*place, "any") for place in places], failures
    return [_Attempt(*place, route.session_attrs) for place in places], failures


def _unresolved(host: str, error: OSError) -> TargetDown:
    why = error.strerror or str(error)
    return TargetDown(
        f"{host}: the name cannot be resolved: {why}",
        remedy="Check the name and the name servers of this host, or give hostaddr",
    )


def _together(failures: list[TargetError]) -> TargetError:
    if len(failures) == 1:
        return failures[0]
    remedies = dict.fromkeys(one.remedy for one in failures if one.remedy)
    kind = type(failures[-1]) if isinstance(failures[-1], TargetDown) else TargetDown
    return kind(
        "; ".join(dict.fromkeys(map(str, failures))),
        remedy=next(iter(remedies), ""),
        sqlstate=failures[-1].sqlstate,
    )
