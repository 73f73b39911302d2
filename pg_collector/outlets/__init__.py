"""Where batches go: local files, and the platform once a device is activated."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol, runtime_checkable

from pg_collector.sample import Batch


class Receipt(NamedTuple):
    """What an outlet took: the lines up to `through`, but for those it `rejected`, with reasons.

    `sent` counts the bytes on the wire, where there is one. The platform tells with it which policy
    holds, and whether it has commands.
    """

    through: int
    rejected: Mapping[int, str] = MappingProxyType({})
    sent: int = 0
    policy_etag: str = ""
    commands_pending: bool = False


class Outlet(Protocol):
    """One destination."""

    name: str

    def deliver(self, batch: Batch) -> Receipt:
        """Return what is safe there now; raise a DeliveryError where nothing is."""

    def close(self) -> None:
        """Finish what is open; deliver nothing more."""


@runtime_checkable
class RemoteOutlet(Outlet, Protocol):
    """A destination across a network: it can be away, be in a hurry, and be let go of."""

    def interrupt(self) -> None:
        """End a delivery under way, and refuse later ones. From any thread."""
