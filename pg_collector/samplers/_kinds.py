"""What a number or a text in a row is: a counter or a gauge, in which unit, a name, a time.

A counter only grows until it is reset; its difference between two lines is what happened between
them. A number without any of these types is a gauge that counts things. docs/samplers.md and the
readers of lines learn it from here.
"""

import functools
from typing import Annotated, Final, get_args, get_type_hints

import msgspec
from msgspec import Meta

COUNTER: Final = "counter"
GAUGE: Final = "gauge"
LABEL: Final = "label"
TIME: Final = "time"
NAME: Final = "name"
NAME_IN_SQL: Final = "name in SQL"


def _meta(kind: str, unit: str | None = None) -> Meta:
    return Meta(extra={"kind": kind, "unit": unit})


Counter = Annotated[int, _meta(COUNTER)]
CounterBytes = Annotated[int, _meta(COUNTER, "bytes")]
CounterBlocks = Annotated[int, _meta(COUNTER, "blocks")]
CounterMs = Annotated[float, _meta(COUNTER, "ms")]  # as PostgreSQL counts most times

Bytes = Annotated[int, _meta(GAUGE, "bytes")]
Blocks = Annotated[int, _meta(GAUGE, "blocks")]  # of block_size bytes, 8 kB if nobody changed it
Seconds = Annotated[float, _meta(GAUGE, "seconds")]
Ms = Annotated[float, _meta(GAUGE, "ms")]
Xids = Annotated[int, _meta(GAUGE, "transactions")]  # a distance between two transaction ids
Multis = Annotated[int, _meta(GAUGE, "multixacts")]
Ratio = Annotated[float, _meta(GAUGE, "ratio")]  # 0 to 1

Id = Annotated[int, _meta(LABEL)]  # an oid, a pid, a port
Name = Annotated[str, _meta(LABEL, NAME)]  # that somebody gave: of a table, a role, a slot
NameInSql = Annotated[str, _meta(LABEL, NAME_IN_SQL)]  # written as SQL wants it: "My schema".t
Lsn = Annotated[str, _meta(LABEL, "WAL position")]
Time = Annotated[str, _meta(TIME)]  # RFC 3339 in UTC


@functools.cache
def names_in(row: type[msgspec.Struct]) -> dict[str, bool]:
    """Return the fields of a row that hold names, and whether these are written as in SQL."""
    found: dict[str, bool] = {}
    for field, hint in get_type_hints(row, include_extras=True).items():
        for part in (hint, *get_args(hint)):
            for meta in getattr(part, "__metadata__", ()):
                unit = (meta.extra or {}).get("unit")
                if unit in {NAME, NAME_IN_SQL}:
                    found[field] = unit == NAME_IN_SQL
    return found
