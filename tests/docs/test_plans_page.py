"""docs/plans.md is what the plans say, and its example loads."""

import re

from pg_collector.platform import plans
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
