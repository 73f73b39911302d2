"""Holds the agent's costs against committed ones: python -m bench.guard [--update].

Measured is the medium database, agent and floor in the same run, and compared is their ratio: what
a machine costs both falls out of it. More than a quarter above what bench/baseline.json has is a
failure; with --update the figures of this run become the baseline.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

BASELINE: Final = Path(__file__).with_name("baseline.json")
MOST: Final = 1.25  # times the committed ratio
CYCLES: Final = 8

Figures = Mapping[str, Any]
# What is compared: the agent's figure by the floor's.
RATIOS: Final[Mapping[str, Callable[[Figures], float]]] = {
    "agent CPU": lambda run: float(run["cpu_s_per_cycle"]),
    "resident memory, p99": lambda run: float(run["memory_mb"]["rss_p99"]),
    "backend CPU": lambda run: float(run["server"]["backend_cpu_s_per_cycle"]),
    "statements": lambda run: float(run["server"]["calls_per_cycle"]),
    "blocks": lambda run: float(run["server"]["blocks_per_cycle"]),
}


def main() -> int:
    """Measure and compare; return 1 where something has become dearer."""
    parser = argparse.ArgumentParser(prog="python -m bench.guard", description=__doc__)
    parser.add_argument("--update", action="store_true", help="make this run the baseline")
    parser.add_argument("--size", default="medium")
    parser.add_argument("--of", type=Path, metavar="FILE", help="take a run's --json instead")
    options = parser.parse_args()
    runs = json.loads(options.of.read_text())["runs"] if options.of else _measure(options.size)
    found = ratios([run for run in runs if run["size"] == options.size])
    if options.update:
        BASELINE.write_text(json.dumps({"size": options.size, "ratios": found}, indent=1) + "\n")
    worse = compared(found, json.loads(BASELINE.read_text())["ratios"])
    return 1 if worse else 0


def ratios(runs: list[Figures]) -> dict[str, float]:
    """Return the agent's figures by the floor's, which must both be among the runs."""
    floor = next(run for run in runs if run["who"] == "floor")
    agent = next(run for run in runs if run["who"] == "agent 15s")
    return {
        name: round(figure(agent) / max(figure(floor), 1e-6), 3) for name, figure in RATIOS.items()
    }


def compared(found: Mapping[str, float], committed: Mapping[str, float]) -> list[str]:
    """Print each ratio beside the committed one; return the names of those that are too high."""
    worse = [name for name, ratio in found.items() if ratio > committed[name] * MOST]
    for name, ratio in found.items():
        told = "TOO HIGH" if name in worse else "ok"
        print(f"{name:24} {ratio:8.2f} times the floor, committed {committed[name]:8.2f}  {told}")
    return worse


def _measure(size: str) -> list[Figures]:
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        subprocess.run(
            [sys.executable, "-m", "bench", "--sizes", size, "--who", "floor,15s",
             "--cycles", str(CYCLES), "--json", file.name],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        return list(json.loads(Path(file.name).read_text())["runs"])


if __name__ == "__main__":
    sys.exit(main())
