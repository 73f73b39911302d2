"""The audit log: who was let in, what was refused, what changed. One JSON object a line.

Everybody writes to the logger `pg_collector.audit`, by `audit.info("…", extra={…})`; those records
are in the agent's log, too. Where the configuration asks for it and the plan has it, they go to a
file of their own as well, which only its owner may read, redacted like every other log.
docs/specs/audit.md names the records.
"""

import logging
import os
from pathlib import Path
from typing import Final

from pg_collector import logs
from pg_collector.config.model import Config
from pg_collector.errors import StateError
from pg_collector.health import vitals
from pg_collector.health.vitals import Vital
from pg_collector.plan import DEMO, Grant
from pg_collector.privacy.scrub import scrub

log = logging.getLogger(__name__)
records: Final = logging.getLogger("pg_collector.audit")

MODE: Final = 0o600
LARGEST: Final = 10 * 1024 * 1024  # bytes of a file
KEPT: Final = 5  # older files
REMEDY: Final = "Let the agent's user write there, or set security.audit_log_path."


class AuditLog:
    """The file, as long as it is wanted."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._handler: logging.Handler | None = None
        self._sink: RotatingSink | None = None
        self._lacking = False  # whether it was said that the plan has none
        self._trouble = ""  # why there is none, although it is wanted

    def follow(self, config: Config, grant: Grant | None) -> None:
        """Write from now on, or no more, as a configuration asks and a plan allows.

        Raises StateError where the file cannot be written; then nothing has changed.
        """
        security = config.security
        allowed = (grant or DEMO).features.audit_log
        if security.audit_logging and grant is not None and not allowed and not self._lacking:
            log.warning("security.audit_logging: the plan %s has no audit log", grant.plan)
        self._lacking = security.audit_logging and grant is not None and not allowed
        wanted = security.audit_log_path if security.audit_logging and allowed else None
        if wanted == self._path:
            return
        sink = RotatingSink(wanted) if wanted is not None else None
        self.close()
        if sink is None:
            return
        handler = logs.LineHandler([sink], scrub, json=True, window=0.0)
        records.addHandler(handler)
        records.setLevel(logging.INFO)
        self._path, self._handler, self._sink = wanted, handler, sink
        records.info("the audit log begins", extra={"uid": os.getuid(), "pid": os.getpid()})

    def follow_later(self, config: Config, grant: Grant | None) -> None:
        """Do the same; where it fails, go on and say so: what runs is not ended for its books."""
        try:
            self.follow(config, grant)
        except StateError as error:
            if str(error) != self._trouble:
                log.error("%s", error, extra={"remedy": error.remedy})  # no trace
            self._trouble = str(error)
        else:
            self._trouble = ""

    def close(self) -> None:
        """Write no more."""
        if self._handler is not None:
            records.info("the audit log ends")
            records.removeHandler(self._handler)
            self._handler.close()
        self._path = self._handler = self._sink = None

    def vital(self) -> Vital:
        """Say in the health report where records were lost."""
        reason = self._trouble
        if self._sink is not None and self._sink.lost:
            reason = f"{self._sink.lost} records could not be written to {self._path}"
        if not reason:
            return vitals.OK
        return Vital(state=vitals.State.DEGRADED, reason=reason, remedy=REMEDY)


class RotatingSink(logs.FileSink):
    """A file that is put aside when it grows too large; a few older ones are kept."""

    def __init__(self, path: Path, largest: int = LARGEST) -> None:
        """Raise StateError where it cannot be opened."""
        self._largest = largest
        try:
            super().__init__(path, MODE)
        except StateError as error:
            raise StateError(
                f"cannot write the audit log to {path}: {error.__cause__}", remedy=REMEDY
            ) from error

    def opened(self, fd: int) -> None:
        """Let nobody else read it, whoever made it."""
        os.fchmod(fd, MODE)

    def loss(self, lines: int) -> str:
        """Return the line that says how many are missing."""
        return logs.as_note(f"{lines} records were lost", "audit")

    def put(self, line: str, level: str) -> None:
        """Write a line, in a new file where the one that is there is full."""
        try:
            if os.fstat(self.fd).st_size + len(line) > self._largest:
                self._put_aside()
        except OSError as error:
            log.debug("the audit log cannot be put aside: %s", error)
        super().put(line, level)

    def _put_aside(self) -> None:
        names = [self.path, *(Path(f"{self.path}.{number}") for number in range(1, KEPT + 1))]
        for older, newer in zip(reversed(names[1:]), reversed(names[:-1]), strict=True):
            if newer.exists():
                newer.replace(older)
