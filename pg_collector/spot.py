"""A sample on the spot, for `pgc sample`: one full turn whose lines go to whoever asked."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pg_collector.changes import Known
from pg_collector.clock import SystemClock
from pg_collector.errors import CollectorError
from pg_collector.metrics import Metrics
from pg_collector.pg.session import Session
from pg_collector.privacy.mask import Masker
from pg_collector.runner import Runner
from pg_collector.sample import Keep
from pg_collector.samplers._sampler import Lookup, Sampler, compose, statements
from pg_collector.states import States
from pg_collector.turn import Turn


class Tray:
    """A buffer that only gathers."""

    losses = 0

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def put(self, line: bytes, keep: Keep) -> int:  # noqa: ARG002  # the buffer's interface
        """Keep the line."""
        self.lines.append(line)
        return len(self.lines)

    def wait_for_room(self, size: int, timeout: float) -> bool:  # noqa: ARG002
        """Return True: there is no limit here."""
        return True


def chosen(samplers: Mapping[str, Sampler], names: Sequence[str]) -> list[Sampler]:
    """Return the samplers of these names, all of them where none is named.

    Raises CollectorError for a name that does not exist.
    """
    for name in names:
        if name not in samplers:
            raise CollectorError(f"no sampler {name!r}", remedy=f"There are: {', '.join(samplers)}")
    return [samplers[name] for name in names or samplers]


def take(
    sampler: Sampler,
    target: str,
    session: Session,
    *,
    masker: Masker,
    explain: bool,
    quiet: bool = False,
) -> list[bytes]:
    """Take a sample, and return its lines; or, to explain it, the SQL of its statements.

    What is not well is in the lines; `quiet`: it is not logged beside.
    """
    if explain:
        return [text.encode() for text in _texts(sampler, session)]
    tray = Tray()
    states = States(target, tray, lambda: masker, quiet=quiet)
    turn = Turn(sampler, target, sampler.every, states)
    Runner(tray, masker, _nowhere(), SystemClock()).take(turn, session)
    return tray.lines


class LookedUp(NamedTuple):
    """What a look-up gave.

    `own` are the values that are of the agent's own making, `left` those that are still to be asked
    for, `batch` how many at once, in `pause` seconds at the earliest.
    """

    lines: list[bytes]
    own: list[str]
    left: list[str]
    batch: int | None
    pause: float


def look_up(
    sampler: Sampler,
    target: str,
    session: Session,
    values: Sequence[str],
    *,
    masker: Masker,
    batch: int | None,
) -> LookedUp:
    """Take what a sampler's look-up gives for these values of `by`, masked.

    `batch` is what the look-up before returned.
    """
    tray = Tray()
    clock = SystemClock()
    states = States(target, tray, lambda: masker, quiet=True)
    turn = Turn(sampler, target, sampler.every, states)
    noting = []
    for search in turn.searches:
        search.known = _Noting(search.lookup, batch)
        noting.append(search.known)
    Runner(tray, masker, _nowhere(), clock).find(turn, session, values)
    now = clock.monotonic()
    return LookedUp(
        tray.lines,
        own=[one for known in noting for one in known.own],
        left=[one for known in noting for one in known.left],
        batch=min((known.batch for known in noting), default=None),
        pause=max((search.retry_at - now for search in turn.searches), default=0.0),
    )


class _Noting(Known):
    """Notes which values are of the agent's own making."""

    def __init__(self, lookup: Lookup, batch: int | None) -> None:
        super().__init__(lookup.refresh, lookup.batch)
        if batch is not None:
            self._batch = min(batch, lookup.batch)
        self._place = lookup.key.index(lookup.by)
        self.own: list[str] = []

    @property
    def batch(self) -> int:
        """How many are asked for at once next time."""
        return self._batch

    @property
    def left(self) -> list[str]:
        """The values that no answer came for, and that were not found to be missing."""
        return list(dict.fromkeys(self._wanted.values()))

    def found(self, key: tuple[Any, ...], *, own: bool) -> None:
        if own:
            self.own.append(str(key[self._place]))


@functools.cache
def _nowhere() -> Metrics:
    """Return metrics that nobody reads: to make them takes long."""
    return Metrics(SystemClock())


def _texts(sampler: Sampler, session: Session) -> list[str]:
    """Return the SQL that this server would be asked, a comment with the set's name before each."""
    facts = session.facts
    found, lacking = statements(sampler, facts)
    searches = [compose(sampler.name, one.query, facts) for one in sampler.lookups]
    texts = []
    for one in (*found, *searches):
        if one is not None:
            first = one.ranking or one.choice
            if first is not None:
                texts.append(f"-- {one.query.set}, which rows\n{first};")
            texts.append(f"-- {one.query.set}\n{one.sql};")
    return texts + [f"-- {query.set}: this server cannot answer it" for query in lacking]
