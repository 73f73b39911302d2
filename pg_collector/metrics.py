"""What the agent counts of itself, in Prometheus' terms, in a registry of its own.

Every metric is an attribute named as the metric without the prefix `pg_collector_`:
`metrics.lines_lost_total` is `pg_collector_lines_lost_total`. Names, units and labels follow
https://prometheus.io/docs/practices/naming/. Where the values of a label are known beforehand, they
exist from the start with 0, because `rate()` and `increase()` miss the first step of a series that
appears with 1.
"""

import platform
import threading
from collections.abc import Mapping
from typing import Final

from pg_collector import __version__, lean
from pg_collector.clock import Clock

# http.server, which this imports, escapes a text with it now and then; the rest of it is a table of
# all entities that HTML has, half a megabyte.
with lean.stand_in("html", escape=lean.escaped):
    from prometheus_client import (
        CollectorRegistry,
        Counter,
        Gauge,
        Histogram,
        PlatformCollector,
        ProcessCollector,
        disable_created_metrics,
    )
    from prometheus_client.exposition import choose_encoder

PREFIX: Final = "pg_collector"

LOSS_REASONS: Final = (
    "thinned",  # a full buffer gave up resolution
    "disk_full",
    "memory_full",
    "too_large",
    "damaged",  # what was read from disk was not what was written
    "store_truncated",  # it should be on disk and is not there
    "crash",
    "shutdown",
    "quarantine_full",
    "purged",  # on demand
)
OUTPUT_ERRORS: Final = ("refused", "store", "error")  # of every outlet
REMOTE_ERRORS: Final = ("unreachable", "busy", "held", "unexpected", "too_large", "conflict")
DEVICE_STATES: Final = ("LOCAL", "UNPROVISIONED", "ACTIVE", "GRACE", "STOPPED")

# Of the reasons of `sample_errors_total`, those that come and go.
PASSING_ERRORS: Final = ("timeout", "lock", "error", "down", "refused")
# The others: lasting states, and a fault of the agent, which `panics_recovered_total` counts, too.
LASTING_ERRORS: Final = ("version", "privilege", "setting", "unsupported", "panic")
SKIP_REASONS: Final = ("still_running", "lane_busy", "budget")
REFUSALS: Final = ("address", "token")
PII: Final = ("email", "card", "ssn", "phone")
MASKING_FAILURES: Final = ("exception", "budget")
COMPONENTS: Final = (
    "scheduler", "runner", "sender", "identity", "health", "breaker", "reload",
)  # fmt: skip
TIERS: Final = ("memory", "disk")

_QUERY_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_DELIVERY_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_LAG_BUCKETS: Final = (1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14_400, 86_400, 604_800)


class Turns:
    """The series that a turn of one sampler on one target moves, looked up once."""

    def __init__(self, metrics: "Metrics", target: str, sampler: str) -> None:
        self._last_of = metrics.last_sample_timestamp_seconds
        self._every_of = metrics.sampler_interval_seconds
        self._labels = {"target": target, "sampler": sampler}
        self._lock = threading.Lock()  # guards what follows, and the two gauges
        self._last: Gauge | None = None
        self._at_work = True
        self._asked: float | None = None  # the interval that holds; None: nobody said
        self._samples = metrics.samples_total.labels(target, sampler)
        self._rows = metrics.rows_sampled_total.labels(target, sampler)
        self.seconds = metrics.pg_query_duration_seconds.labels(sampler)

    def sampled(self, rows: int, now: float) -> None:
        """Count a turn that gave lines, at that Unix time."""
        self._samples.inc()
        self._rows.inc(rows)
        with self._lock:
            if not self._at_work:
                return  # it began before that was said
            if self._last is None:
                self._last = self._last_of.labels(**self._labels)
            self._last.set(now)

    def paced(self, asked: float, every: float) -> None:
        """Hear that turns come every so many seconds, where `asked` is still what is asked for."""
        with self._lock:
            if self._at_work and self._asked in {None, asked}:
                self._every_of.labels(**self._labels).set(every)

    def rest(self) -> None:
        """Tell of no last sample any more: none is expected."""
        with self._lock:
            self._rest()

    def work(self, every: float) -> None:
        """Hear that turns are asked for from now on, every so many seconds."""
        with self._lock:
            self._at_work = True
            if self._asked != every:
                self._asked = every
                self._every_of.labels(**self._labels).set(every)

    def end(self) -> None:
        """Hear that there are to be no turns any more; one may be under way."""
        with self._lock:
            self._at_work, self._asked = False, None
            self._rest()
            self._every_of.remove_by_labels(self._labels)

    def _rest(self) -> None:
        if self._last is not None:
            self._last = None
            self._last_of.remove_by_labels(self._labels)


class Metrics:
    """All metrics of one agent. Thread-safe, as the library's metrics are."""

    def __init__(self, clock: Clock, *, commit: str = "unknown") -> None:
        # A switch of the whole library: otherwise every counter comes twice.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._turns: dict[tuple[str, str], Turns] = {}
        self._at_work: dict[str, frozenset[str]] = {}  # samplers by target; of the main thread
        self._describe_agent(clock, commit)
        self._describe_sampling()
        self._describe_lines()
        self._describe_output()
        self._describe_device()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def introduce(self, target: str, every: Mapping[str, float]) -> None:
        """Let the series of a target exist from now on, at 0.

        `every` gives the samplers at work there and their intervals. What tells how it is now ends
        with a sampler that rests, and with the target where all do.
        """
        before = self._at_work.get(target, frozenset())
        self._at_work[target] = frozenset(every)
        for sampler in before - every.keys():
            self.of_turns(target, sampler).end()
        if not every:
            self.pg_up.remove_by_labels({"target": target})
            return
        self.pg_up.labels(target)
        self.pg_connections.labels(target)
        for sampler, seconds in every.items():
            self.of_turns(target, sampler).work(seconds)
        for sampler in every.keys() - before:
            for reason in PASSING_ERRORS:
                self.sample_errors_total.labels(target, sampler, reason)
            for reason in SKIP_REASONS:
                self.sampler_skipped_total.labels(sampler, reason)

    def of_turns(self, target: str, sampler: str) -> Turns:
        """Return the series that a turn moves."""
        found = self._turns.get((target, sampler))
        if found is None:
            found = self._turns.setdefault((target, sampler), Turns(self, target, sampler))
        return found

    def rest(self, target: str, sampler: str) -> None:
        """Hear that a sampler is not to give samples of a target now."""
        found = self._turns.get((target, sampler))
        if found is not None:
            found.rest()

    def forget(self, target: str) -> None:
        """Drop the series of a target that is no longer configured."""
        self._at_work.pop(target, None)
        for key in [key for key in list(self._turns) if key[0] == target]:
            self._turns.pop(key).end()
        for metric in (
            self.pg_up,
            self.pg_connections,
            self.samples_total,
            self.rows_sampled_total,
            self.sample_errors_total,
            self.last_sample_timestamp_seconds,
            self.sampler_interval_seconds,
        ):
            metric.remove_by_labels({"target": target})
        self.circuit_breaker_state.remove_by_labels({"component": f"postgres:{target}"})

    def introduce_output(self, output: str, *reasons: str) -> None:
        """Let the series of an outlet exist from now on, at 0; `reasons` are its own errors."""
        self.output_success_total.labels(output)
        self.output_bytes_total.labels(output)
        self.output_uncompressed_bytes_total.labels(output)
        self.output_duration_seconds.labels(output)
        for reason in (*OUTPUT_ERRORS, *reasons):
            self.output_errors_total.labels(output, reason)

    def set_device_state(self, state: str) -> None:
        """Mark one of `DEVICE_STATES` as the present one; raises ValueError for another word."""
        if state not in DEVICE_STATES:
            raise ValueError(f"no device state: {state}")
        for each in DEVICE_STATES:
            self.device_state.labels(each).set(each == state)

    def set_plan(self, plan: str) -> None:
        """Name the plan in force."""
        self.plan_info.clear()
        self.plan_info.labels(plan).set(1)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the exposition and its Content-Type for a request's Accept header.

        OpenMetrics for who asks for it, otherwise the text format 0.0.4.
        """
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is no number
            encode, content_type = choose_encoder("")
        return encode(self.registry), content_type

    def _describe_agent(self, clock: Clock, commit: str) -> None:
        started = clock.monotonic()
        self.up = self._gauge("up", "1 while the agent runs.")
        self.up.set(1)
        self.uptime_seconds = self._gauge("uptime_seconds", "Seconds since the agent started.")
        self.uptime_seconds.set_function(lambda: clock.monotonic() - started)
        self.build_info = self._gauge(
            "build_info", "What runs here; always 1.", "version", "commit", "python"
        )
        self.build_info.labels(__version__, commit, platform.python_version()).set(1)
        self.health_status = self._gauge(
            "health_status", "2 is ok, 1 degraded, 0 down or stopped, as /healthz says."
        )
        self.panics_recovered_total = self._counter(
            "panics_recovered_total", "Unexpected exceptions that were survived.", "component"
        )
        for component in COMPONENTS:
            self.panics_recovered_total.labels(component)
        self.watchdog_component_age_seconds = self._gauge(
            "watchdog_component_age_seconds", "Seconds since a thread gave a sign.", "component"
        )
        self.watchdog_component_overdue_seconds = self._gauge(
            "watchdog_component_overdue_seconds",
            "Seconds beyond the moment for which a thread announced its next sign; 0 before it.",
            "component",
        )
        self.circuit_breaker_state = self._gauge(
            "circuit_breaker_state", "0 closed, 1 half-open, 2 open.", "component"
        )
        self.config_last_reload_successful = self._gauge(
            "config_last_reload_successful", "1 if the last reading of the configuration worked."
        )
        self.config_last_reload_success_timestamp_seconds = self._gauge(
            "config_last_reload_success_timestamp_seconds",
            "Unix time of the last reading of the configuration that worked.",
        )

    def _describe_sampling(self) -> None:
        self.samples_total = self._counter(
            "samples_total", "Turns that gave a sample.", "target", "sampler"
        )
        self.rows_sampled_total = self._counter(
            "rows_sampled_total", "Rows that the server gave, sent or not.", "target", "sampler"
        )
        self.sample_errors_total = self._counter(
            "sample_errors_total", "Sets that gave no rows.", "target", "sampler", "reason"
        )
        self.sampler_skipped_total = self._counter(
            "sampler_skipped_total", "Turns that were due and not taken.", "sampler", "reason"
        )
        self.sampler_interval_seconds = self._gauge(
            "sampler_interval_seconds",
            "Seconds between two turns, made longer where the budget of the target wants it.",
            "target",
            "sampler",
        )
        self.last_sample_timestamp_seconds = self._gauge(
            "last_sample_timestamp_seconds", "Unix time of the last sample.", "target", "sampler"
        )
        self.pg_query_duration_seconds = self._histogram(
            "pg_query_duration_seconds",
            "Seconds that one turn of a sampler took on the server.",
            _QUERY_BUCKETS,
            "sampler",
        )
        self.pg_up = self._gauge(
            "pg_up", "1 if the target answers; of targets where something is sampled.", "target"
        )
        self.pg_connections = self._gauge(
            "pg_connections", "Sessions that the agent holds, at most 2.", "target"
        )
        self.masking_failures_total = self._counter(
            "masking_failures_total", "Texts that were withheld instead of masked.", "reason"
        )
        for reason in MASKING_FAILURES:
            self.masking_failures_total.labels(reason)
        self.http_requests_refused_total = self._counter(
            "http_requests_refused_total",
            "Requests that were not let in.",
            "reason",
        )
        for reason in REFUSALS:
            self.http_requests_refused_total.labels(reason)
        self.pii_found_total = self._counter(
            "pii_found_total", "Personal data that was hidden in texts, once for each text.", "kind"
        )
        for kind in PII:
            self.pii_found_total.labels(kind)

    def _describe_lines(self) -> None:
        self.lines_produced_total = self._counter(
            "lines_produced_total", "Lines put into the buffer: the sum of the four others."
        )
        self.lines_delivered_total = self._counter(
            "lines_delivered_total", "Lines that the outlet acknowledged."
        )
        self.lines_buffered = self._gauge("lines_buffered", "Lines that wait in the buffer.")
        self.lines_quarantined = self._gauge(
            "lines_quarantined", "Lines that the outlet refused and the agent keeps."
        )
        self.lines_refused_total = self._counter(
            "lines_refused_total", "Lines that the outlet refused: they went into quarantine."
        )
        self.lines_lost_total = self._counter("lines_lost_total", "Lines given up.", "reason")
        for reason in LOSS_REASONS:
            self.lines_lost_total.labels(reason)
        self.buffer_memory_bytes = self._gauge(
            "buffer_memory_bytes", "Memory that the buffered lines take, bookkeeping included."
        )
        self.buffer_disk_bytes = self._gauge(
            "buffer_disk_bytes", "Backlog on disk that does not fit in memory."
        )
        self.buffer_journal_bytes = self._gauge(
            "buffer_journal_bytes", "What else is on disk: lines that are in memory, too."
        )
        self.buffer_seconds_remaining = self._gauge(
            "buffer_seconds_remaining", "Seconds until the buffer is full, if nothing is delivered."
        )
        self.is_draining = self._gauge(
            "is_draining", "1 while a backlog waits on disk that does not fit in memory."
        )
        self.buffer_disk_usable = self._gauge(
            "buffer_disk_usable", "1 while the disk buffer can be used, 0 while memory has to do."
        )
        self.buffer_capacity_bytes = self._gauge(
            "buffer_capacity_bytes", "What a tier of the buffer may hold.", "tier"
        )
        for tier in TIERS:
            self.buffer_capacity_bytes.labels(tier)
        self.buffer_oldest_sample_age_seconds = self._gauge(
            "buffer_oldest_sample_age_seconds", "Age of the oldest line that waits; 0 if none."
        )
        self.delivery_lag_seconds = self._histogram(
            "delivery_lag_seconds",
            "Age of the oldest line of a batch when the outlet acknowledged it.",
            _LAG_BUCKETS,
        )

    def _describe_output(self) -> None:
        self.output_success_total = self._counter(
            "output_success_total", "Batches delivered.", "output"
        )
        self.output_errors_total = self._counter(
            "output_errors_total", "Attempts that delivered nothing.", "output", "reason"
        )
        self.output_bytes_total = self._counter(
            "output_bytes_total", "Bytes written, or sent after compression.", "output"
        )
        self.output_uncompressed_bytes_total = self._counter(
            "output_uncompressed_bytes_total", "The same bytes before compression.", "output"
        )
        self.output_duration_seconds = self._histogram(
            "output_duration_seconds",
            "Seconds that it took to deliver a batch.",
            _DELIVERY_BUCKETS,
            "output",
        )
        self.output_last_success_timestamp_seconds = self._gauge(
            "output_last_success_timestamp_seconds", "Unix time of the last delivery.", "output"
        )
        self.token_expiry_timestamp_seconds = self._gauge(
            "token_expiry_timestamp_seconds", "When the access token expires; 0 without one."
        )
        self.cert_expiry_timestamp_seconds = self._gauge(
            "cert_expiry_timestamp_seconds",
            "When a certificate that the agent shows ends: to a target, the platform, its guests.",
            "path_role",
        )
        self.cert_not_before_timestamp_seconds = self._gauge(
            "cert_not_before_timestamp_seconds", "When such a certificate began.", "path_role"
        )
        self.clock_skew_seconds = self._gauge(
            "clock_skew_seconds", "How far this host's clock is ahead of the platform's."
        )

    def _describe_device(self) -> None:
        self.device_state = self._gauge("device_state", "1 for the present state.", "state")
        for state in DEVICE_STATES:
            self.device_state.labels(state)
        self.plan_info = self._gauge("plan_info", "The plan in force; always 1.", "plan")
        self.policy_received_timestamp_seconds = self._gauge(
            "policy_received_timestamp_seconds",
            "Unix time at which the platform last said what the plan allows; 0 without one.",
        )
        self.platform_last_contact_timestamp_seconds = self._gauge(
            "platform_last_contact_timestamp_seconds",
            "Unix time at which the platform last answered as it should; 0 without one.",
        )
        self.grace_seconds_remaining = self._gauge(
            "grace_seconds_remaining",
            "Seconds for which the plan holds if the platform is not heard of; 0 without one.",
        )
        self.grace_seconds = self._gauge(
            "grace_seconds",
            "Seconds of grace that the plan gives, after three heartbeats missed; 0 without one.",
        )

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(f"{PREFIX}_{name}", meaning, labels, registry=self.registry)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}_{name}", meaning, labels, registry=self.registry)

    def _histogram(
        self, name: str, meaning: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(
            f"{PREFIX}_{name}", meaning, labels, registry=self.registry, buckets=buckets
        )
