"""One turn of one sampler: ask for its sets, make lines of them, hand them over."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from pg_collector import states
from pg_collector.buffer import Intake
from pg_collector.clock import Clock, rfc3339
from pg_collector.errors import Reason, SamplerError, SamplerTimeout, SamplerUnavailable
from pg_collector.metrics import Metrics
from pg_collector.pg.session import Session
from pg_collector.privacy.mask import Masker
from pg_collector.reading import Reader, Reading, open_gate
from pg_collector.sample import MAX_LINE_BYTES, Body, Keep, Sample, Unavailable
from pg_collector.samplers._sampler import OWN_STARTS, Query, Scope, Statement
from pg_collector.states import OK, State
from pg_collector.turn import Outcome, Search, SetMemory, Tray, Turn

RECHECK = 600.0  # seconds until a server is looked at again for what it lacked
RESET_IS_NULL_SINCE = 15  # the first version where a database without a reset says so
HEAD_BYTES = 16 * 1024  # of a line, beside its rows, at most
RESTS = 20  # times as long as a look-up took, none follows: it costs in proportion to all texts
RETRY = 3_600.0  # seconds until a statement is repeated that the server refused


@dataclass
class _Asking:
    """What every step of one turn needs."""

    turn: Turn
    session: Session
    at: str
    now: float
    tray: Tray
    refreshed: bool = False  # once a turn is enough, whatever the server refuses
    gates: dict[tuple[str, str], Any] = field(default_factory=dict)  # what opens other sets


class Runner:
    """Takes turns. One for the whole agent; the lanes' threads share it."""

    def __init__(
        self,
        buffer: Intake,
        masker: Masker,
        metrics: Metrics,
        clock: Clock,
        *,
        drop_utility_text: bool = True,
    ) -> None:
        self._buffer = buffer
        self._reader = Reader(masker, drop_utility_text=drop_utility_text)
        self._metrics = metrics
        self._clock = clock
        self._resyncs = 0

    def resync(self) -> None:
        """Have every set sent whole within two turns. From any one thread."""
        self._resyncs += 1

    @property
    def _losses(self) -> int:
        """Changes where what was sent before is no base for what comes."""
        return self._buffer.losses + self._resyncs

    @property
    def masker(self) -> Masker:
        """What texts and names are masked with now."""
        return self._reader.masker

    def mask_with(self, masker: Masker, *, drop_utility_text: bool) -> None:
        """Mask texts and names otherwise from the next set on; what is known is told anew."""
        if masker is not self.masker:
            self.resync()
        self._reader = Reader(
            masker, drop_utility_text=drop_utility_text, part_bytes=self._reader.part_bytes
        )

    def cut_at(self, line_bytes: int) -> None:
        """Let no line be longer than that from the next set on, unless one row is."""
        room = max(line_bytes - HEAD_BYTES, line_bytes // 2)
        self._reader.part_bytes = min(MAX_LINE_BYTES, room)

    def take(
        self,
        turn: Turn,
        session: Session,
        introduce: Callable[[Session], None] = lambda _session: None,
    ) -> Outcome:
        """Take one turn; put its lines into the buffer and return what it gave.

        `introduce` sees the session once its facts are those of now. A set that fails is told in
        `turn.states` and does not keep the others from being asked. Raises TargetDown or
        TargetRefused when the session is of no further use.
        """
        started = self._clock.monotonic()
        waited = session.waited
        asking = _Asking(turn, session, rfc3339(self._clock.now()), started, Tray(self._buffer))
        try:
            asking.at = session.moment().at
            self._look_again(asking)
        except SamplerError as error:
            asking.tray.failed += 1
            self._tell(asking, None, self._failure(asking, error))
        else:
            introduce(session)
            elsewhere = states.elsewhere(turn.sampler, session.facts)
            self._tell(asking, None, elsewhere or turn.slowed or OK)
            if elsewhere is not None:
                self._metrics.rest(turn.target, turn.sampler.name)
            else:
                turn.renew(session, self._losses)
                self._ask_all(asking)
        tray = asking.tray
        seconds = self._clock.monotonic() - started
        waited = session.waited - waited
        turn.last = Outcome(tray.rows, tray.lines, tray.bytes, seconds, tray.failed, waited)
        self._measure(turn)
        return turn.last

    def find(self, turn: Turn, session: Session, values: Collection[str]) -> None:
        """Put into the buffer what the look-ups of a sampler give for these values of `by`.

        What fails is told in `turn.states`. Raises TargetDown or TargetRefused as `take` does.
        """
        at = rfc3339(self._clock.now())
        asking = _Asking(turn, session, at, self._clock.monotonic(), Tray(self._buffer))
        turn.renew(session, self._losses)
        for search in turn.searches:
            for one in values:
                search.known.note((one,), one, asking.now)
            self._search(asking, search)

    def _ask_all(self, asking: _Asking) -> None:
        for query in asking.turn.lacking:
            self._tell(asking, query, states.lack(asking.turn.sampler, query, asking.session.facts))
        for statement in asking.turn.statements:
            self._guarded(asking, statement)
        for search in asking.turn.searches:
            self._search(asking, search)

    def _measure(self, turn: Turn) -> None:
        if turn.last is None:
            return
        series = self._metrics.of_turns(turn.target, turn.sampler.name)
        series.seconds.observe(turn.last.seconds)
        if turn.last.lines:
            series.sampled(turn.last.rows, self._clock.now().timestamp())

    def _look_again(self, asking: _Asking) -> None:
        """Read the facts again now and then where something is missing that may come."""
        turn, session = asking.turn, asking.session
        if not turn.lacking and session.facts.reads_all_stats:
            turn.checked_at = asking.now
        elif asking.now - turn.checked_at >= RECHECK:
            if turn.checked_at > -math.inf:
                session.refresh()
            turn.checked_at = asking.now

    def _guarded(self, asking: _Asking, statement: Statement) -> None:
        """Ask for one set; its failure is told and stays its own."""
        query = statement.query
        memory = asking.turn.memories[query.set]
        if not memory.due(query, asking.now, asking.turn.every):
            return
        if not open_gate(query, asking.gates):
            return
        try:
            blind = self._asked(asking, statement, memory)
        except SamplerError as error:
            asking.tray.failed += 1
            if isinstance(error, SamplerUnavailable):
                memory.retry_at = asking.now + RETRY
            elif query.every is not None and _took_too_long(error):
                memory.asked_at = asking.now  # as rarely as if it had gone well
            if query.rotate is not None and not isinstance(error, SamplerUnavailable):
                memory.asked_at = asking.now
                memory.advance(query)  # the other parts have their turn all the same
            self._tell(asking, query, self._failure(asking, error))
        else:
            memory.asked_at = asking.now
            sampler, facts = asking.turn.sampler, asking.session.facts
            self._tell(asking, query, states.holes(sampler, query, facts, blind))

    def _asked(self, asking: _Asking, statement: Statement, memory: SetMemory) -> int:
        """Ask for one set, twice where another statement for it may fare better."""
        try:
            return self._ask(asking, statement, memory)
        except SamplerUnavailable:
            again = self._anew(asking, statement)
            if again is None:
                raise
            return self._ask(asking, again, memory)

    def _anew(self, asking: _Asking, statement: Statement) -> Statement | None:
        """Return another statement for the set, if the facts, read again, lead to one.

        A column or a view went away under us. What is refused all the same waits its time.
        """
        if not asking.session.stale or asking.refreshed:
            return None
        asking.refreshed = True
        asking.session.refresh()
        asking.turn.renew(asking.session, self._losses)
        found = (s for s in asking.turn.statements if s.query.set == statement.query.set)
        return next((s for s in found if s.sql != statement.sql), None)

    def _ask(self, asking: _Asking, statement: Statement, memory: SetMemory) -> int:
        """Ask for one set, put its lines into the buffer; return how many rows hide something."""
        turn, query, changes = asking.turn, statement.query, memory.changes
        shared_reset = asking.session.facts.shared_stats_reset
        epoch = turn.epochs.get(query.set) or shared_reset
        base = None
        started = self._clock.monotonic()
        if changes is not None:
            base = changes.begin(asking.now, full=epoch != memory.epoch)
        reading = self._read(asking, statement, memory)
        _note_epoch(turn, query, reading)
        reset = query.set not in turn.epochs and memory.fell
        epoch = turn.epochs.get(query.set) or shared_reset
        if changes is not None and base is not None and (reset or epoch != memory.epoch):
            # A line of changes builds on rows that are gone: take a full one at once.
            base = changes.begin(asking.now, full=True)
            reading = self._read(asking, statement, memory)
            _note_epoch(turn, query, reading)
            epoch = turn.epochs.get(query.set) or shared_reset
        seconds = self._clock.monotonic() - started
        began = reset or self._began(asking, memory, reading, epoch)
        counts = query.keep is Keep.CUMULATIVE
        sample = self._sample(
            asking,
            statement,
            c=reading.columns,
            took_ms=round(seconds * 1000, 3),
            epoch=epoch if counts else None,
            epoch_changed=began and counts,
            delta=base is not None,
            base=base,
            total_rows=reading.total if reading.total != reading.body.rows else None,
        )
        asking.tray.put(sample, reading.body, Keep.DELTA if base is not None else query.keep)
        asking.tray.rows += reading.total
        asking.gates |= reading.gates
        memory.commit(query, epoch, reading.resets, asking.now, asking.at)
        return reading.blind

    def _read(self, asking: _Asking, statement: Statement, memory: SetMemory) -> Reading:
        return self._reader.read(asking.turn, asking.session, statement, memory, asking.now)

    def _began(
        self, asking: _Asking, memory: SetMemory, reading: Reading, epoch: str | None
    ) -> bool:
        """Whether the set, or a row of it, tells another time at which its counting began."""
        moved = memory.epoch is not None and epoch != memory.epoch
        first_counts = asking.session.facts.major >= RESET_IS_NULL_SINCE
        return moved or _began_anew(memory.resets, reading.resets, first_counts=first_counts)

    def _search(self, asking: _Asking, search: Search) -> None:
        """Ask for what belongs to keys that were not seen before."""
        statement = search.statement
        wanted = search.known.wanted()
        if statement is None or not wanted or asking.now < search.retry_at:
            search.known.commit((), asking.now)
            return
        started = self._clock.monotonic()
        try:
            self._find(asking, search, statement, wanted)
        except SamplerError as error:
            asking.tray.failed += 1
            search.known.commit((), asking.now)
            # Too much for the time there is: next time less. Anything else will take a while.
            smaller = isinstance(error, SamplerTimeout) and search.known.shrink()
            rest = RESTS * (self._clock.monotonic() - started) if smaller else RECHECK
            search.retry_at = asking.now + rest
            self._tell(asking, statement.query, self._failure(asking, error))
        else:
            self._tell(asking, statement.query, OK)

    def _find(
        self, asking: _Asking, search: Search, statement: Statement, wanted: list[Any]
    ) -> None:
        lookup = search.lookup
        prepared = self._reader.preparation(statement)
        key = [statement.columns.index(name) for name in lookup.key]
        tag = statement.columns.index(lookup.own_tag_in) if lookup.own_tag_in else None
        body = Body(self._reader.part_bytes)
        room = lookup.batch_bytes
        left: set[int] = set()
        started = self._clock.monotonic()
        for answer in asking.session.stream(statement.sql, {"ids": wanted}):
            for row in answer.rows:
                found = tuple(row[position] for position in key)
                own = tag is not None and str(row[tag]).startswith(OWN_STARTS)
                search.known.found(found, own=own)
                if not own and room > 0:
                    room -= body.add(prepared.row(row))
                elif not own:
                    left.add(hash(found))
        took = self._clock.monotonic() - started
        # Reading texts costs the server in proportion to the whole file: leave it in peace after.
        search.retry_at = asking.now + RESTS * took
        search.known.fit(body.rows, all_fitted=not left)
        if body.rows:
            took_ms = round(took * 1000, 3)
            sample = self._sample(asking, statement, c=prepared.columns, took_ms=took_ms)
            asking.tray.put(sample, body, statement.query.keep)
            asking.tray.rows += body.rows
        search.known.commit(frozenset(wanted), asking.now, left)

    def _sample(self, asking: _Asking, statement: Statement, **more: Any) -> Sample:
        facts = asking.session.facts
        hidden = () if facts.reads_all_stats else statement.query.hidden
        scope = statement.query.scope or asking.turn.sampler.scope
        return Sample(
            v=1,
            set=statement.query.set,
            schema=statement.query.schema,
            target=asking.turn.target,
            database=self.masker.name(facts.database) if scope is Scope.DATABASE else None,
            at=asking.at,
            every_s=max(statement.query.every or 0.0, asking.turn.every),
            server=facts.system_identifier,
            unavailable=(
                *statement.missing,
                *(Unavailable(field=name, reason=Reason.PRIVILEGE) for name in hidden),
            ),
            **more,
        )

    def _failure(self, asking: _Asking, error: SamplerError) -> State:
        """Count a failure, and say what it means."""
        turn = asking.turn
        state = states.failure(turn.sampler, error, asking.session.facts)
        self._metrics.sample_errors_total.labels(
            target=turn.target, sampler=turn.sampler.name, reason=state.reason or "error"
        ).inc()
        return state

    def _tell(self, asking: _Asking, query: Query | None, state: State) -> None:
        turn = asking.turn
        name = query.set if query is not None else None
        turn.states.tell(
            turn.sampler.name,
            name,
            state,
            at=asking.at,
            every=turn.every,
            database=turn.database,
        )


def _took_too_long(error: SamplerError) -> bool:
    return isinstance(error, SamplerTimeout) and error.reason is Reason.TIMEOUT


def _note_epoch(turn: Turn, query: Query, reading: Reading) -> None:
    """Remember since when the sets count of which this one tells."""
    if not reading.tells_epoch:
        return
    for name in query.epoch_for if query.began is None else (query.set,):
        if reading.epoch is not None:
            turn.epochs[name] = reading.epoch
        else:
            turn.epochs.pop(name, None)


def _began_anew(
    before: Mapping[object, str | None], now: Mapping[object, str | None], *, first_counts: bool
) -> bool:
    """Whether a row that was there before tells another time at which its counting began."""
    return any(
        when is not None
        and key in before
        and when != before[key]
        and (first_counts or before[key] is not None)
        for key, when in now.items()
    )
