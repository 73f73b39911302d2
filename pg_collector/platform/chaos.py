"""Faults on purpose, for tests and demonstrations: `503=0.2,delay=3s,drop-after-commit=0.1`."""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from pg_collector.errors import ConfigurationError
from pg_collector.platform.problems import of_status
from pg_collector.platform.router import Handler, HangUp, Request, Response

_REMEDY: Final = "Write it as 503=0.2,delay=3s,drop-after-commit=0.1: shares lie between 0 and 1."
_LONGEST_DELAY: Final = 600.0


@dataclass(frozen=True)
class Chaos:
    """What goes wrong, below /v1/ only."""

    statuses: tuple[tuple[int, float], ...] = ()  # each with its share
    delay: float = 0.0  # seconds before each request
    drop_after_commit: float = 0.0  # share of answers that are withheld
    stopping: threading.Event = field(default_factory=threading.Event)  # ends all delays
    chance: Callable[[], float] = random.random

    def around(self, request: Request, handler: Handler) -> Response:
        """Handle a request, with what goes wrong. Raises Problem, HangUp."""
        if not request.path.startswith("/v1/"):
            return handler(request)
        if self.delay:
            self.stopping.wait(self.delay)
        for status, share in self.statuses:
            if self.chance() < share:
                raise of_status(status, "on purpose")
        response = handler(request)
        if self.chance() < self.drop_after_commit:
            raise HangUp
        return response


def parse(text: str) -> Chaos:
    """Read what shall go wrong. Raises ConfigurationError."""
    statuses: list[tuple[int, float]] = []
    delay = drop = 0.0
    for part in filter(None, (one.strip() for one in text.split(","))):
        name, _, value = part.partition("=")
        if name == "delay":
            delay = _number(part, value.removesuffix("s"), _LONGEST_DELAY)
        elif name == "drop-after-commit":
            drop = _number(part, value, 1.0)
        elif name in _statuses():
            statuses.append((int(name), _number(part, value, 1.0)))
        else:
            raise ConfigurationError(f"--chaos: {part!r} is not known", remedy=_REMEDY)
    return Chaos(tuple(statuses), delay, drop)


def _statuses() -> set[str]:
    return {str(one.value) for one in HTTPStatus if one.value >= HTTPStatus.BAD_REQUEST}


def _number(part: str, text: str, most: float) -> float:
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found <= most:
        raise ConfigurationError(f"--chaos: {part!r} is not valid", remedy=_REMEDY)
    return found
