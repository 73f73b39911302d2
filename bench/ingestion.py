"""What the reference platform takes: four agents at 100 samples a second, then as fast as it goes.

Beside it plain DuckDB appends of the same rows, in one table and in a table per set. Run:
python bench/ingestion.py [SECONDS]; the files lie in a temporary directory and are deleted.
"""

import contextlib
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import requests
from backports import zstd

AGENTS = 4
RATE = 100  # samples a second, of all agents together
LINES = 25  # in a batch
# Rows of the sets that one target sends, about as the sampler's intervals mix them.
SETS = {
    "activity.sessions": 20, "activity.counts": 6, "database": 12, "statements": 60, "locks": 4,
    "bgwriter": 1, "wal": 1, "replication": 2, "slots": 2, "vacuum.tables": 40, "statio.io": 30,
    "server": 1,
}  # fmt: skip
COLUMNS = [f"column_{n}" for n in range(20)]
PGC = (sys.executable, "-m", "pg_collector", "platform")


class Figures(NamedTuple):
    """What a run came to."""

    lines: int
    seconds: float
    latencies: list[float]  # seconds, of each batch
    cpu: float  # seconds of the platform


def line(k: int) -> bytes:
    """Return one sample's line."""
    name = list(SETS)[k % len(SETS)]
    chance = random.Random(k)  # noqa: S311
    rows = [
        [chance.randrange(10**9) if n % 3 else f"text {chance.randrange(10**6)}" for n in range(20)]
        for _ in range(SETS[name])
    ]
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(1_790_000_000 + k // 10)) + ".000000Z"
    head = {"v": 1, "set": name, "schema": 1, "target": "prod", "at": at, "every_s": 10.0}
    return json.dumps(
        {**head, "took_ms": 1.5, "c": COLUMNS, "r": rows}, separators=(",", ":")
    ).encode()


class Agent:
    """Sends batches, and notes how long each took."""

    def __init__(self, url: str, key: str, lines: list[bytes]) -> None:
        self._session = requests.Session()
        self._session.trust_env = False
        self._url = url
        self._lines = lines
        self._stream = str(uuid.uuid4())
        self._next = 1
        device = str(uuid.uuid4())
        body = {"api_key": key, "device_id": device, "hostname": "bench", "agent_version": "0"}
        answer = self._session.post(f"{url}/v1/devices/activate", json=body, timeout=10).json()
        self._token = answer["access_token"]
        self.latencies: list[float] = []

    def send(self) -> None:
        """Deliver one batch."""
        first, last = self._next, self._next + LINES - 1
        chosen = [self._lines[k % len(self._lines)] for k in range(first, last + 1)]
        body = zstd.compress(b"\n".join(chosen) + b"\n", level=3)
        headers = {
            "Authorization": f"Bearer {self._token}",
            "Content-Encoding": "zstd",
            "Idempotency-Key": f"{self._stream}/{first}-{last}",
            "Pgc-Life": f"1/{self._stream}",
        }
        started = time.perf_counter()
        answer = self._session.post(
            f"{self._url}/v1/samples", data=body, headers=headers, timeout=30
        )
        self.latencies.append(time.perf_counter() - started)
        assert answer.json()["ack_through"] == last, answer.text
        self._next = last + 1

    def run(self, until: float, pause: float) -> None:
        """Deliver until then, a batch each `pause` seconds."""
        due = time.monotonic() + random.random() * pause  # noqa: S311
        while time.monotonic() < until:
            time.sleep(max(0.0, due - time.monotonic()))
            self.send()
            due += pause


def pgc(*words: str) -> str:
    """Run a verb of `pgc platform`; return what it printed."""
    done = subprocess.run([*PGC, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@contextlib.contextmanager
def platform(directory: Path) -> Iterator[tuple[str, str, int]]:
    """Give address, API key and process of a platform."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pgc("init", str(directory))
    words = ("keys", "create", "--plan", "bench", "--devices", "9", "--dir", str(directory))
    key = pgc(*words)
    process = subprocess.Popen(
        [*PGC, "start", str(directory), "--listen", f"127.0.0.1:{port}"], stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            with contextlib.suppress(requests.RequestException):
                if requests.get(f"{url}/healthz", timeout=1).ok:
                    break
            time.sleep(0.05)
        yield url, key, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def measured(agents: list[Agent], pid: int, seconds: float, pause: float) -> Figures:
    """Let all agents deliver for some seconds."""
    for agent in agents:
        agent.latencies.clear()
    before, started = cpu(pid), time.monotonic()
    threads = [
        threading.Thread(target=agent.run, args=(started + seconds, pause)) for agent in agents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    latencies = [one for agent in agents for one in agent.latencies]
    took = time.monotonic() - started
    return Figures(len(latencies) * LINES, took, latencies, cpu(pid) - before)


def appended(path: Path, lines: list[bytes], count: int, table: Callable[[str], str]) -> float:
    """Append lines to plain tables, a transaction for each batch; return processor seconds."""
    path.unlink(missing_ok=True)
    names = [json.loads(one)["set"] for one in lines]
    texts = [one.decode() for one in lines]
    with duckdb.connect(str(path), config={"memory_limit": "96MB", "threads": 1}) as db:
        for name in sorted({table(one) for one in SETS}):
            db.execute(f'CREATE TABLE "{name}" (stream TEXT, number BIGINT, "set" TEXT, line TEXT)')
        before = time.process_time()
        for first in range(0, count, LINES):
            found: dict[str, list[tuple[Any, ...]]] = {}
            for number in range(first, first + LINES):
                at = number % len(lines)
                row = ("stream", number, names[at], texts[at])
                found.setdefault(table(names[at]), []).append(row)
            db.execute("BEGIN")
            for name, rows in found.items():
                columns = [list(column) for column in zip(*rows, strict=True)]
                db.execute(
                    f'INSERT INTO "{name}" SELECT unnest(?), unnest(?), unnest(?), unnest(?)',
                    columns,
                )
            db.execute("COMMIT")
        return time.process_time() - before


def cpu(pid: int) -> float:
    """Return the processor seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int, name: str) -> float:
    """Return megabytes of a process: VmRSS or VmHWM."""
    (found,) = (
        one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith(name)
    )
    return int(found.split()[1]) / 1024


def show(name: str, found: Figures) -> None:
    """Print one run."""
    cuts = statistics.quantiles(found.latencies, n=100)
    print(
        f"{name:<22} {found.lines / found.seconds:>7,.0f} samples/s, "
        f"p50 {cuts[49] * 1000:.0f} ms, p99 {cuts[98] * 1000:.0f} ms, "
        f"{found.cpu / found.lines * 1e6:,.0f} µs of processor a sample"
    )


def main() -> None:
    """Measure."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
    lines = [line(k) for k in range(1200)]
    size = statistics.mean(map(len, lines))
    print(f"{AGENTS} agents, {LINES} samples a batch, {size / 1000:.1f} kB a sample")
    with tempfile.TemporaryDirectory() as place:
        with platform(Path(place, "platform")) as (url, key, pid):
            idle = memory(pid, "VmRSS")
            agents = [Agent(url, key, lines) for _ in range(AGENTS)]
            show(f"paced at {RATE}/s", measured(agents, pid, seconds, AGENTS * LINES / RATE))
            full = measured(agents, pid, seconds, 0.0)
            show("as fast as it goes", full)
            now, most = memory(pid, "VmRSS"), memory(pid, "VmHWM")
            print(f"resident: {idle:.0f} MB idle, {now:.0f} MB after, {most:.0f} MB at most")
        count = min(full.lines, 20_000)
        one = appended(Path(place, "one"), lines, count, lambda _: "samples")
        many = appended(Path(place, "many"), lines, count, lambda name: name)
    ours = full.cpu / full.lines
    print(
        f"plain DuckDB: {one / count * 1e6:,.0f} µs a sample in one table (we take "
        f"{ours / (one / count):.1f} times that), {many / count * 1e6:,.0f} µs in a table per set"
    )


if __name__ == "__main__":
    main()
