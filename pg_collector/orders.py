"""What the platform may ask of a running agent: a closed list, carried out within its policy.

No order carries SQL or a program. What one changes is forgotten when the agent ends.
"""

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

from pg_collector.clock import Clock
from pg_collector.config.model import Config
from pg_collector.errors import CollectorError, OrderRefused
from pg_collector.plan import LONGEST
from pg_collector.samplers._sampler import Sampler
from pg_collector.schedule import Job
from pg_collector.scheduler import Scheduler

T = TypeVar("T")

TURNS_WITHIN: Final = 20.0  # seconds for all turns that were asked for together


class _Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No arguments."""


class _OfSampler(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The sampler that is meant."""

    sampler: str


class _Interval(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A sampler, and the seconds between two of its turns; 0: as configured."""

    sampler: str
    seconds: Annotated[float, Meta(ge=0, le=LONGEST)]


class Orders:
    """Carries orders out. `perform` is called in the thread `identity`."""

    def __init__(
        self,
        samplers: Mapping[str, Sampler],
        scheduler: Scheduler,
        clock: Clock,
        *,
        jobs: Callable[[], tuple[Job, ...]],
        take: Callable[[Job], None],
        apply: Callable[[], None],
        resync: Callable[[], None],
        flush: Callable[[], None],
    ) -> None:
        """`jobs` are to run now, `take` is a turn of one, `apply` lays them out anew."""
        self._samplers = samplers
        self._scheduler = scheduler
        self._clock = clock
        self._jobs = jobs
        self._take = take
        self._apply = apply
        self._resync = resync
        self._flush = flush
        self._lock = threading.Lock()  # guards all that follows
        self._paused: frozenset[str] = frozenset()
        self._intervals: dict[str, float] = {}

    def narrowed(self, config: Config) -> Config:
        """Return a configuration with what was ordered on top."""
        with self._lock:
            if not self._paused and not self._intervals:
                return config
            sampling = msgspec.structs.replace(
                config.sampling,
                enabled={**config.sampling.enabled, **dict.fromkeys(self._paused, False)},
                every={**config.sampling.every, **self._intervals},
            )
        return msgspec.structs.replace(config, sampling=sampling)

    def paused(self, sampler: str) -> bool:
        """Whether the platform has paused a sampler."""
        return sampler in self._paused

    def perform(self, command: str, arguments: Mapping[str, Any]) -> str:
        """Carry an order out; return what was done. Raises OrderRefused, CollectorError."""
        orders: dict[str, Callable[[Mapping[str, Any]], str]] = {
            "resync": self._do_resync,
            "pause": self._do_pause,
            "resume": self._do_resume,
            "set_interval": self._do_set_interval,
            "collect_once": self._do_collect_once,
            "flush": self._do_flush,
        }
        if command not in orders:
            raise OrderRefused(f"this agent knows no command {command[:40]!r}")
        return orders[command](arguments)

    def _do_resync(self, arguments: Mapping[str, Any]) -> str:
        _read(arguments, _Nothing)
        self._resync()
        return "every set is sent whole within two turns"

    def _do_pause(self, arguments: Mapping[str, Any]) -> str:
        name = self._sampler(_read(arguments, _OfSampler).sampler)
        with self._lock:
            self._paused |= {name}
        self._apply()
        return f"{name} is paused"

    def _do_resume(self, arguments: Mapping[str, Any]) -> str:
        name = self._sampler(_read(arguments, _OfSampler).sampler)
        with self._lock:
            self._paused -= {name}
        self._apply()
        return f"{name} is not paused"

    def _do_set_interval(self, arguments: Mapping[str, Any]) -> str:
        asked = _read(arguments, _Interval)
        name = self._sampler(asked.sampler)
        with self._lock:
            if asked.seconds:
                self._intervals[name] = asked.seconds
            else:
                self._intervals.pop(name, None)
        self._apply()
        if not asked.seconds:
            return f"{name} is taken as configured"
        return f"{name} is taken every {asked.seconds:g} s, within the policy"

    def _do_collect_once(self, arguments: Mapping[str, Any]) -> str:
        name = self._sampler(_read(arguments, _OfSampler).sampler)
        jobs = [job for job in self._jobs() if job.sampler == name]
        if not jobs:
            raise OrderRefused(f"{name} is at work on no target")
        late = []
        taken = 0
        ends = self._clock.monotonic() + TURNS_WITHIN
        for job in jobs:
            left = max(0.0, ends - self._clock.monotonic())
            try:
                work = partial(self._taken, job)
                taken += self._scheduler.borrow(job.target, job.lane, work, left)
            except TimeoutError as error:
                late.append(str(error))
        if late:
            raise CollectorError("; ".join(late))
        if not taken:
            raise OrderRefused(f"{name} is at work on no target")
        return f"a turn of {name} on {taken} target(s)"

    def _taken(self, job: Job) -> bool:
        """Take a turn, in the lane's thread; return False where the job has gone meanwhile."""
        here = any((one.id, one.lane) == (job.id, job.lane) for one in self._jobs())
        if here:
            self._take(job)
        return here

    def _do_flush(self, arguments: Mapping[str, Any]) -> str:
        _read(arguments, _Nothing)
        self._flush()
        return "what waits is being delivered"

    def _sampler(self, name: str) -> str:
        if name not in self._samplers:
            raise OrderRefused(f"there is no sampler {name[:40]!r}")
        return name


def _read(arguments: Mapping[str, Any], what: type[T]) -> T:
    try:
        return msgspec.convert(dict(arguments), what)
    except msgspec.ValidationError as error:
        raise OrderRefused(f"its arguments are wrong: {error}") from None
