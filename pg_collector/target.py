"""A configured database: its two lanes, its turns, its states, and how it introduces itself."""

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import NamedTuple, TypeVar

from pg_collector.breaker import Breaker
from pg_collector.budget import Budget, Pace, Slowed
from pg_collector.buffer import Intake
from pg_collector.clock import Clock, rfc3339
from pg_collector.config.model import Breaker as Limits
from pg_collector.config.model import Database
from pg_collector.errors import (
    ConfigurationError,
    LoginRefused,
    SamplerError,
    TargetDown,
    TargetError,
    TargetRefused,
)
from pg_collector.introduction import Introduction
from pg_collector.metrics import Metrics
from pg_collector.pg import databases
from pg_collector.pg.auth.login import Login
from pg_collector.pg.lanes import Lane
from pg_collector.pg.session import Session
from pg_collector.privacy.scrub import scrub_error
from pg_collector.runner import Runner
from pg_collector.sample import Facts
from pg_collector.samplers._sampler import LaneName, Sampler, Scope
from pg_collector.schedule import Job
from pg_collector.states import OK, State, States
from pg_collector.tour import Tour
from pg_collector.turn import Outcome, Turn

log = logging.getLogger(__name__)
audit = logging.getLogger("pg_collector.audit")

T = TypeVar("T")

# Of how many visited databases a sampler remembers its lines, and how many rows all of them may
# have. Those that came first stay: of a round that is longer, the last ones seen come last again.
VISITS_KEPT = 64
ROWS_KEPT = 50_000


class Tally(NamedTuple):
    """The turns of a sampler since the start; `last` ended at `at`, on the monotonic clock."""

    ok: int = 0
    failed: int = 0
    skipped: int = 0
    last: Outcome | None = None
    at: float = 0.0


_RARER = "Sample more seldom, or allow more: sampling.budget."


class Target:
    """One target. Its lanes' threads, and nobody else, take its turns."""

    def __init__(
        self,
        database: Database,
        samplers: Mapping[str, Sampler],
        runner: Runner,
        *,
        buffer: Intake,
        metrics: Metrics,
        clock: Clock,
        stopping: threading.Event,
        limits: Limits | None = None,
        budget: float | None = None,
        login: Login | None = None,
        token_breaker: Breaker | None = None,
    ) -> None:
        """Build it; nothing connects before a turn.

        `login` is the way to log in, by default the configuration's; `token_breaker` is that of the
        endpoint that gives its tokens.

        `limits` are those of its breaker, `budget` the part of one core of the server that all its
        samplers may take together; None: any.
        """
        self.database = database
        self.name = database.name
        self.states = States(database.name, buffer, lambda: runner.masker)
        limits = limits or Limits()
        self.breaker = Breaker(
            f"postgres:{database.name}",
            failures=limits.failures,
            reset=limits.reset,
            counts=(TargetDown,),
            metrics=metrics,
            clock=clock,
        )
        self._token_breaker = token_breaker
        self._weakness = ""
        self._budget = Budget(budget)
        self._tours = {name: Tour(database.discover) for name in LaneName}
        self._introduction = Introduction(database, buffer, clock, lambda: runner.masker)
        self._samplers = samplers
        self._runner = runner
        self._stopping = stopping
        self._leaving = False
        self._resting = False
        self._metrics = metrics
        self._clock = clock
        self._lock = threading.Lock()
        self._turns: dict[tuple[str, str | None], Turn] = {}  # guarded by _lock
        self._visited: frozenset[str] = frozenset()  # databases, by any lane; guarded by _lock
        self._slowed: dict[str, State] = {}  # what to tell of those that are; guarded by _lock
        # Whoever only looks, takes copies of these two, and waits for nobody.
        self._turning: set[LaneName] = set()  # lanes that have turns; changed under _lock
        self._troubles: dict[LaneName, TargetError] = {}  # changed under _lock
        self._idle: frozenset[LaneName] = frozenset()  # no turns are expected there; see _lock
        self._expected: frozenset[str] = frozenset()
        self._tallies: dict[str, Tally] = {}  # by sampler, each its lane's; read by every thread
        self.facts: Facts | None = None  # of the last session in the target's own database
        relations = frozenset(name for one in samplers.values() for name in one.relations)
        lanes = (LaneName.FAST, LaneName.SLOW)[: database.postgres.max_connections]
        self._lanes = {
            name: Lane(
                database,
                name,
                relations=relations,
                stopping=stopping,
                login=login,
                clock=clock,
                breaker=self.breaker,
                on_change=self._on_change,
            )
            for name in lanes
        }

    @property
    def connected(self) -> bool:
        """Whether at least one lane has a session, or gave up one that was well.

        That only as long as turns are to come there, which would find out.
        """
        return any(
            lane.connected or (lane.between and name not in self._idle)
            for name, lane in self._lanes.items()
        )

    @property
    def connections(self) -> int:
        """How many sessions it holds."""
        return sum(lane.connected for lane in self._lanes.values())

    @property
    def trouble(self) -> TargetError | None:
        """Why the target cannot be used, or only with one of its lanes; None if it can."""
        return next(iter(self._troubles.copy().values()), None)

    @property
    def down(self) -> bool:
        """Whether no lane can be used."""
        troubles, turning = self._troubles.copy(), self._turning.copy()
        return bool(troubles) and troubles.keys() >= turning

    @property
    def answered(self) -> bool:
        """Whether a turn has had a session, or was refused one, since the start."""
        return bool(self._turning or self._troubles)

    @property
    def resting(self) -> bool:
        """Whether nothing is to be sampled here, as far as it was told."""
        return self._resting

    @property
    def slow(self) -> tuple[str, ...]:
        """The samplers at work whose last turn ran into a time limit."""
        return tuple(sorted(self._expected & self.states.timed_out()))

    @property
    def turns(self) -> dict[str, Turn]:
        """The turns so far in the target's own database, by sampler."""
        with self._lock:
            return {name: turn for (name, place), turn in self._turns.items() if place is None}

    def take(self, job: Job) -> None:
        """Be one run of a job: take the turn, or say why there was none.

        Raises nothing but what ends the process: MemoryError, SystemExit and their like.
        """
        if not self._budget.due(job.sampler):
            self._metrics.sampler_skipped_total.labels(job.sampler, "budget").inc()
            before = self.tally(job.sampler)
            self._tallies[job.sampler] = before._replace(skipped=before.skipped + 1)
            return
        lane = self._lanes[job.lane]
        place: str | None = None
        # Of the time to open sessions, what was waited for a token costs the server nothing.
        began = self._clock.monotonic() - lane.preparing
        try:
            place = self._place(job, lane)
            outcome = self._turned(job, lane, place, began)
        except TargetError as error:
            self._lost(job, lane, place, error)
        except ConfigurationError as error:
            # Something that was well at the start, as a password file, is so no more.
            self._missed(job, TargetRefused(str(error), remedy=error.remedy))
        except MemoryError:
            raise  # nothing that follows can be trusted
        except Exception:
            # A fault of ours in one turn must not end the others; it is counted and shown.
            log.exception("a turn of %s failed", job.sampler, extra={"target": self.name})
            self._metrics.panics_recovered_total.labels(component="runner").inc()
            self._failed(job, "panic")
            self._tell(job, State(state="error", message="a fault of the agent; its log has more"))
        else:
            self._well(job, place)
            self.spent(job, outcome.waited)

    def spent(self, job: Job, waited: float) -> None:
        """Count what a sampler took of the server's time, in seconds; it may become rarer."""
        slowed = self._budget.spent(job.sampler, job.every, waited)
        if slowed is not None:
            self._say(slowed)

    def tally(self, sampler: str) -> Tally:
        """Return what became of a sampler's turns so far. It waits for nobody."""
        return self._tallies.get(sampler, Tally())

    def pace(self, sampler: str) -> Pace:
        """Return how a sampler's turns come, as the budget has it."""
        return self._budget.pace(sampler)

    def lane_for(self, sampler: Sampler) -> LaneName:
        """Return the lane that a sampler's turns are taken on."""
        return sampler.lane if sampler.lane in self._lanes else LaneName.FAST

    def lend(self, name: LaneName, work: Callable[[Session], T]) -> T:
        """Do `work` with a lane's session, in that lane's thread; raises what it raises.

        A target that is not at work keeps no session from that.
        """
        lane = self._lanes[name]
        try:
            return work(lane.session())
        except TargetError as error:
            lane.drop(error)
            raise
        finally:
            if self._resting:
                lane.rest()

    @property
    def spare_lane(self) -> LaneName:
        """The lane for what may take long: the slow one, where it has a session."""
        slow = self._lanes.get(LaneName.SLOW)
        well = slow is not None and (slow.connected or slow.between)
        return LaneName.SLOW if well else LaneName.FAST

    @property
    def lanes(self) -> tuple[LaneName, ...]:
        """The names of its lanes."""
        return tuple(self._lanes)

    def connects_elsewhere(self, database: Database) -> bool:
        """Whether a changed configuration of this target needs other sessions."""
        return database.postgres != self.database.postgres

    def adopt(self, database: Database, limits: Limits, budget: float | None) -> None:
        """Take another configuration that needs no other sessions."""
        self._introduction.renew(database)
        self.database = database
        for name, tour in self._tours.items():
            if tour.discover != database.discover:
                self._tours[name] = Tour(database.discover)
        for breaker in (self.breaker, self._token_breaker):
            if breaker is not None:
                breaker.adjust(failures=limits.failures, reset=limits.reset)
        self._budget.adjust(budget)

    def expect(self, samplers: Collection[str]) -> None:
        """Hear which samplers are at work: the time of the others is free again.

        Without any, the target is not up or down, and so is a lane.
        """
        self._expected = frozenset(samplers)
        self._resting = not samplers
        used = {self.lane_for(self._samplers[one]) for one in samplers}
        with self._lock:
            self._idle = frozenset(self._lanes.keys() - used)
            for lane in self._idle:
                self._turning.discard(lane)
                self._troubles.pop(lane, None)
        self._budget.forget(self._expected)

    def leave(self) -> None:
        """Tell of no trouble any more: the target is about to be closed on purpose."""
        self._leaving = True
        self._metrics.pg_connections.labels(target=self.name).set(0)
        if not self._resting:
            self._metrics.pg_up.labels(target=self.name).set(0)
        if self._token_breaker is not None:
            component = {"component": self._token_breaker.component}
            self._metrics.circuit_breaker_state.remove_by_labels(component)

    def come_back(self, name: LaneName) -> None:
        """Have a lane leave the database that it visited; in the thread of the lane.

        Raises no more than `take` does.
        """
        lane = self._lanes.get(name)
        if lane is None:
            return
        try:
            lane.come_back()
        except MemoryError:
            raise
        except Exception:  # no descriptor is left, as an example: the next turn has to do with it
            log.exception("a visit could not be ended", extra={"target": self.name})
            self._metrics.panics_recovered_total.labels(component="runner").inc()

    def rest_lane(self, name: LaneName) -> None:
        """Close one lane's session until a turn needs it again; in the thread of the lane."""
        self._lanes[name].rest()

    def close_lane(self, name: LaneName) -> None:
        """Close one lane's session; nothing opens another one."""
        self._lanes[name].close()

    def interrupt(self) -> None:
        """Free the lanes' threads from whatever they wait for."""
        for lane in self._lanes.values():
            lane.interrupt()

    def close(self) -> None:
        """Close the sessions."""
        for lane in self._lanes.values():
            lane.close()

    def _place(self, job: Job, lane: Lane) -> str | None:
        """Return the database that a turn is taken in; None for the target's own.

        Raises TargetError where the list of databases is due and cannot be had, and where a visit
        is, and the target's own database gives no session: that concerns all of them.
        """
        tour, now = self._tours[job.lane], self._clock.monotonic()
        self._forget_unvisited(job)
        if not tour.enabled or self._samplers[job.sampler].scope is not Scope.DATABASE:
            return None
        if tour.stale(now):
            session = lane.session()
            try:
                tour.learn(databases.visitable(session.fetch), session.facts.database, now)
            except SamplerError as error:
                tour.put_off(now)
                log.warning("the databases of %s cannot be listed: %s", self.name, error)
        place = tour.next(job.sampler, now)
        if place is not None and not lane.is_in(place):
            try:
                lane.session()
            except (TargetError, ConfigurationError):
                tour.again(job.sampler)
                raise
        return place

    def _forget_unvisited(self, job: Job) -> None:
        """Forget what belongs to databases that no lane visits any more."""
        visited = frozenset[str]().union(*(tour.visited for tour in self._tours.values()))
        with self._lock:
            if visited == self._visited:
                return
            self._visited = visited
            for key in [key for key in self._turns if key[1] is not None and key[1] not in visited]:
                del self._turns[key]
        self.states.retain(visited, at=rfc3339(self._clock.now()), every=job.every)

    def _round(self, job: Job) -> int:
        """Return how many turns it takes until a sampler is in the same database again."""
        if self._samplers[job.sampler].scope is not Scope.DATABASE:
            return 1
        return self._tours[job.lane].length

    def _turned(self, job: Job, lane: Lane, place: str | None, began: float) -> Outcome:
        """Take a turn in a database. Raises TargetError, ConfigurationError."""
        if place is not None and not lane.is_in(place):
            databases.refuse_occupied(lane.session().fetch, self.name, place)
        session = lane.session(place)
        opening = self._clock.monotonic() - lane.preparing - began
        turn = self._turn(job, place)
        if place is not None:
            outcome = self._runner.take(turn, session)
            self._forget_beyond(job, place)
        else:
            self.facts = session.facts
            outcome = self._runner.take(turn, session, partial(self._introduction.tell, job))
            self.facts = session.facts
        self._count(job, outcome)
        return outcome._replace(waited=outcome.waited + opening)

    def _lost(self, job: Job, lane: Lane, place: str | None, error: TargetError) -> None:
        """Hear that a session, or the attempt to have one, came to nothing."""
        tour = self._tours[job.lane]
        if place is not None and isinstance(error, TargetRefused):  # that database alone
            tour.refused(place, self._clock.monotonic(), error.retry_in)
            self._failed(job, "refused")
            self._tell(job, _down(error), place)
            return
        lane.drop(error)
        if place is not None:
            tour.again(job.sampler)
        else:
            tour.pardon()
        self._missed(job, error)

    def _turn(self, job: Job, place: str | None) -> Turn:
        with self._lock:
            if job.lane not in self._idle:
                self._turning.add(job.lane)
            turn = self._turns.get((job.sampler, place))
            if turn is None:
                sampler = self._samplers[job.sampler]
                turn = Turn(sampler, self.name, job.every, self.states, database=place)
                self._turns[job.sampler, place] = turn
            factor = self._budget.factor(job.sampler)
            turn.every = job.every * factor * self._round(job)
            turn.slowed = self._slowed.get(job.sampler) if factor > 1 else None
            self._metrics.of_turns(self.name, job.sampler).paced(job.every, turn.every)
            return turn

    def _forget_beyond(self, job: Job, place: str) -> None:
        """Forget a visit where more is remembered than may be: the next one sends all rows."""
        with self._lock:
            visits = {key: turn for key, turn in self._turns.items() if key[1] is not None}
            count = sum(sampler == job.sampler for sampler, _ in visits)
            if count > VISITS_KEPT or sum(turn.size for turn in visits.values()) > ROWS_KEPT:
                self._turns.pop((job.sampler, place), None)

    def _say(self, slowed: Slowed) -> None:
        """Tell that a sampler's turns have become rarer, or more frequent again."""
        share = f"{slowed.share * 100:.1f} % of one core"
        extra = {"target": self.name, "sampler": slowed.sampler}
        words = "%s on %s: every %g s from now on, sampling takes %s of the server's time"
        told = (slowed.sampler, self.name, slowed.every, share)
        if slowed.factor == 1:
            log.info(words, *told, extra=extra)
            return
        log.warning(words, *told, extra={**extra, "remedy": _RARER})
        message = f"every {slowed.every:g} s for the time being: sampling took {share}"
        state = State(state="limited", reason="budget", message=message, remedy=_RARER)
        with self._lock:
            self._slowed[slowed.sampler] = state

    def _missed(self, job: Job, error: TargetError) -> None:
        if self._leaving or self._stopping.is_set():
            return  # we ended the session ourselves
        with self._lock:
            before = self._troubles.get(job.lane)
            if job.lane not in self._idle:  # a turn that had begun before
                self._troubles[job.lane] = error
        if before is None or str(before) != str(error):
            extra = {"target": self.name, "sqlstate": error.sqlstate, "remedy": error.remedy}
            log.warning("cannot use %s (%s lane): %s", self.name, job.lane, error, extra=extra)
            if isinstance(error, LoginRefused):
                audit.info("%s does not let us in", self.name, extra=extra)
        reason = "refused" if isinstance(error, TargetRefused) else "down"
        self._failed(job, reason)
        self._tell(job, _down(error))

    def _well(self, job: Job, place: str | None) -> None:
        with self._lock:
            was = self._troubles.pop(job.lane, None)
        own = self.states.of(job.sampler).get(None, OK)
        if place is not None and own.state == "down":
            self._tell(job, OK)  # its turn in the target's own database may be long to come
        weakness = self._lanes[job.lane].weakness
        if weakness and weakness != self._weakness:
            log.warning("%s: %s", self.name, weakness, extra={"target": self.name})
        self._weakness = weakness
        if was is not None:
            log.info("%s is back (%s lane)", self.name, job.lane, extra={"target": self.name})

    def _tell(self, job: Job, state: State, place: str | None = None) -> None:
        at = rfc3339(self._clock.now())
        self.states.tell(job.sampler, None, state, at=at, every=job.every, database=place)

    def _count(self, job: Job, outcome: Outcome) -> None:
        before = self.tally(job.sampler)
        failed = bool(outcome.failed)
        self._tallies[job.sampler] = before._replace(
            ok=before.ok + (not failed),
            failed=before.failed + failed,
            last=outcome,
            at=self._clock.monotonic(),
        )

    def _failed(self, job: Job, reason: str) -> None:
        before = self.tally(job.sampler)
        self._tallies[job.sampler] = before._replace(failed=before.failed + 1)
        self._metrics.sample_errors_total.labels(
            target=self.name, sampler=job.sampler, reason=reason
        ).inc()

    def _on_change(self, _connected: bool) -> None:  # noqa: FBT001  # the lane's callback
        if self._leaving:
            return  # the series are another one's by now, or nobody's
        lanes = self._lanes.values()
        self._metrics.pg_connections.labels(target=self.name).set(
            sum(lane.connected for lane in lanes)
        )
        if not self._resting:
            self._metrics.pg_up.labels(target=self.name).set(self.connected)


def _down(error: TargetError) -> State:
    return State(
        state="down",
        reason="refused" if isinstance(error, TargetRefused) else "down",
        sqlstate=error.sqlstate,
        message=scrub_error(error.sqlstate, str(error)),
        remedy=error.remedy or None,
    )
