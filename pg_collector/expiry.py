"""Certificates that end soon: told in the log, in the health report, and as a metric.

Whoever renews them replaces the file; that it was replaced is seen within a minute.
"""

import datetime as dt
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from pg_collector import certificates
from pg_collector.certificates import Validity
from pg_collector.clock import Clock
from pg_collector.config.model import Config
from pg_collector.errors import ConfigurationError
from pg_collector.health import vitals
from pg_collector.health.vitals import Vital
from pg_collector.metrics import Metrics
from pg_collector.pg import conninfo
from pg_collector.trust import Stamp, stamp

log = logging.getLogger(__name__)

WARN_AT: Final = (30, 7, 1)  # days before the end, if that is not half of the whole time
ANEW: Final = 3600.0  # seconds after which a file that did not change is judged again
_DAY: Final = 86_400.0  # seconds
_REMEDY: Final = "Renew it and replace the file; no restart is needed"


class _Known(NamedTuple):
    path: Path
    stamp: Stamp | None
    valid: Validity | None


class Expiry:
    """Watches the files of the agent's own certificates. `look` is for one thread."""

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self._looked_at = -ANEW
        self._of: Config | None = None
        self._wanted: dict[str, Path] = {}  # by role, of that configuration
        self._known: dict[str, _Known] = {}  # by role; replaced as a whole
        self._told: dict[str, int] = {}  # the last of WARN_AT that was told, by role

    def look(self, config: Config) -> None:
        """Read what changed, and once an hour everything; never raises."""
        now = self._clock.monotonic()
        if self._of is not config:
            self._of, self._wanted = config, _files(config)
        wanted = self._wanted
        stamps = {role: stamp(path) for role, path in wanted.items()}
        known = {role: (one.path, one.stamp) for role, one in self._known.items()}
        if now - self._looked_at < ANEW and known == {r: (wanted[r], stamps[r]) for r in wanted}:
            return
        self._looked_at = now
        for role in self._known.keys() - wanted.keys():
            self._show(role, None)
            self._told.pop(role, None)
        self._known = {
            role: _Known(path, stamps[role], self._read(role, path))
            for role, path in wanted.items()
        }
        for role, one in self._known.items():
            self._tell(role, one)

    def vital(self, broken: Callable[[str], bool] = lambda _role: False) -> Vital:
        """Say which certificates have ended, or end within WARN_AT.

        `broken` says whether what one of that role is for does not work: then an ended one is why.
        """
        now = self._clock.now()
        ends = {role: (one.path, one.valid) for role, one in self._known.items() if one.valid}
        faults = {
            role: _said(role, path, valid.end, now)
            for role, (path, valid) in ends.items()
            if _reached(valid, now) is not None
        }
        if not faults:
            return vitals.OK
        ended = any(_reached(ends[role][1], now) == 0 and broken(role) for role in faults)
        state = vitals.State.DOWN if ended else vitals.State.DEGRADED
        return Vital(state=state, reason="; ".join(faults.values()), remedy=_REMEDY)

    def _read(self, role: str, path: Path) -> Validity | None:
        """Return the validity; None where whoever uses the file will complain of it."""
        valid: Validity | None
        try:
            valid = certificates.validity(path)
        except (ConfigurationError, ValueError):
            valid = None
        self._show(role, valid)
        return valid

    def _show(self, role: str, valid: Validity | None) -> None:
        ends = self._metrics.cert_expiry_timestamp_seconds
        begins = self._metrics.cert_not_before_timestamp_seconds
        if valid is None:
            for metric in (ends, begins):
                metric.remove_by_labels({"path_role": role})
        else:
            ends.labels(role).set(valid.end.timestamp())
            begins.labels(role).set(valid.begin.timestamp())

    def _tell(self, role: str, one: _Known) -> None:
        """Write a line when a certificate comes nearer to its end than one of WARN_AT."""
        now = self._clock.now()
        before = self._told.pop(role, None)
        reached = _reached(one.valid, now) if one.valid is not None else None
        if one.valid is None or reached is None:
            return
        self._told[role] = reached
        if reached != before:
            extra = {"component": role, "remedy": _REMEDY}
            log.warning("%s", _said(role, one.path, one.valid.end, now), extra=extra)


def _reached(valid: Validity, now: dt.datetime) -> int | None:
    """Return the last of WARN_AT that is reached, 0 after the end, None before all of them."""
    left = _days(valid.end, now)
    if left <= 0:
        return 0
    half = _days(valid.end, valid.begin) / 2
    return next((days for days in reversed(WARN_AT) if left <= days < half), None)


def _files(config: Config) -> dict[str, Path]:
    """Return the file of each certificate that the agent itself shows, by its role."""
    found: dict[str, Path] = {}
    for database in config.databases:
        path = conninfo.shown_certificate(database) if database.enabled else None
        if path is not None:
            found[f"postgres:{database.name}"] = path
    if config.platform.url is not None and config.platform.client_cert.cert_file is not None:
        found["platform"] = config.platform.client_cert.cert_file
    if config.http.address != "off" and config.http.tls.cert_file is not None:
        found["http"] = config.http.tls.cert_file
    return found


def _days(end: dt.datetime, now: dt.datetime) -> float:
    return (end - now).total_seconds() / _DAY


def _said(role: str, path: Path, end: dt.datetime, now: dt.datetime) -> str:
    days = _days(end, now)
    when = f"on {end:%Y-%m-%d} at {end:%H:%M} UTC"
    if days <= 0:
        return f"the certificate of {role}, {path}, expired {when}"
    left = f"{days:.0f} days" if days >= 2 else f"{days * 24:.0f} hours"  # noqa: PLR2004
    return f"the certificate of {role}, {path}, expires in {left}, {when}"
