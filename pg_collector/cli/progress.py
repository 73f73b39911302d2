"""How far long work is, on stderr: a line that changes on a terminal, else one now and then."""

import sys
from typing import Final, Self

from pg_collector.clock import Clock, SystemClock

FIRST_AFTER: Final = 1.0  # seconds: short work says nothing
EVERY_ON_TERMINAL: Final = 0.2
EVERY: Final = 5.0


class Progress:
    """Says how far it is. Use it as a context manager: leaving ends the line."""

    def __init__(self, what: str, clock: Clock | None = None) -> None:
        self._what = what
        self._clock = clock or SystemClock()
        self._terminal = sys.stderr.isatty()
        self._next = self._clock.monotonic() + FIRST_AFTER
        self._width = 0

    def tell(self, how_far: str) -> None:
        """Say it, unless that was done a moment ago."""
        now = self._clock.monotonic()
        if now < self._next:
            return
        self._next = now + (EVERY_ON_TERMINAL if self._terminal else EVERY)
        text = f"{self._what}: {how_far}"
        if self._terminal:
            print(f"\r{text.ljust(self._width)}", end="", file=sys.stderr, flush=True)
            self._width = len(text)
        else:
            print(text, file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._width:
            print(f"\r{' ' * self._width}\r", end="", file=sys.stderr, flush=True)
