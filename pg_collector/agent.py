"""The composition root: builds every part, starts them in order, waits, stops them in reverse.

Whoever runs an agent comes through here: `pgc start`, the demo and the tests.
"""

import contextlib
import logging
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Final, Self

from pg_collector import __version__, spot
from pg_collector.buffer.memory import MemoryBuffer
from pg_collector.clock import Clock, SystemClock
from pg_collector.config.model import Config, Database
from pg_collector.control import ANSWER_WITHIN, ControlServer, Request, fingerprint
from pg_collector.errors import AgentUnreachable, ConfigurationError
from pg_collector.health import vitals
from pg_collector.health.server import HealthServer
from pg_collector.health.vitals import Vital, Vitals
from pg_collector.metrics import Metrics
from pg_collector.outlets import Outlet
from pg_collector.outlets.file import FileOutlet
from pg_collector.plan import GrantSource
from pg_collector.privacy.mask import Masker
from pg_collector.privacy.scrub import scrub
from pg_collector.runner import Runner
from pg_collector.samplers import discover
from pg_collector.samplers._sampler import Sampler
from pg_collector.schedule import Job, Layout, lay_out
from pg_collector.scheduler import Scheduler
from pg_collector.sender import Sender
from pg_collector.target import Target

log = logging.getLogger(__name__)

OutletSource = Callable[[Clock, Metrics], Outlet]

# An orderly stop takes less than ten seconds, whatever hangs.
STOP_TURNS = 2.0  # seconds that running turns may take to end before their sockets are shut
STOP_FORCED = 1.0  # seconds after that
STOP_DRAIN = 4.0  # seconds for the last lines
FILE_LINGER = 0.5  # seconds between two looks at an empty buffer: a file costs nothing to reach
ONCE_DEADLINE = 60.0  # seconds for one turn of `once`

UNPROVISIONED: Final = "UNPROVISIONED: this device has no plan, nothing is collected"


class Agent:
    """A running agent. Use it as a context manager: leaving stops it in order."""

    def __init__(
        self,
        config: Config,
        grants: GrantSource,
        outlet: OutletSource | None = None,
        *,
        samplers: Mapping[str, Sampler] | None = None,
        password: Callable[[], str] | None = None,
        token: Callable[[], str] | None = None,
        sockets: Sequence[Path] = (),
        clock: Clock | None = None,
    ) -> None:
        """Build every part; nothing runs before `start`.

        `outlet` builds the one outlet: by default the files of `local`, where that is enabled.
        `password` gives a database password, `token` the platform's access token. Commands reach
        the agent at the first of `sockets` that can be used.
        """
        self.config = config
        self.clock = clock or SystemClock()
        self.samplers = discover() if samplers is None else samplers
        self.stopping = threading.Event()
        self.metrics = Metrics(self.clock)
        self.vitals = Vitals(self.clock, self.metrics, scrub=scrub)
        self.buffer = MemoryBuffer(config.buffers.memory_max, self.metrics, self.clock)
        self.masker = Masker(config.security.query_masking_level, on_failure=self._unmasked)
        self.runner = Runner(
            self.buffer,
            self.masker,
            self.metrics,
            self.clock,
            drop_utility_text=config.security.drop_utility_text,
        )
        self.targets = {
            database.name: self._target(database, password)
            for database in config.databases
            if database.enabled
        }
        self.health = HealthServer(
            config.http, self.vitals, self.metrics, version={"version": __version__}
        )
        self.scheduler = Scheduler(
            self._take, self.metrics, self.clock, self.stopping, essential=self._essential
        )
        if outlet is None and config.local.enabled:
            outlet = partial(FileOutlet, config.local)
        self.outlet = outlet(self.clock, self.metrics) if outlet is not None else None
        self.layout = Layout((), ())
        self._grants = grants
        self._token = token
        self._sockets = tuple(sockets)
        self._ends: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._stack = contextlib.ExitStack()
        self._failed = False

    def start(self) -> None:
        """Start the parts in order; one that fails stops those already started.

        Raises StateError where the HTTP address or the output cannot be used.
        """
        with contextlib.ExitStack() as stack:
            self._register()
            self.metrics.config_last_reload_successful.set(1)
            self.metrics.config_last_reload_success_timestamp_seconds.set_to_current_time()
            self.health.start()
            stack.callback(self.health.stop)
            stack.callback(self._close_targets)
            if self.outlet is not None:
                stack.enter_context(self._sending(self.outlet))
            stack.callback(self._stop_sampling)
            if self._sockets:
                control = ControlServer(self.sample, self._sockets)
                control.start()
                stack.callback(control.stop)
            self.scheduler.start()
            self.apply()
            self._stack = stack.pop_all()
        log.info(
            "PG Collector %s started: %d jobs on %d targets",
            __version__,
            len(self.layout.jobs),
            len(self.targets),
            extra={"http": self.health.address, "output": self.outlet and self.outlet.name},
        )

    def apply(self) -> None:
        """Lay the jobs out anew, as the grant and the configuration say now."""
        grant = self._grants.grant()
        self.layout = lay_out(self.samplers, grant, self.config)
        for paused in self.layout.paused:
            log.warning(
                "%s on %s: %s", paused.sampler or "every sampler", paused.target, paused.why
            )
        self.metrics.set_plan(grant.plan if grant is not None else "none")
        self.metrics.set_device_state("UNPROVISIONED" if grant is None else "LOCAL")
        for target in self.targets:
            names = [job.sampler for job in self.layout.jobs if job.target == target]
            if names:
                self.metrics.introduce(target, names)
        self.scheduler.apply(self.layout.jobs)

    def once(self) -> bool:
        """Take one turn of every sampler, deliver, stop; return whether all answered and arrived.

        Nothing is scheduled and no port is opened: for cron, and to try a configuration.
        Raises ConfigurationError without a plan.
        """
        if self._grants.grant() is None:
            raise ConfigurationError(UNPROVISIONED, remedy=unprovisioned(self.config))
        with contextlib.ExitStack() as stack:
            stack.callback(self._close_targets)
            if self.outlet is not None:
                stack.enter_context(self._sending(self.outlet))
            stack.callback(self._stop_sampling)
            self.layout = lay_out(self.samplers, self._grants.grant(), self.config)
            for job in self.layout.jobs:
                self.scheduler.borrow(job.target, job.lane, partial(self._take, job), ONCE_DEADLINE)
            log.info("a turn of each sampler: %d lines", self.buffer.account().produced)
        well = all(target.trouble is None for target in self.targets.values())
        return well and not self.buffer.account().lost

    def sample(self, request: Request) -> list[bytes] | None:
        """Answer the control socket: take samples on the target's own lanes, now.

        Returns None where the target is another agent's: its name or its connection differs.
        Raises CollectorError where there is no such sampler, AgentUnreachable where the lanes stay
        busy.
        """
        target = self.targets.get(request.target)
        if target is None or fingerprint(target.database) != request.connection:
            return None
        deadline = self.clock.monotonic() + ANSWER_WITHIN
        found: list[bytes] = []
        for sampler in spot.chosen(self.samplers, request.samplers):
            lane = target.lane_for(sampler)
            take = partial(spot.take, sampler, target.name, explain=request.explain)
            work = partial(target.lend, lane, take)
            left = max(0.0, deadline - self.clock.monotonic())
            try:
                found += self.scheduler.borrow(target.name, lane, work, left)
            except TimeoutError as error:
                late = f"{sampler.name} of {target.name} was not done within {ANSWER_WITHIN:g} s"
                raise AgentUnreachable(late, remedy="Try again, or name fewer.") from error
        return found

    def wait(self) -> int:
        """Wait until someone calls `end`, or a part that nothing works without has died.

        Returns the exit code: 0, or 1 when a part died.
        """
        why = self._ends.get()
        log.info("stopping: %s", why)
        return 1 if self._failed else 0

    def end(self, why: str) -> None:
        """Ask `wait` to return. Safe in a signal handler."""
        self._ends.put(why)

    def stop(self) -> None:
        """Stop the parts in reverse order, within ten seconds."""
        self.vitals.ending()
        self.stopping.set()
        self._stack.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _target(self, database: Database, password: Callable[[], str] | None) -> Target:
        return Target(
            database,
            self.samplers,
            self.runner,
            buffer=self.buffer,
            metrics=self.metrics,
            clock=self.clock,
            stopping=self.stopping,
            limits=self.config.breakers.postgres,
            password=password,
        )

    def _take(self, job: Job) -> None:
        self.targets[job.target].take(job)

    def _unmasked(self, reason: str) -> None:
        self.metrics.masking_failures_total.labels(reason=reason).inc()

    def _stop_sampling(self) -> None:
        """End the turns: politely first, then by shutting their sockets."""
        self.stopping.set()
        if not self.scheduler.stop(STOP_TURNS):
            for target in self.targets.values():
                target.interrupt()
            if not self.scheduler.stop(STOP_FORCED):
                log.error("a turn did not end; its session is left to the server's own limits")

    def _close_targets(self) -> None:
        for target in self.targets.values():
            target.close()

    @contextlib.contextmanager
    def _sending(self, outlet: Outlet) -> Iterator[None]:
        """Run the sender in its thread; at the end deliver what is left, and count what is not."""
        stopping = threading.Event()
        sender = Sender(
            self.buffer,
            outlet,
            stopping,
            self.metrics,
            clock=self.clock,
            linger=FILE_LINGER,
            max_bytes=self.config.platform.batch_max_bytes,
            max_lines=self.config.platform.batch_max_lines,
            beat=self.vitals.heart("sender").beat,
        )

        def send() -> None:
            self._essential(sender.run)
            # Here, so that an output that hangs holds this thread and not the end of the process.
            if not self._failed:
                sender.drain(self.clock.monotonic() + STOP_DRAIN)
            outlet.close()

        thread = threading.Thread(target=send, name="sender", daemon=True)
        self.vitals.register("output", partial(_output_vital, outlet.name, sender))
        thread.start()
        try:
            yield
        finally:
            stopping.set()
            thread.join(STOP_DRAIN + 1.0)
            if thread.is_alive():
                log.error("the output hangs; what was not delivered is lost")
            lost = self.buffer.abandon("shutdown")
            if lost:
                log.error("%d lines were not delivered and are lost", lost)

    def _essential(self, work: Callable[[], None]) -> None:
        """Be a thread that nothing works without: its death ends the process."""
        try:
            work()
        except BaseException:
            log.exception("a part that nothing works without died")
            self._failed = True
            self.end("a part died")

    def _register(self) -> None:
        self.vitals.register("scheduler", self._scheduler_vital)
        self.vitals.require("plan", self._plan_vital)
        self.vitals.require("postgres", self._any_target_vital)
        for target in self.targets.values():
            self.vitals.register(f"postgres:{target.name}", partial(self._target_vital, target))

    def _target_vital(self, target: Target) -> Vital:
        paused = [
            one for one in self.layout.paused if one.target == target.name and not one.sampler
        ]
        if paused:
            return Vital(state=vitals.State.OK, reason=f"paused: {paused[0].why}")
        return _target_vital(target)

    def _scheduler_vital(self) -> Vital:
        if self.scheduler.alive:
            return vitals.OK
        return Vital(
            state=vitals.State.DOWN,
            reason="the scheduler's threads are dead",
            remedy="Restart the agent, and report this with the log.",
            essential=True,
        )

    def _plan_vital(self) -> Vital:
        if self._grants.grant() is not None:
            return vitals.OK
        remedy = unprovisioned(self.config)
        return Vital(state=vitals.State.DOWN, reason=UNPROVISIONED, remedy=remedy)

    def _any_target_vital(self) -> Vital:
        at_work = {job.target for job in self.layout.jobs}
        answers = [_target_vital(self.targets[name]) for name in sorted(at_work)]
        if not answers:
            return Vital(state=vitals.State.DOWN, reason="there is nothing to collect")
        return next((one for one in answers if one.state is not vitals.State.DOWN), answers[0])


def unprovisioned(config: Config) -> str:
    """Return what its owner can do for a device without a plan."""
    if config.api_key is None:
        return "Collect into files: local.enabled: true, or --local DIR."
    return (
        "Sending to a platform comes with a later version. Without an api_key samples can go into "
        "files: local.enabled: true, or --local DIR."
    )


def _target_vital(target: Target) -> Vital:
    trouble = target.trouble
    if trouble is not None:
        state = vitals.State.DOWN if target.down else vitals.State.DEGRADED
        return Vital(state=state, reason=str(trouble), remedy=trouble.remedy)
    if not target.connected:
        return Vital(state=vitals.State.DOWN, reason="not connected yet")
    return vitals.OK


def _output_vital(name: str, sender: Sender) -> Vital:
    trouble = sender.trouble
    if trouble is None:
        return vitals.OK
    return Vital(
        state=vitals.State.DEGRADED, reason=f"{name}: {trouble.message}", remedy=trouble.remedy
    )


def run(
    config: Config,
    grants: GrantSource,
    outlet: OutletSource | None = None,
    *,
    token: Callable[[], str] | None = None,
    sockets: Sequence[Path] = (),
    on_start: Callable[[Agent], None] = lambda _agent: None,
) -> int:
    """Be the agent, in the main thread, until SIGTERM or SIGINT; return the exit code.

    `on_start` sees the running agent once, before the wait begins. Raises StateError where
    something cannot be opened.
    """
    agent = Agent(config, grants, outlet, token=token, sockets=sockets)

    def on_signal(number: int, _frame: FrameType | None) -> None:
        agent.end(signal.Signals(number).name)

    before = {
        number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        with agent:
            on_start(agent)
            return agent.wait()
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
