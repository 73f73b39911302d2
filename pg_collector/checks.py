"""How the agent's parts are, in the words of /healthz and /readyz: what `vitals` asks of each."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from pg_collector.breaker import Breaker, State
from pg_collector.buffer.journal import Journal
from pg_collector.config.model import Config
from pg_collector.health import vitals
from pg_collector.health.vitals import Vital
from pg_collector.plan import DeviceState, Standing
from pg_collector.reload import Reloader
from pg_collector.scheduler import Scheduler
from pg_collector.sender import Sender
from pg_collector.target import Target

if TYPE_CHECKING:
    from pg_collector.activation.identity import Identity

_WITHOUT_A_KEY: Final = (
    "device not activated: add api_key (and platform.url) to the configuration, or collect into "
    "files: local.enabled: true, or --local DIR."
)
_WITH_A_KEY: Final = "It is not activated yet: `activation` in the health report says why."


def plan(standing: Standing, config: Config) -> Vital:
    """Say whether anything may be collected, and what its owner can do if not."""
    if standing.collects:
        return vitals.OK
    remedy = standing.remedy
    if standing.state is DeviceState.UNPROVISIONED and not remedy:
        remedy = _WITHOUT_A_KEY if config.api_key is None else _WITH_A_KEY
    reason = f"{standing.state}: {standing.reason}; nothing is collected"
    return Vital(state=vitals.State.DOWN, reason=reason, remedy=remedy)


def activation(one: "Identity") -> Vital:
    """Say how the device stands with its key service."""
    standing, trouble = one.standing(), one.trouble
    if standing.state is DeviceState.ACTIVE and trouble is None:
        return vitals.OK
    if standing.collects:
        reason = standing.reason or str(trouble)
        remedy = trouble.remedy if trouble else standing.remedy
        return Vital(state=vitals.State.DEGRADED, reason=reason, remedy=remedy)
    reason = f"{standing.state}: {trouble or standing.reason}"
    remedy = standing.remedy or (trouble.remedy if trouble else "")
    return Vital(state=vitals.State.DOWN, reason=reason, remedy=remedy)


def target(one: Target, paused: str | None = None) -> Vital:
    """Say whether a target can be used; `paused` says why it is not to be."""
    if paused is not None:
        return Vital(state=vitals.State.OK, reason=f"paused: {paused}")
    trouble = one.trouble
    if trouble is not None:
        usable = one.connected and not one.down
        state = vitals.State.DEGRADED if usable else vitals.State.DOWN
        left_alone = one.breaker.state is not State.CLOSED
        reason = f"{trouble} (the circuit breaker is {one.breaker.state})" if left_alone else ""
        return Vital(state=state, reason=reason or str(trouble), remedy=trouble.remedy)
    if not one.connected:
        return Vital(state=vitals.State.DOWN, reason="not connected yet")
    return vitals.OK


def any_target(targets: Iterable[Target]) -> Vital:
    """Say whether at least one of the targets at work can be used."""
    answers = [target(one) for one in targets]
    if not answers:
        return Vital(state=vitals.State.DOWN, reason="there is nothing to collect")
    return next((one for one in answers if one.state is not vitals.State.DOWN), answers[0])


def breaker(one: Breaker) -> Vital:
    """Say whether a far side is left alone, where no other part says so."""
    trouble = one.trouble
    if trouble is None:
        return vitals.OK
    return Vital(
        state=vitals.State.DEGRADED, reason=f"{one.state}: {trouble}", remedy=trouble.remedy
    )


def scheduler(one: Scheduler) -> Vital:
    """Say whether turns are started."""
    if one.alive:
        return vitals.OK
    return Vital(
        state=vitals.State.DOWN,
        reason="the scheduler's threads are dead",
        remedy="Restart the agent, and report this with the log.",
        essential=True,
    )


def output(name: str, sender: Sender) -> Vital:
    """Say whether what was sampled arrives."""
    trouble = sender.trouble or sender.notice
    if trouble is None:
        return vitals.OK
    return Vital(
        state=vitals.State.DEGRADED, reason=f"{name}: {trouble.message}", remedy=trouble.remedy
    )


def buffer(journal: Journal) -> Vital:
    """Say whether lines are safe on disk before they leave."""
    trouble = journal.trouble
    if trouble is None:
        return vitals.OK
    return Vital(
        state=vitals.State.DEGRADED,
        reason=f"lines are in memory only: {trouble}",
        remedy=trouble.remedy,
    )


def config(reloader: Reloader) -> Vital:
    """Say whether the configuration as it is written is in force."""
    trouble = reloader.trouble
    if trouble is not None:
        reason = "; ".join(str(trouble).splitlines())
        remedy = trouble.remedy or "Mend it, then: pgc reload."
        return Vital(
            state=vitals.State.DEGRADED, reason=f"the last reload was refused: {reason}",
            remedy=remedy,
        )  # fmt: skip
    if reloader.refused:
        keys = ", ".join(reloader.refused)
        return Vital(state=vitals.State.OK, reason=f"in force after a restart: {keys}")
    return vitals.OK
