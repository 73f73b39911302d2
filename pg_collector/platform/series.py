"""Reading samples back: the rows of a set over time, deltas made whole.

A delta line leaves out the rows that did not change since the line before; which columns tell rows
apart is not in the line, so the sets that have deltas are listed here.
"""

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec

from pg_collector.platform.messages import Series, SeriesRow
from pg_collector.platform.store import Store

KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "statements": ("userid", "dbid", "queryid", "toplevel"),
    "vacuum.tables": ("relid",),
    "statio.io": ("backend_type", "object", "context"),
    "slots.statistics": ("slot_name",),
}
MOST_ROWS: Final = 10_000

_FIRST: Final = dt.datetime(1970, 1, 1)  # noqa: DTZ001  # as DuckDB's TIMESTAMP: UTC without a zone
_LAST: Final = dt.datetime(9999, 1, 1)  # noqa: DTZ001
_LINES: Final = """
WITH holes AS (
    SELECT stream, first, last FROM gaps UNION ALL SELECT stream, number, number FROM rejected
), wanted AS (
    SELECT * FROM samples WHERE "set" = $set AND ($target IS NULL OR target = $target)
)
SELECT device, target, database, sampled, base, line,
       base IS NOT NULL AND EXISTS (
           SELECT 1 FROM holes g, wanted f
           WHERE f.stream = w.stream AND f.sampled = w.base AND f.device = w.device
             AND f.target = w.target AND f.base IS NULL AND g.stream = w.stream
             AND g.first > f.number AND g.last < w.number)
FROM wanted w
WHERE sampled <= $until AND sampled >= least($since, (
    SELECT min(base) FROM wanted WHERE sampled BETWEEN $since AND $until))
ORDER BY sampled, device, target, database, number
"""


class Question(NamedTuple):
    """What somebody wants to see."""

    set: str
    target: str | None = None
    columns: tuple[str, ...] = ()  # none: all
    since: dt.datetime = _FIRST
    until: dt.datetime = _LAST
    limit: int = 1000  # rows, at most MOST_ROWS


class _Body(msgspec.Struct, frozen=True):
    c: list[str]
    r: list[list[Any]]


@dataclass
class _State:
    """A set of one target, as the last line left it."""

    base: dt.datetime | None = None  # the full line that deltas build on
    at: dt.datetime | None = None
    rows: dict[tuple[Any, ...], dict[str, Any]] = field(default_factory=dict)
    whole: bool = True


@dataclass
class _Moment:
    """One sample, its parts put together."""

    who: tuple[str, str, str | None]
    at: dt.datetime
    base: dt.datetime | None
    holed: bool
    rows: list[dict[str, Any]]


def read(store: Store, asked: Question) -> Series:
    """Answer a question; a sample's rows come together, even where they are more than asked."""
    found: list[SeriesRow] = []
    states: dict[tuple[str, str, str | None], _State] = {}
    for sample in _samples(store, asked):
        state = states.setdefault(sample.who, _State())
        rows = _apply(state, sample, KEYS.get(asked.set))
        if sample.at < asked.since:
            continue
        if found and len(found) + len(rows) > asked.limit:
            return Series(asked.set, found, _text(sample.at))
        device, target, database = sample.who
        found += [
            SeriesRow(
                _text(sample.at), device, target, database, state.whole, _only(row, asked.columns)
            )
            for row in rows
        ]
    return Series(asked.set, found, None)


def _samples(store: Store, asked: Question) -> Iterator[_Moment]:
    values = {
        "set": asked.set,
        "target": asked.target,
        "since": asked.since,
        "until": asked.until,
    }
    last: _Moment | None = None
    for device, target, database, sampled, base, line, holed in store.lines(_LINES, values):
        body = msgspec.json.decode(line, type=_Body)
        rows = [dict(zip(body.c, row, strict=True)) for row in body.r]
        who = (device, target, database)
        if last is not None and (last.who, last.at) == (who, sampled):
            last.rows += rows  # another part of it
            continue
        if last is not None:
            yield last
        last = _Moment(who, sampled, base, holed, rows)
    if last is not None:
        yield last


def _apply(state: _State, sample: _Moment, key: tuple[str, ...] | None) -> list[dict[str, Any]]:
    """Return the rows of a sample, whole where that can be; `state` is as it left them."""
    if key is None:
        state.whole = sample.base is None
        return sample.rows
    if sample.base is None:
        state.base, state.whole, state.rows = sample.at, True, {}
    elif sample.base != state.base or sample.holed:
        state.whole = False
        if sample.base != state.base:
            state.base, state.rows = sample.base, {}
    for row in sample.rows:
        state.rows[tuple(row.get(name) for name in key)] = row
    return list(state.rows.values())


def _only(row: dict[str, Any], columns: tuple[str, ...]) -> dict[str, Any]:
    return {name: row.get(name) for name in columns} if columns else row


def _text(at: dt.datetime) -> str:
    return f"{at.isoformat(timespec='microseconds')}Z"
