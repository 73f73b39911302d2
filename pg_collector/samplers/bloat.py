"""How much of tables and B-trees is empty: what they take, and what they would take if rewritten.

Nothing is read but catalogs and statistics, so it costs the same for any size; the arithmetic is in
`_page_layout.py`. The truth that it comes near to is the size after VACUUM FULL or REINDEX.
https://www.postgresql.org/docs/current/storage-page-layout.html
https://www.postgresql.org/docs/current/view-pg-stats.html
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from pg_collector import column_statistics
from pg_collector.errors import Reason
from pg_collector.sample import Facts, Keep, Row
from pg_collector.samplers import _page_layout as layout
from pg_collector.samplers._kinds import (
    Blocks,
    Bytes,
    Id,
    Name,
    Ratio,
    Time,
)
from pg_collector.samplers._page_layout import Column, Keys
from pg_collector.samplers._sampler import Group, LaneName, Query, Sampler, Scope

HEAPS: Final = 200
INDEXES: Final = 300
LEAST_PAGES: Final = 10  # of smaller ones nobody wants to know


class TableRow(Row, frozen=True):
    """One of the 200 largest tables of this database, of 10 pages at least.

    `confidence` is high, medium, low, or unavailable: then nothing is estimated, and `reason` says
    why. It says as well what makes an estimate less certain. `bloat_ratio` and `bloat_bytes` are
    never below 0; `est_pages` may be above `relpages`. Dead rows that are not vacuumed yet count
    neither as bloat nor as rows: the sampler `vacuum` has them. TOAST tables are not estimated.
    """

    relid: Id
    schemaname: Name
    relname: Name
    relkind: str
    relpages: Blocks
    size_bytes: Bytes
    toast_bytes: Bytes | None
    fillfactor: int
    est_pages: Blocks | None
    bloat_bytes: Bytes | None
    bloat_ratio: Ratio | None
    confidence: str
    reason: str | None
    method: str
    last_analyze: Time | None
    hidden: bool


class IndexRow(Row, frozen=True):
    """One of the 300 largest B-trees of this database, of 10 pages at least.

    Deduplication (13 and newer) is counted in; a B-tree that pg_upgrade brought from 12 has none
    until it is rebuilt, which cannot be seen from outside.
    """

    indexrelid: Id
    relid: Id
    schemaname: Name
    relname: Name
    indexrelname: Name
    relpages: Blocks
    size_bytes: Bytes
    fillfactor: int
    deduplicated: bool
    est_pages: Blocks | None
    bloat_bytes: Bytes | None
    bloat_ratio: Ratio | None
    confidence: str
    reason: str | None
    method: str
    last_analyze: Time | None
    hidden: bool


class _RawTable(Row, frozen=True):
    """What the estimate of a table starts from."""

    relid: Id
    schemaname: Name
    relname: Name
    relkind: str
    relpages: Blocks
    reltuples: float
    toast_pages: Blocks | None
    fillfactor: int
    modified: int
    last_analyze: Time | None
    readable: bool
    method: str
    attributes: list[list[Any]]  # length, align, dropped, missing, nulls, width, shape


class _RawIndex(Row, frozen=True):
    """What the estimate of a B-tree starts from."""

    indexrelid: Id
    relid: Id
    schemaname: Name
    relname: Name
    indexrelname: Name
    relpages: Blocks
    reltuples: float
    table_tuples: float
    fillfactor: int
    deduplicate: bool
    is_unique: bool
    is_partial: bool
    modified: int
    last_analyze: Time | None
    readable: bool
    method: str
    attributes: list[list[Any]]  # length, align, key, expression, image, nulls, width, …


class Estimate(NamedTuple):
    """Pages if rewritten, None where that cannot be told; how sure that is, and why not surer."""

    pages: int | None
    confidence: str
    reason: str | None = None
    hidden: bool = False


def tables(rows: Iterable[Mapping[str, Any]], facts: Facts) -> Iterator[tuple[Any, ...]]:
    """Yield a `TableRow` for each raw row."""
    block_size = _block_size(facts)
    for row in rows:
        yield _row(TableRow, row, _table(row, facts, block_size), block_size)


def indexes(rows: Iterable[Mapping[str, Any]], facts: Facts) -> Iterator[tuple[Any, ...]]:
    """Yield an `IndexRow` for each raw row."""
    block_size = _block_size(facts)
    for row in rows:
        more = {"deduplicated": _deduplicated(row)}
        yield _row(IndexRow, {**row, **more}, _index(row, facts, block_size), block_size)


def _row(
    kind: type[Row], row: Mapping[str, Any], estimate: Estimate, block_size: int
) -> tuple[Any, ...]:
    pages, relpages = estimate.pages, row["relpages"]
    empty = None if pages is None else max(0, relpages - pages)
    toast_pages = row.get("toast_pages")
    made = {
        **row,
        "size_bytes": relpages * block_size,
        "toast_bytes": None if toast_pages is None else toast_pages * block_size,
        "est_pages": pages,
        "bloat_bytes": None if empty is None else empty * block_size,
        "bloat_ratio": None if empty is None else round(empty / relpages, 4),
        "confidence": estimate.confidence,
        "reason": estimate.reason,
        "hidden": estimate.hidden,
    }
    return tuple(made[name] for name in kind.__struct_fields__)


def _table(row: Mapping[str, Any], facts: Facts, block_size: int) -> Estimate:
    refusal = _refusal(row, facts, [one[_NULLS] for one in row["attributes"] if not one[2]])
    if refusal is not None:
        return refusal
    columns = [_column(one, row["toast_pages"]) for one in row["attributes"]]
    size = layout.heap_tuple(columns)
    pages = layout.heap_pages(row["reltuples"], size, row["fillfactor"], block_size)
    if (stale := _stale(row, row["reltuples"])) is not None:
        return Estimate(pages, "low", stale)
    if any(one[2] or one[3] for one in row["attributes"]):
        return Estimate(pages, "medium", "columns were dropped or added: older rows differ")
    if any(column.varies and column.shape is None for column in columns):
        return Estimate(pages, "medium", "how much the length of some columns varies is not known")
    return Estimate(pages, "high")


def _column(attribute: Sequence[Any], toast_pages: int | None) -> Column:
    """Return a table's column. A dropped one is null in every row that was written since."""
    length, align, dropped, _, nulls, width, shape = attribute
    if dropped:
        return Column(length, align, 0.0, null=1.0)
    known = {int(slot): float(share) for slot, share in (shape or {}).items()} or None
    if known is None and length < 0 and width == _TOAST_POINTER and toast_pages:
        known = {_TOAST_POINTER % layout.MAXALIGN: 1.0}
    return Column(length, align, width, nulls, known)


def _index(row: Mapping[str, Any], facts: Facts, block_size: int) -> Estimate:
    attributes = [_Attribute(*one) for one in row["attributes"]]
    refusal = _refusal(row, facts, [one.nulls for one in attributes])
    if refusal is not None:
        return refusal
    size = layout.index_tuple([one.column for one in attributes])
    tuples = row["reltuples"]
    guesses = _groups(row, attributes) if _deduplicated(row) else [[Keys(tuples, 1.0)]]
    pages = [layout.btree_pages(size, groups, row["fillfactor"], block_size) for groups in guesses]
    middle = sum(pages) / len(pages)
    if (stale := _stale(row, row["table_tuples"])) is not None:
        return Estimate(round(middle), "low", stale)
    if max(pages) - min(pages) > _AGREE * middle:
        reason = "how many distinct keys there are is not known"
        return Estimate(round(middle), "low", reason)
    if any(one.column.varies and one.column.shape is None for one in attributes):
        reason = "how much the length of some columns varies is not known"
        return Estimate(round(middle), "medium", reason)
    return Estimate(round(middle), "high")


class _Attribute(NamedTuple):
    """A column of a B-tree; statistics are None where there are none."""

    length: int
    align: str
    key: bool
    expression: bool
    image: bool  # equal keys have equal bytes, so that they can be merged
    nulls: float | None
    width: int | None
    shape: Mapping[str, float] | None
    n_distinct: float | None
    common: Sequence[float] | None

    @property
    def column(self) -> Column:
        """Return what the layout needs to know."""
        width = self.width or 0
        # The values of an expression are measured before they get their short header.
        if self.expression and self.length == -1 and width <= layout.SHORT + _LONG_HEADER:
            width -= _LONG_HEADER - 1
        known = {int(slot): float(share) for slot, share in (self.shape or {}).items()} or None
        return Column(self.length, self.align, width, self.nulls or 0.0, known)


def _deduplicated(row: Mapping[str, Any]) -> bool:
    attributes = [_Attribute(*one) for one in row["attributes"]]
    whole = all(one.key and one.image for one in attributes)
    return bool(row["deduplicate"] and whole and not row["is_unique"])


def _groups(row: Mapping[str, Any], attributes: Sequence[_Attribute]) -> list[list[Keys]]:
    """Return how the tuples spread over keys, in more than one way where that is a guess."""
    tuples, of_table = row["reltuples"], max(row["table_tuples"], 1.0)
    counts = [_distinct(one, of_table) for one in attributes]
    if len(attributes) > 1:
        # The columns may depend on each other altogether, or not at all.
        product = 1.0
        for count in counts:
            product = min(product * count, tuples)
        return [_even(tuples, max(counts)), _even(tuples, product)]
    (only,) = attributes
    if row["is_partial"]:
        return [_even(tuples, counts[0]), _even(tuples, counts[0] * tuples / of_table)]
    nulls, common = only.nulls or 0.0, only.common or ()
    groups = [Keys(1.0, share * tuples) for share in (nulls, *common) if share * tuples >= 1]
    rest = max(0.0, 1.0 - nulls - sum(common)) * tuples
    if rest >= 1:
        groups += _even(rest, counts[0] - len(common))
    return [groups]


def _even(tuples: float, keys: float) -> list[Keys]:
    keys = min(max(keys, 1.0), max(tuples, 1.0))
    return [Keys(keys, tuples / keys)]


def _distinct(attribute: _Attribute, of_table: float) -> float:
    """Return the number of distinct values; a negative one is a share of the rows."""
    count = attribute.n_distinct or 0.0
    return max(1.0, count if count > 0 else -count * of_table)


def _refusal(
    row: Mapping[str, Any], facts: Facts, nulls: Sequence[float | None]
) -> Estimate | None:
    """Say why there is no estimate; None where there can be one."""
    tuples = row["reltuples"]
    if tuples < 0 or (tuples == 0 and facts.major < _SAYS_NEVER):
        return Estimate(None, "unavailable", "never vacuumed or analyzed, or empty")
    if tuples == 0:
        return Estimate(0, "high", "empty")
    lacking = sum(one is None for one in nulls)
    if not lacking:
        return None
    if not row["readable"] or (lacking == len(nulls) and row["last_analyze"]):
        reason = "the statistics of its columns are not shown to this role"
        return Estimate(None, "unavailable", reason, hidden=True)
    if lacking == len(nulls):
        return Estimate(None, "unavailable", "never analyzed")
    return Estimate(None, "unavailable", f"{lacking} columns have no statistics")


def _stale(row: Mapping[str, Any], tuples: float) -> str | None:
    if row["modified"] <= _STALE * max(tuples, 1.0):
        return None
    return f"{row['modified']} rows changed since the last analyze"


def _block_size(facts: Facts) -> int:
    return int(facts.settings.get("block_size", 8192))


_NULLS: Final = 4  # the position of null_frac in the attributes of a table
_TOAST_POINTER: Final = 18
_LONG_HEADER: Final = 4
_SAYS_NEVER: Final = 14  # since then reltuples is -1 where nobody counted
_STALE: Final = 0.2
_AGREE: Final = 0.03

_NOT_SYSTEM: Final = (
    "c.relpersistence <> 't' AND c.relnamespace <> ALL"
    " (ARRAY['pg_catalog', 'information_schema', 'pg_toast']::regnamespace[])"
)
_FILLFACTOR: Final = (
    "coalesce((SELECT round(o.option_value::float8)::int"
    " FROM pg_options_to_table({0}.reloptions) AS o WHERE o.option_name = 'fillfactor'), {1})"
)
_LAST_ANALYZE: Final = (
    "greatest(pg_stat_get_last_analyze_time({0}), pg_stat_get_last_autoanalyze_time({0}))"
)
_BY_FUNCTION: Final = f"SELECT * FROM {column_statistics.FUNCTION}({{0}}) AS h"


def _source_of_tables(statistics: str) -> str:
    return (
        "FROM (WITH chosen AS MATERIALIZED (SELECT c.oid FROM pg_class AS c"
        f" WHERE c.relpages >= {LEAST_PAGES} AND c.relkind IN ('r', 'm') AND {_NOT_SYSTEM}"
        f" ORDER BY c.relpages DESC, c.oid LIMIT {HEAPS}),"
        f" known AS MATERIALIZED ({statistics.format('ARRAY(SELECT k.oid FROM chosen AS k)')})"
        " SELECT a.attrelid, json_agg(json_build_array(a.attlen, a.attalign, a.attisdropped,"
        " a.atthasmissing, t.null_frac, t.avg_width, t.shape) ORDER BY a.attnum) AS attributes"
        " FROM chosen AS k JOIN pg_attribute AS a ON a.attrelid = k.oid AND a.attnum > 0"
        " LEFT JOIN known AS t ON t.relid = a.attrelid AND t.attnum = a.attnum"
        " GROUP BY a.attrelid) AS e JOIN pg_class AS c ON c.oid = e.attrelid"
        " JOIN pg_namespace AS n ON n.oid = c.relnamespace ORDER BY c.relpages DESC, c.oid"
    )


def _tables(method: str, statistics: str, relations: Mapping[str, str], readable: str) -> Query:
    return Query(
        set="bloat.tables",
        row=TableRow,
        raw=_RawTable,
        derive=tables,
        relations={**relations, "c": "pg_class", "a": "pg_attribute", "n": "pg_namespace"},
        columns={
            "relid": "c.oid",
            "schemaname": "n.nspname",
            "relname": "c.relname",
            "relkind": "c.relkind::text",
            "relpages": "c.relpages",
            "reltuples": "c.reltuples",
            "toast_pages": "(SELECT w.relpages FROM pg_class AS w WHERE w.oid = c.reltoastrelid)",
            "fillfactor": _FILLFACTOR.format("c", 100),
            "modified": "pg_stat_get_mod_since_analyze(c.oid)",
            "last_analyze": _LAST_ANALYZE.format("c.oid"),
            "readable": readable.format("c.oid"),
            "method": f"'{method}'",
            "attributes": "e.attributes",
        },
        source=_source_of_tables(statistics),
        required=_RawTable.__struct_fields__,
        **_SHARED,
    )


# A collation that is not deterministic lets different bytes be equal.
_IMAGE: Final = (
    "EXISTS (SELECT FROM pg_opclass AS q JOIN pg_amproc AS f ON f.amprocfamily = q.opcfamily"
    " AND f.amproclefttype = q.opcintype AND f.amprocrighttype = q.opcintype"
    " AND f.amprocnum = 4 WHERE q.oid = x.indclass[a.attnum - 1])"
    " AND NOT EXISTS (SELECT FROM pg_collation AS l"
    " WHERE l.oid = x.indcollation[a.attnum - 1] AND NOT l.collisdeterministic)"
)


def _source_of_indexes(statistics: str) -> str:
    both = "ARRAY(SELECT k.indexrelid FROM chosen AS k UNION SELECT k.indrelid FROM chosen AS k)"
    return (
        "FROM (WITH chosen AS MATERIALIZED (SELECT x.* FROM pg_index AS x"
        " JOIN pg_class AS c ON c.oid = x.indexrelid JOIN pg_am AS m ON m.oid = c.relam"
        f" WHERE c.relpages >= {LEAST_PAGES} AND m.amname = 'btree' AND c.relkind = 'i'"
        f" AND {_NOT_SYSTEM} ORDER BY c.relpages DESC, c.oid LIMIT {INDEXES}),"
        f" known AS MATERIALIZED ({statistics.format(both)})"
        " SELECT a.attrelid, json_agg(json_build_array(a.attlen, a.attalign,"
        " a.attnum <= x.indnkeyatts, x.indkey[a.attnum - 1] = 0,"
        f" a.attnum <= x.indnkeyatts AND {_IMAGE}, t.null_frac, t.avg_width, t.shape,"
        " t.n_distinct, t.common_freqs) ORDER BY a.attnum) AS attributes"
        " FROM chosen AS x JOIN pg_attribute AS a ON a.attrelid = x.indexrelid AND a.attnum > 0"
        " LEFT JOIN known AS t ON CASE WHEN x.indkey[a.attnum - 1] = 0"
        " THEN t.relid = x.indexrelid AND t.attnum = a.attnum"
        " ELSE t.relid = x.indrelid AND t.attnum = x.indkey[a.attnum - 1] END"
        " GROUP BY a.attrelid) AS e JOIN pg_index AS x ON x.indexrelid = e.attrelid"
        " JOIN pg_class AS c ON c.oid = x.indexrelid JOIN pg_class AS b ON b.oid = x.indrelid"
        " JOIN pg_namespace AS n ON n.oid = c.relnamespace ORDER BY c.relpages DESC, c.oid"
    )


def _indexes(method: str, statistics: str, relations: Mapping[str, str], readable: str) -> Query:
    return Query(
        set="bloat.indexes",
        row=IndexRow,
        raw=_RawIndex,
        derive=indexes,
        relations={
            **relations,
            "c": "pg_class",
            "b": "pg_class",
            "a": "pg_attribute",
            "x": "pg_index",
            "n": "pg_namespace",
        },
        columns={
            "indexrelid": "c.oid",
            "relid": "b.oid",
            "schemaname": "n.nspname",
            "relname": "b.relname",
            "indexrelname": "c.relname",
            "relpages": "c.relpages",
            "reltuples": "c.reltuples",
            "table_tuples": "b.reltuples",
            "fillfactor": _FILLFACTOR.format("c", 90),
            "deduplicate": "coalesce((SELECT o.option_value::bool"
            " FROM pg_options_to_table(c.reloptions) AS o"
            " WHERE o.option_name = 'deduplicate_items'), true)",
            "is_unique": "x.indisunique",
            "is_partial": "x.indpred IS NOT NULL",
            "modified": "pg_stat_get_mod_since_analyze(b.oid)",
            "last_analyze": _LAST_ANALYZE.format("b.oid"),
            "readable": readable.format("b.oid"),
            "method": f"'{method}'",
            "attributes": "e.attributes",
        },
        source=_source_of_indexes(statistics),
        required=_RawIndex.__struct_fields__,
        **_SHARED,
    )


_SHARED: Final[dict[str, Any]] = {
    "blind": "hidden",
    "timeout": 3.0,
    "keep": Keep.EVENT,
}
# Both ways in which the statistics of columns can be had, the better one first.
_WAYS: Final = (
    ("function", _BY_FUNCTION, {"h": column_statistics.FUNCTION}, "true"),
    ("pg_stats", column_statistics.query("{0}"), {"s": "pg_stats"},
     "has_table_privilege({0}, 'SELECT')"),
)  # fmt: skip

SAMPLER = Sampler(
    name="bloat",
    learns="How much of tables and B-trees is empty, estimated without reading them",
    group=Group.EXTENDED,
    scope=Scope.DATABASE,
    lane=LaneName.SLOW,
    every=3600.0,
    queries=(*(_tables(*way) for way in _WAYS), *(_indexes(*way) for way in _WAYS)),
    remedy={
        Reason.PRIVILEGE: 'In the database "{database}", as a superuser or as a member of '
        "pg_monitor who may read the tables, run what `pgc setup sql --bloat --user {role}` "
        "prints; "
        "or GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role};"
    },
)
