"""What a device may do now: which samplers, how often, on how many databases.

The agent knows no plan by name, but one: without an account it runs on `demo`, which is built in.
Every other grant comes from the platform, signed.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Protocol

import msgspec


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """How often one sampler may run, in seconds. `default` replaces the sampler's own interval."""

    min_interval: float
    default_interval: float | None = None


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """The limits in force. `samplers` None means every one, not more often than `floor`."""

    plan: str
    samplers: Mapping[str, Limit] | None
    max_databases: int | None  # None: no limit
    floor: float = 1.0

    def limit(self, sampler: str) -> Limit | None:
        """Return the sampler's limit, or None where it is not allowed."""
        if self.samplers is None:
            return Limit(min_interval=self.floor)
        return self.samplers.get(sampler)


class GrantSource(Protocol):
    """Whoever says what is allowed; asked whenever the jobs are laid out anew."""

    def grant(self) -> Grant | None:
        """Return what is allowed now, or None while nobody has said anything: collect nothing."""


DEMO: Final = Grant(
    plan="demo",
    max_databases=1,
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


class NoGrant:
    """A device without a plan: it stays up, says so, and collects nothing."""

    def grant(self) -> Grant | None:
        """Return nothing."""
        return None


class OpenGrant:
    """Every sampler, as often as once a second.

    Built in code by the demo and the tests only: no file, variable or flag leads here.
    """

    def grant(self) -> Grant | None:
        """Return a grant without limits but the floor."""
        return Grant(plan="open", samplers=None, max_databases=None)
