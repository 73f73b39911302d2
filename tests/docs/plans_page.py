"""Writes docs/plans.md from the plans of the reference platform, and that of the agent itself."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from pg_collector.plan import DEMO
from pg_collector.platform import plans
from pg_collector.platform.plans import Plan

PAGE = Path(__file__).parents[2] / "docs" / "plans.md"

_HEAD = """\
# Plans

What each plan allows. This page is written from `pg_collector/platform/plans.yaml`
(`python -m tests.docs.generated`); a test keeps it current. `demo` is built into the agent: it
needs no key, writes local files, and knows no platform.

The agent knows no other plan by name. It does what the signed policy of its device says
([specs/protocol.md](specs/protocol.md)), and the platform makes that from the plan of the device's
key. An interval that is configured below the minimum is raised to it; databases, samplers, masking
levels and outputs beyond the plan are paused or refused. Without a word about a sampler the default
interval is the sampler's own ([samplers.md](samplers.md)).
"""
_TAIL = """\
`grace` is how long a device goes on collecting without its platform, counted from three missed
heartbeats on. The heartbeat is every {heartbeat} s; a change of plan takes effect with it, without
a restart. `bench` is for the demo, for tests and for measuring: it is not for sale.

## Plans of your own

    pgc platform start ./platform --plans my-plans.yaml
    pgc platform keys create --plan night --plans my-plans.yaml --dir ./platform

The file has the form of the built-in one, and takes its place. A plan that `inherits` another one
takes over what it does not say itself, and adds its samplers to the other's:

```yaml
day:
  max_databases: 5          # null: any number
  min_interval: {activity: 10, database: 30}
  default_interval: {activity: 15}   # in the place of the sampler's own; may be left out
  masking_levels: [basic, custom]
  pii: basic                # none, basic or full
  audit_log: false
  outputs: [platform]
  grace_s: 86400
  heartbeat_s: 300
  ingest: {max_batch_bytes: 8388608, max_line_bytes: 1048576, encodings: [zstd, gzip]}
night:
  inherits: day
  min_interval: {statements: 60}
```

A plan that keys have must not leave the file: their devices would be answered with 503.
"""


def page() -> str:
    """Return the page."""
    offers = {name: offer.plan for name, offer in plans.load().items()}
    features = _table(
        ("", "demo", *offers),
        [
            (
                "databases",
                _count(DEMO.max_databases),
                *_each(offers, lambda p: _count(p.max_databases)),
            ),
            ("masking levels", "basic", *_each(offers, lambda p: ", ".join(p.masking_levels))),
            ("PII detection", "basic", *_each(offers, lambda p: p.pii)),
            ("audit log", "no", *_each(offers, lambda p: "yes" if p.audit_log else "no")),
            ("outputs", "local files", *_each(offers, lambda p: ", ".join(p.outputs))),
            ("grace", "none", *_each(offers, lambda p: f"{p.grace_s / 3600:g} h")),
        ],
    )
    names = sorted({name for plan in offers.values() for name in plan.min_interval})
    demo = {name: limit.min_interval for name, limit in (DEMO.samplers or {}).items()}

    def shortest(name: str) -> list[str]:
        return _each(offers, lambda plan: _seconds(plan.min_interval.get(name)))

    samplers = _table(
        ("shortest interval", "demo", *offers),
        [(f"`{name}`", _seconds(demo.get(name)), *shortest(name)) for name in names],
    )
    (heartbeat,) = {plan.heartbeat_s for plan in offers.values()}
    tail = _TAIL.replace("{heartbeat}", f"{heartbeat:g}")
    return f"{_HEAD}\n{features}\n{samplers}\n{tail}"


def _each(offers: Mapping[str, Plan], tell: Callable[[Plan], str]) -> list[str]:
    return [tell(plan) for plan in offers.values()]


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = tuple(head)
    lines = [titles, ("---",) * len(titles), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _count(databases: int | None) -> str:
    return "any number" if databases is None else str(databases)


def _seconds(interval: float | None) -> str:
    if interval is None:
        return "not allowed"
    if interval >= 300:
        return f"{interval / 60:g} min"
    return f"{interval:g} s" if interval else "any"
