"""Reading one set: its rows from the server, told apart, masked, and encoded for the line.

This is the last place where raw query text exists, and it exists in local variables only.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple

from pg_collector.changes import Changes, Chosen, Moved, Ranks
from pg_collector.pg.session import Session
from pg_collector.privacy.mask import Masker
from pg_collector.privacy.utility import command_alone
from pg_collector.sample import MAX_LINE_BYTES, Body
from pg_collector.samplers._kinds import names_in
from pg_collector.samplers._sampler import Probing, Query, Statement, TextSource, derived
from pg_collector.turn import Search, SetMemory, Turn

Values = Sequence[Any]

TAGS: Final = "tags"  # the column beside a query text


class Prepared(NamedTuple):
    """How the rows of a statement leave: the names of their columns, and what makes each of them.

    `row` makes a raw row one that may leave: masked, scrubbed, without its count.
    """

    columns: tuple[str, ...]
    row: Callable[[Values], Values]


@dataclass
class Reading:
    """What one set answered: encoded rows, how many there were, and what they tell."""

    body: Body = field(default_factory=Body)
    columns: tuple[str, ...] = ()
    total: int = 0
    resets: dict[object, str | None] = field(default_factory=dict)  # of rows reset one by one
    epoch: str | None = None  # when counting began,
    tells_epoch: bool = False  # where there was a row to tell it
    blind: int = 0  # rows of which the role may not see all
    gates: dict[tuple[str, str], Any] = field(default_factory=dict)


class Reader:
    """Reads sets as one configuration wants their texts."""

    def __init__(
        self, masker: Masker, *, drop_utility_text: bool, part_bytes: int = MAX_LINE_BYTES
    ) -> None:
        """`part_bytes` of rows go into a line at most."""
        self.part_bytes = part_bytes
        self.masker = masker
        self._drop_utility_text = drop_utility_text
        # By set; of targets that differ in their version, the last one has it.
        self._prepared: dict[str, tuple[Statement, Prepared, list[int]]] = {}

    def read(
        self, turn: Turn, session: Session, statement: Statement, memory: SetMemory, now: float
    ) -> Reading:
        """Ask for one set and keep what is to be sent of it. Raises what the session raises."""
        reading = Reading(Body(self.part_bytes))
        changes = memory.changes
        for search in turn.searches:
            if search.lookup.of == statement.query.set:
                search.known.begin(partly=isinstance(changes, Moved) and not changes.full)
        prepared, secret = self._kept(statement)
        reading.columns = prepared.columns
        ranks = memory.chosen if isinstance(memory.chosen, Ranks) else None
        notes = [_noting(search, statement, now) for search in turn.searches]
        observe = _observing(statement, turn, reading)
        if memory.chosen is not None and memory.chosen.begin(now, turn.every):
            _choose(session, statement, memory.chosen, now)
        for row in _rows(session, statement, memory, reading):
            if any(row[position] is None for position in secret):
                continue
            if any(note(row) for note in notes):
                continue
            observe(row)
            moved = changes.changed(row) if changes is not None else True
            if moved and (ranks is None or ranks.moved(row)):
                reading.body.add(prepared.row(row))
        _shown_all(turn, statement, changes, reading)
        if statement.began is not None and not reading.tells_epoch:
            ((reading.epoch,),) = session.fetch(statement.began).rows
            reading.tells_epoch = True
        return reading

    def _kept(self, statement: Statement) -> tuple[Prepared, list[int]]:
        """Return how the rows of a statement are prepared, and which positions hide one."""
        kept = self._prepared.get(statement.query.set)
        if kept is None or kept[0] is not statement:
            kept = (statement, self.preparation(statement), _hidden_keys(statement))
            self._prepared[statement.query.set] = kept
        return kept[1:]

    def preparation(self, statement: Statement) -> Prepared:
        """Return how the rows of a statement are to leave."""
        query, columns, masker = statement.query, statement.sent, self.masker
        width = len(columns)
        shown: dict[str, Callable[[str], str]] = {
            name: masker.label if in_sql else masker.name
            for name, in_sql in names_in(query.row).items()
        }
        shown |= dict.fromkeys(query.free_text, masker.free)
        shown |= {name: partial(self._shown, source) for name, source in query.sql_text.items()}
        steps = [(columns.index(name), step) for name, step in shown.items() if name in columns]
        texts = [columns.index(name) for name in query.sql_text if name in columns]

        def prepare(row: Values) -> Values:
            out = list(row[:width])
            for position, step in steps:
                if out[position]:
                    out[position] = step(out[position])
            return out

        def prepare_with_tags(row: Values) -> Values:
            raw = row[texts[0]]
            return [*prepare(row), masker.tags(raw) if raw else None]

        if texts and masker.keeps_tags:
            return Prepared((*columns, TAGS), prepare_with_tags)
        # What was selected beside the columns stays here.
        more = query.cap is not None or query.began is not None
        return Prepared(columns, prepare if steps or more else _as_it_is)

    def _shown(self, source: TextSource, raw: str) -> str:
        """Return what stands for a query text."""
        text = self.masker.mask(raw, source)
        if not self._drop_utility_text or source != "statements":
            return text
        # A text that is not masked tells what it is only once it is: a comment may stand first.
        masked = self.masker.basic(raw) if self.masker.level == "none" else text
        return command_alone(masked) or text


def _shown_all(turn: Turn, statement: Statement, changes: Changes | None, reading: Reading) -> None:
    """Tell the look-ups of a set that they saw its rows; a full line lets them forget others."""
    for search in turn.searches:
        if search.lookup.of != statement.query.set:
            continue
        search.known.end()
        if changes is not None and not changes.full and search.known.crowded(reading.total):
            changes.expire()


def _choose(session: Session, statement: Statement, chosen: Chosen, now: float) -> None:
    """Ask which objects a set is about from now on."""
    query = statement.query
    if isinstance(chosen, Ranks) and query.ranking is not None and statement.ranking is not None:
        lines = session.copy(statement.ranking, timeout=query.timeout)
        chosen.choose(lines, query.ranking.top, now)
    elif statement.choice is not None:
        answers = session.stream(statement.choice, timeout=query.timeout)
        chosen.take([key for answer in answers for (key,) in answer.rows], now)


def _rows(
    session: Session, statement: Statement, memory: SetMemory, reading: Reading
) -> Iterator[Values]:
    """Yield the rows of a set; how many there are is in the reading when they end."""
    query = statement.query
    params: dict[str, Any] | None = memory.parameters(query)
    if memory.chosen is not None:
        params = {"ids": memory.chosen.ids}
    if isinstance(memory.changes, Moved) and statement.probe is not None:
        yield from _probed(session, statement, statement.probe, memory.changes, reading)
        return
    asked = _asked(session, statement, params, reading)
    if query.derive is None:
        yield from asked
    else:
        found = 0
        for row in derived(statement, list(asked), session.facts):
            found += 1
            yield row
        reading.total = reading.total if query.cap is not None else found
    if isinstance(memory.chosen, Ranks):
        reading.total = memory.chosen.total


def _probed(
    session: Session, statement: Statement, probe: Probing, moved: Moved, reading: Reading
) -> Iterator[Values]:
    """Yield the rows that moved, or all of them where the line is to be a full one."""
    timeout = statement.query.timeout
    probed = session.stream(probe.sql, {"sums": moved.sums}, timeout=timeout)
    ids, total = moved.look(row for answer in probed for row in answer.rows)
    if moved.full or len(ids) > total / 2:
        answers = session.stream(statement.sql, timeout=timeout)
    elif ids:
        answers = session.stream(probe.found, {"ids": ids}, timeout=timeout)
    else:
        answers = iter(())
    for answer in answers:
        yield from answer.rows
    reading.total = total


def _asked(
    session: Session, statement: Statement, params: dict[str, Any] | None, reading: Reading
) -> Iterator[tuple[Any, ...]]:
    capped = statement.query.cap is not None
    for answer in session.stream(statement.sql, params, timeout=statement.query.timeout):
        for row in answer.rows:
            reading.total = row[-1] if capped else reading.total + 1
            yield row


def _observing(statement: Statement, turn: Turn, reading: Reading) -> Callable[[Values], None]:
    """Return what notes of each row when it began to count, what it hides, which sets it opens."""
    query, columns = statement.query, statement.sent
    epoch = columns.index(query.epoch) if query.epoch in columns else None
    if query.began is not None:
        epoch = len(statement.columns)
    each = [columns.index(name) for name in query.resets or () if name in columns]
    blind = columns.index(query.blind) if query.blind in columns else None
    gates = [(name, columns.index(name)) for name in turn.gates(query) if name in columns]

    def observe(row: Values) -> None:
        if epoch is not None:
            reading.epoch, reading.tells_epoch = row[epoch], True
        if len(each) == _IDENTITY_AND_RESET:
            reading.resets[row[each[0]]] = row[each[1]]
        if blind is not None:
            reading.blind += row[blind] is True
        for name, position in gates:
            reading.gates[query.set, name] = row[position]

    return observe


def _hidden_keys(statement: Statement) -> list[int]:
    """Return the positions whose NULL says that the role may not see the row."""
    query, columns = statement.query, statement.sent
    return [columns.index(name) for name in query.hidden if name in query.key and name in columns]


def _noting(search: Search, statement: Statement, now: float) -> Callable[[Values], bool]:
    """Return what shows a row's key to a search, and says whether the row is of our own making."""
    lookup = search.lookup
    if lookup.of != statement.query.set or search.statement is None:
        return lambda _: False
    key = [statement.sent.index(name) for name in lookup.key]
    by = statement.sent.index(lookup.by)

    def note(row: Values) -> bool:
        return search.known.note(tuple(row[position] for position in key), row[by], now)

    return note


def open_gate(query: Query, gates: dict[tuple[str, str], Any]) -> bool:
    """Whether what was read before in this turn says that the set is worth asking for."""
    return query.gate is None or bool(gates.get(query.gate))


def _as_it_is(row: Values) -> Values:
    return row


_IDENTITY_AND_RESET = 2  # both columns of `Query.resets` are there
