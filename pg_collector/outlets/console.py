"""Lines on standard output: for `pgc start --dry-run`, which sends nothing anywhere."""

import sys
from typing import BinaryIO

from pg_collector.errors import Deferred
from pg_collector.sample import Batch


class ConsoleOutlet:
    """Writes every line as it would have been sent."""

    name = "console"

    def __init__(self, stream: BinaryIO | None = None) -> None:
        self._stream = stream or sys.stdout.buffer

    def deliver(self, batch: Batch) -> int:
        """Write the batch; raise Deferred when nobody reads."""
        try:
            self._stream.write(batch.body)
            self._stream.flush()
        except OSError as error:
            raise Deferred(f"standard output: {error.strerror}") from error
        return batch.last

    def close(self) -> None:
        """Leave standard output as it is."""
