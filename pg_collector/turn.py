"""What a sampler on a target remembers between its turns."""

import math
from typing import NamedTuple

from pg_collector.changes import Changes, Known
from pg_collector.pg.session import Session
from pg_collector.sample import Facts
from pg_collector.samplers._sampler import Lookup, Query, Sampler, Statement, compose, statements
from pg_collector.states import States


class Outcome(NamedTuple):
    """What a turn gave: rows read, lines and bytes put, seconds taken, sets that failed."""

    rows: int
    lines: int
    bytes: int
    seconds: float
    failed: int


class SetMemory:
    """One set: when it was asked, what it sent, since when its counters count."""

    def __init__(self) -> None:
        self.asked_at = -math.inf
        self.retry_at = -math.inf
        self.part: int | None = None
        self.changes: Changes | None = None
        self.epoch: str | None = None  # the one of the last line


class Search:
    """A look-up: its statement on this server, what it knows, when it may ask again."""

    def __init__(self, lookup: Lookup) -> None:
        self.lookup = lookup
        self.known = Known(lookup.refresh, lookup.batch)
        self.statement: Statement | None = None
        self.retry_at = -math.inf


class Turn:
    """A sampler on a target. One thread at a time uses it: that of its lane."""

    def __init__(self, sampler: Sampler, target: str, every: float, states: States) -> None:
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
        self.last: Outcome | None = None
        self._facts: Facts | None = None
        self._session: Session | None = None
        self._losses = 0

    def renew(self, session: Session, losses: int) -> None:
        """Fit the turn to its session: on a new one, or after a loss, everything is sent in full.

        The statements follow the server's facts whenever those were read again.
        """
        if session is not self._session or losses != self._losses:
            self._session = session
            self._losses = losses
            for memory in self.memories.values():
                memory.changes = None
        if session.facts is not self._facts:
            self._facts = session.facts
            self._lay_out(session.facts)
        for statement in self.statements:
            memory = self.memories.setdefault(statement.query.set, SetMemory())
            if memory.changes is None and statement.query.key:
                memory.changes = _changes(statement)

    def _lay_out(self, facts: Facts) -> None:
        self.statements, self.lacking = statements(self.sampler, facts)
        for search in self.searches:
            search.statement = compose(self.sampler.name, search.lookup.query, facts)
        for memory in self.memories.values():
            memory.changes = None  # the columns may be others
            memory.retry_at = -math.inf


def _changes(statement: Statement) -> Changes:
    columns = statement.columns
    query = statement.query
    counter = columns.index(query.counter) if query.counter is not None else None
    return Changes([columns.index(name) for name in query.key if name in columns], counter)
