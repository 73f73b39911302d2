"""What the parts of a running agent say of themselves, gathered into a `Status`.

It reads what is known and waits for nobody: it is asked while everything else may hang.
"""

import datetime as dt
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Protocol

import msgspec

from pg_collector import __version__, checks
from pg_collector.breaker import Breaker
from pg_collector.breaker import State as Circuitry
from pg_collector.buffer.spill import SpillingBuffer
from pg_collector.clock import Clock, rfc3339
from pg_collector.control import Answers, Reply
from pg_collector.delivery import Delivery
from pg_collector.health.vitals import State, Vitals
from pg_collector.metrics import Metrics
from pg_collector.outlets import Outlet, RemoteOutlet
from pg_collector.plan import DeviceState, GrantSource
from pg_collector.reload import Reloader
from pg_collector.sample import Facts
from pg_collector.schedule import Job, Layout
from pg_collector.scheduler import Scheduler
from pg_collector.states import OK
from pg_collector.states import State as SetState
from pg_collector.status import (
    BufferStatus,
    Circuit,
    ConfigStatus,
    DeviceStatus,
    OutputStatus,
    ProcessStatus,
    SamplerStatus,
    SetStatus,
    Status,
    StatusRequest,
    TargetStatus,
    Trouble,
)
from pg_collector.target import Target
from pg_collector.uplink import Uplink

_WORST: Final = ("down", "error", "unavailable", "limited")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class Parts(Protocol):
    """The parts of an agent that are looked at."""

    clock: Clock
    vitals: Vitals
    metrics: Metrics
    reloader: Reloader
    scheduler: Scheduler
    buffer: SpillingBuffer
    delivery: Delivery
    uplink: Uplink
    grants: GrantSource
    layout: Layout
    outlet: Outlet | None

    @property
    def targets(self) -> Mapping[str, Target]:
        """The targets by name."""


class Survey:
    """Looks at the parts of an agent. From any thread."""

    def __init__(self, parts: Parts, scrub: Callable[[str], str]) -> None:
        """`scrub` redacts what is quoted."""
        self._parts = parts
        self._scrub = scrub
        self._clock = parts.clock
        self._started_at = parts.clock.now()
        self._started = parts.clock.monotonic()

    @property
    def answers(self) -> Answers:
        """What answers the verb of the control socket."""
        return {StatusRequest: lambda _request: Reply(result=msgspec.to_builtins(self.status()))}

    def page(self) -> bytes:
        """Return the status as JSON."""
        return msgspec.json.encode(self.status()) + b"\n"

    def status(self) -> Status:
        """Return the state of the agent now."""
        report = self._parts.vitals.health()
        troubles = tuple(
            Trouble(part=name, state=one.state, reason=one.reason, remedy=one.remedy)
            for name, one in report.parts.items()
            if one.state is not State.OK
        )
        layout = self._parts.layout
        return Status(
            version=__version__,
            at=rfc3339(self._clock.now()),
            status=report.status,
            troubles=troubles,
            process=self._process(),
            config=self._config(),
            device=self._device(),
            targets=tuple(self._target(one, layout) for one in self._parts.targets.values()),
            buffer=self._buffered(),
            output=self._output(),
            clock_skew_s=self._skew(),
        )

    def sentence(self) -> str:
        """Return the state of the agent in one line."""
        report = self._parts.vitals.health()
        targets = self._parts.targets.values()
        up = sum(one.connected and not one.down for one in targets)
        said = f"{report.status}: {up} of {len(targets)} targets up"
        states = {name: one.state for name, one in report.parts.items()}
        well = {State.OK, State.UNKNOWN}
        if ill := [name for name, state in states.items() if state not in well]:
            said += f"; not well: {', '.join(ill)}"
        if unknown := [name for name, state in states.items() if state is State.UNKNOWN]:
            said += f"; not known: {', '.join(unknown)}"
        if (standing := self._parts.grants.standing()).state is not DeviceState.LOCAL:
            said += f"; device {standing.state}"
        return said

    def _process(self) -> ProcessStatus:
        return ProcessStatus(
            pid=os.getpid(),
            started_at=rfc3339(self._started_at),
            uptime_s=round(self._clock.monotonic() - self._started, 3),
            resident_bytes=_resident(),
            cpu_s=round(time.process_time(), 3),
            threads=threading.active_count(),
        )

    def _config(self) -> ConfigStatus:
        trouble = self._parts.reloader.trouble
        return ConfigStatus(
            loaded_at=rfc3339(self._parts.reloader.loaded_at),
            reload_error=self._scrub(str(trouble)) if trouble is not None else "",
            needs_restart=self._parts.reloader.refused,
        )

    def _device(self) -> DeviceStatus:
        grants, identity = self._parts.grants, self._parts.uplink.identity
        grant = grants.grant()
        plan = grant.plan if grant is not None else None
        if identity is None:
            standing = grants.standing()
            return DeviceStatus(
                state=standing.state, reason=standing.reason, remedy=standing.remedy, plan=plan
            )
        told = identity.told()
        return DeviceStatus(
            state=told.state,
            reason=self._scrub(told.reason or told.trouble),
            remedy=self._scrub(told.remedy),
            plan=plan or (told.policy.plan if told.policy is not None else None),
            device_id=told.device_id,
            policy_version=told.policy.version if told.policy is not None else None,
            policy_age_s=told.policy_age_s,
            contact_age_s=told.contact_age_s,
            grace_left_s=told.grace_left_s,
            token_expires_in_s=told.token_expires_in_s,
        )

    def _target(self, one: Target, layout: Layout) -> TargetStatus:
        paused = {p.sampler: p.why for p in layout.paused if p.target == one.name}
        vital = checks.target(one, paused.get(None))
        jobs = [job for job in layout.jobs if job.target == one.name]
        samplers = [self._sampler(one, job) for job in jobs]
        samplers += [
            SamplerStatus(name=name, state="paused", reason=why)
            for name, why in paused.items()
            if name is not None and name not in {job.sampler for job in jobs}
        ]
        return TargetStatus(
            name=one.name,
            state=vital.state,
            reason=self._scrub(vital.reason),
            remedy=self._scrub(vital.remedy),
            version=_version(one.facts),
            role=_role(one.facts),
            connections=one.connections,
            max_connections=one.database.postgres.max_connections,
            breaker=_circuit(one.breaker),
            samplers=tuple(samplers),
        )

    def _sampler(self, one: Target, job: Job) -> SamplerStatus:
        tally = one.tally(job.sampler)
        now, last = self._clock.monotonic(), tally.last
        told = one.states.of(job.sampler)
        state, worst = _worst(told, waiting=last is None and not tally.failed)
        age = now - tally.at if last is not None else None
        due = self._parts.scheduler.due_in(job.id)
        pace = one.pace(job.sampler)
        return SamplerStatus(
            name=job.sampler,
            state=state,
            reason=self._scrub(worst.message or ""),
            remedy=self._scrub(worst.remedy or ""),
            every_s=job.every * pace.factor,
            last_at=rfc3339(self._clock.now() - dt.timedelta(seconds=age))
            if age is not None
            else None,
            last_age_s=round(age, 3) if age is not None else None,
            next_in_s=round(due + pace.left_out * job.every, 3) if due is not None else None,
            rows=last.rows if last is not None else None,
            lines=last.lines if last is not None else None,
            bytes=last.bytes if last is not None else None,
            took_ms=round(last.seconds * 1000, 3) if last is not None else None,
            ok=tally.ok,
            failed=tally.failed,
            skipped=tally.skipped + self._parts.scheduler.skipped[job.id],
            sets=tuple(
                SetStatus(
                    set=name,
                    state=one.state,
                    message=self._scrub(one.message or ""),
                    remedy=self._scrub(one.remedy or ""),
                )
                for name, one in sorted(told.items(), key=lambda item: item[0] or "")
                if name is not None and one != OK
            ),
        )

    def _buffered(self) -> BufferStatus:
        buffer, journal = self._parts.buffer, self._parts.buffer.journal
        account = buffer.glimpse()
        left = buffer.seconds_remaining()
        disk = "none"
        if journal is not None:
            disk = "usable" if journal.trouble is None else "in trouble"
        return BufferStatus(
            lines=account.buffered,
            memory_bytes=buffer.memory_bytes,
            memory_capacity_bytes=buffer.memory_max,
            disk_bytes=journal.bytes if journal is not None else 0,
            disk_capacity_bytes=journal.capacity if journal is not None else 0,
            disk=disk,
            oldest_age_s=round(buffer.oldest_age(), 3),
            seconds_remaining=round(left, 1) if math.isfinite(left) else None,
            draining=buffer.backlog,
            produced=account.produced,
            delivered=account.delivered,
            quarantined=account.quarantined,
            lost=dict(account.lost),
        )

    def _output(self) -> OutputStatus:
        outlet, sender = self._parts.outlet, self._parts.delivery.sender
        if outlet is None or sender is None:
            return OutputStatus()
        vital = checks.output(outlet.name, sender, self._parts.buffer)
        last, breaker = sender.delivered, self._parts.delivery.breaker
        age = self._clock.monotonic() - last.at if last is not None else None
        at = self._clock.now() - dt.timedelta(seconds=age) if age is not None else None
        return OutputStatus(
            name=outlet.name,
            state=vital.state,
            reason=self._scrub(vital.reason),
            remedy=self._scrub(vital.remedy),
            last_delivery_at=rfc3339(at) if at is not None else None,
            last_delivery_age_s=round(age, 3) if age is not None else None,
            lines=last.lines if last is not None else None,
            bytes=last.bytes if last is not None else None,
            sent_bytes=last.sent if last is not None else None,
            breaker=_circuit(breaker) if breaker is not None else None,
        )

    def _skew(self) -> float | None:
        """Return how far this clock is ahead of the platform's; None before a delivery to it."""
        outlet, sender = self._parts.outlet, self._parts.delivery.sender
        remote = isinstance(outlet, RemoteOutlet)
        if not remote or sender is None or sender.delivered is None:
            return None
        (family,) = self._parts.metrics.clock_skew_seconds.collect()
        return float(family.samples[0].value)


def _circuit(breaker: Breaker) -> Circuit:
    if breaker.state is Circuitry.CLOSED:
        return Circuit(state="closed")
    trouble = breaker.trouble
    retry = getattr(trouble, "retry_in", None)
    return Circuit(state=breaker.state, retry_in_s=round(retry, 1) if retry is not None else None)


def _worst(told: Mapping[str | None, SetState], *, waiting: bool) -> tuple[str, SetState]:
    """Return the state of a sampler, and the state of a set that says why.

    A sampler with a set that answers is limited at worst by the others.
    """
    own = told.get(None, OK)
    if own != OK:
        return own.state, own
    if waiting:
        return "waiting", OK
    sets = [one for name, one in told.items() if name is not None]
    ill = [one for one in sets if one != OK]
    if not ill:
        return "ok", OK
    worst = min(ill, key=lambda one: _WORST.index(one.state))
    some_answer = len(ill) < len(sets)
    return "limited" if some_answer and worst.state == "unavailable" else worst.state, worst


def _version(facts: Facts | None) -> str | None:
    if facts is None:
        return None
    told = facts.settings.get("server_version", "").split(" ", 1)[0]
    return told or f"{facts.major}.{facts.version % 10_000}"


def _role(facts: Facts | None) -> str | None:
    if facts is None:
        return None
    return "standby" if facts.in_recovery else "primary"


def _resident() -> int:
    """Return the bytes of memory that the process has; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0
