"""Who is measured: the agent in several settings, the floor, and peers that are installed here."""

import contextlib
import datetime as dt
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from bench.databases import DATABASE
from bench.watch import ROLE
from pg_collector.samplers import discover
from tests.support.lab.server import Server
from tests.support.ports import free_port
from tests.support.reference_platform import ReferencePlatform
from tests.support.until import until

CYCLE: Final = 15.0  # seconds
ENDS_WITHIN: Final = 20.0
# Of the plan enterprise; the scheduler raises what is less.
FASTEST: Final = dict.fromkeys(discover(), "1s")
SEEN_OFTEN: Final = {"activity": "10s", "statements": "60s"}


class Setting(NamedTuple):
    """How often an agent samples, with which plan, and the seconds of its own cycle."""

    name: str
    plan: str
    intervals: dict[str, str]
    warm_up: float  # seconds


SETTINGS: Final = {
    one.name: one
    for one in (
        Setting("15s", "bench", {**dict.fromkeys(discover(), "15s"), "budget": "off"}, 125.0),
        Setting("defaults", "bench", {}, 190.0),
        Setting("fast", "enterprise", FASTEST, 45.0),
        Setting("seldom", "bench", {**dict.fromkeys(discover(), "600s"), **SEEN_OFTEN}, 190.0),
    )
}


class Running(NamedTuple):
    """A contestant at work: its process, and what it says it has read and sent so far."""

    pid: int
    told: Callable[[], dict[str, float]]


def dsn(server: Server) -> str:
    """Return how all contestants connect."""
    return server.dsn(ROLE, DATABASE, sslmode="disable")


class Agent:
    """`pgc start` with every sampler, a disk buffer and a platform of its own."""

    def __init__(self, home: Path, targets: dict[str, str], setting: Setting, **keys: Any) -> None:
        """`keys` replace sections of the configuration."""
        self.home = home
        self.setting = setting
        home.mkdir(parents=True)
        self.platform = ReferencePlatform(home)
        self._port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.started = 0.0
        self.prefix: list[str] = []  # words before the command
        self.command = [sys.executable, "-m", "pg_collector"]
        self.environment: dict[str, str] = {}  # more of it
        self._keys = {
            "api_key": self.platform.new_key(setting.plan),
            "platform": {"url": self.platform.url},
            "state_dir": str(home / "state"),
            "databases": [
                {"name": name, "postgres": {"conn_string": text}} for name, text in targets.items()
            ],
            "http": {"address": f"127.0.0.1:{self._port}"},
            "sampling": dict(setting.intervals),
            "log": {"level": "warning"},
            **keys,
        }

    @contextlib.contextmanager
    def running(self) -> Iterator[Running]:
        """Run platform and agent."""
        file = self.home / "config.yaml"
        file.write_text(yaml.safe_dump(self._keys))
        environment = {
            "PATH": os.environ["PATH"], "HOME": str(self.home), "LANG": "C.UTF-8",
            "RUNTIME_DIRECTORY": str(self.home), "PYTHONPATH": ":".join(filter(None, sys.path)),
            **self.environment,
        }  # fmt: skip
        with self.platform, (self.home / "log").open("wb") as log:
            self.started = time.time()
            self.process = subprocess.Popen(
                [*self.prefix, *self.command, "start", "--config", str(file)],
                env=environment, cwd=self.home, stdout=log, stderr=log,
            )  # fmt: skip
            try:
                until(lambda: self.metric("lines_delivered_total"), 60.0, "lines arrive")
                yield Running(self.process.pid, self.count)
            finally:
                self.process.send_signal(signal.SIGTERM)
                self.process.wait(ENDS_WITHIN)

    def count(self) -> dict[str, float]:
        """Return bytes on the wire, lines delivered and lost so far."""
        return {
            "bytes": self.metric("output_bytes_total"),
            "lines": self.metric("lines_delivered_total"),
            "lost": self.metric("lines_lost_total"),
            "skipped": self.metric("sampler_skipped_total"),
        }

    def metric(self, name: str) -> float:
        """Return the sum of a metric's series; 0 while nobody answers."""
        try:
            text = _page(f"http://127.0.0.1:{self._port}/metrics")
        except OSError:
            return 0.0
        return sum(
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line.partition(" ")[0].partition("{")[0] == f"pg_collector_{name}"
        )

    def said(self) -> str:
        """Return its log."""
        return (self.home / "log").read_text("utf-8", "replace")

    def moments(self, name: str) -> list[float]:
        """Return when a set was taken, in seconds since 1970, once the platform is stopped."""
        rows = self.platform.query(
            "SELECT line FROM samples WHERE line LIKE ? ORDER BY number", [f'%"set":"{name}"%']
        )
        return [seconds(json.loads(line)["at"]) for (line,) in rows]


@contextlib.contextmanager
def floor(server: Server, cadence: str) -> Iterator[Running]:
    """Run the floor."""
    program = Path(__file__).with_name("floor.py")
    with subprocess.Popen(
        [sys.executable, str(program), dsn(server), cadence], stdout=subprocess.PIPE, text=True
    ) as process:
        told: dict[str, float] = {}

        def read() -> None:
            for line in process.stdout or ():
                told.update(json.loads(line))

        reader = threading.Thread(target=read, name="floor-reader", daemon=True)
        reader.start()
        try:
            until(lambda: told, 30.0, "the floor reads")
            yield Running(process.pid, lambda: dict(told))
        finally:
            process.terminate()
            process.wait(ENDS_WITHIN)


EXPORTER: Final = "prometheus-postgres-exporter"


def exporter() -> str | None:
    """Return the program of Debian's postgres_exporter, where it is installed."""
    return shutil.which(EXPORTER)


@contextlib.contextmanager
def exporting(server: Server, *options: str) -> Iterator[Running]:
    """Run postgres_exporter, and scrape it every cycle as Prometheus does."""
    program = exporter()
    assert program is not None
    port = free_port()
    told = {"bytes": 0.0, "rows": 0.0}
    ended = threading.Event()

    def scrape() -> None:
        text = _page(f"http://127.0.0.1:{port}/metrics")
        told["bytes"] += len(text)
        told["rows"] += sum(not line.startswith("#") for line in text.splitlines())

    def prometheus() -> None:
        due = time.monotonic()
        while not ended.wait(max(0.0, due - time.monotonic())):
            scrape()
            due += CYCLE

    environment = {"PATH": os.environ["PATH"], "DATA_SOURCE_NAME": dsn(server)}
    with subprocess.Popen(
        [program, f"--web.listen-address=127.0.0.1:{port}", *options],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        thread = threading.Thread(target=prometheus, name="prometheus", daemon=True)
        try:
            until(lambda: _page(f"http://127.0.0.1:{port}/"), 20.0, "it listens",
                  not_yet=(OSError,))  # fmt: skip
            thread.start()
            yield Running(process.pid, lambda: dict(told))
        finally:
            ended.set()
            process.terminate()
            process.wait(ENDS_WITHIN)


def _page(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as reply:
        return str(reply.read().decode())


def seconds(at: str) -> float:
    """Return a line's moment in seconds since 1970."""
    return dt.datetime.fromisoformat(at).timestamp()
