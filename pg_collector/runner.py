"""One turn of one sampler: ask, mask, encode, hand over.

This is the last place where raw query text exists, and it exists in local variables only.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pg_collector.buffer import Buffer
from pg_collector.clock import Clock
from pg_collector.errors import Reason, SamplerError, SamplerTimeout, SamplerUnavailable
from pg_collector.metrics import Metrics
from pg_collector.pg.session import Session
from pg_collector.privacy.mask import Masker
from pg_collector.privacy.scrub import scrub
from pg_collector.privacy.utility import without_utility
from pg_collector.sample import Body, Facts, Keep, Sample, Unavailable
from pg_collector.samplers._sampler import OWN_TAG, Query, Statement
from pg_collector.states import OK, State
from pg_collector.turn import Outcome, Search, SetMemory, Turn

RECHECK = 600.0  # seconds until a server is looked at again for what it lacked
RETRY = 3_600.0  # seconds until a statement is repeated that the server refused


class _Asking(NamedTuple):
    """What every step of one turn needs."""

    turn: Turn
    session: Session
    at: str
    now: float
    tray: "_Tray"


class _Reading(NamedTuple):
    """What one set answered: encoded rows, how many there were, when their counting began."""

    body: Body
    total: int
    resets: list[str]
    seconds: float


class _Tray:
    """Puts the lines of one turn into the buffer, and counts."""

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer
        self.rows = self.lines = self.bytes = self.failed = 0

    def put(self, sample: Sample, body: Body, keep: Keep) -> None:
        for line in sample.lines(body):
            self._buffer.put(line, keep)
            self.lines += 1
            self.bytes += len(line) + 1


class Runner:
    """Takes turns. One for the whole agent; the lanes' threads share it."""

    def __init__(
        self,
        buffer: Buffer,
        masker: Masker,
        metrics: Metrics,
        clock: Clock,
        *,
        drop_utility_text: bool = True,
    ) -> None:
        self._buffer = buffer
        self._masker = masker
        self._metrics = metrics
        self._clock = clock
        self._drop_utility_text = drop_utility_text

    def take(self, turn: Turn, session: Session) -> Outcome:
        """Take one turn; put its lines into the buffer and return what it gave.

        A set that fails is told in `turn.states` and does not keep the others from being asked.
        Raises TargetDown or TargetRefused when the session is of no further use.
        """
        started = self._clock.monotonic()
        at = session.moment().at
        self._look_again(turn, session, started)
        turn.renew(session, self._buffer.losses)
        asking = _Asking(turn, session, at, started, _Tray(self._buffer))
        for query in turn.lacking:
            self._tell(asking, query, _lack(turn, query, session.facts))
        for statement in turn.statements:
            self._guarded(asking, statement)
        for search in turn.searches:
            self._search(asking, search)
        seconds = self._clock.monotonic() - started
        tray = asking.tray
        turn.last = Outcome(tray.rows, tray.lines, tray.bytes, seconds, tray.failed)
        self._metrics.pg_query_duration_seconds.labels(turn.sampler.name).observe(seconds)
        if tray.lines:
            labels = {"target": turn.target, "sampler": turn.sampler.name}
            self._metrics.samples_total.labels(**labels).inc()
            self._metrics.last_sample_timestamp_seconds.labels(**labels).set(
                self._clock.now().timestamp()
            )
        return turn.last

    def _look_again(self, turn: Turn, session: Session, now: float) -> None:
        """Read the facts again now and then where something is missing that may come."""
        if not turn.lacking and session.facts.reads_all_stats:
            turn.checked_at = now
        elif now - turn.checked_at >= RECHECK:
            if turn.checked_at > -math.inf:
                session.refresh()
            turn.checked_at = now

    def _guarded(self, asking: _Asking, statement: Statement) -> None:
        """Ask for one set; its failure is told and stays its own."""
        query = statement.query
        memory = asking.turn.memories[query.set]
        if asking.now < memory.retry_at or not _due(query, memory, asking):
            return
        try:
            try:
                self._ask(asking, statement, memory)
            except SamplerUnavailable:
                if not asking.session.stale:
                    raise
                # A column or a view went away under us: look again and ask once more.
                asking.session.refresh()
                asking.turn.renew(asking.session, self._buffer.losses)
                again = [s for s in asking.turn.statements if s.query.set == query.set]
                if not again:
                    raise
                self._ask(asking, again[0], memory)
        except SamplerError as error:
            asking.tray.failed += 1
            if isinstance(error, SamplerUnavailable):
                memory.retry_at = asking.now + RETRY
            self._tell(asking, query, self._failure(asking, error))
        else:
            memory.asked_at = asking.now
            self._tell(asking, query, _holes(asking, query))

    def _ask(self, asking: _Asking, statement: Statement, memory: SetMemory) -> None:
        """Ask for one set and put its lines into the buffer."""
        turn, query, changes = asking.turn, statement.query, memory.changes
        shared_reset = asking.session.facts.shared_stats_reset
        epoch = turn.epochs.get(query.set) or shared_reset
        base = None
        if changes is not None:
            base = changes.begin(asking.now, full=epoch != memory.epoch)
        reading = self._read(asking, statement, memory)
        reset = changes is not None and query.set not in turn.epochs and changes.reset
        if changes is not None and reset and base is not None:
            # A line of changes builds on rows that are gone: take a full one at once.
            base = changes.begin(asking.now, full=True)
            reading = self._read(asking, statement, memory)
        if reading.resets:
            sets = query.epoch_for or (query.set,)
            turn.epochs.update(dict.fromkeys(sets, max(reading.resets)))
            if query.set in sets:
                epoch = max(*reading.resets, shared_reset or "")
        moved = memory.epoch is not None and epoch != memory.epoch
        counts = query.keep is Keep.CUMULATIVE
        sample = self._sample(
            asking,
            statement,
            took_ms=round(reading.seconds * 1000, 3),
            epoch=epoch if counts else None,
            epoch_changed=(moved or reset) and counts,
            delta=base is not None,
            base=base,
            total_rows=reading.total if reading.total != reading.body.rows else None,
        )
        asking.tray.put(sample, reading.body, Keep.DELTA if base is not None else query.keep)
        asking.tray.rows += reading.total
        memory.epoch = epoch
        if query.rotate is not None:
            memory.part = 0 if memory.part is None else (memory.part + 1) % query.rotate
        if changes is not None:
            changes.commit(asking.now, asking.at)

    def _read(self, asking: _Asking, statement: Statement, memory: SetMemory) -> _Reading:
        """Stream the rows of one set; keep those that are to be sent, encoded."""
        query, columns, changes = statement.query, statement.columns, memory.changes
        prepare = self._preparation(statement)
        secret = _hidden_keys(statement)
        notes = [_noting(search, statement, asking.now) for search in asking.turn.searches]
        reset = columns.index(query.epoch) if query.epoch in columns else None
        resets: list[str] = []
        body = Body()
        total = 0
        started = self._clock.monotonic()
        for answer in asking.session.stream(statement.sql, _parameters(query, memory)):
            for row in answer.rows:
                total = row[-1] if query.cap is not None else total + 1
                if any(row[position] is None for position in secret):
                    continue
                if any(note(row) for note in notes):
                    total -= 1
                    continue
                if reset is not None and row[reset] is not None:
                    resets.append(row[reset])
                if changes is None or changes.changed(row):
                    body.add(prepare(row))
        return _Reading(body, total, resets, self._clock.monotonic() - started)

    def _search(self, asking: _Asking, search: Search) -> None:
        """Ask for what belongs to keys that were not seen before."""
        statement = search.statement
        wanted = search.known.wanted()
        if statement is None or not wanted or asking.now < search.retry_at:
            search.known.idle()
            return
        try:
            self._find(asking, search, statement, wanted)
        except SamplerError as error:
            asking.tray.failed += 1
            search.known.idle()
            # Too much for the time there is: next turn less. Anything else will take a while.
            smaller = isinstance(error, SamplerTimeout) and search.known.shrink()
            search.retry_at = asking.now if smaller else asking.now + RECHECK
            self._tell(asking, statement.query, self._failure(asking, error))
        else:
            self._tell(asking, statement.query, OK)

    def _find(
        self, asking: _Asking, search: Search, statement: Statement, wanted: list[Any]
    ) -> None:
        lookup = search.lookup
        prepare = self._preparation(statement)
        key = [statement.columns.index(name) for name in lookup.key]
        tag = statement.columns.index(lookup.own_tag_in) if lookup.own_tag_in else None
        body = Body()
        started = self._clock.monotonic()
        for answer in asking.session.stream(statement.sql, {"ids": wanted}):
            for row in answer.rows:
                own = tag is not None and str(row[tag]).startswith(OWN_TAG)
                search.known.found(tuple(row[position] for position in key), own=own)
                if not own:
                    body.add(prepare(row))
        took = self._clock.monotonic() - started
        # Reading texts costs the server in proportion to the whole file: leave it in peace after.
        search.retry_at = asking.now + 20 * took
        if body.rows:
            sample = self._sample(asking, statement, took_ms=round(took * 1000, 3))
            asking.tray.put(sample, body, statement.query.keep)
            asking.tray.rows += body.rows
        search.known.commit(frozenset(wanted), asking.now)

    def _sample(self, asking: _Asking, statement: Statement, **more: Any) -> Sample:
        facts = asking.session.facts
        hidden = () if facts.reads_all_stats else statement.query.hidden
        return Sample(
            v=1,
            set=statement.query.set,
            schema=statement.query.schema,
            target=asking.turn.target,
            at=asking.at,
            every_s=statement.query.every or asking.turn.every,
            server=facts.system_identifier,
            unavailable=(
                *statement.missing,
                *(Unavailable(field=name, reason=Reason.PRIVILEGE) for name in hidden),
            ),
            c=statement.columns,
            **more,
        )

    def _preparation(self, statement: Statement) -> Callable[[Sequence[Any]], Sequence[Any]]:
        """Return what makes a raw row one that may leave: masked, scrubbed, without helpers."""
        query, columns = statement.query, statement.columns
        width = len(columns)
        texts = [(columns.index(n), s) for n, s in query.sql_text.items() if n in columns]
        free = [columns.index(name) for name in query.free_text if name in columns]
        mask, drop = self._masker.mask, self._drop_utility_text

        def prepare(row: Sequence[Any]) -> Sequence[Any]:
            out = list(row[:width])
            for position, source in texts:
                if out[position] is not None:
                    text = mask(out[position], source)
                    out[position] = (
                        without_utility(text) if drop and source == "statements" else text
                    )
            for position in free:
                if out[position]:
                    out[position] = scrub(out[position])
            return out

        return prepare if texts or free or query.cap is not None else _as_it_is

    def _failure(self, asking: _Asking, error: SamplerError) -> State:
        """Say what a failure means, count it."""
        turn = asking.turn
        reason: Reason | None = None
        if isinstance(error, SamplerUnavailable | SamplerTimeout):
            reason = error.reason
        self._metrics.sample_errors_total.labels(
            target=turn.target, sampler=turn.sampler.name, reason=reason or "error"
        ).inc()
        return State(
            state="unavailable" if isinstance(error, SamplerUnavailable) else "error",
            reason=reason,
            sqlstate=error.sqlstate,
            message=self._masker.mask(str(error), "error"),
            remedy=_remedy(turn, reason, asking.session.facts) or error.remedy or None,
        )

    def _tell(self, asking: _Asking, query: Query, state: State) -> None:
        turn = asking.turn
        turn.states.tell(turn.sampler.name, query.set, state, at=asking.at, every=turn.every)


def _due(query: Query, memory: SetMemory, asking: _Asking) -> bool:
    """Whether a set that is asked more seldom than its sampler has its turn."""
    if query.every is None:
        return True
    # Half a turn of tolerance: a turn may have waited for its lane.
    return asking.now - memory.asked_at >= query.every - asking.turn.every / 2


def _parameters(query: Query, memory: SetMemory) -> dict[str, Any] | None:
    return {"part": memory.part} if query.rotate is not None else None


def _hidden_keys(statement: Statement) -> list[int]:
    """Return the positions whose NULL says that the role may not see the row."""
    query, columns = statement.query, statement.columns
    return [columns.index(name) for name in query.hidden if name in query.key and name in columns]


def _noting(search: Search, statement: Statement, now: float) -> Callable[[Sequence[Any]], bool]:
    """Return what shows a row's key to a search, and says whether the row is of our own making."""
    lookup = search.lookup
    if lookup.of != statement.query.set or search.statement is None:
        return lambda _: False
    key = [statement.columns.index(name) for name in lookup.key]
    by = statement.columns.index(lookup.by)

    def note(row: Sequence[Any]) -> bool:
        return search.known.note(tuple(row[position] for position in key), row[by], now)

    return note


def _as_it_is(row: Sequence[Any]) -> Sequence[Any]:
    return row


def _lack(turn: Turn, query: Query, facts: Facts) -> State:
    """Say why a server cannot answer a query at all."""
    reason = Reason.VERSION
    message = f"this server has no {next(iter(query.relations.values()))}"
    if query.extension is not None and query.extension not in facts.extensions:
        libraries = facts.settings.get("shared_preload_libraries")
        message = f"the extension {query.extension} is not in the database {facts.database!r}"
        if libraries is not None and query.extension not in libraries:
            reason = Reason.SETTING
            message = f"{query.extension} is not loaded by this server"
    return State(
        state="unavailable", reason=reason, message=message, remedy=_remedy(turn, reason, facts)
    )


def _holes(asking: _Asking, query: Query) -> State:
    """Say what is missing from an answer that came."""
    facts = asking.session.facts
    if facts.reads_all_stats or not query.hidden:
        return OK
    return State(
        state="limited",
        reason=Reason.PRIVILEGE,
        message=f"what belongs to other roles is hidden from {facts.role}",
        remedy=_remedy(asking.turn, Reason.PRIVILEGE, facts),
    )


def _remedy(turn: Turn, reason: Reason | None, facts: Facts) -> str | None:
    text = turn.sampler.remedy.get(reason) if reason is not None else None
    return text and text.format(role=_identifier(facts.role), database=facts.database)


def _identifier(name: str) -> str:
    """Quote an identifier where SQL needs it."""
    if _PLAIN.fullmatch(name):
        return name
    return '"' + name.replace('"', '""') + '"'


_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
