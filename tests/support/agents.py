"""A whole agent on real servers, built in code as the demo builds it."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from pg_collector.agent import Agent
from pg_collector.config.model import Config, Fsync, Http, Local, Sampling
from pg_collector.plan import OpenGrant
from pg_collector.schedule import Job
from pg_collector.target import Target
from tests.support.sampling import SAMPLERS, Line, target


def configuration(
    dsns: Mapping[str, str], output: Path, *, every: float = 1.0, **postgres: Any
) -> Config:
    """Return a configuration with these targets, every sampler as often as that, in seconds."""
    return Config(
        databases=tuple(
            msgspec.structs.replace(target(dsn, **postgres), name=name)
            for name, dsn in dsns.items()
        ),
        sampling=Sampling(every=dict.fromkeys(SAMPLERS, every), budget=None),
        local=Local(enabled=True, path=output, fsync=Fsync.NEVER),
        http=Http(address="127.0.0.1:0"),
    )


@contextmanager
def running(config: Config, socket: Path | None = None) -> Iterator[Agent]:
    """Run an agent with an open grant; stop it at the end."""
    agent = Agent(config, OpenGrant(), sockets=() if socket is None else (socket,))
    with agent:
        yield agent


def turned(target: Target, jobs: Iterable[Job]) -> bool:
    """Whether each of these jobs has had a turn, well or not."""
    return all(any(target.tally(job.sampler)[:2]) for job in jobs if job.target == target.name)


def written(output: Path, target_name: str, sampler: str) -> list[Line]:
    """Return the lines that a sampler's folder holds so far, complete ones only."""
    lines: list[bytes] = []
    for path in sorted((output / target_name / sampler).glob("*.jsonl")):
        lines += path.read_bytes().splitlines(keepends=True)
    return [Line(line) for line in lines if line.endswith(b"\n")]
