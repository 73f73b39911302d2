"""Writes docs/plans.md from pg_collector/platform/plans.yaml.

Run: python -m tests.docs.generated
"""

from collections.abc import Mapping
from pathlib import Path

from pg_collector.plan import DEMO
from pg_collector.platform.plans import Plan, load
from pg_collector.samplers import discover

PAGE = Path(__file__).parents[2] / "docs" / "plans.md"

_INTRODUCTION = """\
# Plans

What a plan allows. The agent knows no plan by name: the platform signs what holds for a device,
and the agent keeps to it ([activation.md](activation.md)). Without a platform, samples go into
files within the plan `demo`, which is built in.

This page is written from the reference platform's `pg_collector/platform/plans.yaml`
(`python -m tests.docs.generated`); a test keeps it current. For each sampler it says how many
seconds lie between two turns at least. `bench` is for the demo, for tests and for measuring.
"""
_CHANGES = """\

## Change them

`pgc platform start --plans FILE` serves other plans, and `keys create --plans FILE` knows them. The
form is that of the built-in file; `inherits` takes over everything of another plan:

```yaml
weekend:
  inherits: pro
  max_databases: 2
  min_interval: {locks: 5}       # seconds; a sampler that is absent is not allowed
  default_interval: {locks: 30}  # in the place of the sampler's own
  grace_s: 259200
```

A changed file holds from the next start of the platform on, and reaches each device with its next
heartbeat. An interval of an agent's file below the plan's is raised to it; a default is, silently.
"""


def page(plans: Mapping[str, Plan]) -> str:
    """Return the page as Markdown."""
    names = list(plans)
    rows: list[tuple[str, list[str]]] = [
        ("databases", ["1", *(_number(one.max_databases) for one in plans.values())]),
        *(
            (f"`{name}`", [_demo(name), *(_interval(one, name) for one in plans.values())])
            for name in discover()
        ),
        ("outputs", ["local", *(", ".join(one.outputs) for one in plans.values())]),
        ("grace", ["-", *(f"{one.grace_s / 3600:g} h" for one in plans.values())]),
        ("heartbeat", ["-", *(f"{one.heartbeat_s:g} s" for one in plans.values())]),
        ("masking levels", ["basic", *(", ".join(one.masking_levels) for one in plans.values())]),
        ("PII detection", ["basic", *(one.pii for one in plans.values())]),
        ("audit log", ["no", *("yes" if one.audit_log else "no" for one in plans.values())]),
    ]
    lines = [f"| | {' | '.join(('demo', *names))} |", "|---" * (len(names) + 2) + "|"]
    lines += [f"| {label} | {' | '.join(cells)} |" for label, cells in rows]
    return "\n".join([_INTRODUCTION, *lines]) + "\n" + _CHANGES


def built_in() -> dict[str, Plan]:
    """Return the plans of the built-in file."""
    return {name: offer.plan for name, offer in load().items()}


def _number(databases: int | None) -> str:
    return "any" if databases is None else str(databases)


def _demo(sampler: str) -> str:
    limit = DEMO.limit(sampler)
    return "-" if limit is None else f"{limit.min_interval:g}"


def _interval(plan: Plan, sampler: str) -> str:
    shortest = plan.min_interval.get(sampler)
    return "-" if shortest is None else f"{shortest:g}"
