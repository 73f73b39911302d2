"""Between sampling and sending: numbered lines, oldest first, none forgotten before it is acked."""

from typing import Protocol

from pg_collector import lean
from pg_collector.sample import Batch, Keep

# It shrinks pickles with it, of which there are none here.
with lean.stand_in("pickletools"):
    import diskcache  # noqa: F401  # before the rooms beside do


class Intake(Protocol):
    """What takes lines."""

    @property
    def losses(self) -> int:
        """How many lines were lost or set aside; when it grows, full lines are due again."""

    def put(self, line: bytes, keep: Keep) -> int:
        """Take a line and return its number: one more than that of the line before."""

    def wait_for_room(self, size: int, timeout: float) -> bool:
        """Wait until so many bytes fit without a loss; return whether they do."""


class Buffer(Intake, Protocol):
    """The seam between the runner, which puts, and the sender, which peeks and acks.

    One thread peeks, acks, and calls what follows `ack`; a batch stays as it was peeked until then.
    """

    def peek(self, max_bytes: int, max_lines: int) -> Batch | None:
        """Return the oldest lines, at least one if there is any, without taking them away.

        What was lost is a gap of the batch. Raises StoreError when the disk does not answer.
        """

    def ack(self, through: int) -> None:
        """Forget the lines up to that number: they are safe elsewhere."""

    def set_aside(self, number: int, reason: str) -> None:
        """Put a line that nobody accepts into quarantine; a gap takes its place."""

    def rewind(self, expected: int) -> None:
        """Go back to a line that was acknowledged before; what is gone of it becomes a gap."""

    def renumber(self) -> None:
        """Take a new stream: what waits is numbered from 1."""
