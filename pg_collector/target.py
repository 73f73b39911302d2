"""A configured database: its two lanes, its turns, its states, and how it introduces itself."""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from pg_collector import __version__
from pg_collector.buffer import Buffer
from pg_collector.clock import Clock, rfc3339
from pg_collector.config.model import Database
from pg_collector.errors import ConfigurationError, TargetError, TargetRefused
from pg_collector.metrics import Metrics
from pg_collector.pg.lanes import Lane
from pg_collector.pg.session import Session
from pg_collector.runner import Runner
from pg_collector.sample import Body, Facts, Keep, Sample
from pg_collector.samplers._sampler import LaneName, Sampler
from pg_collector.schedule import Job
from pg_collector.states import OK, State, States
from pg_collector.turn import Turn

log = logging.getLogger(__name__)

T = TypeVar("T")

_SERVER_COLUMNS = (
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


class Target:
    """One target. Its lanes' threads, and nobody else, take its turns."""

    def __init__(
        self,
        database: Database,
        samplers: Mapping[str, Sampler],
        runner: Runner,
        *,
        buffer: Buffer,
        metrics: Metrics,
        clock: Clock,
        stopping: threading.Event,
        password: Callable[[], str] | None = None,
    ) -> None:
        self.database = database
        self.name = database.name
        self.states = States(database.name, buffer)
        self._samplers = samplers
        self._runner = runner
        self._buffer = buffer
        self._metrics = metrics
        self._clock = clock
        self._lock = threading.Lock()
        self._turns: dict[str, Turn] = {}  # guarded by _lock
        self._introduced: bytes | None = None  # guarded by _lock
        self._trouble: str | None = None  # guarded by _lock
        self._fast_session: Session | None = None  # guarded by _lock
        relations = frozenset(name for one in samplers.values() for name in one.relations)
        lanes = (LaneName.FAST, LaneName.SLOW)[: database.postgres.max_connections]
        self._lanes = {
            name: Lane(
                database,
                name,
                relations=relations,
                stopping=stopping,
                password=password,
                clock=clock,
                on_change=self._on_change,
            )
            for name in lanes
        }

    @property
    def connected(self) -> bool:
        """Whether at least one lane has a session."""
        return any(lane.connected for lane in self._lanes.values())

    @property
    def trouble(self) -> str | None:
        """Why the target cannot be used, with the remedy; None if it can."""
        with self._lock:
            return self._trouble

    @property
    def turns(self) -> dict[str, Turn]:
        """The turns so far, by sampler."""
        with self._lock:
            return dict(self._turns)

    def take(self, job: Job) -> None:
        """Be one run of a job: take the turn, or say why there was none. Never raises."""
        turn = self._turn(job)
        lane = self._lanes[job.lane]
        try:
            session = lane.session()
            self._introduce(session, job)
            self._runner.take(turn, session)
        except TargetError as error:
            lane.drop(error)
            self._missed(job, error)
        except ConfigurationError as error:
            # Something that was well at the start, as a password file, is so no more.
            self._missed(job, TargetRefused(str(error), remedy=error.remedy))
        except Exception:
            # A fault of ours in one turn must not end the others; it is counted and shown.
            log.exception("a turn of %s failed", job.sampler, extra={"target": self.name})
            self._metrics.panics_recovered_total.labels(component="runner").inc()
            self._failed(job, "panic")
        else:
            self._well(job)

    def lane_for(self, sampler: Sampler) -> LaneName:
        """Return the lane that a sampler's turns are taken on."""
        return sampler.lane if sampler.lane in self._lanes else LaneName.FAST

    def lend(self, name: LaneName, work: Callable[[Session], T]) -> T:
        """Do `work` with a lane's session, in that lane's thread; raises what it raises."""
        lane = self._lanes[name]
        try:
            return work(lane.session())
        except TargetError as error:
            lane.drop(error)
            raise

    def interrupt(self) -> None:
        """Free the lanes' threads from whatever they wait for."""
        for lane in self._lanes.values():
            lane.interrupt()

    def close(self) -> None:
        """Close the sessions."""
        for lane in self._lanes.values():
            lane.close()

    def _introduce(self, session: Session, job: Job) -> None:
        """Put a `server` line into the buffer after a connection, or where its content is news."""
        facts = session.facts
        row = _server_row(facts, self.database)
        encoded = msgspec.json.encode(row)
        with self._lock:
            again = job.lane is LaneName.FAST and session is not self._fast_session
            if encoded == self._introduced and not again:
                return
            self._introduced = encoded
            if job.lane is LaneName.FAST:
                self._fast_session = session
        sample = Sample(
            v=1,
            set="server",
            schema=1,
            target=self.name,
            at=rfc3339(self._clock.now()),
            every_s=job.every,
            took_ms=0.0,
            server=facts.system_identifier,
            epoch=facts.shared_stats_reset,
            c=_SERVER_COLUMNS,
        )
        body = Body()
        body.add(row)
        for line in sample.lines(body):
            self._buffer.put(line, Keep.FACT)

    def _turn(self, job: Job) -> Turn:
        with self._lock:
            turn = self._turns.get(job.sampler)
            if turn is None or turn.every != job.every:
                sampler = self._samplers[job.sampler]
                turn = self._turns[job.sampler] = Turn(sampler, self.name, job.every, self.states)
            return turn

    def _missed(self, job: Job, error: TargetError) -> None:
        with self._lock:
            news = self._trouble != error.sentence()
            self._trouble = error.sentence()
        if news:
            extra = {"target": self.name, "sqlstate": error.sqlstate, "remedy": error.remedy}
            log.warning("cannot use %s: %s", self.name, error, extra=extra)
        refused = isinstance(error, TargetRefused)
        self._failed(job, "refused" if refused else "down")
        state = State(
            state="down",
            reason="refused" if refused else "down",
            sqlstate=error.sqlstate,
            message=str(error),
            remedy=error.remedy or None,
        )
        self._tell(job, state)

    def _well(self, job: Job) -> None:
        with self._lock:
            was, self._trouble = self._trouble, None
        if was is not None:
            log.info("%s is back", self.name, extra={"target": self.name})
        self._tell(job, OK)

    def _tell(self, job: Job, state: State) -> None:
        at = rfc3339(self._clock.now())
        self.states.tell(job.sampler, None, state, at=at, every=job.every)

    def _failed(self, job: Job, reason: str) -> None:
        self._metrics.sample_errors_total.labels(
            target=self.name, sampler=job.sampler, reason=reason
        ).inc()

    def _on_change(self, _connected: bool) -> None:  # noqa: FBT001  # the lane's callback
        lanes = self._lanes.values()
        self._metrics.pg_connections.labels(target=self.name).set(
            sum(lane.connected for lane in lanes)
        )
        self._metrics.pg_up.labels(target=self.name).set(any(lane.connected for lane in lanes))


def _server_row(facts: Facts, database: Database) -> tuple[object, ...]:
    return (
        facts.version,
        facts.in_recovery,
        facts.role,
        facts.started_at,
        facts.timeline,
        {name: extension.version for name, extension in facts.extensions.items()},
        facts.settings,
        database.tags,
        __version__,
    )
