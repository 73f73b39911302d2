import random
import re

import msgspec
import pytest

from pg_collector.errors import Reason
from pg_collector.sample import Extension, Facts, Row
from pg_collector.samplers import discover
from pg_collector.samplers._sampler import OWN_TAG, Query, compose, statements

SAMPLERS = discover()
QUERIES = [(name, query) for name, one in SAMPLERS.items() for query in one.all_queries]


def facts(columns, extensions=None):
    return Facts(
        version=180004,
        database="postgres",
        role="pgcollector",
        in_recovery=False,
        columns={name: frozenset(names) for name, names in columns.items()},
        extensions=extensions or {},
    )


class ThingRow(Row, frozen=True):
    key: int
    renamed: int
    late: int | None = None


THINGS = Query(
    set="things",
    row=ThingRow,
    relations={"t": "pg_things", "o": "pg_others"},
    columns={"renamed": ("t.renamed", "t.old_name")},
    source="FROM pg_things AS t WHERE t.key > 0",
)


def test_a_column_is_asked_for_by_the_name_it_has_on_this_server():
    found = compose("things", THINGS, facts({"pg_things": ["key", "old_name", "late"]}))
    assert found is not None
    assert "t.old_name AS renamed" in found.sql
    assert found.columns == ("key", "renamed", "late")
    assert found.missing == ()


def test_a_column_that_is_missing_is_left_out_and_named():
    found = compose("things", THINGS, facts({"pg_things": ["key", "renamed"]}))
    assert found is not None
    assert found.columns == ("key", "renamed")
    assert [(one.field, one.reason) for one in found.missing] == [("late", Reason.VERSION)]


@pytest.mark.parametrize("columns", [{}, {"pg_things": ["renamed"]}])
def test_a_set_without_its_relation_or_its_condition_is_not_asked(columns):
    assert compose("things", THINGS, facts(columns)) is None


def test_an_extension_is_asked_where_it_is_installed():
    query = msgspec.structs.replace(
        THINGS, extension="pg_things", source='FROM {schema}.pg_things AS t WHERE "100%" > 0'
    )
    columns = {"pg_things": ["key"]}
    assert compose("things", query, facts(columns)) is None
    installed = {"pg_things": Extension(version="1.0", schema='odd "schema"')}
    found = compose("things", query, facts(columns, installed))
    assert found is not None
    assert 'FROM "odd ""schema""".pg_things AS t' in found.sql


@pytest.mark.parametrize(("name", "query"), QUERIES, ids=lambda value: getattr(value, "set", ""))
def test_every_declaration_holds_together(name, query):
    fields = query.row.__struct_fields__
    named = (*query.key, *query.sql_text, *query.free_text, *query.hidden)
    assert set(named) <= set(fields)
    assert {*query.columns, *query.required} <= set(query.selected)
    assert query.blind is None or query.blind in fields
    assert (query.raw is None) == (query.derive is None)
    assert query.epoch is None or query.epoch in fields
    assert query.counter is None or query.counter in fields
    assert query.set.partition(".")[0] in {name, "query_text"}
    assert ";" not in query.source


def test_every_statement_says_whose_it_is():
    everything = facts({relation: _all_columns(relation) for relation in _relations()})
    installed = {"pg_stat_statements": Extension(version="1.12", schema="public")}
    everything = msgspec.structs.replace(everything, extensions=installed)
    for name, sampler in SAMPLERS.items():
        found, lacking = statements(sampler, everything)
        assert not lacking
        assert all(one.sql.startswith(f"{OWN_TAG}{name} */ ") for one in found)


def test_removing_any_columns_costs_fields_never_the_statement_text():
    """Fuzz: what a future version may take away must not make a broken statement."""
    installed = {"pg_stat_statements": Extension(version="1.12", schema="public")}
    rng = random.Random(1)  # noqa: S311
    for _ in range(300):
        kept = {
            relation: [one for one in _all_columns(relation) if rng.random() > 0.2]
            for relation in _relations()
        }
        for sampler in SAMPLERS.values():
            found, _ = statements(sampler, facts(kept, installed))
            for one in found:
                assert one.columns
                assert set(one.columns) | {m.field for m in one.missing} == set(one.query.selected)


def _relations():
    return sorted({relation for one in SAMPLERS.values() for relation in one.relations})


def _all_columns(relation):
    names: set[str] = set()
    for _, query in QUERIES:
        for alias, owner in query.relations.items():
            if owner != relation:
                continue
            texts = [query.source, *query.row.__struct_fields__]
            for sql in query.columns.values():
                texts += [sql] if isinstance(sql, str) else list(sql)
            names |= set(query.row.__struct_fields__)
            for text in texts:
                names |= set(re.findall(rf"\b{alias}\.([a-z_]+)", text))
    return sorted(names)
