"""The program of a child process: `pgc start` with every sampler, and some parts that hang."""

import itertools
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pg_collector import agent, control, logs
from pg_collector.agent import Agent, OutletSource
from pg_collector.cli.options import source
from pg_collector.errors import Unreachable
from pg_collector.outlets import Outlet, Receipt, RemoteOutlet
from pg_collector.plan import OpenGrant
from pg_collector.privacy import lexer
from pg_collector.privacy.scrub import scrub
from pg_collector.sample import Batch, Body

_FOREVER = threading.Event()


class Hanging:
    """An outlet that never comes back, as a dead network file system."""

    name = "hanging"

    def deliver(self, batch: Batch) -> Receipt:
        _FOREVER.wait()
        return Receipt(batch.last)

    def close(self) -> None:
        """Nothing is open."""


class Away(Hanging):
    """An outlet whose far side is down."""

    name = "away"

    def deliver(self, batch: Batch) -> Receipt:
        raise Unreachable(f"nobody there for {batch.first}", remedy="Wait.")


class Mortal:
    """The platform's outlet, whose third delivery takes its thread down."""

    def __init__(self, outlet: Outlet) -> None:
        assert isinstance(outlet, RemoteOutlet)
        self._outlet = outlet
        self._deliveries = itertools.count(1)
        self.name = outlet.name
        self.interrupt = outlet.interrupt
        self.close = outlet.close

    def deliver(self, batch: Batch) -> Receipt:
        if next(self._deliveries) == 3:
            raise SystemExit
        return self._outlet.deliver(batch)


class HangingWhenTold(Hanging):
    """An outlet that comes back until there is a file `hang` in the agent's folder."""

    def deliver(self, batch: Batch) -> Receipt:
        if Path("hang").exists():
            _FOREVER.wait()
        return Receipt(batch.last)


class Way(NamedTuple):
    """Where the lines go, and what happens to the running agent."""

    outlet: OutletSource | None = None
    on_start: Callable[[Agent], None] = lambda _agent: None
    last_resort: float = agent.LAST_RESORT
    token: Callable[[], str] | None = None  # of the platform of the configuration
    around: Callable[[Outlet], Outlet] = lambda outlet: outlet
    device: bool = False  # the platform grants what may be collected


def _hang_in_the_end(running: Agent) -> None:
    running._stack.callback(_FOREVER.wait)


def _stumble(_running: Agent) -> None:
    """From now on half of the texts cannot be read, and one turn fails with rows at hand."""
    hide, add, rows = lexer.hide, Body.add, itertools.count()

    def hide_half(text: str) -> str:
        if len(text) % 2:
            raise ValueError(text)
        return hide(text)

    def add_but_one(body: Body, row: Sequence[Any]) -> int:
        if next(rows) == _STUMBLES_AT:
            raise RuntimeError("a defect")
        return add(body, row)

    lexer.hide = hide_half
    Body.add = add_but_one  # type: ignore[assignment, method-assign]


def _stumble_when_told(running: Agent) -> None:
    """Stumble once there is a file `stumble` in the agent's folder."""

    def wait() -> None:
        while not running.stopping.wait(0.2):
            if Path("stumble").exists():
                _stumble(running)
                return

    threading.Thread(target=wait, name="stumble", daemon=True).start()


_STUMBLES_AT = 40

WAYS = {
    "files": Way(),
    "platform": Way(token=lambda: "good"),
    "sender dies": Way(token=lambda: "good", around=Mortal),
    "device": Way(device=True),
    "hanging": Way(lambda _clock, _metrics: Hanging()),
    "away": Way(lambda _clock, _metrics: Away()),
    "hanging when told": Way(lambda _clock, _metrics: HangingWhenTold()),
    "stumbling": Way(on_start=_stumble),
    "stumbling when told": Way(on_start=_stumble_when_told),
    "stop hangs": Way(on_start=_hang_in_the_end, last_resort=2.0),
}


def main(file: Path, how: str) -> None:
    """Be the agent until it ends."""
    origin = source(file)
    config = origin.load().config
    logs.setup(config.log, scrub=scrub)
    logs.catch_uncaught()
    way = WAYS[how]
    agent.LAST_RESORT = way.last_resort
    code = agent.run(
        config,
        None if way.device else OpenGrant(),
        way.outlet,
        token=way.token,
        sockets=control.candidates(os.environ, config.state_dir),
        state_dir=file.parent / "state",
        reload=lambda: origin.load().config,
        on_start=way.on_start,
        around=way.around,
    )
    logs.close()
    os._exit(code)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
