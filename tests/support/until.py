"""Wait for a condition: the only place in the tests that pauses before looking again."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

INTERVAL = 0.02  # seconds between two looks, at first
LONGEST = 0.1  # to look is work that what is waited for could do
PART = 0.05  # of the time so far, between the two


def until(
    look: Callable[[], T],
    deadline: float = 10.0,
    what: str = "",
    *,
    not_yet: tuple[type[Exception], ...] = (),
) -> T:
    """Call `look` until it returns something true, and return that.

    `deadline` is in seconds; `not_yet` names exceptions that mean "look again".
    Raises AssertionError with `what` and what was seen last.
    """
    begun = time.monotonic()
    end = begun + deadline
    while True:
        try:
            seen: object = look()
        except not_yet as error:
            seen = error
        else:
            if seen:
                return seen  # type: ignore[return-value]
        now = time.monotonic()
        if now >= end:
            raise AssertionError(
                f"not within {deadline:g} s: {what or getattr(look, '__qualname__', look)}; "
                f"last seen: {seen!r}"
            )
        time.sleep(min(max(PART * (now - begun), INTERVAL), LONGEST))
