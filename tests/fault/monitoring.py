"""Ten minutes of faults, watched by a real Prometheus with etc/prometheus/alerts.yml.

    python -m tests.fault.monitoring [--seconds 600]

One agent for each trouble, and a well one beside them, which must fire nothing. Prints which alert
fired after how many seconds in which trouble; ends with 1 where one did not, or another one did.
"""

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.conftest import chosen_majors
from tests.fault.monitoring_scenarios import Scenario, Stage, every
from tests.support.prometheus import Prometheus
from tests.support.until import until

EVERY: Final = 2.0  # seconds between two scrapes
WELL: Final = 30.0  # seconds in which all are well, and nothing fires
TROUBLE: Final = 330.0  # seconds that a trouble lasts
LOOK: Final = 1.0

Fired = dict[str, dict[str, float]]  # seconds of trouble at which it fired, by scenario and alert


class Run:
    """One run: what fires in which scenario, from its trouble on."""

    def __init__(self, prometheus: Prometheus, scenarios: Sequence[Scenario]) -> None:
        self.prometheus = prometheus
        self.scenarios = scenarios
        self.fired: Fired = {one.name: {} for one in scenarios}
        self.problems: list[str] = []
        self._names = {f"127.0.0.1:{one.daemon.port}": one.name for one in scenarios}

    def firing(self) -> dict[str, set[str]]:
        """Return the alerts that fire now, by scenario."""
        found: dict[str, set[str]] = {}
        for alert in self.prometheus.alerts():
            if alert.state == "firing":
                name = self._names.get(alert.labels.get("instance", ""), "nobody's")
                found.setdefault(name, set()).add(alert.name)
        return found

    def watch(self, seconds: float, began: float, *, troubled: bool) -> None:
        """Look for so long, and note what fires."""
        due = [(at, act) for one in self.scenarios for at, act in one.after.items()]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            now = time.monotonic() - began
            for name, alerts in self.firing().items():
                for alert in alerts:
                    self.fired.setdefault(name, {}).setdefault(alert, now)
            if troubled:
                for _, act in [one for one in due if one[0] <= now]:
                    act()
                due = [one for one in due if one[0] > now]
                for one in self.scenarios:
                    one.tick()
            time.sleep(LOOK)

    def judge(self) -> None:
        """Compare what fired with what had to."""
        for one in self.scenarios:
            seen = self.fired[one.name].keys()
            self.problems += [f"{one.name}: {a} did not fire" for a in one.expected - seen]
            self.problems += [f"{one.name}: {a} fired, too" for a in seen - one.expected]
        for name in self.fired.keys() - {one.name for one in self.scenarios}:
            self.problems.append(f"{name}: {', '.join(self.fired[name])} fired")

    def healed(self) -> None:
        """See that what was mended fires no more."""
        firing = self.firing()
        for one in self.scenarios:
            if left := firing.get(one.name, set()) & one.heals:
                self.problems.append(f"{one.name}: {', '.join(left)} fires on after it was mended")


def table(scenarios: Iterable[Scenario], fired: Mapping[str, Mapping[str, float]]) -> str:
    """Return what fired when, as Markdown."""
    rows = ["| trouble | alert | fires after |", "|---|---|---|"]
    for one in scenarios:
        seen = fired.get(one.name, {})
        if not seen:
            rows.append(f"| {one.name} | none | |")
        for alert, seconds in sorted(seen.items(), key=lambda pair: pair[1]):
            mark = "" if alert in one.expected else " (not expected)"
            rows.append(f"| {one.name} | {alert}{mark} | {seconds:.0f} s |")
    return "\n".join(rows)


def say(text: str) -> None:
    """Talk on stderr."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


def run(home: Path, stack: ExitStack, seconds: float) -> int:
    """Run it; return 0, or 1 where an alert was silent, or fired in vain."""
    began = time.monotonic()
    stage = Stage(home, max(chosen_majors()), stack)
    scenarios = list(every(stage))
    for one in scenarios:
        stack.enter_context(one.daemon)
    agents = {one.name: f"127.0.0.1:{one.daemon.port}" for one in scenarios}
    prometheus = stack.enter_context(
        Prometheus(home, agents, every=EVERY, rules=("alerts.yml", "recording.yml"))
    )

    def all_up() -> bool:
        for one in scenarios:
            assert one.daemon.process.poll() is None, one.daemon.log.read_text()[-2000:]
        return prometheus.up(len(agents))

    until(all_up, deadline=120, what="all agents are scraped")
    say(f"{len(agents)} agents run")
    watching = Run(prometheus, scenarios)
    watching.watch(WELL, time.monotonic(), troubled=False)
    early = {name: set(alerts) for name, alerts in watching.fired.items() if alerts}
    watching.problems += [f"before any trouble: {name} {alerts}" for name, alerts in early.items()]
    say("the troubles begin")
    trouble = time.monotonic()
    for one in scenarios:
        one.begin()
    watching.watch(TROUBLE, trouble, troubled=True)
    say("what can be mended is mended")
    for one in scenarios:
        if one.mend is not None:
            one.mend()
    rest = max(60.0, seconds - (time.monotonic() - began))
    watching.watch(rest, trouble, troubled=False)
    watching.judge()
    watching.healed()
    watching.problems += prometheus.broken_rules()
    sys.stdout.write(f"{table(scenarios, watching.fired)}\n")
    for problem in watching.problems:
        say(f"FAILED {problem}")
    return 1 if watching.problems else 0


def main() -> int:
    """Run it in a folder of its own."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=600.0, help="for the whole run")
    asked = arguments.parse_args()
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # agents and volumes must not outlive us
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        return run(Path(folder), stack, asked.seconds)


if __name__ == "__main__":
    sys.exit(main())
