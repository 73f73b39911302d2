"""APScheduler behind `apply([Job])`: one executor of one thread for each lane.

A lane's executor queues what is due while its session is busy, in order of due time; the wait costs
a queue entry, not a thread. What has waited longer than its own interval is skipped, and counted.
Jobs that were laid together, for one lane and at one interval, are one entry: a round.

APScheduler follows the wall clock: stepped back by an hour it would run nothing for an hour. So its
thread looks at the monotonic one, too, and lays all jobs anew when the two clocks part.
"""

import concurrent.futures
import datetime as dt
import itertools
import logging
import random
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

from pg_collector import lean
from pg_collector.clock import Clock
from pg_collector.errors import AgentUnreachable
from pg_collector.metrics import Metrics
from pg_collector.schedule import Job

# Of pools of processes, which the agent has none of, only the name of an error is wanted; 0.4 MB.
with (
    lean.stand_in("multiprocessing"),
    lean.stand_in("concurrent.futures.process", BrokenProcessPool=RuntimeError),
):
    from apscheduler.events import EVENT_JOB_MAX_INSTANCES, JobSubmissionEvent
    from apscheduler.executors.pool import BasePoolExecutor
    from apscheduler.job import Job as ScheduledJob
    from apscheduler.schedulers.background import BackgroundScheduler
    from apscheduler.schedulers.base import STATE_STOPPED
    from apscheduler.triggers.interval import IntervalTrigger

log = logging.getLogger(__name__)

T = TypeVar("T")

CLOCK_STEP = 1.0  # seconds by which the clocks may part before the jobs are laid anew
LOOK_EVERY = 15.0  # seconds: the scheduling thread's longest silence
STOP_WITHIN = 1.0  # seconds that APScheduler's own end may take
# Seconds within which all first runs fall, each target's together: every time that something has to
# be done costs more than what is done, in this process, on its disk and on the wire.
FIRST_RUN_SPREAD = 1.0


class LaneExecutor(BasePoolExecutor):  # type: ignore[misc]  # APScheduler has no types
    """The one thread of a lane, with a queue before it."""

    def __init__(self, name: str, clock: Clock, stopping: threading.Event) -> None:
        self._clock = clock
        self._stopping = stopping
        self.pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix=name)
        super().__init__(self.pool)

    def _do_submit_job(self, job: ScheduledJob, run_times: list[dt.datetime]) -> None:
        if self._stopping.is_set():
            return  # its pool is shut down, or about to be
        job.args[0].submit(self._clock.monotonic())
        super()._do_submit_job(job, run_times)


class Round:
    """Jobs of one lane at one interval, which have their turns one after the other."""

    def __init__(self, id: str, jobs: Sequence[Job], due: float) -> None:  # noqa: A002  # its name
        self.id = id
        self.jobs = tuple(jobs)  # those that were taken away meanwhile among them
        self.due = due  # by the monotonic clock
        self.left_out = False  # whether it was skipped last time
        self.submitted: deque[float] = deque()  # when, of the runs that wait

    def submit(self, now: float) -> None:
        """Note that a run was handed to the lane."""
        self.submitted.append(now)
        self.due = now + self.jobs[0].every


class LivelyScheduler(BackgroundScheduler):  # type: ignore[misc]  # APScheduler has no types
    """APScheduler with a sign of life: it looks at its jobs now and then, due or not."""

    def __init__(
        self,
        essential: Callable[[Callable[[], None]], object],
        look: Callable[[], None],
        beat: Callable[[float], None],
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._essential = essential
        self._look = look
        self._beat = beat

    def _main_loop(self) -> None:
        self._essential(self._loop)

    def _loop(self) -> None:
        """Do what APScheduler's own loop does; look at the clocks before each look at the jobs.

        It waits by the monotonic clock: what is due comes in time whatever the other one shows.
        """
        pause: float | None = 0.0
        while self.state != STATE_STOPPED:
            pause = LOOK_EVERY if pause is None else min(pause, LOOK_EVERY)
            self._beat(pause)
            self._event.wait(pause)
            self._event.clear()
            self._look()
            pause = self._process_jobs()
            self._look()  # a clock that was set just before: the jobs would wait for the old time


class OnwardTrigger(IntervalTrigger):  # type: ignore[misc]  # APScheduler has no types
    """An interval that leaves what was missed behind in one step, and keeps its phase.

    APScheduler makes a list of all missed runs, even where only one of them is to take place:
    millions after a step of the wall clock by months.
    """

    def get_next_fire_time(self, previous: dt.datetime | None, now: dt.datetime) -> Any:
        """Return the first moment of the phase after `now`, not before the interval is over."""
        if previous is not None:
            previous += max(0, (now - previous) // self.interval) * self.interval
        return super().get_next_fire_time(previous, now)


class Scheduler:
    """Runs jobs on their lanes until it is stopped."""

    def __init__(
        self,
        run: Callable[[Job], None],
        metrics: Metrics,
        clock: Clock,
        stopping: threading.Event,
        *,
        essential: Callable[[Callable[[], None]], object] = lambda work: work(),
        beat: Callable[[float], None] = lambda _within: None,
        after: Callable[[Job], None] = lambda _job: None,
    ) -> None:
        """Build it; nothing runs before `start`.

        `run` is called in the lane's thread and must not raise; nor `after`, which hears there of
        the last job of each round, unless the end has begun. `essential` runs the scheduling
        thread: an exception there says that nothing is scheduled any more. That thread calls `beat`
        with the seconds that it will be silent.
        """
        self._run = run
        self._after = after
        self._metrics = metrics
        self._clock = clock
        self._stopping = stopping
        self._lanes: dict[str, LaneExecutor] = {}  # guarded by _lock
        self._jobs: dict[str, Job] = {}  # guarded by _lock
        self._rounds: dict[str, Round] = {}  # by job; guarded by _lock
        self._numbers = itertools.count(1)  # of rounds
        self._lock = threading.RLock()
        self._idle = threading.Condition()
        self._running = 0  # guarded by _idle
        self.skipped: Counter[str] = Counter()  # turns left out since the start, by job
        self.started = False
        self._clocks_apart = self._apart()  # used in the scheduling thread
        self._aps = LivelyScheduler(
            essential,
            self._follow_the_clock,
            beat,
            timezone=dt.UTC,
            # One runs, one waits: a lane has one thread.
            job_defaults={"coalesce": True, "max_instances": 2, "misfire_grace_time": None},
        )
        self._aps.add_listener(self._on_still_running, EVENT_JOB_MAX_INSTANCES)
        logging.getLogger("apscheduler").setLevel(logging.ERROR)

    def start(self) -> None:
        """Start the scheduling thread."""
        self._aps.start()
        self.started = True

    def stop(self, deadline: float) -> bool:
        """Start no more turns and wait for the running ones, `deadline` seconds at most.

        Returns whether all ended. Waiting turns are left out: `stopping` must be set.
        """
        self._shut_down()
        for executor in self._lanes.values():
            # Nothing is cancelled: APScheduler takes a cancelled run for a fault, and logs it so.
            executor.pool.shutdown(wait=False)
        with self._idle:
            return self._idle.wait_for(lambda: self._running == 0, deadline)

    @property
    def alive(self) -> bool:
        """Whether the scheduling thread runs."""
        thread = getattr(self._aps, "_thread", None)  # the one way to see that it died
        return thread is not None and thread.is_alive()

    @property
    def busy(self) -> bool:
        """Whether a turn runs now."""
        with self._idle:
            return self._running > 0

    def apply(self, jobs: Iterable[Job]) -> None:
        """Make these the jobs: new ones run at once, changed ones at their new interval."""
        wanted = {job.id: job for job in jobs}
        begin = _Beginning()
        with self._lock:
            before, self._jobs = self._jobs, wanted
            for job in before.values():
                if wanted.get(job.id) != job:
                    self._take_out(job)
            fresh = [job for job in wanted.values() if job.id not in before]
            changed = [job for job in wanted.values() if before.get(job.id, job) != job]
            self._lay(fresh, begin.at_once)
            self._lay(changed, begin.in_a_turn)

    def next_run(self, job_id: str) -> dt.datetime | None:
        """Return when a job is due next."""
        with self._lock:
            found = self._rounds.get(job_id)
        entry = self._aps.get_job(found.id) if found is not None else None
        return entry.next_run_time if entry is not None else None

    def due_in(self, job_id: str) -> float | None:
        """Return in how many seconds a job is due next; it waits for nobody."""
        found = self._rounds.get(job_id)
        return max(0.0, found.due - self._clock.monotonic()) if found is not None else None

    def borrow(self, target: str, lane: str, work: Callable[[], T], timeout: float) -> T:
        """Run `work` in a lane's thread, behind what waits there, and return what it returns.

        Raises TimeoutError where the lane did not come round to it in `timeout` seconds, and
        AgentUnreachable once the scheduler stops.
        """
        future = self.lend(target, lane, work)
        try:
            return future.result(timeout)
        except concurrent.futures.TimeoutError:
            future.cancel()
            raise TimeoutError(f"the lane {lane} of {target} was busy for {timeout:g} s") from None

    def lend(self, target: str, lane: str, work: Callable[[], T]) -> concurrent.futures.Future[T]:
        """Queue `work` for a lane's thread, and return its future.

        Raises AgentUnreachable once the scheduler stops.
        """
        try:
            return self._lane(f"{target}/{lane}").pool.submit(self._lent, work)
        except RuntimeError as error:  # the pool was shut down
            raise _stopping() from error

    def withdraw(self, target: str) -> None:
        """Take all jobs of a target away."""
        with self._lock:
            self.apply(job for job in tuple(self._jobs.values()) if job.target != target)

    def retire(self, target: str, lanes: Iterable[str]) -> None:
        """End the threads of a target's lanes, whose jobs must be withdrawn."""
        with self._lock:
            for lane in lanes:
                executor = self._lanes.pop(f"{target}/{lane}", None)
                if executor is not None:
                    self._aps.remove_executor(f"{target}/{lane}", shutdown=False)
                    executor.pool.shutdown(wait=False)

    def reanchor(self) -> None:
        """Lay every round anew on the wall clock as it is now; each keeps its turn."""
        now, monotonic = dt.datetime.now(dt.UTC), self._clock.monotonic()
        with self._lock:
            for one in set(self._rounds.values()):
                first = now + dt.timedelta(seconds=max(0.0, one.due - monotonic))
                trigger = _trigger(one.jobs[0], first)
                self._aps.modify_job(one.id, trigger=trigger, next_run_time=first)

    def _lay(self, jobs: Iterable[Job], begin: Callable[[Job], float]) -> None:
        """Lay jobs in rounds, the first one in so many seconds from now as `begin` says."""
        now, monotonic = dt.datetime.now(dt.UTC), self._clock.monotonic()
        together: dict[tuple[str, str, float], list[Job]] = {}
        for job in jobs:
            together.setdefault((job.target, job.lane, job.every), []).append(job)
        for (target, lane, _), members in together.items():
            alias = f"{target}/{lane}"
            self._lane(alias)
            wait = begin(members[0])
            one = Round(f"{alias}/{next(self._numbers)}", members, monotonic + wait)
            self._rounds |= dict.fromkeys((job.id for job in members), one)
            first = now + dt.timedelta(seconds=wait)
            self._aps.add_job(
                self._take,
                _trigger(members[0], first),
                args=(one,),
                id=one.id,
                executor=alias,
                next_run_time=first,
            )

    def _take_out(self, job: Job) -> None:
        """Take a job out of its round, and a round that is empty then away."""
        one = self._rounds.pop(job.id)
        if one not in self._rounds.values():
            self._aps.remove_job(one.id)

    def _lane(self, alias: str) -> LaneExecutor:
        with self._lock:
            if alias not in self._lanes:
                executor = LaneExecutor(alias.replace("/", ":"), self._clock, self._stopping)
                self._lanes[alias] = executor
                self._aps.add_executor(executor, alias)
            return self._lanes[alias]

    def _take(self, one: Round) -> None:
        """Be one run of a round, in its lane's thread."""
        late = self._clock.monotonic() - one.submitted.popleft() > one.jobs[0].every
        # Not twice in a row: on a lane that cannot keep up, it would always be the same one.
        one.left_out = late and not one.left_out
        for job in one.jobs:
            with self._lock:
                is_here = self._rounds.get(job.id) is one
            if self._stopping.is_set():
                return
            if one.left_out and is_here:
                self._skipped(job, "lane_busy")
            elif is_here:
                self._counted(partial(self._run, job))
        if not self._stopping.is_set():
            self._counted(partial(self._after, one.jobs[-1]))

    def _shut_down(self) -> None:
        """Stop scheduling. APScheduler joins its thread without a bound, and that may be stuck."""
        if not self._aps.running:
            return
        thread = threading.Thread(
            target=self._aps.shutdown, kwargs={"wait": False}, name="scheduler-stop", daemon=True
        )
        thread.start()
        thread.join(STOP_WITHIN)
        if thread.is_alive():
            log.error("the scheduling thread does not end")

    def _lent(self, work: Callable[[], T]) -> T:
        """Do borrowed work, in the lane's thread."""
        if self._stopping.is_set():
            raise _stopping()
        return self._counted(work)

    def _counted(self, work: Callable[[], T]) -> T:
        with self._idle:
            self._running += 1
        try:
            return work()
        finally:
            with self._idle:
                self._running -= 1
                self._idle.notify_all()

    def _on_still_running(self, event: JobSubmissionEvent) -> None:
        """Count a run that is left out because the one before runs or waits still."""
        with self._lock:
            left_out = [
                self._jobs[name] for name, one in self._rounds.items() if one.id == event.job_id
            ]
        for job in left_out:
            self._skipped(job, "still_running")

    def _skipped(self, job: Job, reason: str) -> None:
        self.skipped[job.id] += 1
        self._metrics.sampler_skipped_total.labels(sampler=job.sampler, reason=reason).inc()

    def _follow_the_clock(self) -> None:
        """Lay all jobs anew when the wall clock was set; in the scheduling thread."""
        before, self._clocks_apart = self._clocks_apart, self._apart()
        moved = self._clocks_apart - before
        if abs(moved) > CLOCK_STEP:
            log.warning("the wall clock moved by %.1f s; jobs are laid anew", moved)
            self.reanchor()

    def _apart(self) -> float:
        return self._clock.now().timestamp() - self._clock.monotonic()


class _Beginning:
    """When jobs are laid: those of a target all together."""

    def __init__(self) -> None:
        self._waits: dict[str, float] = {}

    def at_once(self, job: Job) -> float:
        """Return the seconds to a first run: at once, but not with those of all targets."""
        spread = random.uniform(0, FIRST_RUN_SPREAD)  # noqa: S311
        return min(self._waits.setdefault(job.target, spread), job.every / 10)

    @staticmethod
    def in_a_turn(job: Job) -> float:
        """Return the seconds to the first run of a job that ran before, at another interval."""
        return job.every


def _trigger(job: Job, first: dt.datetime) -> OnwardTrigger:
    # Its own jitter would only ever lengthen the interval: the first run is spread.
    return OnwardTrigger(seconds=job.every, start_date=first, timezone=dt.UTC)


def _stopping() -> AgentUnreachable:
    return AgentUnreachable("the agent is stopping", remedy="Start it again, then repeat this.")
