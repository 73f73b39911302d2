"""The agent where there is little room: python -m bench.narrow [--minutes 30].

Every sampler at the shortest intervals of the plan enterprise, on the medium database, in a tenth
of a core and 64 MB that the kernel holds it to, its buffer on a volume of 100 MB. In the middle the
platform is away for two minutes. Nothing may be killed and nothing lost; how late turns were, and
how fast the backlog was delivered, is told. Root only.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from bench import contestants, databases
from bench.contestants import SETTINGS, Agent
from bench.watch import MB, Watch, lateness, rest
from tests.support.cgroup import limits
from tests.support.lab.server import Server
from tests.support.oracle import Entry
from tests.support.until import until
from tests.support.volumes import memory_volume

CORE: Final = 0.1
MEMORY: Final = 64 << 20
VOLUME: Final = 100 << 20
AWAY: Final = 120.0  # seconds


def main() -> int:
    """Run it, print the figures as JSON; return 1 where something was killed or lost."""
    parser = argparse.ArgumentParser(prog="python -m bench.narrow", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--size", default="medium")
    options = parser.parse_args()
    size = databases.SIZES[options.size]
    with databases.server(size, 17) as server, databases.load(server, size):
        figures = _run(server, options.minutes * 60.0)
    print(json.dumps(figures, indent=1))
    return int(bool(figures["killed"] or figures["lost"] or figures["missing"]))


def _run(server: Server, seconds: float) -> dict[str, Any]:
    targets = {"prod": contestants.dsn(server)}
    with (
        tempfile.TemporaryDirectory(prefix="pgc-bench-") as home,
        memory_volume(VOLUME) as volume,
        limits(MEMORY, CORE) as limit,
    ):
        buffers = {"disk_path": str(volume.path / "buffer"), "disk_max": "80MB"}
        agent = Agent(Path(home) / "agent", targets, SETTINGS["fast"], buffers=buffers)
        agent.prefix = limit.prefix
        with agent.running() as running:
            rest(SETTINGS["fast"].warm_up)
            with Watch(running.pid) as watch:
                rest(seconds / 2)
                agent.platform.stop()
                rest(AWAY)
                waiting = agent.metric("lines_buffered")
                agent.platform.start()
                began = time.monotonic()
                until(lambda: agent.metric("lines_buffered") < waiting / 20, 600.0, "it drains")
                drained = time.monotonic() - began
                rest(seconds / 2)
            told = {name: agent.metric(name) for name in _COUNTED}
            alive = agent.process is not None and agent.process.poll() is None
        arrived = agent.platform.arrivals()
        return {
            "minutes": round(seconds / 60, 1),
            "killed": limit.refused + (not alive),
            "lost": told["lines_lost_total"],
            "missing": _missing(arrived),
            "lines": sum(entry.line is not None for entry in arrived),
            "core_share": watch.cpu / watch.seconds,
            "throttled_s": limit.throttled,
            "rss_mb": watch.memory._asdict(),
            "rss_drift_mb": watch.drift,
            "group_peak_mb": limit.peak / MB,
            "lateness_ms": lateness(agent.moments("activity.counts")),
            "skipped": told["sampler_skipped_total"],
            "backlog_lines": waiting,
            "drained_lines_per_s": waiting / drained,
        }


def _missing(arrived: Iterable[Entry]) -> int:
    """Return how many numbers came as gaps, or not at all."""
    missing, through = 0, dict[str, int]()
    for entry in arrived:
        missing += entry.first - through.get(entry.stream, 0) - 1
        missing += entry.width if entry.line is None else 0
        through[entry.stream] = entry.last
    return missing


_COUNTED: Final = ("lines_lost_total", "lines_delivered_total", "sampler_skipped_total")


if __name__ == "__main__":
    sys.exit(main())
