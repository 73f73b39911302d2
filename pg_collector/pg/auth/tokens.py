"""Tokens instead of passwords: fetched over the network, kept in memory, renewed before they end.

Where from is a `TokenSource`'s affair, which means somebody else's SDK with time limits of its own.
So it works in a thread of its own, one at a time for each target, and who waits for it gives up
after FETCH_WITHIN; nobody waits while the last token is good. A breaker leaves alone what failed
too often. Nothing is ever written to disk.
"""

import logging
import os
import re
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, NamedTuple, Protocol

from pg_collector.clock import Clock
from pg_collector.errors import BreakerOpen, CollectorError, TargetDown
from pg_collector.pg.auth.login import Sign
from pg_collector.wire import Wire, WireCut

log = logging.getLogger(__name__)

FETCH_WITHIN: Final = 10.0  # seconds
ABANDONED: Final = 60.0  # seconds after which a fetch is thought to be lost, and another begun
MOST_LOST: Final = 3  # threads that may be lost in an SDK
EARLY: Final = 300.0  # seconds before its end that a token is replaced, at most half of its life
LATEST: Final = 5.0  # seconds before its end that one is used at all
_JUST_FETCHED: Final = 10.0  # seconds: refused within them, another one would fare no better
_TOLD: Final = ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "AWS_SESSION_TOKEN", "IDENTITY_HEADER")
_BODY: Final = re.compile(
    r"[{<]|(?<=container metadata): "
)  # of JSON, HTML, or whatever a container said
_LONGEST: Final = 200


class Ticket(NamedTuple):
    """What signs attempts to connect, for so many seconds from its fetching on."""

    sign: Sign
    lasts: float


class TokenSource(Protocol):
    """Where tokens come from; called in one thread at a time."""

    @property
    def remedy(self) -> str:
        """What helps where nothing more is known."""

    def fetch(self, *, anew: bool) -> Ticket:
        """Return a ticket; `anew` says that the last one was refused before its time.

        Raises `ConfigurationError`, `TargetDown` (try again), `TargetRefused` (somebody has to
        change something).
        """


def as_given(target: str, token: object, remedy: str) -> str:
    """Return a token that an endpoint gave. Raises `TargetDown` for what can be none.

    Without a password of ours libpq would look for one: in a passfile, in PGPASSWORD.
    """
    if isinstance(token, str) and token and token.isascii() and token.isprintable():
        return token
    raise TargetDown(f"{target}: what should be a token is none", remedy=remedy)


def told(said: str) -> str:
    """Return what an SDK says, without the body of an answer, and what the endpoint was told."""
    for name in _TOLD:
        if secret := os.environ.get(name):
            said = said.replace(secret, "?")
    return _BODY.split(said, maxsplit=1)[0].rstrip()[:_LONGEST]


class Guard(Protocol):
    """The breaker of the endpoint that gives tokens."""

    def guard(self) -> AbstractContextManager[None]:
        """Let an attempt pass, and learn from how it ends; raises BreakerOpen."""


class _Kept(NamedTuple):
    ticket: Ticket
    since: float  # on the monotonic clock

    def early(self) -> float:
        """Return the moment from which to look for another."""
        return self.since + self.ticket.lasts - min(EARLY, self.ticket.lasts / 2)

    def end(self) -> float:
        """Return the moment from which not to use it."""
        return self.since + self.ticket.lasts - min(LATEST, self.ticket.lasts / 2)


class Tokens:
    """The tokens of one target, for both of its lanes. Thread-safe."""

    def __init__(
        self,
        target: str,
        make: Callable[[], TokenSource],
        *,
        breaker: Guard,
        clock: Clock,
        within: float = FETCH_WITHIN,
    ) -> None:
        """`make` gives a source; it is called in the thread that fetches."""
        self._target = target
        self._make = make
        self._breaker = breaker
        self._clock = clock
        self._within = within
        self._lock = threading.Lock()  # guards all that follows
        self._source: TokenSource | None = None
        self._kept: _Kept | None = None
        self._dropped: _Kept | None = None  # the last one that was refused
        self._anew = False
        self._number = 0  # of the last fetch that began
        self._began: float | None = None  # when that was; None: it has ended
        self._ended = 0  # the number of the last one that ended
        self._error: CollectorError | None = None  # of that one
        self._lost = 0  # fetches that were given up, and have not ended
        self._waiting: list[threading.Event] = []

    def prepare(self, wire: Wire) -> Sign:
        """Return the token that is kept, or a new one where that one has ended.

        Raises `ConfigurationError`, `TargetDown`, `TargetRefused`.
        """
        arrived = threading.Event()
        with self._lock:
            now, kept = self._clock.monotonic(), self._kept
            if kept is not None and now < kept.early():
                return kept.ticket.sign
            number = self._begin(now)
            if kept is not None and now < kept.end():
                return kept.ticket.sign  # the next one is on its way
            self._waiting.append(arrived)
        try:
            with wire.waking(arrived.set):
                arrived.wait(self._within)
        except WireCut:
            pass  # told below
        with self._lock:
            if arrived in self._waiting:
                self._waiting.remove(arrived)
            if self._kept is not None and self._kept is not kept:
                return self._kept.ticket.sign
            ended = self._ended >= number
            error = self._error if ended else None
        if error is not None:
            raise error
        if wire.is_cut:
            raise TargetDown(f"{self._target}: the attempt to connect was interrupted")
        if ended:
            raise TargetDown(f"{self._target}: the token was refused, says the other session")
        raise TargetDown(
            f"{self._target}: the token did not come within {self._within:g} s",
            remedy="Can this host reach the endpoint that gives tokens? Is it overloaded?",
        )

    def refused(self, sign: Sign) -> bool:
        """Forget the token that was refused; say whether another one may fare better."""
        with self._lock:
            kept = self._kept
            if kept is not None and kept.ticket.sign is not sign:
                return True  # there is another one by now
            if kept is None and self._dropped is not None and self._dropped.ticket.sign is sign:
                kept = self._dropped  # the other lane was told so as well
            self._kept, self._dropped, self._anew = None, kept, True
        return kept is not None and self._clock.monotonic() - kept.since > _JUST_FETCHED

    def _begin(self, now: float) -> int:
        """Begin a fetch unless one is under way, and return its number. The lock is held."""
        if self._began is not None:
            if now - self._began < ABANDONED or self._lost >= MOST_LOST:
                return self._number
            self._lost += 1
            self._source = None  # that one may be stuck for good
        self._number += 1
        self._began = now
        threading.Thread(
            target=self._fetch,
            args=(self._number, now, self._anew),
            name=f"token {self._target}",
            daemon=True,
        ).start()
        return self._number

    def _fetch(self, number: int, began: float, anew: bool) -> None:  # noqa: FBT001  # a thread's
        kept: _Kept | None = None
        error: CollectorError | None = None
        try:
            with self._breaker.guard():
                kept = _Kept(self._asked(anew=anew), began)
        except BreakerOpen as refusal:
            error = TargetDown(str(refusal), remedy=refusal.remedy, retry_in=refusal.retry_in)
        except CollectorError as trouble:
            error = trouble
        with self._lock:
            if number != self._number:  # given up in the meantime
                self._lost -= 1
                return
            self._began, self._ended, self._error = None, number, error
            old = self._kept
            if kept is not None:
                self._kept = kept
                self._anew = self._anew and not anew
            waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.set()
        if error is not None and old is not None and self._clock.monotonic() < old.end():
            extra = {"target": self._target, "remedy": error.remedy}
            log.warning(
                "%s: no new token; the old one is still good: %s", self._target, error, extra=extra
            )

    def _asked(self, *, anew: bool) -> Ticket:
        """Ask the source; whatever it raises is one of our errors, and shows no secret."""
        with self._lock:
            source = self._source
        if source is None:
            source = self._make()
            with self._lock:
                self._source = source
        try:
            return source.fetch(anew=anew)
        except CollectorError:
            raise
        except Exception as error:  # noqa: BLE001  # an SDK's own: what it says may hold anything
            said = type(error).__name__
            if isinstance(error, OSError) and error.strerror:
                said = f"{error.filename or said}: {error.strerror}"
            raise TargetDown(
                f"{self._target}: the token could not be had: {said}", remedy=source.remedy
            ) from None
