"""The reference platform as a process: real sockets, real files.

with ReferencePlatform(tmp_path, token_seconds=2) as platform:
    key = platform.new_key("pro")
    ... platform.url, platform.kill(), platform.start(), platform.query("SELECT ...")
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import duckdb
import requests

from pg_collector.platform.identity import Identity
from pg_collector.platform.place import IDENTITY, make
from tests.support.oracle import Entry
from tests.support.ports import free_port
from tests.support.until import until

COMPRESSED = """
fast:
  max_databases: 2
  min_interval: {activity: 0, database: 0, statements: 0}
  masking_levels: [basic]
  pii: basic
  audit_log: false
  outputs: [platform]
  grace_s: 3
  heartbeat_s: 0.5
  ingest: {max_batch_bytes: 1000000, max_line_bytes: 200000, encodings: [zstd, gzip, identity]}
other: {inherits: fast, max_databases: 5, masking_levels: [basic, custom]}
"""  # plans with a grace of seconds


class ReferencePlatform:
    """A platform in `directory`/platform, initialized at once, started on entering.

    `plans` is the text of a file of plans; without it the built-in ones hold. `tls` is certificate
    and key, `ca` the file of the authority that made them.
    """

    def __init__(
        self,
        directory: Path,
        *,
        plans: str | None = None,
        token_seconds: float | None = None,
        chaos: str | None = None,
        retention: str | None = None,
        tls: tuple[Path, Path] | None = None,
        ca: Path | None = None,
        threads: int | None = None,
        port: int | None = None,
    ) -> None:
        self.directory = directory / "platform"
        self.log = directory / "platform.log"
        self.port = port or free_port()
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self.chaos = chaos
        self._verify: bool | str = True if ca is None else str(ca)
        self._plans: list[str] = []
        if plans is not None:
            file = directory / "plans.yaml"
            file.write_text(plans)
            self._plans = ["--plans", str(file)]
        self._options: list[str] = []
        for option, value in (
            ("--token-seconds", token_seconds),
            ("--retention", retention),
            ("--threads", threads),
        ):
            self._options += [] if value is None else [option, str(value)]
        if tls is not None:
            self._options += ["--certificate", str(tls[0]), "--key", str(tls[1])]
        self.process: subprocess.Popen[bytes] | None = None
        self.admin_token = make(self.directory, self.url)

    # --- the process

    def start(self, *, wait: bool = True) -> None:
        """Start it, and wait until it answers."""
        assert self.process is None or self.process.poll() is not None, "it runs"
        chaos = ["--chaos", self.chaos] if self.chaos else []
        with self.log.open("ab") as sink:
            self.process = subprocess.Popen(
                [*_PGC, "start", str(self.directory), "--listen", f"127.0.0.1:{self.port}",
                 *self._plans, *self._options, *chaos],
                stdout=sink, stderr=sink, stdin=subprocess.DEVNULL, env=_environment(),
            )  # fmt: skip
        if wait:
            until(self.answers, 20.0, "the platform answers")

    def answers(self) -> bool:
        """Whether it is there and well; fails where it has ended."""
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            return requests.get(f"{self.url}/healthz", timeout=5, verify=self._verify).ok
        except requests.RequestException:
            return False

    def stop(self, how: signal.Signals = signal.SIGTERM, *, seconds: float = 15.0) -> int:
        """End it, and return its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(seconds)
            raise AssertionError(f"it did not end within {seconds:g} s") from None

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self.stop(signal.SIGKILL)

    def restart(self) -> None:
        """Stop it in order, and start it again."""
        assert self.stop() == 0
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.stop()

    # --- what its owner does

    def pgc(self, *words: str) -> Any:
        """Run a verb of `pgc platform` with --json; fails where it does."""
        done = subprocess.run(
            [*_PGC, *words, "--json"], capture_output=True, text=True, timeout=60, check=False,
            env=_environment({"PGC_PLATFORM_DIR": str(self.directory)}),
        )  # fmt: skip
        assert done.returncode == 0, f"{' '.join(words[:2])}: {done.stderr}"
        return json.loads(done.stdout)

    def new_key(self, plan: str = "bench", devices: int = 1) -> str:
        """Make an API key."""
        with self._identity() as identity:
            return identity.create_key(plan, devices)

    def change_plan(self, key: str, plan: str) -> None:
        """Give the devices of a key another plan."""
        with self._identity() as identity:
            identity.change_plan(key, plan)

    def command(self, device: str, name: str, arguments: Mapping[str, Any] | None = None) -> str:
        """Put a command for a device; return its id."""
        with self._identity() as identity:
            return identity.command(device, name, dict(arguments or {}), 3600.0)

    @contextmanager
    def _identity(self) -> Iterator[Identity]:
        """Write beside the running platform, as `pgc platform` does."""
        identity = Identity(self.directory / IDENTITY)
        try:
            yield identity
        finally:
            identity.close()

    # --- what it knows

    def get(self, path: str, **query: str) -> Any:
        """Ask one of the administrator's pages."""
        answer = requests.get(
            f"{self.url}{path}", params=query, timeout=20,
            headers={"Authorization": f"Bearer {self.admin_token}"},
            verify=self._verify,
        )  # fmt: skip
        assert answer.ok, answer.text
        return answer.json()

    def metric(self, name: str, **labels: str) -> float:
        """Return a sample of /metrics, by its name without the prefix; 0 where there is none."""
        text = requests.get(f"{self.url}/metrics", timeout=10, verify=self._verify).text
        total = 0.0
        for line in text.splitlines():
            head, _, value = line.rpartition(" ")
            if head.partition("{")[0] != f"pgc_platform_{name}":
                continue
            if all(f'{key}="{wanted}"' in head for key, wanted in labels.items()):
                total += float(value)
        return total

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Ask the samples' database, which the platform has for itself: only while it is down."""
        assert self.process is None or self.process.poll() is not None, "it runs"
        with duckdb.connect(str(self.directory / "samples.duckdb")) as db:
            return db.execute(sql, list(values)).fetchall()

    def arrivals(self) -> list[Entry]:
        """Stop it; return what was committed, stream by stream, lines and gaps in their order."""
        assert self.stop() == 0, self.log.read_text()[-2000:]
        found = [
            Entry.of_line(stream, number, line.encode())
            for stream, number, line in self.query("SELECT stream, number, line FROM samples")
        ]
        for sql in (
            "SELECT stream, first, last, reason FROM gaps",
            "SELECT stream, number, number, code FROM rejected",
        ):
            found += [Entry.of_gap(*row) for row in self.query(sql)]
        heard = self.query("SELECT stream FROM streams ORDER BY heard")
        order = {stream: place for place, (stream,) in enumerate(heard)}
        return sorted(found, key=lambda entry: (order[entry.stream], entry.first))


_PGC = (sys.executable, "-m", "pg_collector", "platform")


def _environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PGC_", "PG"))}
    return {**inherited, "NO_PROXY": "*", **(extra or {})}
