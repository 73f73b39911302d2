"""The parts of a bundle: each is looked up in a thread of its own, and nobody waits for ever."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from pg_collector.bundle.content import Kind
from pg_collector.errors import CollectorError
from pg_collector.privacy.scrub import scrub

T = TypeVar("T")


class LeftOut(Exception):
    """There is no such part; the message says why."""


class Part(NamedTuple):
    """A file of the bundle, and how it is made. `work` may raise.

    One that is `plain` holds facts of the host and of programs alone: no secret can be in it.
    """

    name: str
    what: str
    kind: Kind
    work: Callable[[], str]
    plain: bool = False


class Found(NamedTuple):
    """What became of a part: a text, or why there is none."""

    part: Part
    text: str
    why: str = ""


class Attempt(Generic[T]):
    """A look-up that has begun."""

    def __init__(self, work: Callable[[], T], name: str) -> None:
        self._work = work
        self._result: list[T] = []
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"bundle {name}", daemon=True)
        self._thread.start()

    def result(self, deadline: float) -> T:
        """Return what was found. Raises what it raised, TimeoutError when it is not done then.

        `deadline` is on the monotonic clock.
        """
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._error is not None:
            raise self._error
        if not self._result:
            raise TimeoutError
        return self._result[0]

    def _run(self) -> None:
        try:
            self._result.append(self._work())
        except Exception as error:  # noqa: BLE001  # whoever waits hears of it
            self._error = error


def within(work: Callable[[], T], seconds: float, name: str) -> T:
    """Do some work; raises TimeoutError when it takes longer, and leaves it to itself."""
    return Attempt(work, name).result(time.monotonic() + seconds)


def gather(parts: Sequence[Part], seconds: float) -> list[Found]:
    """Make all parts at once, each within the same time."""
    begun = time.monotonic()
    attempts = [(part, Attempt(part.work, part.name)) for part in parts]
    return [_outcome(part, attempt, begun + seconds, seconds) for part, attempt in attempts]


def _outcome(part: Part, attempt: Attempt[str], deadline: float, seconds: float) -> Found:
    try:
        return Found(part, attempt.result(deadline))
    except Exception as error:  # noqa: BLE001  # a part that fails is one less
        return Found(part, "", reason(error, seconds))


def reason(error: Exception, seconds: float) -> str:
    """Return in words why there is no such part."""
    if isinstance(error, LeftOut):
        return scrub(str(error))
    if isinstance(error, CollectorError):
        return scrub(error.sentence())
    if isinstance(error, PermissionError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}this user may not; run pgc as root or as the agent's user"
    if isinstance(error, TimeoutError) and not error.args:
        return f"not done within {seconds:g} s"
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return scrub(f"{place}{error.strerror or error}")
    return f"it failed: {type(error).__name__}"
