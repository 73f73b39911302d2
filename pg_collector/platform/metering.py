"""What the platform counts, for Prometheus."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Numbers:
    """The metrics, on a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self.requests = Counter(
            "pgc_platform_requests", "Requests answered", ("route", "status"),
            registry=self._registry,
        )  # fmt: skip
        self.request_seconds = Histogram(
            "pgc_platform_request_seconds", "From the whole request to its answer", ("route",),
            buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip
        self.received_bytes = self._counter("received_bytes", "Bodies of requests, as they came")
        self.inflated_bytes = self._counter("inflated_bytes", "Bodies of batches, inflated")
        self.batches = self._counter("batches", "Batches acknowledged")
        self.lines = self._counter("lines_stored", "Lines committed")
        self.duplicates = self._counter("lines_duplicate", "Lines that were known")
        self.rejected = self._counter("lines_rejected", "Lines that were not taken")
        self.missing = self._counter("lines_missing", "Numbers that came as gaps")
        self.activations = self._counter("activations", "Activations granted")
        self.refreshes = self._counter("refreshes", "Refresh tokens taken")
        self.families_ended = self._counter("families_ended", "Refresh tokens used again too late")
        self.expired = self._counter("lines_expired", "Lines deleted by retention")
        self.commit_seconds = Histogram(
            "pgc_platform_commit_seconds", "One transaction of samples and ledger",
            buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip
        self.commit_batches = Histogram(
            "pgc_platform_commit_batches", "Batches that one transaction took",
            buckets=(1, 2, 4, 8, 16, 32), registry=self._registry,
        )  # fmt: skip
        self.started = Gauge(
            "pgc_platform_start_time_seconds", "When it began", registry=self._registry
        )

    def observe(self, route: str, status: int, seconds: float, received: int) -> None:
        """Count an answer."""
        self.requests.labels(route, str(status)).inc()
        self.request_seconds.labels(route).observe(seconds)
        self.received_bytes.inc(received)

    def text(self) -> bytes:
        """Return everything in the text format of Prometheus."""
        return generate_latest(self._registry)

    def _counter(self, name: str, says: str) -> Counter:
        return Counter(f"pgc_platform_{name}", says, registry=self._registry)
