"""What the planner knows of the width of columns, without a single value.

PostgreSQL shows pg_stats only for columns that the role may read. The SQL here gives what the
estimate of bloat needs of them; either the sampler runs it itself, or a function runs it with the
rights of its owner (`pgc setup sql --bloat`).

https://www.postgresql.org/docs/current/view-pg-stats.html
"""

from typing import Final

SCHEMA: Final = "pgcollector"
NAME: Final = "column_statistics"
FUNCTION: Final = f"{SCHEMA}.{NAME}"

BOUNDS: Final = 100  # of a histogram that are looked at

# Its result: all of it are sizes, shares and counts.
COLUMNS: Final = (
    ("relid", "oid"),
    ("attnum", "int2"),
    ("null_frac", "float4"),
    ("avg_width", "int4"),
    ("n_distinct", "float4"),
    ("common_freqs", "json"),
    ("shape", "json"),
)


def query(relids: str) -> str:
    """Return SQL that gives COLUMNS for the relations of an expression of type oid[].

    `shape` tells how the stored lengths of a text or numeric column spread: the share of values by
    length modulo 8, for those with a short header (up to 126 bytes) under 0 to 7, for others under
    8 to 15. It decides how much padding stands between columns. Lengths are those of the most
    common values and of the histogram's bounds.

    OFFSET 0 keeps the planner from reading all of pg_stats for a few relations.
    """
    return f"""SELECT k.relid, a.attnum, s.null_frac, s.avg_width, s.n_distinct,
 to_json(s.most_common_freqs) AS common_freqs,
 CASE WHEN y.typcategory = 'S' OR y.typname = 'numeric' THEN (
  SELECT json_object_agg(slots.slot, slots.share) FROM (
   SELECT CASE WHEN sized.bytes <= 126 THEN (sized.bytes + 1) % 8
     ELSE 8 + (sized.bytes + 4) % 8 END AS slot, sum(sized.share) AS share
   FROM (
    SELECT {_bytes("common.value")} AS bytes, common.share
    FROM unnest(held.common, s.most_common_freqs) AS common(value, share)
    UNION ALL
    SELECT {_bytes("bound.value")}, held.rest / least(cardinality(held.bounds), {BOUNDS})
    FROM unnest(held.bounds) WITH ORDINALITY AS bound(value, place)
    WHERE bound.place % greatest(cardinality(held.bounds) / {BOUNDS}, 1) = 0) AS sized
   GROUP BY 1) AS slots) END AS shape
 FROM unnest({relids}) AS k(relid)
 JOIN pg_class AS c ON c.oid = k.relid
 JOIN pg_namespace AS n ON n.oid = c.relnamespace
 CROSS JOIN LATERAL (SELECT * FROM pg_stats AS of WHERE of.schemaname = n.nspname
  AND of.tablename = c.relname AND NOT of.inherited OFFSET 0) AS s
 JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = s.attname AND NOT a.attisdropped
 JOIN pg_type AS y ON y.oid = a.atttypid
 LEFT JOIN LATERAL (SELECT s.most_common_vals::text::text[] AS common,
  s.histogram_bounds::text::text[] AS bounds, greatest(1 - s.null_frac - coalesce(
   (SELECT sum(freq.share) FROM unnest(s.most_common_freqs) AS freq(share)), 0), 0.0001) AS rest
  WHERE y.typcategory = 'S' OR y.typname = 'numeric' OFFSET 0) AS held ON true"""


def _bytes(value: str) -> str:
    """Return SQL for the length of a value, given as text, without its header."""
    return (
        f"CASE WHEN y.typname = 'numeric' THEN pg_column_size({value}::numeric) - 4"
        f" ELSE octet_length({value}) END"
    )
