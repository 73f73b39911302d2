"""The configuration: is it valid, from where, and what of it the plan allows."""

import re
from collections.abc import Iterator

from pg_collector.checkup.asked import Asked
from pg_collector.checkup.finding import Finding, Level
from pg_collector.checkup.plan import Plan
from pg_collector.config.problems import InvalidConfiguration, one_line
from pg_collector.errors import ConfigurationError
from pg_collector.samplers import discover
from pg_collector.schedule import lay_out

# A warning about a file's mode ends in the command that mends it.
_MODE = re.compile(
    r"(?P<found>(?:(?P<file>.*) holds a secret and|.*:) every user of this host may read "
    r"(?:it|(?P<named>.*)) \(mode \d+\)): (?P<remedy>.*)"
)


def invalid(error: ConfigurationError) -> Iterator[Finding]:
    """Say what is wrong, a finding for each problem."""
    if not isinstance(error, InvalidConfiguration):
        yield Finding(section="config", level=Level.FAIL, found=str(error), remedy=error.remedy)
        return
    for problem in error.problems:
        place = f"{problem.origin}: {problem.path}".removesuffix(": ").removeprefix("default: ")
        yield Finding(
            section="config",
            level=Level.FAIL,
            found=one_line(f"{place}: {problem.message}"),
            remedy=one_line(problem.remedy),
        )


def valid(asked: Asked, plan: Plan) -> Iterator[Finding]:
    """Say what is configured, and what of it is at work."""
    config, samplers = asked.config, discover()
    layout = lay_out(samplers, plan.grant, config, plan.output)
    targets = [one for one in config.databases if one.enabled]
    at_work = len({job.sampler for job in layout.jobs})
    files = ", ".join(map(str, asked.loaded.files)) or "the environment"
    many = "" if len(targets) == 1 else "s"
    level = Level.OK if targets else Level.FAIL
    yield Finding(
        section="config",
        level=level,
        found=f"{len(targets)} database{many}, {at_work} of {len(samplers)} samplers, {plan.said}",
        remedy="" if targets else f"Set enabled: true for one of the databases in {files}",
        measured={
            "files": [str(path) for path in asked.loaded.files],
            "databases": len(targets),
            "samplers": at_work,
            "plan": plan.grant.plan if plan.grant is not None else None,
        },
    )
    for warning in asked.loaded.warnings:
        if _MODE.fullmatch(warning) is None:
            yield Finding(section="config", level=Level.WARN, found=one_line(warning))
    for paused in layout.paused:
        what = f"{paused.sampler} is paused or rarer" if paused.sampler else "nothing is sampled"
        yield Finding(
            section="config",
            level=Level.WARN,
            target=paused.target,
            found=f"{what}: {paused.why}",
            remedy="pgc samplers",
        )


def open_files(asked: Asked) -> Iterator[tuple[str, Finding]]:
    """Yield the files that hold a secret and that every user of this host may read."""
    for warning in asked.loaded.warnings:
        if (said := _MODE.fullmatch(warning)) is not None:
            yield (
                said["file"] or said["named"],
                Finding(
                    section="secrets",
                    level=Level.WARN,
                    found=one_line(said["found"]),
                    remedy=one_line(said["remedy"]),
                ),
            )
