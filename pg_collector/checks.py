"""How the agent's parts are, in the words of /healthz and /readyz: what `vitals` asks of each."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from pg_collector.breaker import Breaker, State
from pg_collector.buffer.spill import ACK_WITHIN, SpillingBuffer
from pg_collector.config.model import Config
from pg_collector.errors import StoreDown
from pg_collector.expiry import Expiry
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
NEARLY_FULL: Final = 0.8  # of a tier
ROOM_AGAIN: Final = 0.6  # of one that gave something up: with that, it falls to 3/4 at least

_READ_IT: Final = "Look at what is on disk: pgc buffer verify."
_ROOM: Final = "Have the output take them (see `output`), or raise buffers.{}."
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
    if not one.asked:
        return Vital(state=vitals.State.UNKNOWN, reason="the key service was not asked yet")
    if standing.state is DeviceState.ACTIVE and trouble is None:
        return vitals.OK
    if standing.collects:
        reason = "; ".join(filter(None, (_grace(standing), str(trouble or ""))))
        remedy = trouble.remedy if trouble else standing.remedy
        return Vital(state=vitals.State.DEGRADED, reason=reason, remedy=remedy)
    reason = f"{standing.state}: {trouble or standing.reason}"
    remedy = standing.remedy or (trouble.remedy if trouble else "")
    return Vital(state=vitals.State.DOWN, reason=reason, remedy=remedy)


def _grace(standing: Standing) -> str:
    """Return what to say of a device in grace: above all for how long."""
    if standing.state is not DeviceState.GRACE:
        return standing.reason
    left = standing.grace_left or 0.0
    hours, minutes = divmod(int(left) // 60, 60)
    words = (
        f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{left:.0f} s"
    )
    return f"GRACE: {standing.reason}; collecting goes on for {words} more"


def target(one: Target, paused: str | None = None) -> Vital:
    """Say whether a target can be used; `paused` says why it is not to be."""
    if paused is not None:
        return Vital(state=vitals.State.OK, reason=f"paused: {paused}")
    if one.resting:
        return Vital(state=vitals.State.OK, reason="nothing is sampled here")
    trouble = one.trouble
    if trouble is not None:
        usable = one.connected and not one.down
        state = vitals.State.DEGRADED if usable else vitals.State.DOWN
        left_alone = one.breaker.state is not State.CLOSED
        reason = f"{trouble} (the circuit breaker is {one.breaker.state})" if left_alone else ""
        return Vital(state=state, reason=reason or str(trouble), remedy=trouble.remedy)
    if not one.connected and not one.answered:
        return Vital(state=vitals.State.UNKNOWN, reason="not connected yet")
    if slow := one.slow:
        return Vital(
            state=vitals.State.DEGRADED,
            reason=f"too slow: no answer within the time limit for {', '.join(slow)}",
            remedy="Find out what keeps the server busy, or raise query_timeout of this database.",
        )
    return vitals.OK


def any_target(targets: Iterable[Target]) -> Vital:
    """Say whether at least one of the targets at work can be used."""
    answers = [target(one) for one in targets]
    if not answers:
        return Vital(state=vitals.State.DOWN, reason="there is nothing to collect")
    return min(answers, key=lambda vital: _BEST.index(vital.state))


_BEST: Final = [vitals.State.OK, vitals.State.DEGRADED, vitals.State.UNKNOWN, vitals.State.DOWN]


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
    if not one.started:
        return Vital(state=vitals.State.UNKNOWN, reason="not started yet", essential=True)
    return Vital(
        state=vitals.State.DOWN,
        reason="the scheduler's threads are dead",
        remedy=vitals.REPORT_IT,
        essential=True,
    )


def output(name: str, sender: Sender, buffer: SpillingBuffer) -> Vital:
    """Say whether what was sampled arrives. What the buffer's own check says, is not said twice."""
    trouble = sender.trouble or sender.notice
    if trouble is not None and trouble.of_the_buffer:
        state = vitals.State.OK if buffer.disk_at_fault else vitals.State.DEGRADED
        reason = f"{name}: waits for the buffer: {trouble.message}"
        return Vital(state=state, reason=reason, remedy=trouble.remedy or _READ_IT)
    if trouble is not None:
        reason = f"{name}: {trouble.message}"
        return Vital(state=vitals.State.DEGRADED, reason=reason, remedy=trouble.remedy)
    if not sender.tried:
        reason = f"{name}: nothing was delivered yet"
        return Vital(state=vitals.State.UNKNOWN, reason=reason)
    return vitals.OK


def certificates(expiry: Expiry, targets: Mapping[str, Target], sender: Sender | None) -> Vital:
    """Say which certificates end, or have ended and are why something does not work."""

    def broken(role: str) -> bool:
        kind, _, name = role.partition(":")
        if kind == "postgres":
            one = targets.get(name)
            return one is not None and one.trouble is not None
        return kind == "platform" and sender is not None and sender.trouble is not None

    return expiry.vital(broken)


class Room:
    """The buffer: whether lines are safe on disk before they leave, and how full it is.

    It is full from its first loss until two fifths of it are free again.
    """

    def __init__(self, buffer: SpillingBuffer) -> None:
        self._buffer = buffer
        self._before = buffer.given_up()  # when there was room last

    def vital(self) -> Vital:
        """Say what is the matter with the disk, and whether anything is given up."""
        journal = self._buffer.journal
        trouble = journal.trouble if journal is not None else None
        if journal is not None and trouble is None and journal.busy_for > ACK_WITHIN:
            trouble = StoreDown(
                f"{journal.directory}: the disk has not answered for {journal.busy_for:.0f} s",
                remedy="Look at the volume: something holds it up.",
            )
        disk = journal is not None and trouble is None
        state, fill = self._fill("disk_max" if disk else "memory_max")
        if trouble is not None:
            reason = "; ".join(filter(None, (f"lines are in memory only: {trouble}", fill)))
            state = max(state, vitals.State.DEGRADED, key=_BEST.index)
            return Vital(state=state, reason=reason, remedy=trouble.remedy)
        if not fill:
            return vitals.OK
        remedy = _ROOM.format("disk_max" if disk else "memory_max")
        return Vital(state=state, reason=fill, remedy=remedy)

    def _fill(self, cap: str) -> tuple[vitals.State, str]:
        part = self._buffer.fill
        given_up = self._buffer.given_up()
        if part < (ROOM_AGAIN if given_up != self._before else NEARLY_FULL):
            self._before = given_up
            return vitals.State.OK, ""
        full = f"buffers.{cap} is full"
        thinned, oldest = (now - then for now, then in zip(given_up, self._before, strict=True))
        if oldest:
            return vitals.State.DOWN, f"{full}: the oldest lines are given up, {oldest} so far"
        if thinned:
            return vitals.State.DEGRADED, f"{full}: older samples are thinned out"
        return vitals.State.DEGRADED, f"buffers.{cap} is nearly full: {part:.0%}"


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
