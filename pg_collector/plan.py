"""What a device may do now: which samplers, how often, on how many databases.

The agent knows no plan by name, but one: without an account it runs on `demo`, which is built in.
Every other grant comes from the platform, signed.
"""

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Final, NamedTuple, Protocol

import msgspec
from msgspec import Meta

LONGEST: Final = 366 * 86400.0  # seconds; a policy with a longer time in it is a mistake


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """How often one sampler may run, in seconds. `default` replaces the sampler's own interval."""

    min_interval: float
    default_interval: float | None = None


class Features(msgspec.Struct, frozen=True, kw_only=True):
    """What else a plan allows. The default is what the plan demo has."""

    masking_levels: tuple[str, ...] = ("basic",)
    pii: str = "basic"
    audit_log: bool = False
    outputs: tuple[str, ...] = ("local", "platform")

    def masking(self, asked: str) -> str:
        """Return the masking level that holds where one is asked for: basic is always allowed."""
        return asked if asked in self.masking_levels else "basic"


class Ingest(msgspec.Struct, frozen=True, kw_only=True):
    """What the platform takes of samples."""

    max_batch_bytes: Annotated[int, Meta(ge=65536)]
    max_line_bytes: Annotated[int, Meta(ge=65536)]
    encodings: tuple[str, ...] = ("zstd", "gzip")


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """The limits in force. `samplers` None means every one, not more often than `floor`."""

    plan: str
    samplers: Mapping[str, Limit] | None
    max_databases: int | None  # None: no limit
    floor: float = 1.0
    features: Features = Features()
    ingest: Ingest | None = None  # None: as the configuration says

    def limit(self, sampler: str) -> Limit | None:
        """Return the sampler's limit, or None where it is not allowed."""
        if self.samplers is None:
            return Limit(min_interval=self.floor)
        return self.samplers.get(sampler)


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """How often a policy lets a sampler run."""

    min_interval_s: Annotated[float, Meta(ge=0, le=LONGEST)]
    default_interval_s: Annotated[float, Meta(ge=0.1, le=LONGEST)] | None = None


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What the platform grants a device, as docs/specs/protocol.md says. Times are in seconds."""

    sub: str  # the device
    version: Annotated[int, Meta(ge=0)]
    plan: Annotated[str, Meta(min_length=1, max_length=64)]
    max_databases: Annotated[int, Meta(ge=0)] | None
    samplers: Mapping[str, Interval]
    features: Features
    grace_s: Annotated[float, Meta(ge=0, le=LONGEST)]
    heartbeat_s: Annotated[float, Meta(ge=0.1, le=LONGEST)]
    ingest: Ingest
    iat: float
    exp: float

    @property
    def life(self) -> float:
        """For how many seconds after its arrival it is good."""
        return max(0.0, self.exp - self.iat)

    def granted(self) -> Grant:
        """Return the limits for the agent."""
        limits = {
            name: Limit(min_interval=one.min_interval_s, default_interval=one.default_interval_s)
            for name, one in self.samplers.items()
        }
        return Grant(
            plan=self.plan,
            samplers=MappingProxyType(limits),
            max_databases=self.max_databases,
            features=self.features,
            ingest=self.ingest,
        )


class DeviceState(enum.StrEnum):
    """What a device may do: collect in LOCAL, ACTIVE and GRACE, nothing in the others."""

    LOCAL = "LOCAL"  # without a platform
    UNPROVISIONED = "UNPROVISIONED"
    ACTIVE = "ACTIVE"
    GRACE = "GRACE"
    STOPPED = "STOPPED"


class Standing(NamedTuple):
    """A state, why it is so, what its owner can do, and how long grace will last, in seconds."""

    state: DeviceState
    reason: str = ""
    remedy: str = ""
    grace_left: float | None = None

    @property
    def collects(self) -> bool:
        """Whether samples may be taken."""
        return self.state not in {DeviceState.UNPROVISIONED, DeviceState.STOPPED}


UNPROVISIONED: Final = Standing(DeviceState.UNPROVISIONED, "this device has no plan")
LOCAL: Final = Standing(DeviceState.LOCAL)


class GrantSource(Protocol):
    """Whoever says what is allowed; asked whenever the jobs are laid out anew."""

    def grant(self) -> Grant | None:
        """Return what is allowed now, or None where nothing may be collected."""

    def standing(self) -> Standing:
        """Return the state of the device, and why it is so."""


EVERYTHING: Final = Features(
    masking_levels=("none", "basic", "full", "custom"), pii="full", audit_log=True
)
DEMO: Final = Grant(
    plan="demo",
    max_databases=1,
    features=Features(outputs=("local",)),
    samplers=MappingProxyType(
        {
            "activity": Limit(min_interval=30.0),
            "database": Limit(min_interval=60.0),
            "statements": Limit(min_interval=60.0),
        }
    ),
)


class LocalGrant:
    """The built-in plan `demo`: local output, no platform."""

    def grant(self) -> Grant | None:
        """Return the plan demo."""
        return DEMO

    def standing(self) -> Standing:
        """Return LOCAL."""
        return LOCAL


class NoGrant:
    """A device without a plan: it stays up, says so, and collects nothing."""

    def grant(self) -> Grant | None:
        """Return nothing."""
        return None

    def standing(self) -> Standing:
        """Return UNPROVISIONED."""
        return UNPROVISIONED


class OpenGrant:
    """Every sampler, as often as once a second.

    Built in code by the demo and the tests only: no file, variable or flag leads here.
    """

    def grant(self) -> Grant | None:
        """Return a grant without limits but the floor."""
        return Grant(plan="open", samplers=None, max_databases=None, features=EVERYTHING)

    def standing(self) -> Standing:
        """Return LOCAL."""
        return LOCAL
