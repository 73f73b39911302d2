"""Writes docs/samplers.md from the sampler values, docs/configuration.md from the model,
docs/plans.md from the plans, docs/metrics.md from the registry, and the rules for Kubernetes.

Run: python -m tests.docs.generated
"""

import inspect
import re
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from pg_collector.config.reference import as_markdown
from pg_collector.plan import DEMO
from pg_collector.sample import Extension, Facts, Keep, Row
from pg_collector.samplers import discover
from pg_collector.samplers._kinds import GAUGE, LABEL
from pg_collector.samplers._sampler import Lookup, Query, Sampler, Scope, compose
from tests.docs import cost, kubernetes_rules, metrics_page, plans_page

PAGE = Path(__file__).parents[2] / "docs" / "samplers.md"
CONFIGURATION = PAGE.with_name("configuration.md")

_TYPES: Mapping[object, str] = {
    int: "integer",
    float: "number",
    str: "text",
    bool: "true or false",
    list[int]: "integers",
    list[str]: "texts",
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
A *counter* grows until it is reset: its difference between two lines is what happened in between.
A *gauge* is how much there is at the moment. Blocks are of `block_size` bytes, 8 kB nearly always.

The SQL is that of the newest version; on others columns are left out or have their older names.
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
    parts += ["\n".join(_costs(samplers))]
    return "\n".join(parts)


def _costs(samplers: Iterable[Sampler]) -> Iterator[str]:
    """Say what a turn of each set costs, as it was measured."""
    measured = cost.read()
    if not measured.floor_ms:
        return
    yield "## Cost"
    yield ""
    typical, worst = measured.spread
    method = cost.METHOD.format(
        machine=measured.machine, floors=_floors(measured), typical=typical, worst=worst
    )
    for paragraph in method.split("\n\n"):
        yield textwrap.fill(paragraph, 100, break_long_words=False, break_on_hyphens=False)
        yield ""
    versions = list(measured.floor_ms)
    head = [f"{version} {size}" for version in versions for size in ("small", "large")]
    yield f"| set | {' | '.join(head)} |"
    yield f"|---{'|---' * len(head)}|"
    for name in dict.fromkeys(query.set for one in samplers for query in one.all_queries):
        cells = [times.get(name) for version in versions for times in measured.of_version(version)]
        yield f"| `{name}` | {' | '.join('' if ms is None else f'{ms:g}' for ms in cells)} |"
    yield ""


def _floors(measured: cost.Measured) -> str:
    return ", ".join(f"{ms:g} ms on {version}" for version, ms in measured.floor_ms.items())


def _sampler(one: Sampler) -> Iterator[str]:
    yield f"## {one.name}"
    yield ""
    yield f"{one.learns}."
    yield ""
    yield f"- Asked every {one.every:g} s on the {one.lane} lane{_demo(one)}."
    yield f"- Group {one.group}; one session sees {_seen(one.scope)}."
    if one.only_on is not None:
        yield f"- Asked on a {one.only_on} only; elsewhere that is said, once."
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
    yield "| column | type | kind | unit | |"
    yield "|---|---|---|---|---|"
    for field in msgspec.structs.fields(first.row):
        is_a = _kind(first.row, field.name)
        words = ", ".join(_words(first, field, nullable=is_a.nullable))
        yield f"| `{field.name}` | {is_a.type} | {is_a.kind} | {is_a.unit} | {words} |"
    yield ""
    yield from _sql(first)


def _sql(query: Query) -> Iterator[str]:
    """Show what the newest version is asked."""
    columns = dict.fromkeys(query.relations.values(), _Everything())
    extensions = (
        {query.extension: Extension(version="", schema="public")} if query.extension else {}
    )
    facts = Facts(
        version=0, database="", role="", in_recovery=False, columns=columns, extensions=extensions
    )
    statement = compose(query.set.partition(".")[0], query, facts)
    if statement is None:
        raise ValueError(f"no server could answer {query.set}")
    yield "<details><summary>SQL</summary>"
    yield ""
    yield "```sql"
    for first in (statement.ranking, statement.choice):
        if first is not None:
            yield f"{first};"
    if statement.probe is not None:
        yield f"{statement.probe.sql};"
    yield f"{statement.sql};"
    yield "```"
    yield ""
    yield "</details>"
    yield ""


class _Everything(frozenset[str]):
    """The columns of a relation that has every column."""

    def __contains__(self, _: object) -> bool:
        return True


def _notes(query: Query, lookup: Lookup | None) -> Iterator[str]:
    yield f"From {', '.join(f'`{name}`' for name in query.relations.values())}."
    yield f"Holds {_KEPT[query.keep]}."
    if query.scope is not None:
        yield f"One session sees {_seen(query.scope)}."
    if query.derive is not None:
        yield "Worked out by the agent from what the SQL gives."
    if query.sql_text:
        yield (
            "With `security.keep_query_tags` a last column `tags` holds those of the query's "
            "comment: an object of texts, or null."
        )
    yield from _times(query)
    yield from _holes(query)
    if lookup is not None:
        yield (
            f"Looked up for rows of `{lookup.of}` that were not seen before, and again after "
            f"{lookup.refresh / 3600:g} h; at most {lookup.batch} at a time."
        )


def _times(query: Query) -> Iterator[str]:
    """Say when a set is asked, and which of its rows are sent."""
    if query.gate is not None:
        yield f"Asked only while `{query.gate[1]}` of `{query.gate[0]}` is not 0."
    if query.every is not None:
        yield f"Asked at most every {query.every:g} s."
    if query.rotate is not None:
        yield f"The first line holds every row, each later one {1 / query.rotate:.0%} of them."
    if query.ranking is not None:
        yield (
            f"The {query.ranking.top} objects that moved most, found out every "
            f"{query.ranking.every:g} s at most, without those that rest since the turn before; "
            "`total_rows` says how many there are."
        )
    if query.choice is not None:
        yield f"Which rows it holds is found out every {query.choice.every:g} s at most."
    if query.key:
        names = ", ".join(f"`{name}`" for name in query.key)
        yield f"A row is known by {names}; rows that did not change are left out of deltas."
    if query.cap is not None:
        yield f"At most {query.cap} rows; `total_rows` says how many there were."
    if query.epoch is not None:
        sets = ", ".join(f"`{name}`" for name in query.epoch_for or (query.set,))
        yield f"`{query.epoch}` gives the epoch of {sets}."


def _holes(query: Query) -> Iterator[str]:
    """Say what a set may lack."""
    if query.hidden:
        names = ", ".join(f"`{name}`" for name in query.hidden)
        yield f"Without pg_monitor the server hides {names} of other roles."
    if query.blind is not None:
        yield f"`{query.blind}` is true where the role may not see what the row needs."
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


class _Kind(NamedTuple):
    type: str
    nullable: bool
    kind: str
    unit: str


def _kind(row: type[Row], name: str) -> _Kind:
    """Return what a column is, in words."""
    wanted: Any = typing.get_type_hints(row, include_extras=True)[name]
    nullable = typing.get_origin(wanted) in {typing.Union, types.UnionType}
    if nullable:
        (wanted,) = (one for one in typing.get_args(wanted) if one is not types.NoneType)
    extra: Mapping[str, str | None] = {}
    if typing.get_origin(wanted) is typing.Annotated:
        wanted, meta = typing.get_args(wanted)
        extra = meta.extra
    kind = extra.get("kind") or (GAUGE if wanted in {int, float} else LABEL)
    return _Kind(_TYPES[wanted], nullable, kind, extra.get("unit") or "")


def _seen(scope: Scope) -> str:
    return "the whole server" if scope is Scope.INSTANCE else "its own database"


def main() -> None:
    """Write the pages that are made from the code."""
    samplers = discover()
    PAGE.write_text(page(samplers.values()))
    CONFIGURATION.write_text(as_markdown(samplers))
    plans_page.PAGE.write_text(plans_page.page())
    metrics_page.PAGE.write_text(metrics_page.page())
    kubernetes_rules.FILE.write_text(kubernetes_rules.whole())


if __name__ == "__main__":
    main()
