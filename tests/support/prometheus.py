"""Prometheus as a process: it scrapes what a test runs, and is asked by its HTTP API."""

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import requests
import yaml

from tests.conftest import missing
from tests.support.ports import free_port
from tests.support.until import until

ETC = Path(__file__).parents[2] / "etc" / "prometheus"
JOB = "pg-collector"  # as the rules know the agents


def program(name: str) -> str:
    """Return the path of `prometheus` or `promtool`; the test is skipped where there is none."""
    found = shutil.which(name)
    if found is None:
        missing(f"{name} is not there: apt-get install prometheus")
    return found


def promtool(*words: str | Path, given: bytes | None = None) -> str:
    """Run promtool and return what it says; fails where it finds something wrong."""
    done = subprocess.run(
        [program("promtool"), *words], input=given, capture_output=True, check=False, timeout=60
    )
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


class Alert(NamedTuple):
    """An alert that is pending or fires."""

    name: str
    state: str
    labels: Mapping[str, str]


class Prometheus:
    """It scrapes `agents`, addresses by name, and evaluates the rules of etc/prometheus.

    An agent's name is its label `agent`. Intervals are in seconds.
    """

    def __init__(
        self, home: Path, agents: Mapping[str, str], *, every: float = 1.0, rules: Sequence[str]
    ) -> None:
        self.home = home
        self.log = home / "prometheus.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        targets = [{"targets": [a], "labels": {"agent": name}} for name, a in agents.items()]
        interval = f"{round(every * 1000)}ms"
        self._file = home / "prometheus.yml"
        self._file.write_text(
            yaml.safe_dump(
                {
                    "global": {"scrape_interval": interval, "evaluation_interval": interval},
                    "rule_files": [str(ETC / name) for name in rules],
                    "scrape_configs": [
                        {
                            "job_name": JOB,
                            "scrape_timeout": interval,
                            "static_configs": targets,
                        }
                    ],
                }
            )
        )

    def __enter__(self) -> Self:
        with self.log.open("wb") as sink:
            self.process = subprocess.Popen(
                [
                    program("prometheus"),
                    f"--config.file={self._file}",
                    f"--storage.tsdb.path={self.home / 'tsdb'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                ],
                stdin=subprocess.DEVNULL, stdout=sink, stderr=sink,
                env={"PATH": os.environ["PATH"]},
            )  # fmt: skip
        until(self._ready, deadline=30, what="Prometheus is ready")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return requests.get(f"{self.url}/-/ready", timeout=5).ok
        except requests.RequestException:
            return False

    def _get(self, path: str, **query: str) -> Any:
        answer = requests.get(f"{self.url}/api/v1/{path}", params=query, timeout=30)
        assert answer.ok, answer.text
        return answer.json()["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an instant query; fails where it is no query."""
        return list(self._get("query", query=expression)["result"])

    def alerts(self) -> list[Alert]:
        """Return what is pending, and what fires."""
        return [
            Alert(one["labels"]["alertname"], one["state"], one["labels"])
            for one in self._get("alerts")["alerts"]
        ]

    def up(self, count: int) -> bool:
        """Whether so many agents were scraped."""
        return len(self.query("up == 1")) == count

    def broken_rules(self) -> list[str]:
        """Return the rules that could not be evaluated, and why."""
        return [
            f"{rule['name']}: {rule['lastError']}"
            for group in self._get("rules")["groups"]
            for rule in group["rules"]
            if rule.get("lastError")
        ]
