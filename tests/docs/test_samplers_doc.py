"""docs/samplers.md says what the samplers are."""

import msgspec
import pytest

from pg_collector.samplers import discover
from pg_collector.samplers._sampler import Sampler
from tests.docs.generated import PAGE, page


def test_the_page_of_the_samplers_is_current():
    made = page(discover().values())
    assert PAGE.read_text() == made, "make it anew: python -m tests.docs.generated"


@pytest.mark.parametrize("sampler", discover().values(), ids=lambda one: one.name)
def test_every_set_and_column_is_described(sampler: Sampler):
    text = page([sampler])
    for query in sampler.all_queries:
        part = text.partition(f"### Set `{query.set}`\n")[2].partition("\n### ")[0]
        for field in msgspec.structs.fields(query.row):
            assert f"| `{field.name}` |" in part, query.set


@pytest.mark.parametrize("sampler", discover().values(), ids=lambda one: one.name)
def test_every_row_type_says_what_a_row_is(sampler: Sampler):
    for query in sampler.all_queries:
        assert (query.row.__doc__ or "").strip().endswith("."), query.row.__name__
