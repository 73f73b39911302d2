"""What a sampler on a target remembers between its turns."""

import math
from typing import NamedTuple

from pg_collector.buffer import Intake
from pg_collector.changes import Changes, Chosen, Known, Moved, Ranks
from pg_collector.pg.session import Session
from pg_collector.sample import Body, Facts, Keep, Sample
from pg_collector.samplers._sampler import (
    Lookup,
    Query,
    Sampler,
    Scope,
    Statement,
    compose,
    statements,
)
from pg_collector.states import State, States

ROOM_PATIENCE = 2.0  # seconds that a line waits for room in the buffer, once a sample


class Outcome(NamedTuple):
    """What a turn gave: rows read, lines and bytes put, seconds taken, sets that failed.

    `waited` are the seconds for which the server was waited for.
    """

    rows: int
    lines: int
    bytes: int
    seconds: float
    failed: int
    waited: float = 0.0


class Tray:
    """Puts the lines of one turn into the buffer, and counts."""

    def __init__(self, buffer: Intake) -> None:
        self._buffer = buffer
        self.rows = self.lines = self.bytes = self.failed = 0

    def put(self, sample: Sample, body: Body, keep: Keep) -> None:
        """Put the lines of one sample."""
        patience = ROOM_PATIENCE
        for line in sample.lines(body):
            # A large sample comes in one burst: let the sender make room, if it does.
            if patience and not self._buffer.wait_for_room(len(line), patience):
                patience = 0.0
            self._buffer.put(line, keep)
            self.lines += 1
            self.bytes += len(line) + 1


class SetMemory:
    """One set: when it was asked, what it sent, since when its counters count."""

    def __init__(self) -> None:
        self.asked_at = -math.inf
        self.retry_at = -math.inf
        self.part: int | None = None
        self.changes: Changes | None = None
        self.chosen: Chosen | None = None
        self.epoch: str | None = None  # the one of the last line
        self.resets: dict[object, str | None] = {}  # of its rows, where they are reset one by one

    def due(self, query: Query, now: float, every: float) -> bool:
        """Whether the set has its turn: some are asked more seldom than their sampler."""
        if now < self.retry_at:
            return False
        # Half a turn of tolerance: a turn may have waited for its lane.
        return query.every is None or now - self.asked_at >= query.every - every / 2

    def parameters(self, query: Query) -> dict[str, int | None] | None:
        """Return what the query's SQL takes: which part it is, where it is asked in parts."""
        return {"part": self.part} if query.rotate is not None else None

    @property
    def fell(self) -> bool:
        """Whether this turn's rows tell that counting began anew since the turn before."""
        if isinstance(self.chosen, Ranks):
            return self.chosen.reset
        return self.changes is not None and self.changes.reset

    def commit(
        self,
        query: Query,
        epoch: str | None,
        resets: dict[object, str | None],
        now: float,
        at: str,
    ) -> None:
        """Remember this turn: its line is in the buffer."""
        self.epoch = epoch
        self.resets = resets
        self.advance(query)
        if self.changes is not None:
            self.changes.commit(now, at)
        if self.chosen is not None:
            self.chosen.commit()

    def forget(self) -> None:
        """Send everything in full in the next turn."""
        self.changes = None
        if self.chosen is not None:
            self.chosen.forget()

    def advance(self, query: Query) -> None:
        """Go on to the next part, where the query is asked in parts."""
        if query.rotate is not None:
            self.part = 0 if self.part is None else (self.part + 1) % query.rotate


class Search:
    """A look-up: its statement on this server, what it knows, when it may ask again."""

    def __init__(self, lookup: Lookup) -> None:
        self.lookup = lookup
        self.known = Known(lookup.refresh, lookup.batch)
        self.statement: Statement | None = None
        self.retry_at = -math.inf


class Turn:
    """A sampler on a target. One thread at a time uses it: that of its lane."""

    def __init__(
        self,
        sampler: Sampler,
        target: str,
        every: float,
        states: States,
        *,
        database: str | None = None,
    ) -> None:
        """`database` is one that is visited: what concerns the whole server is not asked there."""
        self.database = database
        self.sampler = sampler
        self.target = target
        self.every = every
        self.states = states
        self.statements: list[Statement] = []
        self.lacking: list[Query] = []
        self.searches = [Search(lookup) for lookup in sampler.lookups]
        self.memories: dict[str, SetMemory] = {}
        self.epochs: dict[str, str] = {}  # what the server said last, per set
        self.checked_at = -math.inf
        self.slowed: State | None = None  # why its turns are rarer than asked for
        self.last: Outcome | None = None
        self._gates = {query.gate for query in sampler.queries if query.gate is not None}
        self._facts: Facts | None = None
        self._origin: tuple[object, ...] = ()
        self._losses: int | None = None  # of the turn before
        self._losing = False

    @property
    def size(self) -> int:
        """How many rows and objects its sets remember, at some hundred bytes each."""
        kept = (part for one in self.memories.values() for part in (one.changes, one.chosen))
        return sum(part.size for part in kept if part is not None)

    def gates(self, query: Query) -> list[str]:
        """Return the columns of a set that decide whether another set is asked."""
        return [column for name, column in self._gates if name == query.set]

    def renew(self, session: Session, losses: int) -> None:
        """Fit the turn to its session: on a new one everything is sent in full.

        A session that follows another one without a break, as from one database to the next, goes
        on where that left off, unless the server has started anew. In full it is after a loss, too,
        texts included, as soon as no more is lost: while the buffer overflows, more lines would
        only push out more. The statements follow the server's facts whenever those were read again.
        """
        over = self._losing and losses == self._losses
        self._losing = self._losses is not None and losses != self._losses
        self._losses = losses
        if over:
            for search in self.searches:
                search.known.forget()
        facts = session.facts
        origin = (session.lineage, facts.system_identifier, facts.started_at)
        if over or origin != self._origin:
            self._origin = origin
            for memory in self.memories.values():
                memory.forget()
        if facts is not self._facts:
            self._facts = facts
            self._lay_out(facts)
        for statement in self.statements:
            memory = self.memories.setdefault(statement.query.set, SetMemory())
            if memory.changes is None and statement.query.key:
                memory.changes = _changes(statement)
            if memory.chosen is None:
                memory.chosen = _chosen(statement)

    def _lay_out(self, facts: Facts) -> None:
        before = {statement.query.set: statement.sql for statement in self.statements}
        self.statements, self.lacking = statements(self.sampler, facts)
        if self.database is not None:
            self.statements = [one for one in self.statements if self._is_local(one.query)]
            self.lacking = [one for one in self.lacking if self._is_local(one)]
        after = {statement.query.set: statement.sql for statement in self.statements}
        for search in self.searches:
            search.statement = compose(self.sampler.name, search.lookup.query, facts)
        for name, memory in self.memories.items():
            if before.get(name) != after.get(name):
                memory.forget()  # the columns are others
                memory.retry_at = -math.inf  # and what was refused is not what is asked now

    def _is_local(self, query: Query) -> bool:
        return (query.scope or self.sampler.scope) is Scope.DATABASE


def _chosen(statement: Statement) -> Chosen | None:
    ranking, choice = statement.query.ranking, statement.query.choice
    if ranking is not None:
        return Ranks(ranking.every)
    return Chosen(choice.every) if choice is not None else None


def _changes(statement: Statement) -> Changes:
    columns = statement.sent
    query = statement.query
    if statement.probe is not None:
        return Moved()
    counter = columns.index(query.counter) if query.counter in columns else None
    return Changes([columns.index(name) for name in query.key if name in columns], counter)
