"""An agent as a child process with a configuration file of its own, and what it wrote."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self

import yaml

from tests.support.agents import written
from tests.support.ports import free_port
from tests.support.sampling import SAMPLERS
from tests.support.scratch import new_directory
from tests.support.until import until

PGC = [sys.executable, "-m", "pg_collector"]


class Daemon:
    """An agent on a configuration that the test rewrites; metrics and output are read back."""

    def __init__(self, home: Path, dsns: dict[str, str], how: str = "files", **keys: Any) -> None:
        """`how` is an entry of `daemon_main.WAYS`; `keys` replace sections of the file."""
        self.how = how
        self.home = home
        self.file = home / "config.yaml"
        self.output = home / "output"
        self.log = home / "log"
        self.run = new_directory("run")  # short enough for a socket's path
        self.port = free_port("127.0.0.1")
        self.prefix: list[str] = []  # words before the command
        self.keys: dict[str, Any] = {
            "databases": [
                {"name": name, "postgres": {"conn_string": f"{dsn} sslmode=disable"}}
                for name, dsn in dsns.items()
            ],
            "local": {"enabled": True, "path": str(self.output), "fsync": "never"},
            "http": {"address": f"127.0.0.1:{self.port}"},
            "buffers": {"durability": "memory"},
            "log": {"repeat_window": "0s"},
            "sampling": {**dict.fromkeys(SAMPLERS, "1s"), "budget": "off"},
            **keys,
        }
        self.write()
        self.environment = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(home),
            "RUNTIME_DIRECTORY": str(self.run),
            "PYTHONPATH": ":".join(filter(None, sys.path)),
        }

    def write(self, text: str | None = None) -> None:
        """Write the configuration file: `keys`, or the given text."""
        self.file.write_text(yaml.safe_dump(self.keys) if text is None else text)

    def __enter__(self) -> Self:
        program = [sys.executable, "-m", "tests.support.daemon_main", str(self.file), self.how]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*self.prefix, *program],
                env=self.environment,
                cwd=self.home,
                stderr=log,
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def pgc(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run a verb beside the agent, on the same configuration file."""
        return subprocess.run(
            [*PGC, *words, "--config", str(self.file)],
            env=self.environment, cwd=self.home, capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def ended(self, within: float = 15.0) -> tuple[int, float]:
        """Wait for the end; return the exit code and the seconds that it took."""
        started = time.monotonic()
        return self.process.wait(within), time.monotonic() - started

    def get(self, path: str) -> str:
        """Return what a page says, whatever its status is; nothing while nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as reply:
                return str(reply.read().decode())
        except urllib.error.HTTPError as error:
            return error.read().decode()
        except OSError:
            return ""

    def metric(self, series: str) -> float | None:
        """Return the value of a series, written as in the exposition, or None."""
        for line in self.get("/metrics").splitlines():
            if line.startswith(f"pg_collector_{series} "):
                return float(line.rsplit(" ", 1)[1])
        return None

    def said(self) -> list[dict[str, Any]]:
        """Return the log so far."""
        lines = self.log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def sampled(self, target: str = "prod", count: int = 1) -> None:
        """Wait for so many turns of a sampler more than now."""
        before = self.turns(target)
        until(lambda: self.turns(target) >= before + count, deadline=20, what="it samples")

    def sampled_by(self, sampler: str, target: str, count: int) -> None:
        """Wait for so many turns of a sampler more than now, by the metrics."""
        series = f'samples_total{{sampler="{sampler}",target="{target}"}}'
        before = self.metric(series) or 0
        until(lambda: (self.metric(series) or 0) >= before + count, deadline=20, what="it samples")

    def turns(self, target: str = "prod") -> int:
        """Return how many turns of the most frequent sampler are in the output."""
        return len({line.head["at"] for line in written(self.output, target, "activity")})
