"""What the agent counts of itself, in Prometheus' terms, in a registry of its own.

Every metric is an attribute named as the metric without the prefix `pg_collector_`:
`metrics.lines_lost_total` is `pg_collector_lines_lost_total`. Names, units and labels follow
https://prometheus.io/docs/practices/naming/. Where the values of a label are known beforehand, they
exist from the start with 0, because `rate()` and `increase()` miss the first step of a series that
appears with 1.
"""

import platform
from collections.abc import Iterable
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

# Of the reasons of `sample_errors_total`, those that come and go; the others are lasting states.
_PASSING_ERRORS: Final = ("timeout", "lock", "error", "down", "refused")
_SKIP_REASONS: Final = ("still_running", "lane_busy", "budget")
_REFUSALS = ("address", "token")
_PII = ("email", "card", "ssn", "phone")
_MASKING_FAILURES: Final = ("exception", "budget")
_COMPONENTS: Final = ("scheduler", "runner", "sender", "health", "breaker", "reload")
_QUERY_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """All metrics of one agent. Thread-safe, as the library's metrics are."""

    def __init__(self, clock: Clock, *, commit: str = "unknown") -> None:
        # A switch of the whole library: otherwise every counter comes twice.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._describe_agent(clock, commit)
        self._describe_sampling()
        self._describe_lines()
        self._describe_output()
        self._describe_device()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def introduce(self, target: str, samplers: Iterable[str]) -> None:
        """Let the series of a target exist from now on, at 0."""
        self.pg_up.labels(target)
        self.pg_connections.labels(target)
        for sampler in samplers:
            self.samples_total.labels(target, sampler)
            for reason in _PASSING_ERRORS:
                self.sample_errors_total.labels(target, sampler, reason)
            for reason in _SKIP_REASONS:
                self.sampler_skipped_total.labels(sampler, reason)

    def forget(self, target: str) -> None:
        """Drop the series of a target that is no longer configured."""
        for metric in (
            self.pg_up,
            self.pg_connections,
            self.samples_total,
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
        for component in _COMPONENTS:
            self.panics_recovered_total.labels(component)
        self.watchdog_component_age_seconds = self._gauge(
            "watchdog_component_age_seconds", "Seconds since a thread gave a sign.", "component"
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
        self.pg_query_duration_seconds = Histogram(
            f"{PREFIX}_pg_query_duration_seconds",
            "Seconds that one turn of a sampler took on the server.",
            ("sampler",),
            registry=self.registry,
            buckets=_QUERY_BUCKETS,
        )
        self.pg_up = self._gauge("pg_up", "1 if the target answers.", "target")
        self.pg_connections = self._gauge(
            "pg_connections", "Sessions that the agent holds, at most 2.", "target"
        )
        self.masking_failures_total = self._counter(
            "masking_failures_total", "Texts that were withheld instead of masked.", "reason"
        )
        for reason in _MASKING_FAILURES:
            self.masking_failures_total.labels(reason)
        self.http_requests_refused_total = self._counter(
            "http_requests_refused_total",
            "Requests that were not let in.",
            "reason",
        )
        for reason in _REFUSALS:
            self.http_requests_refused_total.labels(reason)
        self.pii_found_total = self._counter(
            "pii_found_total", "Personal data that was hidden in texts, once for each text.", "kind"
        )
        for kind in _PII:
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
        for tier in ("memory", "disk"):
            self.buffer_capacity_bytes.labels(tier)
        self.buffer_oldest_sample_age_seconds = self._gauge(
            "buffer_oldest_sample_age_seconds", "Age of the oldest line that waits; 0 if none."
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
        self.clock_skew_seconds = self._gauge(
            "clock_skew_seconds", "How far this host's clock is ahead of the platform's."
        )

    def _describe_device(self) -> None:
        self.device_state = self._gauge("device_state", "1 for the present state.", "state")
        for state in DEVICE_STATES:
            self.device_state.labels(state)
        self.plan_info = self._gauge("plan_info", "The plan in force; always 1.", "plan")

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(f"{PREFIX}_{name}", meaning, labels, registry=self.registry)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}_{name}", meaning, labels, registry=self.registry)
