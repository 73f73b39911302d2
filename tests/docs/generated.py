"""Writes docs/samplers.md from the sampler values, and docs/configuration.md from the model.

Run: python -m tests.docs.generated
"""

import inspect
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from pg_collector.config.reference import as_markdown
from pg_collector.plan import DEMO
from pg_collector.sample import Keep, Row
from pg_collector.samplers import discover
from pg_collector.samplers._sampler import Lookup, Query, Sampler

PAGE = Path(__file__).parents[2] / "docs" / "samplers.md"
CONFIGURATION = PAGE.with_name("configuration.md")

_TYPES: Mapping[object, str] = {
    int: "integer",
    float: "number",
    str: "text",
    bool: "true or false",
    list[int]: "integers",
}
_KEPT = {
    Keep.DELTA: "a delta",
    Keep.CUMULATIVE: "counters: a later line makes up for a lost one, at a lower resolution",
    Keep.EVENT: "what is seen once and never again",
    Keep.FACT: "facts that other lines refer to",
}
_INTRODUCTION = """\
# Samplers

This page is written from the samplers themselves (`python -m tests.docs.generated`); a test keeps
it current. What a line looks like: [specs/samples.md](specs/samples.md). When a sampler is asked,
and what happens where it cannot answer: [specs/sampling.md](specs/sampling.md). Intervals are
changed in the section `sampling` of the [configuration](configuration.md).

`pgc samplers` prints the list, `pgc sample NAME` takes one sample, and
`pgc sample NAME --explain` prints the SQL for your server.

In the tables *null* says that the column can be null, *may be missing* that it does not exist on
every version of the server or the extension: it is then named in the line's `unavailable`, and it
can be null as well. Times are text, RFC 3339 in UTC. Columns have PostgreSQL's own names and units.
"""


def page(samplers: Iterable[Sampler]) -> str:
    """Return the page as Markdown."""
    samplers = list(samplers)
    head = ["| sampler | what one learns | every | lane |", "|---|---|---|---|"]
    rows = [
        f"| [`{one.name}`](#{one.name}) | {one.learns} | {one.every:g} s | {one.lane} |"
        for one in samplers
    ]
    parts = [_INTRODUCTION, "\n".join([*head, *rows, ""])]
    parts += ["\n".join(_sampler(one)) for one in samplers]
    return "\n".join(parts)


def _sampler(one: Sampler) -> Iterator[str]:
    yield f"## {one.name}"
    yield ""
    yield f"{one.learns}."
    yield ""
    yield f"- Asked every {one.every:g} s on the {one.lane} lane{_demo(one)}."
    whole = "the whole server" if one.scope == "instance" else "its own database"
    yield f"- Group {one.group}; one session sees {whole}."
    yield f"- Reads {', '.join(f'`{name}`' for name in sorted(one.relations))}."
    module = inspect.getmodule(one.queries[0].row)
    for address in re.findall(r"https://[^\s,]+[^\s,.]", (module and module.__doc__) or ""):
        yield f"- PostgreSQL's own description: <{address}>"
    for reason, text in one.remedy.items():
        yield f"- Remedy for *{reason}*: {text.format(role='pgcollector', database='postgres')}"
    yield ""
    by_set: dict[str, list[Query]] = {}
    for query in one.queries:
        by_set.setdefault(query.set, []).append(query)
    for queries in by_set.values():
        yield from _set(queries, None)
    for lookup in one.lookups:
        yield from _set([lookup.query], lookup)


def _demo(one: Sampler) -> str:
    limit = DEMO.limit(one.name)
    if limit is None:
        return "; not in the built-in plan `demo`"
    if limit.min_interval <= one.every:
        return ""
    return f"; with the built-in plan `demo` every {limit.min_interval:g} s"


def _set(queries: list[Query], lookup: Lookup | None) -> Iterator[str]:
    """Describe a set; its variants are queries of the same rows, the best first."""
    first = queries[0]
    if any(query.row is not first.row for query in queries):
        raise ValueError(f"the variants of {first.set} have different row types")
    yield f"### Set `{first.set}`"
    yield ""
    yield inspect.cleandoc(first.row.__doc__ or "")
    yield ""
    notes = list(_notes(first, lookup))
    if len(queries) > 1:
        notes.append(f"Of {len(queries)} queries the first that the server can answer is used.")
    for note in notes:
        yield f"- {note}"
    yield ""
    yield "| column | type | |"
    yield "|---|---|---|"
    for field in msgspec.structs.fields(first.row):
        kind, nullable = _kind(first.row, field.name)
        words = ", ".join(_words(first, field, nullable=nullable))
        yield f"| `{field.name}` | {kind} | {words} |"
    yield ""


def _notes(query: Query, lookup: Lookup | None) -> Iterator[str]:
    yield f"From {', '.join(f'`{name}`' for name in query.relations.values())}."
    yield f"Holds {_KEPT[query.keep]}."
    if query.every is not None:
        yield f"Asked at most every {query.every:g} s."
    if query.rotate is not None:
        yield f"The first line holds every row, each later one {1 / query.rotate:.0%} of them."
    if query.key:
        names = ", ".join(f"`{name}`" for name in query.key)
        yield f"A row is known by {names}; rows that did not change are left out of deltas."
    if query.cap is not None:
        yield f"At most {query.cap} rows; `total_rows` says how many there were."
    if query.epoch is not None:
        sets = ", ".join(f"`{name}`" for name in query.epoch_for or (query.set,))
        yield f"`{query.epoch}` gives the epoch of {sets}."
    if query.hidden:
        names = ", ".join(f"`{name}`" for name in query.hidden)
        yield f"Without pg_monitor the server hides {names} of other roles."
    if lookup is not None:
        yield (
            f"Looked up for rows of `{lookup.of}` that were not seen before, and again after "
            f"{lookup.refresh / 3600:g} h; at most {lookup.batch} at a time."
        )
    if query.optional:
        yield "Left out without a word where the server does not have it."


def _words(query: Query, field: msgspec.structs.FieldInfo, *, nullable: bool) -> Iterator[str]:
    if not field.required:
        yield "may be missing"
    elif nullable:
        yield "null"
    candidates = query.columns.get(field.name)
    if isinstance(candidates, tuple):
        yield f"on older versions `{candidates[-1].rpartition('.')[2]}`"
    if field.name in query.sql_text:
        yield "masked"
    if field.name in query.free_text:
        yield "credentials removed"


def _kind(row: type[Row], name: str) -> tuple[str, bool]:
    """Return a column's type in words, and whether it can be null."""
    wanted = typing.get_type_hints(row)[name]
    if not isinstance(wanted, types.UnionType):
        return _TYPES[wanted], False
    (kind,) = (one for one in typing.get_args(wanted) if one is not types.NoneType)
    return _TYPES[kind], True


def main() -> None:
    """Write the pages that are made from the code."""
    samplers = discover()
    PAGE.write_text(page(samplers.values()))
    CONFIGURATION.write_text(as_markdown(samplers))


if __name__ == "__main__":
    main()
