"""What commands ask of the running agent through its control socket, and its answers."""

from collections.abc import Callable, Mapping
from functools import partial

import msgspec

from pg_collector import control, spot
from pg_collector.clock import Clock
from pg_collector.control import (
    ANSWER_WITHIN,
    ExamineRequest,
    NamesRequest,
    ReloadRequest,
    Reply,
    SampleRequest,
)
from pg_collector.errors import AgentUnreachable, CollectorError, TargetError
from pg_collector.pg import catalog_names, examination
from pg_collector.privacy.mask import Masker
from pg_collector.privacy.scrub import scrub_error
from pg_collector.reload import Reloader
from pg_collector.samplers._sampler import LaneName, Sampler
from pg_collector.scheduler import Scheduler
from pg_collector.target import Target


class Commands:
    """Answers requests, each in its connection's thread. A verb is an entry of `answers`."""

    def __init__(
        self,
        samplers: Mapping[str, Sampler],
        targets: Callable[[], Mapping[str, Target]],
        scheduler: Scheduler,
        reloader: Reloader,
        *,
        clock: Clock,
        masker: Callable[[], Masker],
    ) -> None:
        self._samplers = samplers
        self._targets = targets
        self._scheduler = scheduler
        self._reloader = reloader
        self._clock = clock
        self._masker = masker

    @property
    def answers(self) -> control.Answers:
        """What answers each verb."""
        return {
            SampleRequest: self.sample,
            NamesRequest: self.names,
            ExamineRequest: self.examine,
            ReloadRequest: self.reload,
        }

    def sample(self, request: SampleRequest) -> Reply:
        """Take samples on the target's own lanes, now.

        Raises CollectorError where there is no such sampler, AgentUnreachable where the lanes stay
        busy.
        """
        target = self._target(request)
        if target is None:
            return control.STRANGER
        deadline = self._clock.monotonic() + ANSWER_WITHIN
        found: list[bytes] = []
        for sampler in spot.chosen(self._samplers, request.samplers):
            lane = target.lane_for(sampler)
            take = partial(
                spot.take, sampler, target.name, masker=self._masker(), explain=request.explain
            )
            work = partial(target.lend, lane, take)
            left = max(0.0, deadline - self._clock.monotonic())
            try:
                found += self._scheduler.borrow(target.name, lane, work, left)
            except TimeoutError as error:
                late = f"{sampler.name} of {target.name} was not done within {ANSWER_WITHIN:g} s"
                raise AgentUnreachable(late, remedy="Try again, or name fewer.") from error
        return Reply(lines=tuple(line.decode() for line in found))

    def names(self, request: NamesRequest) -> Reply:
        """Read names on a lane of the target, now. Raises as `sample` does."""
        target = self._target(request)
        if target is None:
            return control.STRANGER
        if request.kind not in catalog_names.KINDS:
            raise CollectorError(f"no kind of names {request.kind!r}")
        lane = LaneName.SLOW if LaneName.SLOW in target.lanes else LaneName.FAST
        work = partial(
            target.lend, lane, lambda session: tuple(catalog_names.read(session, request.kind))
        )
        try:
            found = self._scheduler.borrow(target.name, lane, work, ANSWER_WITHIN)
        except TimeoutError as error:
            late = f"{target.name} was not asked within {ANSWER_WITHIN:g} s"
            raise AgentUnreachable(late, remedy="Try again.") from error
        return Reply(lines=found)

    def examine(self, request: ExamineRequest) -> Reply:
        """Look at a server on a lane of the target, now.

        Raises AgentUnreachable where the lane stays busy.
        """
        target = self._target(request)
        if target is None:
            return control.STRANGER
        lane = target.spare_lane
        work = partial(target.lend, lane, examination.read)
        try:
            found = self._scheduler.borrow(target.name, lane, work, ANSWER_WITHIN)
        except TargetError as error:
            trouble = examination.trouble(error, scrub_error)
            return Reply(result={"trouble": msgspec.to_builtins(trouble)})
        except TimeoutError as error:
            late = f"{target.name} was not asked within {ANSWER_WITHIN:g} s"
            raise AgentUnreachable(late, remedy="Try again.") from error
        return Reply(result=msgspec.to_builtins(found))

    def _target(self, request: SampleRequest | NamesRequest | ExamineRequest) -> Target | None:
        """Return the target that a request means, if it is one of this agent's."""
        target = self._targets().get(request.target)
        if target is None or control.fingerprint(target.database) != request.connection:
            return None
        return target

    def reload(self, _request: ReloadRequest) -> Reply:
        """Read the configuration anew, and say what changed.

        Raises ConfigurationError with every problem, AgentUnreachable where it takes too long.
        """
        try:
            reloaded = self._reloader.ask().result(ANSWER_WITHIN)
        except TimeoutError as error:
            late = f"the configuration was not in force within {ANSWER_WITHIN:g} s"
            raise AgentUnreachable(late, remedy="The agent's log says why.") from error
        return Reply(result=msgspec.to_builtins(reloaded))
