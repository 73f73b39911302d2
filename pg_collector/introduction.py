"""How a target introduces itself: the `server` lines that say what the server is."""

import threading
from collections.abc import Callable

import msgspec

from pg_collector import __version__
from pg_collector.buffer import Intake
from pg_collector.clock import Clock, rfc3339
from pg_collector.config.model import Database
from pg_collector.pg.session import Session
from pg_collector.privacy.mask import Masker
from pg_collector.sample import Body, Facts, Keep, Sample
from pg_collector.samplers._sampler import LaneName
from pg_collector.schedule import Job

_COLUMNS = (
    "server_version_num",
    "in_recovery",
    "current_user",
    "postmaster_start_time",
    "timeline_id",
    "extensions",
    "settings",
    "tags",
    "agent_version",
)


_TYPED = ("cluster_name",)  # settings that are a name somebody gave


class Introduction:
    """Of one target; its lanes share it."""

    def __init__(
        self, database: Database, buffer: Intake, clock: Clock, masker: Callable[[], Masker]
    ) -> None:
        """`masker` gives what names are to be masked with."""
        self._masker = masker
        self._buffer = buffer
        self._clock = clock
        self._lock = threading.Lock()  # guards all that follows
        self._database = database
        self._facts: dict[LaneName, Facts] = {}  # those of each lane
        self._sessions: dict[LaneName, Session] = {}
        self._told: bytes | None = None
        self._masked_with: Masker | None = None
        self._losses = 0  # of the buffer, when it was told

    def renew(self, database: Database) -> None:
        """Look again whether there is news: the configuration is another one, and its tags."""
        with self._lock:
            self._facts.clear()
            self._database = database

    def tell(self, job: Job, session: Session) -> None:
        """Put a `server` line into the buffer where a lane's facts are new, and tell news.

        After a connection of the fast lane, and after a loss, they are told all the same.
        """
        facts = session.facts
        losses = self._buffer.losses
        masker = self._masker()
        with self._lock:
            if masker is not self._masked_with:
                self._masked_with = masker
                self._facts.clear()
            database = self._database
            lost = losses != self._losses
            if facts is self._facts.get(job.lane) and not lost:
                return
            again = job.lane is LaneName.FAST and session is not self._sessions.get(job.lane)
            self._facts[job.lane], self._sessions[job.lane] = facts, session
            row = _row(facts, database, masker)
            encoded = msgspec.json.encode(row)
            if encoded == self._told and not again and not lost:
                return
            self._told, self._losses = encoded, losses
        sample = Sample(
            v=1,
            set="server",
            schema=1,
            target=database.name,
            at=rfc3339(self._clock.now()),
            every_s=job.every,
            took_ms=0.0,
            server=facts.system_identifier,
            epoch=facts.shared_stats_reset,
            c=_COLUMNS,
        )
        body = Body()
        body.add(row)
        for line in sample.lines(body):
            self._buffer.put(line, Keep.FACT)


def _row(facts: Facts, database: Database, masker: Masker) -> tuple[object, ...]:
    return (
        facts.version,
        facts.in_recovery,
        masker.name(facts.role),
        facts.started_at,
        facts.timeline,
        {name: extension.version for name, extension in facts.extensions.items()},
        {
            name: masker.free(text) if name in _TYPED else text
            for name, text in facts.settings.items()
        },
        database.tags,
        __version__,
    )
