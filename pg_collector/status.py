"""The state of a running agent at one moment: what /status, `pgc status` and `pgc top` show.

Moments are RFC 3339 in UTC; what ends in `_s` are seconds, before or after this moment. No secret,
no SQL of the user's and no connection string is in it: names of targets, samplers and sets,
versions and numbers, and the reasons and remedies that the health report gives, too.
"""

import msgspec

from pg_collector.control import AgentRequest


class StatusRequest(AgentRequest, frozen=True, kw_only=True, tag="status"):
    """How the agent is; the result is a `Status`. `again`: by who has asked a moment ago."""

    again: bool = False

    @property
    def repeats(self) -> bool:
        """Whether who asks has asked before."""
        return self.again


class Trouble(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A part that is not well, in the words of /healthz."""

    part: str
    state: str
    reason: str = ""
    remedy: str = ""


class Circuit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A circuit breaker: closed, open or half-open, and when the next attempt may be made."""

    state: str
    retry_in_s: float | None = None


class SetStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A set of a sampler that is not as it should be, and why."""

    set: str
    state: str
    message: str = ""
    remedy: str = ""


class SamplerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A sampler on a target.

    `state` is ok, limited, unavailable, error or down as its sets are; waiting before the first
    turn; paused where the plan or the configuration does not let it work. `every_s` and `next_in_s`
    are what they are while the budget makes its turns rarer. `rows`, `lines`, `bytes`
    and `took_ms` are those of the last turn, `ok`, `failed` and `skipped` count turns since the
    start.
    """

    name: str
    state: str
    reason: str = ""
    remedy: str = ""
    every_s: float | None = None
    last_at: str | None = None
    last_age_s: float | None = None
    next_in_s: float | None = None
    rows: int | None = None
    lines: int | None = None
    bytes: int | None = None
    took_ms: float | None = None
    ok: int = 0
    failed: int = 0
    skipped: int = 0
    sets: tuple[SetStatus, ...] = ()


class TargetStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A target: `version` and `role` are those last seen, None before the first session."""

    name: str
    state: str
    reason: str = ""
    remedy: str = ""
    version: str | None = None
    role: str | None = None  # primary or standby
    connections: int = 0
    max_connections: int = 2
    breaker: Circuit = Circuit(state="closed")
    samplers: tuple[SamplerStatus, ...] = ()


class DeviceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The device and its plan; LOCAL without a platform."""

    state: str
    reason: str = ""
    remedy: str = ""
    plan: str | None = None
    device_id: str = ""
    policy_version: int | None = None
    policy_age_s: float | None = None
    contact_age_s: float | None = None
    grace_left_s: float | None = None
    token_expires_in_s: float | None = None


class BufferStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What waits, and where every line went since the start.

    `seconds_remaining` is for how long it has room if nothing is delivered; None: not known yet.
    """

    lines: int = 0
    memory_bytes: int = 0
    memory_capacity_bytes: int = 0
    disk_bytes: int = 0
    disk_capacity_bytes: int = 0
    disk: str = "none"  # usable, in trouble, none
    oldest_age_s: float = 0.0
    seconds_remaining: float | None = None
    draining: bool = False
    produced: int = 0
    delivered: int = 0
    quarantined: int = 0
    lost: dict[str, int] = {}


class OutputStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Where lines go: file, platform, or none; `lines` and `bytes` are those of the last batch."""

    name: str = "none"
    state: str = "ok"
    reason: str = ""
    remedy: str = ""
    last_delivery_at: str | None = None
    last_delivery_age_s: float | None = None
    lines: int | None = None
    bytes: int | None = None
    sent_bytes: int | None = None
    breaker: Circuit | None = None


class ConfigStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration in force: since when, why not a later one, what waits for a restart."""

    loaded_at: str
    reload_error: str = ""
    needs_restart: tuple[str, ...] = ()


class ProcessStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The agent's process; `cpu_s` is processor time since the start."""

    pid: int
    started_at: str
    uptime_s: float
    resident_bytes: int
    cpu_s: float
    threads: int


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. `status` is that of /healthz; `troubles` are the parts that are not ok."""

    version: str
    at: str
    status: str
    troubles: tuple[Trouble, ...] = ()
    process: ProcessStatus
    config: ConfigStatus
    device: DeviceStatus
    targets: tuple[TargetStatus, ...] = ()
    buffer: BufferStatus = BufferStatus()
    output: OutputStatus = OutputStatus()
    clock_skew_s: float | None = None
