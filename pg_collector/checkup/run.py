"""All sections in their order; servers are looked at side by side, each within the same time."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Final

from pg_collector.checkup import clock, config, disk, plan, platform, secrets, target
from pg_collector.checkup.asked import Asked
from pg_collector.checkup.finding import Finding, Level, Part

AT_ONCE: Final = 8  # servers
LOCAL: Final = frozenset((Part.CONFIG, Part.SECRETS, Part.DISK, Part.CLOCK))


def findings(asked: Asked) -> Iterator[Finding]:
    """Yield what was found, as it is found, in the parts that were asked for.

    Clocks are compared while servers and the platform are asked, so for them these are asked, too,
    where the network may be used at all.
    """
    parts = asked.parts
    standing = plan.found(asked)
    if Part.CONFIG in parts:
        yield from config.valid(asked, standing)
    if Part.SECRETS in parts:
        yield from secrets.findings(asked)
    if Part.DISK in parts:
        yield from disk.findings(asked)
    others: list[Finding] = []
    for one in chain(_servers(asked, standing), _platform(asked, standing)):
        others.append(one)
        if one.part in parts or _in_the_way(one, parts):
            yield one
    if Part.CLOCK in parts:
        yield from clock.findings(others)


def _in_the_way(one: Finding, parts: frozenset[Part]) -> bool:
    """Whether a server's fault is why there is nothing to say of its samplers."""
    return one.part is Part.POSTGRES and one.level is Level.FAIL and Part.SAMPLERS in parts


def _servers(asked: Asked, standing: plan.Plan) -> Iterator[Finding]:
    wanted = {Part.POSTGRES, Part.SAMPLERS}
    if not asked.network or not asked.parts & (wanted | {Part.CLOCK}) or not asked.targets:
        return
    with ThreadPoolExecutor(min(AT_ONCE, len(asked.targets)), "check") as pool:
        under_way = [
            pool.submit(lambda one: [*target.findings(one, standing, asked)], database)
            for database in asked.targets
        ]
        for one in under_way:
            yield from one.result()


def _platform(asked: Asked, standing: plan.Plan) -> Iterator[Finding]:
    if asked.network and asked.parts & {Part.PLATFORM, Part.CLOCK}:
        yield from platform.findings(asked, standing)
