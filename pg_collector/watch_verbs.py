"""The verb of the control socket for those who watch a target: its lines, as they come.

Whoever asks again and again gets what came since. The first question arms the `Mirror`; samplers
that are named are taken at once, each on its lane, behind what waits there: no session is opened
beside those of the target. What a lane gives later is in a later answer. What was taken a moment
ago, or was dear, is not taken anew: who asks gets what is there.
"""

import concurrent.futures
import logging
import threading
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import msgspec

from pg_collector import control, spot
from pg_collector.clock import Clock
from pg_collector.control import AgentRequest, Reply
from pg_collector.errors import CollectorError
from pg_collector.mirror import Mirror
from pg_collector.pg.session import Session
from pg_collector.privacy.mask import Masker
from pg_collector.privacy.scrub import scrub_error
from pg_collector.samplers._sampler import Sampler
from pg_collector.schedule import Job
from pg_collector.scheduler import Scheduler
from pg_collector.target import Target
from pg_collector.watching import PAUSE, Pace, Said, Watching

log = logging.getLogger(__name__)
audit = logging.getLogger("pg_collector.audit")

AT_ONCE: Final = 1024 * 1024  # bytes of lines in an answer; the rest is in the next one
STATES: Final = b'"set":"sampler_state"'  # in a line that tells how sets fare


class WatchRequest(AgentRequest, frozen=True, kw_only=True, tag="watch"):
    """What came of a target (none: the first one) since the number `after`; a `Watched`.

    `look` names samplers that are to be taken whole now, for who watches alone; `texts` the query
    ids whose masked texts are wanted.
    """

    target: str | None = None
    after: int | None = None
    look: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()

    @property
    def repeats(self) -> bool:
        """Whether who asks has asked before, and the server is left alone."""
        return self.after is not None and not self.look


class Watched(msgspec.Struct, frozen=True, kw_only=True):
    """What is told beside the lines. `stream` is another one after a restart of the agent.

    `lost`: lines are missing before those that come with this; `more`: others are there to be asked
    for at once. `every` are the seconds between two turns of each sampler that is at work;
    `troubles` are those of samplers that were asked for, or of the target, under an empty name.
    `own` are ids of the agent's own statements.
    """

    stream: str
    target: str
    targets: tuple[str, ...]
    last: int
    lost: bool = False
    more: bool = False
    every: dict[str, float] = {}
    troubles: dict[str, Said] = {}
    own: tuple[str, ...] = ()


class WatchVerbs:
    """Answers it, each request in its connection's thread."""

    def __init__(
        self,
        samplers: Mapping[str, Sampler],
        targets: Callable[[], Mapping[str, Target]],
        scheduler: Scheduler,
        mirror: Mirror,
        *,
        clock: Clock,
        jobs: Callable[[], tuple[Job, ...]],
        masker: Callable[[], Masker],
    ) -> None:
        """`jobs` are to run now."""
        self._samplers = samplers
        self._targets = targets
        self._scheduler = scheduler
        self._mirror = mirror
        self._clock = clock
        self._jobs = jobs
        self._masker = masker
        self._stream = uuid.uuid4().hex
        self._lock = threading.Lock()  # guards all that follows
        self._watching: dict[str, Watching] = {}  # by target

    @property
    def answers(self) -> control.Answers:
        """What answers each verb."""
        return {WatchRequest: self.watch}

    def watch(self, request: WatchRequest) -> Reply:
        """Say what came. Raises CollectorError where there is no such target."""
        targets = self._targets()
        jobs = self._jobs()
        target = _chosen(request.target, targets, jobs)
        if self._mirror.watch(target.name):
            extra = {"target": target.name, **control.who()}
            audit.info("%s is watched", target.name, extra=extra)
        every = {job.sampler: job for job in jobs if job.target == target.name}
        after = request.after
        if after is None:
            after = self._mirror.since(target.name, 0).last
        spared = self._have_taken(request, target, every)
        held = spared.keys() if request.after is None else ()
        seen = self._mirror.since(target.name, after, held=held, most=AT_ONCE)
        states = [line for lines in spared.values() for line in lines]
        watched = Watched(
            stream=self._stream,
            target=target.name,
            targets=tuple(targets),
            last=seen.last,
            lost=seen.lost and request.after is not None,
            more=seen.more,
            every={name: job.every for name, job in every.items()},
            troubles=self._troubles(target),
            own=self._own_ids(target),
        )
        return Reply(
            lines=tuple(line.decode() for line in (*states, *seen.lines)),
            result=msgspec.to_builtins(watched),
        )

    def rest(self) -> None:
        """Let go of what nobody watches any more."""
        for target in self._mirror.rest():
            audit.info("%s is not watched any more", target, extra={"target": target})
            with self._lock:
                one = self._watching.get(target)
                if one is not None and one.left_alone(self._clock.monotonic()):
                    del self._watching[target]

    def _of(self, target: Target) -> Watching:
        """Return what is remembered of a target. With the lock."""
        return self._watching.setdefault(target.name, Watching())

    def _own_ids(self, target: Target) -> tuple[str, ...]:
        with self._lock:
            return tuple(self._of(target).own)

    def _troubles(self, target: Target) -> dict[str, Said]:
        """Return what kept samplers from being taken and was not better since."""
        with self._lock:
            found = self._of(target).troubles
        troubles = {
            sampler: said for sampler, (said, at) in found.items() if target.tally(sampler).at < at
        }
        trouble = target.trouble  # read once: another thread may take it away
        if trouble is not None and target.down:
            troubles[""] = _said(trouble)
        return troubles

    def _have_taken(
        self, request: WatchRequest, target: Target, jobs: Mapping[str, Job]
    ) -> dict[str, tuple[bytes, ...]]:
        """Hand to the lanes what is to be taken now.

        Returns the samplers that are not taken anew, and how their sets fared last time. They are
        taken later for who goes on to watch.
        """
        now = self._clock.monotonic()
        spared: dict[str, tuple[bytes, ...]] = {}
        ready: dict[str, Pace] = {}
        with self._lock:
            one = self._of(target)
            for name in dict.fromkeys((*request.look, *one.later)):
                pace = one.paces.setdefault(name, Pace())
                if name not in jobs or ("look", name) in one.under_way:
                    one.later.pop(name, None)
                elif pace.ready(now):
                    one.later.pop(name, None)
                    ready[name] = pace
                elif name in request.look:
                    spared[name] = pace.states
                    if request.after is not None:
                        one.later[name] = None
        for name, pace in ready.items():
            self._lend(target, jobs[name], "look", partial(self._look, target, jobs[name], pace))
        if (job := jobs.get("statements")) is not None:
            with self._lock:
                self._of(target).want(request.texts)
                due = self._of(target).texts_due(now)
            if due:
                self._lend(target, job, "texts", partial(self._texts, target, job))
        return spared

    def _lend(self, target: Target, job: Job, what: str, work: Callable[[], None]) -> None:
        """Queue work for a job's lane, unless the same waits there or is done now."""
        key = (what, job.sampler)
        with self._lock:
            one = self._of(target)
            if key in one.under_way:
                return
            one.under_way.add(key)

        def done(future: "concurrent.futures.Future[None]") -> None:
            with self._lock:
                one.under_way.discard(key)
            if not future.cancelled() and (error := future.exception()) is not None:
                self._failed(target, job.sampler, error)

        try:
            self._scheduler.lend(target.name, job.lane, work).add_done_callback(done)
        except CollectorError:
            with self._lock:
                one.under_way.discard(key)
            raise

    def _at_work(self, job: Job) -> bool:
        """Whether a job is still to run: what waited for its lane may be too late."""
        return any((one.id, one.lane) == (job.id, job.lane) for one in self._jobs())

    def _look(self, target: Target, job: Job, pace: Pace) -> None:
        """Take a sampler whole, without the texts, for who watches alone; in the lane's thread."""
        if not self._at_work(job):
            return
        bare = msgspec.structs.replace(self._samplers[job.sampler], lookups=())
        cost = 0.0

        def take(session: Session) -> list[bytes]:
            nonlocal cost
            before = session.waited
            try:
                return spot.take(
                    bare, target.name, session, masker=self._masker(), explain=False, quiet=True
                )
            finally:
                cost = session.waited - before

        lines: list[bytes] = []
        try:
            lines = target.lend(job.lane, take)
        finally:
            with self._lock:
                pace.ended(self._clock.monotonic(), cost)
                pace.states = tuple(line for line in lines if STATES in line[:100])
            target.spent(job, cost)
        self._show(target, job.sampler, lines)

    def _texts(self, target: Target, job: Job) -> None:
        """Look up the texts that are wanted; in the lane's thread."""
        if not self._at_work(job):
            return
        with self._lock:
            one = self._of(target)
            ids, batch = one.next_texts(), one.batch
        cost = 0.0

        def find(session: Session) -> spot.LookedUp:
            nonlocal cost
            before = session.waited
            try:
                return spot.look_up(
                    self._samplers["statements"],
                    target.name,
                    session,
                    ids,
                    masker=self._masker(),
                    batch=batch,
                )
            finally:
                cost = session.waited - before

        found: spot.LookedUp | None = None
        try:
            found = target.lend(job.lane, find)
        finally:
            target.spent(job, cost)
            with self._lock:
                pause = max(PAUSE * cost, found.pause if found is not None else 0.0)
                one.put_texts_off(self._clock.monotonic(), pause)
        with self._lock:
            one.batch = found.batch
            one.looked_up(ids, found.left)
            one.own.update(dict.fromkeys(found.own))
        self._show(target, job.sampler, found.lines)

    def _show(self, target: Target, sampler: str, lines: list[bytes]) -> None:
        with self._lock:
            self._of(target).went_well(sampler)
        for line in lines:
            self._mirror.show(line)

    def _failed(self, target: Target, sampler: str, error: BaseException) -> None:
        """Keep what kept a sampler from being taken."""
        if isinstance(error, CollectorError):
            said = _said(error)
        else:
            log.error("%s of %s could not be taken", sampler, target.name, exc_info=error)
            said = Said(error="a fault of the agent; its log has more")
        with self._lock:
            self._of(target).failed(sampler, said, self._clock.monotonic())


def _said(error: CollectorError) -> Said:
    """Return an error as it may leave the host."""
    sqlstate = getattr(error, "sqlstate", None)
    return Said(error=scrub_error(sqlstate, str(error)), remedy=error.remedy)


def _chosen(name: str | None, targets: Mapping[str, Target], jobs: tuple[Job, ...]) -> Target:
    """Return the target that is meant: without a name the first that is at work, or the first."""
    if not targets:
        raise CollectorError(
            "this agent has no target", remedy="Enable a database in its configuration."
        )
    if name is None:
        at_work = {job.target for job in jobs}
        name = next((one for one in targets if one in at_work), next(iter(targets)))
    if name not in targets:
        raise CollectorError(f"no target {name!r}", remedy=f"There are: {', '.join(targets)}")
    return targets[name]
