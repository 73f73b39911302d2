"""Tokens instead of passwords: fetched over the network, kept in memory, renewed before they end.

Where from is a `TokenSource`'s affair, which means somebody else's SDK with time limits of its own.
So it works in a thread of its own, at most one for each target, and who waits for it gives up after
FETCH_WITHIN. A breaker leaves alone what failed too often. Nothing is ever written to disk.
"""

import logging
import threading
from contextlib import AbstractContextManager
from typing import Final, NamedTuple, Protocol

from pg_collector.clock import Clock
from pg_collector.errors import BreakerOpen, CollectorError, TargetDown, TargetError
from pg_collector.pg.auth.login import Sign
from pg_collector.wire import Wire

log = logging.getLogger(__name__)

FETCH_WITHIN: Final = 10.0  # seconds
EARLY: Final = 300.0  # seconds before its end that a token is replaced, at most half of its life
LATEST: Final = 5.0  # seconds before its end that one is used at all
_JUST_FETCHED: Final = 10.0  # seconds: refused within them, another one would fare no better


class Ticket(NamedTuple):
    """What signs attempts to connect, for so many seconds from its fetching on."""

    sign: Sign
    lasts: float


class TokenSource(Protocol):
    """Where tokens come from; called in one thread at a time."""

    def fetch(self, *, anew: bool) -> Ticket:
        """Return a ticket; `anew` says that the last one was refused before its time.

        Raises `ConfigurationError`, `TargetDown` (try again), `TargetRefused` (somebody has to
        change something).
        """


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
    """The tokens of one target. Thread-safe."""

    def __init__(
        self,
        target: str,
        source: TokenSource,
        *,
        breaker: Guard,
        clock: Clock,
        within: float = FETCH_WITHIN,
    ) -> None:
        self._target = target
        self._source = source
        self._breaker = breaker
        self._clock = clock
        self._within = within
        self._lock = threading.Lock()  # guards all that follows
        self._kept: _Kept | None = None
        self._anew = False
        self._under_way: _Fetch | None = None

    def prepare(self, wire: Wire) -> Sign:
        """Return the token that is kept, or a new one where that one ends soon.

        Raises `ConfigurationError`, `TargetDown`, `TargetRefused`.
        """
        with self._lock:
            kept = self._kept
        if kept is not None and self._clock.monotonic() < kept.early():
            return kept.ticket.sign
        try:
            with self._breaker.guard():
                return self._fetched(wire).ticket.sign
        except (BreakerOpen, TargetError) as error:
            if kept is not None and self._clock.monotonic() < kept.end():
                log.warning(
                    "%s: no new token; the old one is still good: %s", self._target, error,
                    extra={"target": self._target, "remedy": error.remedy},
                )  # fmt: skip
                return kept.ticket.sign
            if isinstance(error, BreakerOpen):
                raise TargetDown(str(error), remedy=error.remedy, retry_in=error.retry_in) from None
            raise

    def refused(self) -> bool:
        """Forget the token that was refused; say whether it had been kept for a while."""
        with self._lock:
            kept, self._kept = self._kept, None
            self._anew = True
        return kept is not None and self._clock.monotonic() - kept.since > _JUST_FETCHED

    def _fetched(self, wire: Wire) -> _Kept:
        arrived = threading.Event()
        with self._lock:
            fetch = self._under_way
            # One that came too late for whoever began it is as good as a new one, while it lasts.
            if fetch is None or fetch.is_past(self._clock.monotonic()):
                fetch = _Fetch(self._target, self._source, self._clock, anew=self._anew)
                self._under_way = fetch
        with wire.waking(arrived.set):
            fetch.tell(arrived)
            arrived.wait(self._within)
        if not fetch.done:
            what = "was interrupted" if wire.is_cut else f"did not come within {self._within:g} s"
            raise TargetDown(
                f"{self._target}: the token {what}",
                remedy="Can this host reach the endpoint that gives tokens? See docs/security.md.",
            )
        with self._lock:
            if self._under_way is fetch:
                self._under_way = None
                if fetch.kept is not None:
                    self._anew = False
                    self._kept = fetch.kept
            kept = self._kept
        if fetch.error is not None:
            raise fetch.error
        if kept is None:  # refused in the meantime, by way of the other lane
            raise TargetDown(f"{self._target}: the token was refused")
        return kept


class _Fetch:
    """One fetch under way, in a thread of its own."""

    def __init__(self, target: str, source: TokenSource, clock: Clock, *, anew: bool) -> None:
        self.done = False
        self.kept: _Kept | None = None
        self.error: CollectorError | None = None
        self._source = source
        self._clock = clock
        self._anew = anew
        self._lock = threading.Lock()  # guards _waiting, and that nobody waits for what is done
        self._waiting: list[threading.Event] = []
        threading.Thread(target=self._run, name=f"token {target}", daemon=True).start()

    def is_past(self, now: float) -> bool:
        """Say whether it is done and of no use any more."""
        return self.done and (self.kept is None or now >= self.kept.early())

    def tell(self, arrived: threading.Event) -> None:
        """Set the event once it is done."""
        with self._lock:
            self._waiting.append(arrived)
            if self.done:
                arrived.set()

    def _run(self) -> None:
        try:
            began = self._clock.monotonic()
            self.kept = _Kept(self._source.fetch(anew=self._anew), began)
        except CollectorError as error:
            self.error = error
        except Exception as error:  # noqa: BLE001  # an SDK's own: what it says may hold anything
            self.error = TargetDown(f"the token could not be had: {type(error).__name__}")
        with self._lock:
            self.done = True
            for one in self._waiting:
                one.set()
