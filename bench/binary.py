"""The binary beside the source install: python -m bench.binary [--dist dist] [--json FILE].

Both forms and the source install run the same things in turn on this machine: `pgc version` so many
times, and an agent with every sampler each 15 s on the small database. What counts are the ratios
to the source install; memory is that of all processes of the agent. Then the directory's agent logs
in with each cloud's token, from endpoints on loopback: what its SDK adds is told in MB.
`make binary` or `make binary-portable` comes before.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench import contestants, databases, report
from bench.contestants import Agent, Setting
from bench.watch import Watch, rest
from pg_collector.samplers import discover
from tests.support.lab.server import Server
from tests.support.managed import managed
from tests.support.pki import Pki

Figures = dict[str, Any]
SETTING: Final = Setting(
    "15s", "bench", {**dict.fromkeys(discover(), "15s"), "budget": "off"}, 45.0
)
METHODS: Final = ("password", "aws_iam", "gcp_iam", "azure_ad")


def main() -> int:
    """Measure; print tables, and JSON where asked."""
    parser = argparse.ArgumentParser(prog="python -m bench.binary", description=__doc__)
    parser.add_argument("--dist", type=Path, default=Path("dist"), help="where the binary is")
    parser.add_argument("--starts", type=int, default=15, help="of each, to time")
    parser.add_argument("--seconds", type=float, default=120.0, help="that each agent is watched")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args()
    forms = _forms(options.dist.resolve())
    found: Figures = {"machine": report.machine(), "day": time.strftime("%Y-%m-%d", time.gmtime())}
    found["starts"] = starts(forms, options.starts)
    size = databases.SIZES["small"]
    with databases.server(size, 17) as server, databases.load(server, size):
        targets = {"prod": contestants.dsn(server)}
        found["agents"] = {
            name: _agent(command, targets, options.seconds) for name, command in forms.items()
        }
        found["logins"] = {
            method: _login(server, forms["directory"], method, options.seconds / 2)
            for method in METHODS
        }
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))
    return 0


def _forms(dist: Path) -> dict[str, list[str]]:
    forms = {
        "source": [sys.executable, "-m", "pg_collector"],
        "directory": [str(dist / "pgc" / "pgc")],
        "one file": [str(dist / f"pg-collector-linux-{platform.machine()}")],
    }
    for program, *_ in forms.values():
        if not Path(program).exists():
            raise SystemExit(f"{program} is not there: make binary")
    return forms


def starts(forms: Mapping[str, Sequence[str]], count: int) -> Figures:
    """Return seconds and processor seconds of `pgc version`, each in turn, medians."""
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
    for _ in range(count + 1):
        for name, command in forms.items():
            seen[name].append(_timed([*command, "version"]))
    return {
        name: {
            "seconds": statistics.median(wall for wall, _ in times[1:]),  # the first reads the disk
            "cpu_s": statistics.median(cpu for _, cpu in times[1:]),
        }
        for name, times in seen.items()
    }


def _timed(command: Sequence[str]) -> tuple[float, float]:
    began = time.monotonic()
    nowhere = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    pid = os.posix_spawn(command[0], list(command), os.environ, file_actions=nowhere)
    _, status, used = os.wait4(pid, 0)
    assert status == 0, command
    return time.monotonic() - began, used.ru_utime + used.ru_stime


def _agent(command: list[str], targets: dict[str, str], seconds: float, **keys: Any) -> Figures:
    """Return what an agent of this form takes, and how soon it has its first sample."""
    environment = keys.pop("environment", {})
    with tempfile.TemporaryDirectory(prefix="pgc-bench-") as home:
        agent = Agent(Path(home) / "agent", targets, SETTING, **keys)
        agent.command, agent.environment = command, environment
        with agent.running() as running:
            rest(SETTING.warm_up)
            with Watch(running.pid) as watch:
                rest(seconds)
        taken = agent.moments("activity.counts") or agent.moments("activity.sessions")
    return {
        "memory_mb": watch.memory._asdict(),
        "cpu_s_per_minute": watch.cpu / watch.seconds * 60,
        "first_sample_s": min(taken) - agent.started,
    }


def _login(server: Server, command: list[str], method: str, seconds: float) -> Figures:
    """Return the same for a way to log in."""
    with tempfile.TemporaryDirectory(prefix="pgc-bench-") as name:
        home = Path(name)
        with managed(server, method, Pki(home), home, databases.DATABASE) as there:
            named = [{"name": "prod", "postgres": there.postgres}]
            return _agent(command, {}, seconds, databases=named, environment=there.environment)


def table(found: Figures) -> str:
    """Return the figures as two tables in Markdown."""
    source, agent = found["starts"]["source"], found["agents"]["source"]
    lines = [
        "| form | `pgc version` | CPU of that | first sample | RSS p99 | PSS | CPU s / min |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, start in found["starts"].items():
        one = found["agents"][name]
        cells = [
            _beside(start["seconds"], source["seconds"], "s"),
            _beside(start["cpu_s"], source["cpu_s"], "s"),
            _beside(one["first_sample_s"], agent["first_sample_s"], "s"),
            _beside(one["memory_mb"]["rss_p99"], agent["memory_mb"]["rss_p99"], "MB"),
            _beside(one["memory_mb"]["pss"], agent["memory_mb"]["pss"], "MB"),
            _beside(one["cpu_s_per_minute"], agent["cpu_s_per_minute"], "s"),
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "| login | RSS p99 | more than a password |", "| --- | ---: | ---: |"]
    plain = found["logins"]["password"]["memory_mb"]["rss_p99"]
    for method, one in found["logins"].items():
        rss = one["memory_mb"]["rss_p99"]
        lines.append(f"| `{method}` | {rss:.1f} MB | {rss - plain:+.1f} MB |")
    return "\n".join(lines)


def _beside(value: float, source: float, unit: str) -> str:
    digits = 0 if unit == "MB" else 2
    return f"{value:.{digits}f} {unit}, {value / source:.2f} times"


if __name__ == "__main__":
    sys.exit(main())
