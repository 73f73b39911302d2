"""Where batches go: local files, and the platform once a device is activated."""

from typing import Protocol

from pg_collector.sample import Batch


class Outlet(Protocol):
    """One destination."""

    name: str

    def deliver(self, batch: Batch) -> int:
        """Return the number through which lines are safe there; raise Deferred or Refused."""

    def close(self) -> None:
        """Finish what is open; deliver nothing more."""
