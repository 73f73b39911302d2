"""docs/plans.md is what the plans say, and the plans are sound."""

import itertools

from pg_collector.plan import DEMO
from pg_collector.platform.series import KEYS
from pg_collector.samplers import discover
from tests.docs.plans_page import PAGE, built_in, page


def test_the_page_is_current() -> None:
    made = page(built_in())
    assert PAGE.read_text() == made, "make it anew: python -m tests.docs.generated"


def test_every_plan_names_samplers_that_exist_and_allows_no_less_than_the_one_before() -> None:
    plans = built_in()
    order = ["starter", "pro", "business", "enterprise", "bench"]
    assert list(plans) == order
    assert set(DEMO.samplers or ()) == set(plans["starter"].min_interval)
    for before, after in itertools.pairwise(order):
        small, large = plans[before], plans[after]
        assert set(small.min_interval) <= set(large.min_interval) <= set(discover())
        assert all(large.min_interval[name] <= s for name, s in small.min_interval.items())
        assert set(small.masking_levels) <= set(large.masking_levels)
        assert small.grace_s <= large.grace_s
    assert set(plans["enterprise"].min_interval) == set(discover())


def test_the_platform_knows_the_keys_of_the_sets_that_travel_as_deltas() -> None:
    keys = {
        query.set: query.key
        for sampler in discover().values()
        for query in sampler.all_queries
        if query.key
    }
    assert keys == dict(KEYS)
