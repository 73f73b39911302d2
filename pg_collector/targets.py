"""All targets of an agent, and how they follow the configuration."""

import concurrent.futures
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final

from pg_collector.config.model import Config, Database
from pg_collector.lifetime import Ending
from pg_collector.scheduler import Scheduler
from pg_collector.target import Target

RETIRE_TURNS: Final = 3.0  # seconds that running turns may take to end by themselves
RETIRE_FORCED: Final = 1.0  # seconds after that


class Targets:
    """The targets by name. `build` makes one of a database; nothing connects before a turn."""

    def __init__(self, config: Config, build: Callable[[Database], Target]) -> None:
        self._build = build
        # Replaced as a whole, never changed: other threads read it.
        self._named = {one.name: build(one) for one in config.databases if one.enabled}

    @property
    def named(self) -> Mapping[str, Target]:
        """All targets by name."""
        return self._named

    def interrupt(self) -> None:
        """Free all lanes' threads from whatever they wait for."""
        for target in self._named.values():
            target.interrupt()

    def close(self) -> None:
        """Close all sessions."""
        for target in self._named.values():
            target.close()

    def rest(self, names: Iterable[str], scheduler: Scheduler) -> None:
        """Close the sessions of targets that are not at work, behind what runs there."""
        for target in (self._named[name] for name in names):
            if target.connected:
                for lane in target.lanes:
                    scheduler.lend(target.name, lane, partial(target.rest_lane, lane))

    def follow(self, config: Config, scheduler: Scheduler, ending: Ending) -> list[str]:
        """Make the targets those of a configuration; return the names of those that are gone.

        Who stays keeps its sessions and memories. Those that connect differently are built anew:
        their old sessions are closed first, so that there are never more than allowed.
        """
        wanted = {one.name: one for one in config.databases if one.enabled}
        stay = {
            name: target
            for name, target in self._named.items()
            if name in wanted and not target.connects_elsewhere(wanted[name])
        }
        for name, target in stay.items():
            target.adopt(wanted[name], config.breakers.postgres, config.sampling.budget)
        leaving = [target for name, target in self._named.items() if name not in stay]
        _retire(leaving, scheduler, ending)
        gone = [target.name for target in leaving if target.name not in wanted]
        self._named = {
            name: stay.get(name) or self._build(database) for name, database in wanted.items()
        }
        return gone


def _retire(targets: Sequence[Target], scheduler: Scheduler, ending: Ending) -> None:
    """Close the sessions of targets, each in its lane's thread, behind what runs there."""
    if not targets:
        return
    for target in targets:
        target.leave()
        scheduler.withdraw(target.name)
    closings = [
        scheduler.lend(target.name, lane, partial(target.close_lane, lane))
        for target in targets
        for lane in target.lanes
    ]
    if not ending.wait(partial(_all_done, closings), RETIRE_TURNS):
        for target in targets:
            target.interrupt()
        ending.wait(partial(_all_done, closings), RETIRE_FORCED)
    for target in targets:
        target.close()
        scheduler.retire(target.name, target.lanes)


def _all_done(futures: Iterable[concurrent.futures.Future[None]], seconds: float) -> bool:
    return not concurrent.futures.wait(futures, seconds).not_done
