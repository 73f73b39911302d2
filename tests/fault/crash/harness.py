"""Lives of an agent in child processes, one after the other, on one state directory.

The far side lives in the test's own process and survives them all.
"""

import random
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from tests.fault.crash.child import TOKEN, Errand
from tests.support.far_side import FarSide
from tests.support.oracle import Entry, Figures, Journal, verify
from tests.support.ports import free_port
from tests.support.until import until

FRESH_WITHIN = 60.0  # seconds


class Far(Protocol):
    """Where lines arrive."""

    @property
    def url(self) -> str:
        """Where it listens."""

    def arrivals(self) -> list[Entry]:
        """Return what was committed, stream by stream, lines and gaps in their order."""


class Lives:
    """The harness; `kills` counts."""

    def __init__(self, place: Path, far: Far, dsn: str = "", **errand: Any) -> None:
        self.far = far
        self.kills = 0
        self._place = place
        self._errand = errand
        self.environment: dict[str, str] | None = None  # of the lives to come; None: as here
        self._dsn = dsn
        self._notes = place / "notes"
        self._notes.touch()
        if isinstance(far, FarSide):
            far.rules.tokens = frozenset((TOKEN,))

    @property
    def journal(self) -> Journal:
        """What the lives noted so far."""
        return Journal.read(self._notes)

    @contextmanager
    def one(self, lines: int, **more: Any) -> Iterator["Life"]:
        """Be a life, with so many lines to feed; it is killed at the end if it still lives."""
        put = self.journal.put
        first = max(put, default=0) + 1
        errand = Errand(
            url=self.far.url,
            state=str(self._place / "state"),
            notes=str(self._notes),
            first=first,
            lines=lines,
            dsn=self._dsn,
            port=free_port(),
            **{**self._errand, **more},
        )
        file = self._place / "errand.json"
        file.write_bytes(msgspec.json.encode(errand))
        with (self._place / "log").open("ab") as log:
            process = subprocess.Popen(
                (sys.executable, "-m", "tests.fault.crash.child", file),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
            )
        life = Life(self, process, errand)
        try:
            yield life
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(20)

    def killed(self, chance: random.Random, **more: Any) -> None:
        """Be a life that ends by SIGKILL: while it starts, or some time after."""
        with self.one(10_000_000, **more) as life:
            if chance.random() < 0.8:
                before = len(self.journal.committed)
                until(
                    lambda: len(self.journal.committed) > before or life.over,
                    FRESH_WITHIN,
                    "a line is committed",
                )
            life.wait(chance.uniform(0.0, 0.5))
            assert not life.over, self.log()
            life.process.kill()
            life.process.wait(20)
        self.kills += 1

    def finished(self, fresh: int = 20, *, within: float = FRESH_WITHIN, **more: Any) -> Figures:
        """Be the last life: deliver everything, and fresh lines too; then ask the oracle."""
        with self.one(fresh, **more) as life:
            last = life.errand.first + fresh - 1
            until(lambda: last in self.journal.committed or life.over, FRESH_WITHIN, "fresh lines")
            until(lambda: life.buffered() == 0, within, "everything is delivered")
            life.balanced()
            lost = life.lost()
            life.process.send_signal(signal.SIGTERM)
            code = life.process.wait(20)
            assert code == 0, self.log()
        figures = self.verdict()
        assert figures.delivered >= fresh
        assert not lost or figures.gaps, f"{lost} counted, and no gap told"
        return figures

    def verdict(self) -> Figures:
        """Ask the oracle about everything that arrived so far."""
        return verify(self.far.arrivals(), self.journal, ours=lambda line: b'"probe"' in line)

    def log(self) -> str:
        """Return the end of what the lives logged."""
        return (self._place / "log").read_text()[-3000:]


class Life:
    """One child."""

    def __init__(self, lives: Lives, process: subprocess.Popen[bytes], errand: Errand) -> None:
        self.process = process
        self.errand = errand
        self._lives = lives

    @property
    def over(self) -> bool:
        return self.process.poll() is not None

    def wait(self, seconds: float) -> None:
        """Let it live so long, or until it ends."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return

    def metrics(self) -> dict[tuple[str, str], float]:
        """Return the agent's own counts: by name, and by reason where there is one."""
        with urllib.request.urlopen(  # loopback
            f"http://127.0.0.1:{self.errand.port}/metrics", timeout=10
        ) as reply:
            text = reply.read().decode()
        return {
            (
                sample.name.removeprefix("pg_collector_"),
                sample.labels.get("reason", ""),
            ): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name.startswith("pg_collector_")
        }

    def buffered(self) -> float:
        try:
            return self.metrics()["lines_buffered", ""]
        except OSError:
            assert not self.over, self._lives.log()
            return -1.0

    def lost(self) -> dict[str, float]:
        return {
            reason: count
            for (name, reason), count in self.metrics().items()
            if name == "lines_lost_total" and count
        }

    def balanced(self) -> None:
        """Assert that the counts add up; they are read one by one, so again if lines came."""

        def adds_up() -> bool:
            found = self.metrics()
            produced = found["lines_produced_total", ""]
            others = ("lines_delivered_total", "lines_buffered", "lines_quarantined")
            return produced == sum(found[name, ""] for name in others) + sum(self.lost().values())

        until(adds_up, 10.0, "the counts add up")
