"""The verb of the control socket for those who watch a target: its lines, as they come.

Whoever asks again and again gets what came since. The first question arms the `Mirror`; samplers
that are named are taken at once, each on its lane, behind what waits there: no session is opened
beside those of the target. What a lane gives later is in a later answer.
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
from pg_collector.control import AgentRequest, Reply
from pg_collector.errors import CollectorError
from pg_collector.mirror import Mirror
from pg_collector.pg.session import Session
from pg_collector.privacy.mask import Masker
from pg_collector.privacy.scrub import scrub_error
from pg_collector.samplers._sampler import LaneName, Sampler
from pg_collector.schedule import Job
from pg_collector.scheduler import Scheduler
from pg_collector.target import Target

log = logging.getLogger(__name__)
audit = logging.getLogger("pg_collector.audit")

TEXTS_AT_ONCE: Final = 100  # look-ups of texts: any costs the server its whole file of texts


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
        """Whether who asks has asked before."""
        return self.after is not None


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """Why something could not be had, and what helps."""

    error: str
    remedy: str = ""


class Watched(msgspec.Struct, frozen=True, kw_only=True):
    """What is told beside the lines. `stream` is another one after a restart of the agent.

    `lost`: lines are missing before those that come with this. `every` are the seconds between two
    turns of each sampler that is at work; `troubles` are those of samplers that were asked for, or
    of the target, under an empty name. `own` are ids of the agent's own statements.
    """

    stream: str
    target: str
    targets: tuple[str, ...]
    last: int
    lost: bool = False
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
        jobs: Callable[[], tuple[Job, ...]],
        masker: Callable[[], Masker],
    ) -> None:
        """`jobs` are to run now."""
        self._samplers = samplers
        self._targets = targets
        self._scheduler = scheduler
        self._mirror = mirror
        self._jobs = jobs
        self._masker = masker
        self._stream = uuid.uuid4().hex
        self._lock = threading.Lock()  # guards all that follows
        self._under_way: set[tuple[str, str, str]] = set()  # target, what, sampler
        self._troubles: dict[tuple[str, str], Said] = {}  # by target and sampler
        self._own: dict[str, dict[str, None]] = {}  # by target: query ids, in order

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
            audit.info("%s is watched", target.name, extra={"target": target.name})
        every = {job.sampler: job for job in jobs if job.target == target.name}
        after = request.after
        if after is None:
            after = self._mirror.since(target.name, 0).last
        self._have_taken(request, target, every)
        seen = self._mirror.since(target.name, after)
        with self._lock:
            troubles = {
                one[1]: said for one, said in self._troubles.items() if one[0] == target.name
            }
            own = tuple(self._own.get(target.name, ()))
        if target.trouble is not None and target.down:
            troubles[""] = Said(error=str(target.trouble), remedy=target.trouble.remedy)
        watched = Watched(
            stream=self._stream,
            target=target.name,
            targets=tuple(targets),
            last=seen.last,
            lost=seen.lost,
            every={name: job.every for name, job in every.items()},
            troubles=troubles,
            own=own,
        )
        return Reply(
            lines=tuple(line.decode() for line in seen.lines), result=msgspec.to_builtins(watched)
        )

    def rest(self) -> None:
        """Let go of what nobody watches any more."""
        for target in self._mirror.rest():
            audit.info("%s is not watched any more", target, extra={"target": target})
            with self._lock:
                self._own.pop(target, None)
                self._troubles = {k: v for k, v in self._troubles.items() if k[0] != target}

    def _have_taken(self, request: WatchRequest, target: Target, jobs: Mapping[str, Job]) -> None:
        """Hand to the lanes what is to be taken now."""
        for name in request.look:
            if (job := jobs.get(name)) is not None:
                work = partial(self._look, target, name, job.lane)
                self._lend(target, job.lane, "look", name, work)
        if request.texts and (job := jobs.get("statements")) is not None:
            wanted = request.texts[:TEXTS_AT_ONCE]
            work = partial(self._texts, target, job.lane, wanted)
            self._lend(target, job.lane, "texts", "statements", work)

    def _lend(
        self, target: Target, lane: LaneName, what: str, sampler: str, work: Callable[[], None]
    ) -> None:
        """Queue work for a lane, unless the same waits there or is done now."""
        key = (target.name, what, sampler)
        with self._lock:
            if key in self._under_way:
                return
            self._under_way.add(key)

        def done(future: "concurrent.futures.Future[None]") -> None:
            with self._lock:
                self._under_way.discard(key)
            if not future.cancelled() and (error := future.exception()) is not None:
                self._failed(target.name, sampler, error)

        try:
            self._scheduler.lend(target.name, lane, work).add_done_callback(done)
        except CollectorError:
            with self._lock:
                self._under_way.discard(key)
            raise

    def _look(self, target: Target, sampler: str, lane: LaneName) -> None:
        """Take a sampler whole, without the texts, for who watches alone; in the lane's thread."""
        bare = msgspec.structs.replace(self._samplers[sampler], lookups=())
        take = partial(spot.take, bare, target.name, masker=self._masker(), explain=False)
        self._show(target, sampler, target.lend(lane, take))

    def _texts(self, target: Target, lane: LaneName, ids: tuple[str, ...]) -> None:
        """Look texts up; in the lane's thread."""
        statements, masker = self._samplers["statements"], self._masker()

        def find(session: Session) -> tuple[list[bytes], list[str]]:
            return spot.look_up(statements, target.name, session, ids, masker=masker)

        lines, own = target.lend(lane, find)
        with self._lock:
            self._own.setdefault(target.name, {}).update(dict.fromkeys(own))
        self._show(target, "statements", lines)

    def _show(self, target: Target, sampler: str, lines: list[bytes]) -> None:
        with self._lock:
            self._troubles.pop((target.name, sampler), None)
        for line in lines:
            self._mirror.show(line)

    def _failed(self, target: str, sampler: str, error: BaseException) -> None:
        """Keep what kept a sampler from being taken."""
        if isinstance(error, CollectorError):
            sqlstate = getattr(error, "sqlstate", None)
            said = Said(error=scrub_error(sqlstate, str(error)), remedy=error.remedy)
        else:
            log.error("%s of %s could not be taken", sampler, target, exc_info=error)
            said = Said(error="a fault of the agent; its log has more")
        with self._lock:
            self._troubles[target, sampler] = said


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
