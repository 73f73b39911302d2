"""Writes docs/metrics.md from the registry: names, types and labels; and how many series there are.

Run: python -m tests.docs.generated
"""

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from prometheus_client.metrics import MetricWrapperBase

from pg_collector import metrics as words
from pg_collector.clock import SystemClock
from pg_collector.metrics import PREFIX, Metrics
from pg_collector.samplers import discover

PAGE: Final = Path(__file__).parents[2] / "docs" / "metrics.md"
TARGET: Final = "<target>"  # stands for the name of each target

_SAMPLERS = tuple(discover())
_MANY: Final = 6  # metrics are not listed by name
_ONE = ("…",)  # one value at a time, which no user has written

# The values of each label: of one metric's, or of all that have a label of that name.
VALUES: Final[Mapping[str, tuple[str, ...]]] = {
    "target": (TARGET,),
    "sampler": _SAMPLERS,
    "output": ("file", "platform"),
    "tier": words.TIERS,
    "kind": words.PII,
    "state": words.DEVICE_STATES,
    "path_role": (f"postgres:{TARGET}", "platform", "http"),
    "panics_recovered_total component": words.COMPONENTS,
    "circuit_breaker_state component": (
        f"postgres:{TARGET}", f"token:{TARGET}", "platform", "identity",
    ),
    "component": ("http", "scheduler", "sender", "journal", "control", "identity", "watchdog"),
    "sample_errors_total reason": (*words.PASSING_ERRORS, *words.LASTING_ERRORS),
    "sampler_skipped_total reason": words.SKIP_REASONS,
    "masking_failures_total reason": words.MASKING_FAILURES,
    "http_requests_refused_total reason": words.REFUSALS,
    "lines_lost_total reason": words.LOSS_REASONS,
    "output_errors_total reason": (*words.OUTPUT_ERRORS, *words.REMOTE_ERRORS, "deferred"),
    "plan": _ONE,
    "version": _ONE,
    "commit": _ONE,
    "python": _ONE,
}  # fmt: skip

_NOTES: Final = {
    "target": "a name of the configuration, `databases[].name`",
    "sampler": "see [samplers.md](samplers.md)",
    "path_role": "what shows the certificate: sessions of a target, the platform's client, the "
    "agent's own endpoints",
    "circuit_breaker_state component": "who is left alone: a target, the endpoint that gives its "
    "tokens, the platform's ingestion, its key service",
    "component": "the agent's threads",
    "sample_errors_total reason": f"the last {len(words.LASTING_ERRORS)} appear when they happen: "
    "lasting states of a server (see [specs/sampling.md](specs/sampling.md)), and a fault of the "
    "agent",
    "lines_lost_total reason": "see [specs/buffer.md](specs/buffer.md)",
    "output_errors_total reason": "see [specs/delivery.md](specs/delivery.md); `deferred` is the "
    "file outlet's: a full or missing disk",
    "plan": "the plan's name, one at a time",
    "version": "of the agent",
}

_GROUPS: Final[Mapping[str, str]] = {
    "Sampling": "sample|last_sample|rows_|pg_",
    "Texts": "masking|pii",
    "Lines and the buffer": "lines_|buffer_|is_draining",
    "Delivery": "output_|delivery_|cert_|clock_|token_",
    "Device and plan": "device_|plan_|policy_|platform_|grace_",
    "The agent": "",
}

QUERIES: Final[Mapping[str, str]] = {
    "up": "up{job=\"pg-collector\"} == 0 or pg_collector_up",
    "build_info": "count by (version) (pg_collector_build_info)",
    "uptime_seconds": "pg_collector_uptime_seconds < 600",
    "panics_recovered_total": "increase(pg_collector_panics_recovered_total[1h]) > 0",
    "circuit_breaker_state": "pg_collector_circuit_breaker_state > 0",
    "config_last_reload_success_timestamp_seconds":
        "time() - pg_collector_config_last_reload_success_timestamp_seconds",
    "samples_total": "sum by (target, sampler) (rate(pg_collector_samples_total[5m]))",
    "rows_sampled_total": "topk(5, rate(pg_collector_rows_sampled_total[5m]))",
    "sample_errors_total":
        "sum by (sampler, reason) (increase(pg_collector_sample_errors_total[1h])) > 0",
    "last_sample_timestamp_seconds":
        "time() - max by (target) (pg_collector_last_sample_timestamp_seconds)",
    "pg_query_duration_seconds":
        "histogram_quantile(0.95, sum by (sampler, le) "
        "(rate(pg_collector_pg_query_duration_seconds_bucket[5m])))",
    "pg_up": "sum(pg_collector_pg_up) / count(pg_collector_pg_up)",
    "lines_produced_total": "rate(pg_collector_lines_produced_total[5m])",
    "lines_lost_total": "sum by (reason) (increase(pg_collector_lines_lost_total[24h]))",
    "buffer_memory_bytes":
        "pg_collector_buffer_memory_bytes / on (job, instance) "
        "pg_collector_buffer_capacity_bytes{tier=\"memory\"}",
    "output_errors_total": "sum by (reason) (rate(pg_collector_output_errors_total[5m]))",
    "output_uncompressed_bytes_total":
        "rate(pg_collector_output_uncompressed_bytes_total[5m]) "
        "/ rate(pg_collector_output_bytes_total[5m])",
    "output_duration_seconds":
        "rate(pg_collector_output_duration_seconds_sum[5m]) "
        "/ rate(pg_collector_output_duration_seconds_count[5m])",
    "delivery_lag_seconds":
        "histogram_quantile(0.95, sum by (le) "
        "(rate(pg_collector_delivery_lag_seconds_bucket[5m])))",
    "cert_expiry_timestamp_seconds":
        "(pg_collector_cert_expiry_timestamp_seconds - time()) / 86400",
    "token_expiry_timestamp_seconds":
        "(pg_collector_token_expiry_timestamp_seconds > 0) - time()",
    "device_state": "pg_collector_device_state == 1",
    "platform_last_contact_timestamp_seconds":
        "time() - (pg_collector_platform_last_contact_timestamp_seconds > 0)",
    "grace_seconds_remaining":
        "pg_collector_grace_seconds_remaining / 3600",
    "grace_seconds":
        "pg_collector_grace_seconds_remaining < 1 / 4 * pg_collector_grace_seconds",
}  # fmt: skip

_INTRODUCTION: Final = """\
# Metrics

This page is written from the registry itself (`python -m tests.docs.generated`); a test keeps it
current. `/metrics` has them in Prometheus' text format, and in OpenMetrics for who asks for that.
All names but those of the process begin with `pg_collector_`. [monitoring.md](monitoring.md) says
what to do with them: how to scrape, the alerts and the dashboard that come with the agent.

Units are base units: seconds, bytes, and Unix time in `_timestamp_seconds`. A counter ends in
`_total`. Where the values of a label are known beforehand, its series exist from the start at 0, so
that `increase()` sees the first event. What tells how something is now ends with it: a sampler that
is switched off, or that has nothing to ask on this server, has no `last_sample_timestamp_seconds`,
and a target where nothing is sampled no `pg_up`.

At any moment `lines_produced_total` is `lines_delivered_total`, `lines_buffered`,
`lines_quarantined` and the sum of `lines_lost_total` together ([specs/buffer.md](specs/buffer.md)).
"""


class Described(NamedTuple):
    """One metric, as the registry has it."""

    name: str  # as it is queried: counters with `_total`
    type: str
    labels: tuple[str, ...]
    meaning: str
    buckets: int  # series that each child of a histogram has

    @property
    def short(self) -> str:
        """The name without the prefix."""
        return self.name.removeprefix(f"{PREFIX}_")

    @property
    def unit(self) -> str:
        """The unit, which its name says."""
        stem = self.name.removesuffix("_total")
        for ending, unit in (
            ("timestamp_seconds", "Unix time"), ("start_time_seconds", "Unix time"),
            ("seconds", "seconds"), ("bytes", "bytes"), ("seconds_remaining", "seconds"),
        ):  # fmt: skip
            if stem.endswith(ending):
                return unit
        return ""

    def values(self, label: str) -> tuple[str, ...]:
        """Return the values that a label of it can have."""
        return VALUES[_key(self, label)]


def described() -> list[Described]:
    """Return every metric of an agent, those of the process last."""
    made = Metrics(SystemClock())
    own = {
        family.name: family
        for family in made.registry.collect()
        if family.name.startswith(f"{PREFIX}_")
    }
    found = []
    for family in own.values():
        attribute = family.name.removeprefix(f"{PREFIX}_")
        name = f"{family.name}_total" if family.type == "counter" else family.name
        metric = getattr(made, f"{attribute}_total" if family.type == "counter" else attribute)
        assert isinstance(metric, MetricWrapperBase)
        bounds = len(getattr(metric, "_upper_bounds", ()))
        series = bounds + 2 if family.type == "histogram" else 1
        labels = tuple(metric._labelnames)
        found.append(Described(name, family.type, labels, family.documentation, series))
    for family in made.registry.collect():
        if family.name not in own:
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = tuple(family.samples[0].labels)
            found.append(Described(name, family.type, labels, family.documentation, 1))
    return found


def allowed(metric: Described, label: str, targets: Sequence[str]) -> frozenset[str] | None:
    """Return the values that a label may have with these targets; None: one, of no user's."""
    values = metric.values(label) if metric.name.startswith(f"{PREFIX}_") else _ONE
    if values == _ONE:
        return None
    return frozenset(
        value.replace(TARGET, target) for value, target in itertools.product(values, targets)
    )


def most_series(targets: Sequence[str]) -> int:
    """Return how many series an agent with these targets can have."""
    return sum(
        one.buckets * math.prod(len(allowed(one, label, targets) or _ONE) for label in one.labels)
        for one in described()
    )


def page() -> str:
    """Return the page as Markdown."""
    every = described()
    parts = [_INTRODUCTION]
    left = [one for one in every if one.name.startswith(f"{PREFIX}_")]
    grouped: dict[str, list[Described]] = {title: [] for title in _GROUPS}
    for one in left:
        title = next(t for t, names in _GROUPS.items() if re.match(f"(?:{names})", one.short))
        grouped[title].append(one)
    for title, members in grouped.items():
        parts.append("\n".join([f"## {title}", "", *_table(members)]))
    process = [one for one in every if one not in left]
    parts.append("\n".join(["## The process", "", *_table(process)]))
    parts.append("\n".join(_labels(every)))
    parts.append("\n".join(_series()))
    return "\n".join(parts)


def _table(members: Iterable[Described]) -> Iterator[str]:
    members = list(members)
    yield "| metric | type | unit | labels | |"
    yield "|---|---|---|---|---|"
    for one in members:
        labels = ", ".join(f"`{label}`" for label in one.labels)
        yield f"| `{one.name}` | {one.type} | {one.unit} | {labels} | {one.meaning} |"
    yield ""
    queries = [QUERIES[one.short] for one in members if one.short in QUERIES]
    if queries:
        yield from ("```promql", *queries, "```", "")


def _key(metric: Described, label: str) -> str:
    own = f"{metric.short} {label}"
    return own if own in VALUES else label


def _labels(every: Iterable[Described]) -> Iterator[str]:
    """Say which values each label can have."""
    yield "## Labels"
    yield ""
    yield "No value comes from what a database holds: names of targets are all that a user writes."
    yield ""
    yield "| label | of | values | |"
    yield "|---|---|---|---|"
    users: dict[str, list[str]] = {}
    for one in every:
        for label in one.labels if one.name.startswith(f"{PREFIX}_") else ():
            users.setdefault(_key(one, label), []).append(one.short)
    for key, names in users.items():
        label = key.rpartition(" ")[2]
        whose = ", ".join(f"`{name}`" for name in names) if len(names) < _MANY else "many"
        values = ", ".join(f"`{value}`" for value in VALUES[key] if value != _ONE[0])
        yield f"| `{label}` | {whose} | {values} | {_NOTES.get(key, '')} |"
    yield ""


def _series() -> Iterator[str]:
    """Say how many series there are."""
    one, three, hundred = (
        most_series([f"t{number}" for number in range(count)]) for count in (1, 3, 100)
    )
    yield "## How many series"
    yield ""
    yield "Their number follows from targets, samplers and reasons alone, whatever a server holds:"
    yield f"{one:,} at most for one target, {three:,} for three, {hundred:,} for a hundred. Some"
    yield "appear only when what they count happens."
    yield ""
