"""What a sampler is: one value that says what to ask, how often, and on whose behalf.

A `Query` declares the columns it wants as the fields of its row type, each with the SQL that gives
it (by default the column of the same name of the main relation). `compose` keeps what the
connected server really has: an expression counts as available when every `alias.column` in it
exists there. What is missing is left out and named; the server's version number decides nothing.
"""

import enum
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from pg_collector.errors import Reason
from pg_collector.sample import Facts, Keep, Row, Unavailable


class Group(enum.StrEnum):
    """Core samplers describe every server; extended ones cost more or concern fewer."""

    CORE = "core"
    EXTENDED = "extended"


class Scope(enum.StrEnum):
    """Whether one database's session sees the whole server or only that database."""

    INSTANCE = "instance"
    DATABASE = "database"


class ServerRole(enum.StrEnum):
    """A server's part in replication: `pg_is_in_recovery()` is true on a standby."""

    PRIMARY = "primary"
    STANDBY = "standby"


class LaneName(enum.StrEnum):
    """Which of a target's two sessions asks."""

    FAST = "fast"
    SLOW = "slow"


TextSource = Literal["activity", "statements"]

# Every statement of ours starts with it. The comment comes after the first word because from
# PostgreSQL 18 on pg_stat_statements drops what stands before.
OWN_TAG = "SELECT /* pgc:"
OWN_STARTS = (OWN_TAG, f"COPY ({OWN_TAG}")  # how pg_stat_statements shows them


# Makes rows of a set, as tuples in the order of `Query.row`, out of the rows of `Query.raw`.
Derivation = Callable[[Iterable[Mapping[str, Any]], Facts], Iterable[tuple[Any, ...]]]


# A pass over all relations costs the server in proportion to their number: a query that makes one
# is asked this often at most, and what it chose is looked at until then, in each turn.
PASS_EVERY = 60.0  # seconds


# When the counters of this session's database began.
DATABASE_RESET = (
    "(SELECT pg_stat_get_db_stat_reset_time(d.oid) FROM pg_database AS d"
    " WHERE d.datname = current_database())"
)


class Ranking(msgspec.Struct, frozen=True, kw_only=True):
    """Asked before a large set, every `every` seconds at most: which of its objects moved most.

    `key` and `measure` are SQL; `source` the text from FROM on, with the aliases of the query. It
    should leave out what has never moved. The query then finds the keys of the first `top` objects
    in `%(ids)s`, its first column being the key; what did not move since the turn before is not
    sent.
    """

    key: str
    measure: str
    source: str
    top: int
    every: float = PASS_EVERY


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """Asked before a large set, every `every` seconds at most: which objects it is about.

    `sql` is a query that gives their keys; the query of the set finds them in `%(ids)s`.
    """

    sql: str
    every: float = PASS_EVERY


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """Asked before a large set: which of its rows moved since the turn before.

    `id` is SQL of an integer by which rows are asked for, those with the same one together; NULL in
    rows that the role may not see. `moves` is SQL, those with columns that the server does not have
    are left out, of numbers that only grow: where none of them changed, nothing of the row did.
    The server adds them up in BUCKETS of rows, and gives the ids in those whose sum is not the one
    that is in `%(sums)s`. The query finds the ids of what moved in `%(ids)s` of `where`.
    """

    id: str
    moves: tuple[str, ...]
    where: str


BUCKETS = 4096  # few rows each, where there are some thousands


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """One set of rows: what to select, from where, and how its rows are kept.

    `relations` maps each alias used in the SQL to the relation behind it; the first is the main
    one. `source` is the text from FROM on; `{schema}` in it is the schema of `extension`.
    `columns` gives the SQL of the fields that are not plain columns of the main relation, the best
    first. `key` names the columns that identify a row: with it only changed rows are sent, except
    in a full line now and then. `cap` bounds the rows, in the order of `source`. `rotate` cuts the
    work into that many parts: the `%(part)s` of `source` is None in the first turn, then 0, 1, ….

    When counting began is told by a column of a single row, `epoch`, for the sets of `epoch_for`;
    or `began` is SQL of it, the same in every row, which is told for this set and not sent.

    A set that the agent works out has `raw`, the row type of what is selected, and `derive`, which
    makes the rows of it. `gate` names a set asked before and a column of its row: only where that
    is not 0 is this one asked. `blind` is a boolean column: true in rows of which the role may not
    see all. A scope of its own has a set that is not of its sampler's.
    """

    set: str
    row: type[Row]
    relations: Mapping[str, str]
    source: str
    columns: Mapping[str, str | tuple[str, ...]] = {}
    extension: str | None = None
    key: tuple[str, ...] = ()
    required: tuple[str, ...] = ()  # columns without which the set means nothing
    counter: str | None = None  # where no reset time is known, its fall tells of a reset
    hidden: tuple[str, ...] = ()  # NULL in others' rows for a role without pg_read_all_stats
    resets: tuple[str, str] | None = None  # what identifies a row, and when its counting began
    epoch: str | None = None
    epoch_for: tuple[str, ...] = ()  # this set among them
    began: str | None = None
    cap: int | None = None
    every: float | None = None  # seconds, where rarer than the sampler
    rotate: int | None = None
    optional: bool = False  # its absence is no news
    sql_text: Mapping[str, TextSource] = {}
    free_text: tuple[str, ...] = ()  # typed by people: scrubbed of credentials
    keep: Keep = Keep.CUMULATIVE
    schema: int = 1
    scope: Scope | None = None
    timeout: float | None = None  # seconds, where less than the session's query_timeout
    ranking: Ranking | None = None
    choice: Choice | None = None
    probe: Probe | None = None
    raw: type[Row] | None = None
    derive: Derivation | None = None
    gate: tuple[str, str] | None = None
    blind: str | None = None

    @property
    def selected(self) -> tuple[str, ...]:
        """The fields that the SQL gives."""
        return (self.raw or self.row).__struct_fields__


class Lookup(msgspec.Struct, frozen=True, kw_only=True):
    """A set that is asked for only where a row of another set has a key not seen before.

    `%(ids)s` in the query's source is the list of values of `by`. A row whose `own_tag_in` column
    starts with the agent's tag is of the agent's own making: it is left out here and in `of`.
    """

    query: Query
    of: str  # the set whose rows bring the keys
    by: str  # the column of `of` that is asked for
    key: tuple[str, ...]
    refresh: float = 86_400.0  # seconds after which a known key is asked again
    batch: int = 5_000  # values asked for in one turn, the others wait for the next,
    batch_bytes: int = 1024 * 1024  # and fewer where their rows take more than this
    own_tag_in: str | None = None


class Sampler(msgspec.Struct, frozen=True, kw_only=True):
    """A sampler: its name, what one learns from it, and its queries.

    Queries of the same set are variants, best first: the first that the server can answer is used.
    `remedy` maps a reason to what the reader can do about it, in SQL where possible. One that asks
    about a server's part in replication is `only_on` a primary or only on a standby.
    """

    name: str
    learns: str
    group: Group
    scope: Scope
    lane: LaneName
    every: float  # seconds
    queries: tuple[Query, ...]
    lookups: tuple[Lookup, ...] = ()
    remedy: Mapping[Reason, str] = {}
    only_on: ServerRole | None = None

    @property
    def all_queries(self) -> tuple[Query, ...]:
        """The queries of its sets, those of its look-ups after them."""
        return (*self.queries, *(lookup.query for lookup in self.lookups))

    @property
    def relations(self) -> frozenset[str]:
        """Every relation whose columns the sampler needs to know."""
        return frozenset(name for query in self.all_queries for name in query.relations.values())


class Probing(NamedTuple):
    """A probe as the connected server can answer it: `sql`, and `found` for what moved.

    A row of it: a bucket and its sum, as text; how many rows may be seen, and how many there are;
    an id, and what moves of it.
    """

    sql: str
    found: str


class Statement(NamedTuple):
    """A query as the connected server can answer it.

    `columns` is what the SQL gives, `sent` what the line holds: the same, but for a derived set.
    """

    query: Query
    sql: str
    columns: tuple[str, ...]
    sent: tuple[str, ...]
    missing: tuple[Unavailable, ...]
    ranking: str | None = None  # SQL that gives key and measure
    choice: str | None = None  # SQL that gives keys
    began: str | None = None  # SQL that gives when counting began, where no row does
    probe: Probing | None = None


def compose(sampler: str, query: Query, facts: Facts) -> Statement | None:
    """Return the statement that this server can answer, or None where it lacks what is needed."""
    schema = ""
    if query.extension is not None:
        if query.extension not in facts.extensions:
            return None
        schema = _quoted(facts.extensions[query.extension].schema)
    if next(iter(query.relations.values())) not in facts.columns:
        return None
    if not _available(query.source, query, facts):
        return None
    chosen: dict[str, str] = {}
    missing: list[Unavailable] = []
    for field in query.selected:
        sql = next((s for s in _candidates(field, query) if _available(s, query, facts)), None)
        if sql is None:
            missing.append(Unavailable(field=field, reason=Reason.VERSION))
            continue
        chosen[field] = sql.replace("{schema}", schema)
    if not chosen or not {*query.required} <= chosen.keys():
        return None
    wanted = [f"{sql} AS {field}" for field, sql in chosen.items()]
    if query.began is not None:
        wanted.append(f"{query.began} AS began")
    if query.cap is not None:
        wanted.append("count(*) OVER () AS total_rows")
    source = query.source.replace("{schema}", schema)
    tag = f"{OWN_TAG}{sampler} */"
    sql = f"{tag} {', '.join(wanted)} {source}"
    ranking, choice, probe = query.ranking, query.choice, query.probe
    moves = [one for one in (probe.moves if probe else ()) if _available(one, query, facts)]
    # Interned: of many databases, the texts are the same.
    return Statement(
        query,
        sys.intern(sql if query.cap is None else f"{sql} LIMIT {query.cap}"),
        tuple(chosen),
        _sent(query, chosen, missing),
        tuple(missing),
        None
        if ranking is None
        else sys.intern(f"{tag} {ranking.key}, {ranking.measure} {ranking.source}"),
        None if choice is None else sys.intern(f"{tag} * FROM ({choice.sql}) AS chosen"),
        None if query.began is None else f"{tag} {query.began}",
        None if probe is None else _probing(probe, tag, sql, source, moves),
    )


def _probing(probe: Probe, tag: str, sql: str, source: str, moves: Iterable[str]) -> Probing:
    """Return a probe as SQL; `moves` are those that this server has."""
    moved = " + ".join(f"coalesce({one}, 0)" for one in moves)
    bucket = f"(s.id & {BUCKETS - 1})::int4"
    return Probing(
        f"{tag} p.* FROM (WITH s AS MATERIALIZED"
        f" (SELECT {probe.id} AS id, ({moved})::float8 AS moved {source}),"
        f" b AS (SELECT {bucket} AS bucket, sum(s.moved) AS sum, count(*) AS rows"
        " FROM s GROUP BY 1),"
        " m AS MATERIALIZED (SELECT b.bucket, b.sum FROM b"
        " WHERE b.sum IS DISTINCT FROM (%(sums)s::float8[])[b.bucket + 1])"
        " SELECT m.bucket, m.sum::text,"
        " (SELECT sum(b.rows)::int8 FROM b WHERE b.bucket IS NOT NULL),"
        " (SELECT sum(b.rows)::int8 FROM b), s.id, s.moved"
        f" FROM m JOIN s ON {bucket} = m.bucket) AS p",
        f"{sql} WHERE {probe.where}",
    )


def _sent(query: Query, columns: Iterable[str], missing: Iterable[Unavailable]) -> tuple[str, ...]:
    """Return the columns of the line: of a derived set all but those that this server lacks."""
    if query.derive is None:
        return tuple(columns)
    lacking = {one.field for one in missing}
    return tuple(name for name in query.row.__struct_fields__ if name not in lacking)


def derived(
    statement: Statement, rows: Iterable[tuple[Any, ...]], facts: Facts
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a derived set, in the order of its columns `sent`."""
    query = statement.query
    if query.derive is None:
        raise TypeError(f"{query.set} is not derived")
    fields = query.row.__struct_fields__
    taken = [fields.index(name) for name in statement.sent]
    named = (dict(zip(statement.columns, row, strict=False)) for row in rows)
    for row in query.derive(named, facts):
        yield tuple(row[position] for position in taken)


def statements(sampler: Sampler, facts: Facts) -> tuple[list[Statement], list[Query]]:
    """Return a statement per set that the server can answer, and the queries of those it cannot."""
    by_set: dict[str, list[Query]] = {}
    for query in sampler.queries:
        by_set.setdefault(query.set, []).append(query)
    found: list[Statement] = []
    lacking: list[Query] = []
    for variants in by_set.values():
        composed = (compose(sampler.name, query, facts) for query in variants)
        statement = next((one for one in composed if one is not None), None)
        if statement is not None:
            found.append(statement)
        elif not variants[0].optional:
            lacking.append(variants[-1])  # what is least asked for, and missing all the same
    return found, lacking


def _candidates(field: str, query: Query) -> Iterable[str]:
    sql = query.columns.get(field)
    if sql is None:
        return (f"{next(iter(query.relations))}.{field}",)
    return (sql,) if isinstance(sql, str) else sql


def _available(sql: str, query: Query, facts: Facts) -> bool:
    return all(
        column in facts.columns.get(query.relations[alias], ())
        for alias, column in _REFERENCE.findall(sql)
        if alias in query.relations
    )


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


_REFERENCE = re.compile(r"\b([a-z_][a-z0-9_]*)\.([a-z_][a-z0-9_]*)\b(?!\s*\()")
