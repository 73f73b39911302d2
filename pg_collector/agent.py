"""The composition root: builds every part, starts them in order, waits, stops them in reverse.

Whoever runs an agent comes through here: `pgc start`, the demo and the tests.
"""

import contextlib
import logging
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Final, Self

from pg_collector import __version__, allocator, checks, logs, page_verbs, signals
from pg_collector.audit_log import AuditLog
from pg_collector.breaker import Breaker
from pg_collector.buffer import storage
from pg_collector.buffer.upkeep import Upkeep
from pg_collector.buffer_verbs import BufferVerbs
from pg_collector.clock import Clock, SystemClock
from pg_collector.commands import Commands
from pg_collector.config import difference
from pg_collector.config.model import Config, Database
from pg_collector.control import ControlServer
from pg_collector.delivery import Delivery
from pg_collector.device_verbs import DeviceVerbs
from pg_collector.errors import AgentUnreachable, ConfigurationError, TargetDown
from pg_collector.expiry import Expiry
from pg_collector.health import vitals
from pg_collector.health.notify import Notifier
from pg_collector.health.server import HealthServer
from pg_collector.health.vitals import Vital, Vitals
from pg_collector.health.watchdog import EVERY, Watchdog
from pg_collector.lifetime import Ending, Lifetime, leave_no_core
from pg_collector.masking import Masking
from pg_collector.metrics import Metrics
from pg_collector.mirror import Mirror
from pg_collector.orders import Orders
from pg_collector.outlets import Outlet
from pg_collector.pg.auth import methods
from pg_collector.pg.auth.login import TOKENS
from pg_collector.plan import Grant, GrantSource
from pg_collector.privacy.scrub import scrub
from pg_collector.reload import Reloaded, Reloader, nothing_to_read
from pg_collector.runner import Runner
from pg_collector.samplers import discover
from pg_collector.samplers._sampler import Sampler
from pg_collector.schedule import Job, Layout, lay_out
from pg_collector.scheduler import Scheduler
from pg_collector.support_verbs import SupportVerbs
from pg_collector.survey import Survey
from pg_collector.target import Target
from pg_collector.targets import Targets
from pg_collector.uplink import Uplink
from pg_collector.watch_verbs import WatchVerbs

log = logging.getLogger(__name__)

OutletSource = Callable[[Clock, Metrics], Outlet]

# An orderly stop takes less than ten seconds, whatever hangs.
STOP_BUDGET = 9.0  # seconds in which every wait of a stop has ended
LAST_RESORT = 9.5  # seconds until a process is ended whose main thread does not come to its end
STOP_TURNS = 2.0  # seconds that running turns may take to end before their sockets are shut
STOP_FORCED = 1.0  # seconds after that; then come those of `delivery`
STOP_WRITE = 2.0  # seconds for what was not delivered to be written to disk
STOP_LEAST = 0.5  # of these even when hurried: that is what the disk is for
ONCE_DEADLINE = 60.0  # seconds for one turn of `once`
RESCUE: Final = 0.3  # seconds for what can be saved when the end itself hangs


class Agent:
    """A running agent. Use it as a context manager: leaving stops it in order."""

    def __init__(
        self,
        config: Config,
        grants: GrantSource | None,
        outlet: OutletSource | None = None,
        *,
        samplers: Mapping[str, Sampler] | None = None,
        password: Callable[[], str] | None = None,
        token: Callable[[], str] | None = None,
        sockets: Sequence[Path] = (),
        reload: Callable[[], Config] = nothing_to_read,
        state_dir: Path | None = None,
        patience: float = vitals.PATIENCE,
        clock: Clock | None = None,
        around: Callable[[Outlet], Outlet] = lambda outlet: outlet,
        notifier: Notifier | None = None,
    ) -> None:
        """Build every part; nothing runs before `start`.

        `grants` says what is allowed; None: the platform does, for the device of `state_dir`.
        `outlet` builds the one outlet: by default the files of `local` where that is enabled, else
        the platform where there is a `token`.
        `password` gives a database password, `token` the platform's access token. Commands reach
        the agent at the first of `sockets` that can be used. `reload` reads the configuration anew.
        The disk buffer lies in `state_dir`, unless the configuration names a place; without either,
        lines are kept in memory only. A thread is lost `patience` seconds after it should have
        given a sign. The platform's outlet is used by way of what `around` makes of it. `notifier`
        tells the service manager.
        """
        self.config = config
        self.clock = clock or SystemClock()
        self.samplers = discover() if samplers is None else samplers
        self.stopping = threading.Event()
        self.metrics = Metrics(self.clock)
        self.uplink = Uplink(self.clock, self.metrics, token=token, around=around)
        self.grants = grants or self.uplink.device(config, state_dir)
        self.vitals = Vitals(self.clock, self.metrics, scrub=scrub, patience=patience)
        self.survey = Survey(self, scrub)
        self.ending = Ending(self.clock, STOP_BUDGET)
        self.life = Lifetime(self.ending)
        self.notifier = notifier or Notifier()
        self.watchdog = Watchdog(
            self.vitals,
            self.clock,
            partial(self.end, failed=True),
            on_well=self.notifier.alive,
            on_noted=self._say_how,
            every=min(EVERY, (self.notifier.watchdog or math.inf) / 3),
        )
        self.reloader = Reloader(
            reload,
            self.adopt,
            self.life.post,
            self.metrics,
            self.clock,
            on_begin=self.notifier.reloading,
            on_end=self.notifier.ready,
        )
        self.buffer = storage.buffer(config.buffers, state_dir, self.metrics, self.clock)
        self.mirror = Mirror(self.buffer, self.clock)
        self.delivery = Delivery(
            self.buffer,
            self.metrics,
            self.clock,
            vitals=self.vitals,
            life=self.life,
            ending=self.ending,
        )
        self._masking = Masking(self.metrics, state_dir)
        self._masking.follow(config, self.grants.grant())
        self._audit = AuditLog()
        self._expiry = Expiry(self.metrics, self.clock)
        self.runner = Runner(
            self.mirror,
            self._masking.masker,
            self.metrics,
            self.clock,
            drop_utility_text=config.security.drop_utility_text,
        )
        self._password = password
        self._targets = Targets(config, self._target)
        self.health = HealthServer(
            config.http,
            self.vitals,
            self.metrics,
            version={"version": __version__},
            status=self.survey.page,
            allowlist=config.security.ip_allowlist,
        )
        self.scheduler = Scheduler(
            self._take,
            self.metrics,
            self.clock,
            self.stopping,
            essential=self.life.essential,
            beat=self.vitals.heart("scheduler").beat,
            after=self._come_back,
        )
        self._own_outlet = outlet is None
        self._orders = Orders(
            self.samplers,
            self.scheduler,
            self.clock,
            jobs=self._jobs,
            take=self._take,
            apply=lambda: self.life.post(self.apply),
            resync=self.runner.resync,
            flush=self.delivery.hurry,
        )
        self.outlet = outlet(self.clock, self.metrics) if outlet else self.uplink.outlet(config)
        self.layout = Layout((), ())
        self._output = {"file": "local", "platform": "platform"}.get(
            self.outlet.name if self.outlet is not None else "", ""
        )
        self._sockets = tuple(sockets)
        self._state_dir = state_dir
        self._stack = contextlib.ExitStack()

    @property
    def targets(self) -> Mapping[str, Target]:
        """The targets by name."""
        return self._targets.named

    def own_the_process(self) -> None:
        """End the process where a stop hangs: nobody else lives in it."""
        leave_no_core()
        self.life.when_ending = partial(self.watchdog.end_within, LAST_RESORT, self._last_resort)

    def start(self) -> None:
        """Start the parts in order; one that fails stops those already started.

        Raises StateError where the HTTP address, the audit log or the output cannot be used.
        """
        with contextlib.ExitStack() as stack:
            self._register()
            self._audit.follow(self.config, self.grants.grant())
            stack.callback(self._audit.close)
            stack.callback(self.watchdog.stop)
            self.metrics.config_last_reload_successful.set(1)
            self.metrics.config_last_reload_success_timestamp_seconds.set_to_current_time()
            self.health.start()
            stack.callback(self.health.stop)
            stack.enter_context(self._buffering())
            stack.enter_context(
                self.uplink.at_work(
                    self._orders.perform,
                    lambda: self.life.post(self.apply),
                    delivery=self.delivery,
                    vitals=self.vitals,
                    life=self.life,
                    ending=self.ending,
                )
            )
            stack.callback(self._targets.close)
            if self.outlet is not None:
                stack.enter_context(self.delivery.to(self.outlet, self.config))
            stack.callback(self._stop_sampling)
            if self._sockets:
                stack.callback(self._listen().stop)
            self._look_at_certificates()
            self.life.routine = self._look_at_certificates
            self.scheduler.start()
            self.apply()
            self.watchdog.start(self.life.essential)
            self._stack = stack.pop_all()
        self.notifier.ready()
        log.info(
            "PG Collector %s started: %d jobs on %d targets",
            __version__,
            len(self.layout.jobs),
            len(self.targets),
            extra={"http": self.health.address, "output": self.outlet and self.outlet.name},
        )

    def apply(self) -> None:
        """Lay the jobs out anew, as the grant and the configuration say now."""
        grant = self.grants.grant()
        before = self.layout.paused
        self.layout = self._laid_out()
        self._keep_to(grant)
        for paused in self.layout.paused:
            if paused in before:
                continue
            log.warning(
                "%s on %s: %s", paused.sampler or "every sampler", paused.target, paused.why
            )
        self.metrics.set_plan(grant.plan if grant is not None else "none")
        self.metrics.set_device_state(self.grants.standing().state)
        for target in self.targets:
            every = {job.sampler: job.every for job in self.layout.jobs if job.target == target}
            self.targets[target].expect(every)
            self.metrics.introduce(target, every)
            self.vitals.register(f"postgres:{target}", partial(self._target_vital, target))
        self.scheduler.apply(self.layout.jobs)
        at_work = {job.target for job in self.layout.jobs}
        self._targets.rest(self.targets.keys() - at_work, self.scheduler)

    def once(self) -> bool:
        """Take one turn of every sampler, deliver, stop; return whether all answered and arrived.

        Nothing is scheduled and no port is opened: for cron, and to try a configuration.
        Raises ConfigurationError without a plan, AgentUnreachable where the platform gives none.
        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._buffering())
            stack.enter_context(self.uplink.asked())
            grant = self.grants.grant()
            if grant is None:
                vital = checks.plan(self.grants.standing(), self.config)
                identity = self.uplink.identity
                if identity is not None and identity.trouble is not None:
                    raise AgentUnreachable(vital.reason, remedy=vital.remedy)
                raise ConfigurationError(vital.reason, remedy=vital.remedy)
            self.layout = self._laid_out()
            if self.layout.paused and not self.layout.jobs:
                raise ConfigurationError(
                    f"nothing can be collected: {self.layout.paused[0].why}",
                    remedy="See what the plan allows: pgc device.",
                )
            self._keep_to(grant)
            stack.callback(self._targets.close)
            if self.outlet is not None:
                stack.enter_context(self.delivery.to(self.outlet, self.config))
            stack.callback(self._stop_sampling)
            for job in self.layout.jobs:
                self.scheduler.borrow(job.target, job.lane, partial(self._take, job), ONCE_DEADLINE)
            log.info("a turn of each sampler: %d lines", self.buffer.account().produced)
        well = all(target.trouble is None for target in self.targets.values())
        account = self.buffer.account()
        return well and not self.life.failed and not account.lost and not account.buffered

    def adopt(self, config: Config) -> Reloaded:
        """Let a configuration hold from now on, but for what only a restart changes.

        In the thread that starts and stops the agent. Everything that can be refused comes first:
        raises ConfigurationError or StateError, and then nothing has changed.
        """
        found = difference.compare(self.config, config)
        mine = self.outlet if self._own_outlet else None
        outlet, client = self.uplink.others(self.config, found.config, mine)
        grant = self.grants.grant()
        self._masking.made(found.config, grant)
        with contextlib.ExitStack() as undo:
            self._audit.follow(found.config, grant)
            undo.callback(self._audit.follow, self.config, grant)
            if found.config.log != self.config.log:
                logs.setup(found.config.log, scrub=scrub)
                undo.callback(logs.setup, self.config.log, scrub=scrub)
            if outlet is not None:
                self.delivery.exchange(outlet, found.config)
                self.outlet = outlet
            self.uplink.follow(found.config, client)
            undo.pop_all()
        self.config = found.config
        self._mask_as(grant)
        self.health.admit(self.config.security.ip_allowlist)
        for gone in self._targets.follow(self.config, self.scheduler, self.ending):
            self.metrics.forget(gone)
            self.vitals.forget(f"postgres:{gone}")
        self.apply()
        return Reloaded(accepted=found.accepted, refused=found.refused)

    def wait(self) -> int:
        """Be the main thread until someone calls `end`, or an essential part is lost.

        Returns the exit code: 0, or 1 when a part was lost.
        """
        return self.life.wait()

    def end(self, why: str, *, failed: bool = False) -> None:
        """Ask `wait` to return. Safe in a signal handler, and from every thread."""
        self.life.end(why, failed=failed)

    def stop(self) -> None:
        """Stop the parts in reverse order, within ten seconds."""
        self.life.begin_to_end()
        self.notifier.stopping(LAST_RESORT)
        self.vitals.ending()
        self.stopping.set()
        self._stack.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _laid_out(self) -> Layout:
        """Return what is to run now, by plan, configuration and orders."""
        asked = self._orders.narrowed(self.config)
        return lay_out(self.samplers, self.grants.grant(), asked, self._output)

    def _keep_to(self, grant: Grant | None) -> None:
        """Mask, cut and keep books as a grant says."""
        self._audit.follow_later(self.config, grant)
        self._mask_as(grant)
        if grant is not None and grant.ingest is not None:
            self.runner.cut_at(grant.ingest.max_line_bytes)
            self.delivery.cut_at(grant.ingest.max_batch_bytes)

    def _mask_as(self, grant: Grant | None) -> None:
        """Mask as the configuration and a grant say."""
        security = self.config.security
        self._masking.follow(self.config, grant)
        self.runner.mask_with(self._masking.masker, drop_utility_text=security.drop_utility_text)

    def _listen(self) -> ControlServer:
        """Start to answer commands, where a socket can be had."""
        commands = Commands(
            self.samplers,
            lambda: self.targets,
            self.scheduler,
            self.reloader,
            clock=self.clock,
            masker=lambda: self._masking.masker,
        )
        verbs = BufferVerbs(Upkeep(self.buffer), self.delivery)
        watch = WatchVerbs(
            self.samplers,
            lambda: self.targets,
            self.scheduler,
            self.mirror,
            clock=self.clock,
            jobs=self._jobs,
            masker=lambda: self._masking.masker,
        )
        heart = self.vitals.heart("control")
        answers = {
            **commands.answers,
            **verbs.answers,
            **watch.answers,
            **self.survey.answers,
            **page_verbs.answers(self.health.page),
        }
        identity, directory = self.uplink.identity, self._state_dir
        if directory is not None:
            answers.update(SupportVerbs(directory).answers)
        if identity is not None and directory is not None:
            answers.update(DeviceVerbs(identity, directory).answers)
        else:
            answers.update(DeviceVerbs.of_nobody())

        def beat(within: float) -> None:
            heart.beat(within)
            watch.rest()

        server = ControlServer(answers, self._sockets, beat, state_dir=directory)
        server.start()
        if server.path is None:
            self.vitals.forget("control")
        return server

    def _jobs(self) -> tuple[Job, ...]:
        """Return what is to run; during a reload a target may be wanted that is not built yet."""
        return tuple(job for job in self._laid_out().jobs if job.target in self.targets)

    def _target(self, database: Database) -> Target:
        breaker = self._token_breaker(database)
        return Target(
            database,
            self.samplers,
            self.runner,
            buffer=self.mirror,
            metrics=self.metrics,
            clock=self.clock,
            stopping=self.stopping,
            limits=self.config.breakers.postgres,
            budget=self.config.sampling.budget,
            login=methods.login(database, guard=breaker, clock=self.clock, password=self._password),
            token_breaker=breaker,
        )

    def _token_breaker(self, database: Database) -> Breaker | None:
        """Make the breaker of the endpoint that gives a target's tokens, where there is one."""
        if database.postgres.auth_method not in TOKENS:
            return None
        limits = self.config.breakers.postgres
        return Breaker(
            f"token:{database.name}",
            failures=limits.failures,
            reset=limits.reset,
            counts=(TargetDown,),
            metrics=self.metrics,
            clock=self.clock,
        )

    def _look_at_certificates(self) -> None:
        self._expiry.look(self.config)
        self.health.renew()

    def _take(self, job: Job) -> None:
        self.life.essential(partial(self.targets[job.target].take, job))

    def _come_back(self, job: Job) -> None:
        """Leave the database that the last turns of a round were taken in."""
        target = self.targets.get(job.target)  # it may have been taken away meanwhile
        if target is not None:
            self.life.essential(partial(target.come_back, job.lane))

    def _stop_sampling(self) -> None:
        """End the turns: politely first, then by shutting their sockets."""
        self.stopping.set()
        if not self.ending.wait(self.scheduler.stop, STOP_TURNS):
            self._targets.interrupt()
            if not self.ending.wait(self.scheduler.stop, STOP_FORCED):
                log.error("a turn did not end; its session is left to the server's own limits")

    @contextlib.contextmanager
    def _buffering(self) -> Iterator[None]:
        """Open the disk buffer, if there is one; at the end write down what waits."""
        if self.buffer.journal is not None:
            self.buffer.journal.open()
            self.buffer.journal.beat = self.vitals.heart("journal").beat
            self.buffer.journal.start(self.life.essential)
        try:
            yield
        finally:
            self._put_down()

    def _put_down(self) -> None:
        """Write to disk what was not delivered, or count it."""
        lost = self.buffer.close(max(STOP_LEAST, min(STOP_WRITE, self.ending.left)))
        if lost:
            log.error("%d lines were not delivered and are lost", lost)
        if waiting := self.buffer.account().buffered:
            log.warning(
                "%d lines were not delivered; they wait on disk for the next start", waiting
            )

    def _last_resort(self) -> None:
        """End the process now, after what can be saved was: its main thread does not come to it."""
        log.critical("the stop takes longer than %g s: something hangs in it", LAST_RESORT)
        saving = threading.Thread(target=self._put_down, name="last-resort", daemon=True)
        saving.start()
        saving.join(RESCUE)
        os._exit(1)

    def _register(self) -> None:
        self.vitals.register("scheduler", partial(checks.scheduler, self.scheduler))
        self.vitals.register("masking", self._masking.vital)
        self.vitals.register("audit", self._audit.vital)
        self.vitals.register("buffer", checks.Room(self.buffer).vital)
        self.vitals.register("certificates", self._certificates_vital)
        self.vitals.register("config", partial(checks.config, self.reloader))
        self.vitals.require("plan", self._plan_vital)
        if self.uplink.identity is None and not self.grants.standing().collects:
            self.vitals.register("activation", self._plan_vital)  # else the uplink does
        self.vitals.require("postgres", self._any_target_vital)

    def _say_how(self) -> None:
        """Tell the service manager how the parts are."""
        if self.notifier.wanted:
            self.notifier.status(self.survey.sentence())

    def _plan_vital(self) -> Vital:
        return checks.plan(self.grants.standing(), self.config)

    def _target_vital(self, name: str) -> Vital:
        paused = [p.why for p in self.layout.paused if p.target == name and not p.sampler]
        return checks.target(self.targets[name], paused[0] if paused else None)

    def _certificates_vital(self) -> Vital:
        return checks.certificates(self._expiry, self.targets, self.delivery.sender)

    def _any_target_vital(self) -> Vital:
        targets = self.targets
        at_work = {job.target for job in self.layout.jobs} & targets.keys()
        return checks.any_target(targets[name] for name in sorted(at_work))


def run(
    config: Config,
    grants: GrantSource | None,
    outlet: OutletSource | None = None,
    *,
    token: Callable[[], str] | None = None,
    sockets: Sequence[Path] = (),
    state_dir: Path | None = None,
    reload: Callable[[], Config] | None = None,
    patience: float = vitals.PATIENCE,
    on_start: Callable[[Agent], None] = lambda _agent: None,
    around: Callable[[Outlet], Outlet] = lambda outlet: outlet,
) -> int:
    """Be the agent, in the main thread, until SIGTERM or SIGINT; return the exit code.

    A second of these ends without waiting for anybody; a stop that hangs ends the process with 1.
    With `reload`, SIGHUP reads the configuration anew. `on_start` sees the running agent once,
    before the wait begins. Raises StateError where something cannot be opened.
    """
    agent = Agent(
        config,
        grants,
        outlet,
        token=token,
        sockets=sockets,
        state_dir=state_dir,
        reload=reload or nothing_to_read,
        patience=patience,
        around=around,
        notifier=Notifier.of(os.environ),
    )
    agent.own_the_process()
    allocator.tune()
    handlers: dict[signal.Signals, signals.Handler] = {}

    def on_end(number: int, _frame: FrameType | None) -> None:
        if agent.ending.begun:
            agent.ending.hurry()
        else:
            agent.end(signal.Signals(number).name)

    def on_hangup(_number: int, _frame: FrameType | None) -> None:
        agent.reloader.ask()

    if reload is not None:
        handlers[signal.SIGHUP] = on_hangup
    handlers |= {signal.SIGTERM: on_end, signal.SIGINT: on_end}
    with signals.handled(handlers, agent.life.rope), agent:
        on_start(agent)
        allocator.settle()
        return agent.wait()
