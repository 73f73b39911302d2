"""docs/plans.md is what the plans say, and its example loads."""

import itertools
import re

from pg_collector.plan import DEMO
from pg_collector.platform import plans
from pg_collector.samplers import discover
from tests.docs import plans_page


def test_the_plans_page_is_current():
    made = plans_page.page()
    assert plans_page.PAGE.read_text() == made, "make it anew: python -m tests.docs.generated"


def test_the_example_of_the_plans_page_loads(tmp_path):
    (text,) = re.findall(r"```yaml\n(.*?)```", plans_page.PAGE.read_text(), re.DOTALL)
    file = tmp_path / "plans.yaml"
    file.write_text(text)
    offers = plans.load(file)
    assert {*offers["night"].plan.min_interval} == {"activity", "database", "statements"}


def test_every_plan_names_samplers_that_exist_and_allows_no_less_than_the_one_before():
    known = {name: offer.plan for name, offer in plans.load().items()}
    order = ["starter", "pro", "business", "enterprise", "bench"]
    assert list(known) == order
    assert set(DEMO.samplers or ()) == set(known["starter"].min_interval)
    for before, after in itertools.pairwise(order):
        small, large = known[before], known[after]
        assert set(small.min_interval) <= set(large.min_interval) <= set(discover())
        assert all(large.min_interval[name] <= s for name, s in small.min_interval.items())
        assert set(small.masking_levels) <= set(large.masking_levels)
        assert small.grace_s <= large.grace_s
    assert set(known["enterprise"].min_interval) == set(discover())
