"""Lines on standard output: for `pgc start --dry-run`, which sends nothing anywhere."""

import sys
from collections.abc import Callable
from typing import BinaryIO

from pg_collector.errors import Deferred
from pg_collector.outlets import Receipt
from pg_collector.sample import Batch


class ConsoleOutlet:
    """Writes every line as it would have been sent, until nobody reads them any more."""

    name = "console"

    def __init__(self, stream: BinaryIO | None = None) -> None:
        self._stream = stream or sys.stdout.buffer
        self._closed = False
        self._tell: Callable[[], None] = lambda: None

    def when_closed(self, tell: Callable[[], None]) -> None:
        """Call `tell`, in the sender's thread, once the reader has gone; now if it has already."""
        self._tell = tell
        if self._closed:
            tell()

    def deliver(self, batch: Batch) -> Receipt:
        """Write the batch; raise Deferred when it cannot be written.

        What comes after the reader has gone, as `head` does, counts as read.
        """
        if self._closed:
            return Receipt(batch.last)
        try:
            self._stream.write(batch.body)
            self._stream.flush()
        except BrokenPipeError:
            self._closed = True
            self._tell()
        except OSError as error:
            raise Deferred(f"standard output: {error.strerror}") from error
        return Receipt(batch.last)

    def close(self) -> None:
        """Leave standard output as it is."""
