"""What each path of the agent's HTTP server answers. No sockets here."""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final, NamedTuple
from urllib.parse import parse_qs, urlsplit

import msgspec

from pg_collector.health.shared import Shared
from pg_collector.health.vitals import Report, State, Vital, Vitals
from pg_collector.metrics import Metrics

TEXT: Final = "text/plain; charset=utf-8"
JSON: Final = "application/json"

_INDEX: Final = """\
pg-collector
  /healthz   is every part well: 200 ok or degraded, 503 down or stopped (?verbose, ?strict=1)
  /livez     do the agent's own threads live (?verbose)
  /readyz    does it collect; if not, why, and what helps (?verbose)
  /status    targets, samplers, buffer, output, device: what `pgc status` shows
  /watchdog  the threads: when each gave a sign, when the next one is due
  /metrics   numbers for Prometheus
  /version   what runs here
"""
_MARK: Final = {State.OK: "[+]", State.DEGRADED: "[!]", State.UNKNOWN: "[?]"}


class Page(NamedTuple):
    """An answer: status, body and its type."""

    status: HTTPStatus
    body: bytes
    content_type: str = TEXT


class Pages:
    """The paths. `version` is what /version shows, `status` returns what /status shows: JSON."""

    def __init__(
        self,
        vitals: Vitals,
        metrics: Metrics,
        version: Mapping[str, str],
        status: Callable[[], bytes],
    ) -> None:
        self._exposition = Shared(metrics.render)
        self._documents: dict[str, Callable[[], bytes]] = {
            "/status": status,
            "/watchdog": lambda: msgspec.json.encode(vitals.pulse()) + b"\n",
            "/version": lambda: msgspec.json.encode(version),
        }
        self._reports: dict[str, Callable[[], Report]] = {
            "/healthz": vitals.health,
            "/health": vitals.health,
            "/livez": vitals.liveness,
            "/readyz": vitals.readiness,
        }

    def get(self, target: str, accept: str) -> Page:
        """Answer a GET of a request target (path and query) with that Accept header."""
        try:
            path, query = urlsplit(target)[2:4]
            options = parse_qs(query, keep_blank_values=True, max_num_fields=8)
        except ValueError:
            return text(HTTPStatus.BAD_REQUEST, "this is no path")
        if path in self._reports:
            return _page(path, self._reports[path](), options)
        if path == "/metrics":
            body, content_type = self._exposition.get(accept)
            return Page(HTTPStatus.OK, body, content_type)
        if path in self._documents:
            return Page(HTTPStatus.OK, self._documents[path](), JSON)
        if path == "/":
            return Page(HTTPStatus.OK, _INDEX.encode())
        return text(HTTPStatus.NOT_FOUND, "no such page; / lists them")


def text(status: HTTPStatus, sentence: str) -> Page:
    """Make a page of one line."""
    return Page(status, f"{sentence}\n".encode())


def _page(path: str, report: Report, options: Mapping[str, list[str]]) -> Page:
    strict = options.get("strict", ["0"])[-1] not in {"0", "false"}
    well = report.status is State.OK if strict else report.well
    status = HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE
    if "verbose" not in options:
        return Page(status, msgspec.json.encode(report) + b"\n", JSON)
    lines = [_line(name, vital) for name, vital in report.parts.items()]
    lines.append(f"{path[1:]}: {report.status}")
    return text(status, "\n".join(lines))


def _line(name: str, vital: Vital) -> str:
    line = f"{_MARK.get(vital.state, '[-]')}{name} {vital.state}"
    if vital.reason:
        line += f": {vital.reason}"
    if vital.remedy:
        line += f" ({vital.remedy})"
    return line
