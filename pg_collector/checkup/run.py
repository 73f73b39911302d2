"""All sections in their order; servers are looked at side by side, each within the same time."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Final

from pg_collector.checkup import account, clock, config, disk, plan, platform, secrets, target
from pg_collector.checkup.asked import Asked
from pg_collector.checkup.finding import Finding, Level, Part
from pg_collector.config.model import Database

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
        yield from _whole("config", config.valid(asked, standing))
    if Part.SECRETS in parts:
        yield from _whole("secrets", secrets.findings(asked))
    if Part.DISK in parts:
        yield from _whole("disk", disk.findings(asked))
    others: list[Finding] = []
    for one in chain(_servers(asked, standing), _platform(asked, standing)):
        others.append(one)
        if one.part in parts or _in_the_way(one, parts):
            yield one
    if Part.CLOCK in parts:
        yield from clock.findings(others)


def _whole(section: str, found: Iterator[Finding], target: str | None = None) -> Iterator[Finding]:
    """Yield the findings of a section; where something is in its way, say so and let it end."""
    try:
        yield from found
    except OSError as error:
        place = error.filename or "the operating system"
        yield Finding(
            section=section, target=target, level=Level.FAIL,
            found=f"cannot be checked to the end: {place}: {error.strerror or error}",
            remedy=account.command(),
        )  # fmt: skip


def _in_the_way(one: Finding, parts: frozenset[Part]) -> bool:
    """Whether a server's fault is why there is nothing to say of its samplers."""
    return one.part is Part.POSTGRES and one.level is Level.FAIL and Part.SAMPLERS in parts


def _servers(asked: Asked, standing: plan.Plan) -> Iterator[Finding]:
    wanted = {Part.POSTGRES, Part.SAMPLERS}
    if not asked.network or not asked.parts & (wanted | {Part.CLOCK}) or not asked.targets:
        return
    with ThreadPoolExecutor(min(AT_ONCE, len(asked.targets)), "check") as pool:
        under_way = [
            pool.submit(lambda one: [*_server(one, standing, asked)], database)
            for database in asked.targets
        ]
        for one in under_way:
            yield from one.result()


def _server(one: Database, standing: plan.Plan, asked: Asked) -> Iterator[Finding]:
    return _whole("login", target.findings(one, standing, asked), one.name)


def _platform(asked: Asked, standing: plan.Plan) -> Iterator[Finding]:
    if asked.network and asked.parts & {Part.PLATFORM, Part.CLOCK}:
        yield from _whole("platform", platform.findings(asked, standing))
