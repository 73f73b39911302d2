"""Which sampler runs on which target how often: a pure function of the configuration and the grant.

The sampler owns its interval, the grant's default replaces it, the file overrides, and the grant's
minimum has the last word.
"""

from collections.abc import Mapping
from typing import NamedTuple

from pg_collector.config.model import Config, Database
from pg_collector.plan import Grant
from pg_collector.samplers._sampler import LaneName, Sampler


class Job(NamedTuple):
    """A sampler on a target, every so many seconds."""

    target: str
    sampler: str
    every: float
    lane: LaneName

    @property
    def id(self) -> str:
        """Tell the job apart from all others."""
        return f"{self.target}/{self.sampler}"


class Paused(NamedTuple):
    """What the configuration asks for and the grant does not allow, or not so often."""

    target: str
    sampler: str | None
    why: str


class Layout(NamedTuple):
    """The jobs to run, and what was asked for in vain."""

    jobs: tuple[Job, ...]
    paused: tuple[Paused, ...]


def lay_out(
    samplers: Mapping[str, Sampler], grant: Grant | None, config: Config, output: str = ""
) -> Layout:
    """Return what is to run now; `output` is where it goes, empty: where no plan is asked."""
    if grant is None:
        return Layout((), ())
    jobs: list[Job] = []
    paused: list[Paused] = []
    targets = [database for database in config.databases if database.enabled]
    if output and output not in grant.features.outputs:
        why = f"the plan {grant.plan} does not include the output {output}"
        return Layout((), tuple(Paused(one.name, None, why) for one in targets))
    allowed = len(targets) if grant.max_databases is None else grant.max_databases
    paused += [
        Paused(database.name, None, f"the plan {grant.plan} covers {allowed} database(s)")
        for database in targets[allowed:]
    ]
    for database in targets[:allowed]:
        for sampler in samplers.values():
            if not _wanted(sampler, database, config):
                continue
            limit = grant.limit(sampler.name)
            if limit is None:
                if sampler.name in database.samplers:
                    why = f"the plan {grant.plan} does not include {sampler.name}"
                    paused.append(Paused(database.name, sampler.name, why))
                continue
            asked = config.sampling.every.get(sampler.name)
            every = max(asked or limit.default_interval or sampler.every, limit.min_interval)
            if asked is not None and every > asked:
                why = f"the plan {grant.plan} allows it every {every:g} s, not every {asked:g} s"
                paused.append(Paused(database.name, sampler.name, why))
            one_lane = database.postgres.max_connections == 1
            lane = LaneName.FAST if one_lane else sampler.lane
            jobs.append(Job(database.name, sampler.name, every, lane))
    return Layout(tuple(jobs), tuple(paused))


def _wanted(sampler: Sampler, database: Database, config: Config) -> bool:
    if not config.sampling.enabled.get(sampler.name, True):
        return False
    return not database.samplers or sampler.name in database.samplers
