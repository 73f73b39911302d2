"""Measures the agent, the floor and the peers on the same databases: python -m bench --help."""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Final

import psutil

from bench import contestants, databases, report
from bench.contestants import CYCLE, SETTINGS, Agent, Running
from bench.databases import SIZES, Size
from bench.watch import ROLE, ServerWatch, Watch, lateness, rest
from tests.support.lab.server import Server

Figures = dict[str, Any]
TARGETS: Final = 100
MANY: Final = "benchmany"  # a role without a limit of sessions
EVERYBODY: Final = "floor,15s,fast,defaults,floor-defaults,seldom,peers"
PLAN: Final = {
    "medium": EVERYBODY, "large": EVERYBODY, "small": "15s,targets",
    "tables": "15s", "statements": "15s", "sessions": "15s",
}  # fmt: skip
IDLE: Final = 20.0  # seconds that tell what the server does by itself
PAGE: Final = Path(__file__).parents[1] / "docs/performance.md"


def main() -> int:
    """Measure what the command line asks for; print a table, and JSON where asked."""
    options = _options()
    found: list[Figures] = []
    for file in options.add:
        found += json.loads(file.read_text())["runs"]
    sizes = [] if options.sizes == "none" else (options.sizes or ",".join(PLAN)).split(",")
    for name in sizes:
        found += _measured(SIZES[name], options)
    figures = {
        "machine": report.machine(),
        "day": time.strftime("%Y-%m-%d", time.gmtime()),
        "major": options.major,
        "cycles": options.cycles,
        "runs": found,
        "narrow": json.loads(options.narrow.read_text()) if options.narrow else None,
    }
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    if options.page:
        PAGE.write_text(report.page(figures))
    print(report.table(figures))
    print()
    print(report.goals(figures))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--sizes", help=f"of {', '.join(SIZES)}; all as it comes")
    parser.add_argument(
        "--who", help=f"of floor, floor-defaults, peers, targets, {', '.join(SETTINGS)}"
    )
    parser.add_argument(
        "--add", type=Path, action="append", default=[], metavar="FILE",
        help="tell the runs of an earlier --json, too; --sizes none measures nothing else",
    )  # fmt: skip
    parser.add_argument(
        "--narrow", type=Path, metavar="FILE", help="what bench.narrow printed, for the page"
    )
    parser.add_argument("--cycles", type=int, default=10, help="of 15 seconds each")
    parser.add_argument("--major", type=int, default=17, help="PostgreSQL's version")
    parser.add_argument("--page", action="store_true", help="write docs/performance.md")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    return parser.parse_args()


def _measured(size: Size, options: argparse.Namespace) -> list[Figures]:
    """Measure everybody on one database, each alone."""
    wanted = (options.who or PLAN[size.name]).split(",")
    found: list[Figures] = []
    _say(f"{size.name}: the database is made ready")
    with databases.server(size, options.major) as server, databases.load(server, size):
        resting = ServerWatch(server)
        rest(IDLE)
        idle = resting.idle()
        for who in wanted:
            for name, run in _runs(who, server):
                _say(f"{size.name}: {name}, {options.cycles} cycles")
                figures = run(options.cycles * CYCLE, idle)
                found.append({"size": size.name, "who": name, **figures})
                _say(json.dumps(found[-1]))
    return found


def _runs(who: str, server: Server) -> list[tuple[str, Callable[[float, float], Figures]]]:
    """Return what is meant by a word: each run takes its seconds and the idle server's cost."""
    if who in SETTINGS:
        return [(f"agent {who}", partial(_agent, server, who))]
    if who == "targets":
        return [(f"agent {TARGETS} targets", partial(_many, server))]
    if who == "peers":
        if contestants.exporter() is None:
            _say(f"{contestants.EXPORTER} is not installed: it is left out")
            return []
        make = partial(contestants.exporting, server)
        return [("postgres_exporter", partial(_other, server, make, 20.0))]
    cadence = {"floor": "every", "floor-defaults": "defaults"}[who]
    make_floor = partial(contestants.floor, server, cadence)
    return [(who, partial(_other, server, make_floor, 20.0 if who == "floor" else 65.0))]


def _other(
    server: Server,
    make: Callable[[], AbstractContextManager[Running]],
    warm_up: float,
    seconds: float,
    idle: float,
) -> Figures:
    with make() as running:
        rest(warm_up)
        return _watched(server, running, seconds, idle)


def _agent(server: Server, name: str, seconds: float, idle: float) -> Figures:
    setting = SETTINGS[name]
    with tempfile.TemporaryDirectory(prefix="pgc-bench-") as home:
        agent = Agent(Path(home) / "agent", {"prod": contestants.dsn(server)}, setting)
        with agent.running() as running:
            rest(setting.warm_up)
            figures = _watched(server, running, seconds, idle)
        taken = agent.moments("activity.counts") or agent.moments("activity.sessions")
        figures["first_sample_s"] = _first(agent)
        figures["lateness_ms"] = lateness(taken)
        return figures


def _many(server: Server, seconds: float, idle: float) -> Figures:
    """Measure one agent that has the same database many times, as so many targets."""
    server.query(f"drop role if exists {MANY}")
    server.query(f"create role {MANY} login in role pg_monitor")
    one = server.dsn(MANY, databases.DATABASE, sslmode="disable")
    with tempfile.TemporaryDirectory(prefix="pgc-bench-") as home:
        names = {f"t{number}": one for number in range(TARGETS)}
        agent = Agent(Path(home) / "agent", names, SETTINGS["defaults"])
        with agent.running() as running:
            rest(SETTINGS["defaults"].warm_up)
            figures = _watched(server, running, seconds, idle, MANY)
            count = "select count(*) from pg_stat_activity where usename = %s"
            figures["sessions"] = server.query(count, [MANY])[0][0]
            figures["threads"] = psutil.Process(running.pid).num_threads()
        return figures


def _first(agent: Agent) -> float:
    rows = agent.platform.query('SELECT line FROM samples WHERE line LIKE \'%"set":"activity%\'')
    ats = [contestants.seconds(json.loads(line)["at"]) for (line,) in rows]
    return min(ats) - agent.started


def _watched(
    server: Server, running: Running, seconds: float, idle: float, role: str = ROLE
) -> Figures:
    """Return what a contestant costs in so many seconds."""
    before = running.told()
    server_side = ServerWatch(server, role)
    with Watch(running.pid) as watch:
        rest(seconds)
    cost = server_side.cost(idle)
    after = running.told()
    cycles = watch.seconds / CYCLE
    return {
        "seconds": watch.seconds,
        "cpu_s_per_cycle": watch.cpu / cycles,
        "cpu_s_per_minute": watch.cpu / watch.seconds * 60,
        "core_share": watch.cpu / watch.seconds,
        "cpu_s_per_1000_rows": watch.cpu / max(1, cost.rows) * 1000,
        "memory_mb": watch.memory._asdict(),
        "rss_drift_mb": watch.drift,
        "server": {
            "backend_cpu_s_per_cycle": cost.backend_cpu / cycles,
            "exec_ms_per_cycle": cost.exec_ms / cycles,
            "calls_per_cycle": cost.calls / cycles,
            "rows_per_cycle": cost.rows / cycles,
            "blocks_per_cycle": cost.blocks / cycles,
            "slowest_ms": cost.slowest_ms,
            "connections_accepted": cost.connections,
        },
        **{
            f"{name}_per_cycle": (after[name] - before.get(name, 0.0)) / cycles
            for name in after
            if name in {"bytes", "lines", "rows", "sent", "skipped", "lost"}
        },
    }


def _say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
