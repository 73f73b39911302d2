"""A sample on the spot, for `pgc sample`: one full turn whose lines go to whoever asked."""

from collections.abc import Mapping, Sequence
from typing import Any

from pg_collector.changes import Known
from pg_collector.clock import SystemClock
from pg_collector.errors import CollectorError
from pg_collector.metrics import Metrics
from pg_collector.pg.session import Session
from pg_collector.privacy.mask import Masker
from pg_collector.runner import Runner
from pg_collector.sample import Batch, Keep
from pg_collector.samplers._sampler import Sampler, compose, statements
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

    def peek(self, max_bytes: int, max_lines: int) -> Batch | None:  # noqa: ARG002
        """Return nothing: nobody sends from here."""
        return None

    def ack(self, through: int) -> None:
        """Forget nothing."""

    def set_aside(self, number: int, reason: str) -> None:
        """Set nothing aside."""

    def rewind(self, expected: int) -> None:
        """Go nowhere."""

    def renumber(self) -> None:
        """Keep the numbers."""


def chosen(samplers: Mapping[str, Sampler], names: Sequence[str]) -> list[Sampler]:
    """Return the samplers of these names, all of them where none is named.

    Raises CollectorError for a name that does not exist.
    """
    for name in names:
        if name not in samplers:
            raise CollectorError(f"no sampler {name!r}", remedy=f"There are: {', '.join(samplers)}")
    return [samplers[name] for name in names or samplers]


def take(
    sampler: Sampler, target: str, session: Session, *, masker: Masker, explain: bool
) -> list[bytes]:
    """Take a sample, and return its lines; or, to explain it, the SQL of its statements."""
    if explain:
        return [text.encode() for text in _texts(sampler, session)]
    tray = Tray()
    clock = SystemClock()
    turn = Turn(sampler, target, sampler.every, States(target, tray, lambda: masker))
    Runner(tray, masker, Metrics(clock), clock).take(turn, session)
    return tray.lines


def look_up(
    sampler: Sampler, target: str, session: Session, values: Sequence[str], *, masker: Masker
) -> tuple[list[bytes], list[str]]:
    """Take what a sampler's look-up gives for these values of `by`, masked.

    Returns its lines, and the values that are of the agent's own making.
    """
    tray = Tray()
    clock = SystemClock()
    turn = Turn(sampler, target, sampler.every, States(target, tray, lambda: masker))
    own: list[str] = []
    for search in turn.searches:
        place = search.lookup.key.index(search.lookup.by)
        search.known = _Noting(place, own, search.lookup.refresh, search.lookup.batch)
    Runner(tray, masker, Metrics(clock), clock).find(turn, session, values)
    return tray.lines, own


class _Noting(Known):
    """Notes which values are of the agent's own making; `place` is that of the value in a key."""

    def __init__(self, place: int, own: list[str], refresh: float, batch: int) -> None:
        super().__init__(refresh, batch)
        self._place = place
        self._values = own

    def found(self, key: tuple[Any, ...], *, own: bool) -> None:
        if own:
            self._values.append(str(key[self._place]))


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
