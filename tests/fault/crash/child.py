"""The program that is killed: the agent with a plan and a token, and a feed of lines that know
what they are.

Every line is noted in a file before it is put, and again once it is on disk. Started as
`python -m tests.fault.crash.child FILE`, with the `Errand` as JSON in the file.
"""

import os
import sys
import threading
from collections import deque
from pathlib import Path
from typing import Any

import msgspec

from pg_collector import agent, logs
from pg_collector.agent import Agent
from pg_collector.buffer.spill import SpillingBuffer
from pg_collector.config.model import (
    Buffers,
    Config,
    Durability,
    Http,
    Log,
    Platform,
    Sampling,
)
from pg_collector.health.vitals import PATIENCE
from pg_collector.plan import OpenGrant
from pg_collector.privacy.scrub import scrub
from pg_collector.sample import Keep
from pg_collector.secret import Secret
from tests.support.lines import make
from tests.support.sampling import SAMPLERS, target

TOKEN = "a-fixed-token"  # noqa: S105  # of the far side in the test


class Errand(msgspec.Struct, kw_only=True):
    """What the child is to do."""

    url: str
    state: str
    notes: str
    first: int  # counter of the first line
    lines: int  # then it goes on without a feed
    pause: float = 0.002  # seconds between two lines
    dsn: str = ""  # of a PostgreSQL server, whose samples travel, too
    port: int = 0  # of /metrics
    ca_file: str = "system"
    durability: Durability = Durability.WAL
    memory_max: int = 512 * 1024
    disk_max: int = 500 * 1024 * 1024
    linger: float = 0.05
    pad: int | None = 200
    patience: float = PATIENCE  # of the watchdog
    platform: dict[str, Any] = {}
    api_key: str = ""  # of a platform that grants what may be collected


class Noted:
    """Stands between the journal and its buffer, and notes what became durable."""

    def __init__(self, buffer: SpillingBuffer, notes: "Notes") -> None:
        self._buffer = buffer
        self._notes = notes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._buffer, name)

    def written(self, through: int) -> None:
        self._buffer.written(through)
        self._notes.committed(through - self._buffer._numbering.origin)


class Notes:
    """The file of what was put and what was promised; appended to, so that a kill tears nothing."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._lock = threading.Lock()  # guards the lines that wait
        self._waiting: deque[tuple[int, int]] = deque()  # (number, counter)

    def put(self, buffer: SpillingBuffer, k: int, pad: int | None) -> None:
        os.write(self._fd, f"put {k}\n".encode())
        with self._lock:
            number = buffer.put(make(k, pad, target="probe"), (Keep.EVENT, Keep.FACT)[k % 2])
            self._waiting.append((number, k))

    def committed(self, through: int) -> None:
        found = []
        with self._lock:
            while self._waiting and self._waiting[0][0] <= through:
                found.append(self._waiting.popleft()[1])
        if found:
            os.write(self._fd, "".join(f"committed {k}\n" for k in found).encode())


def configuration(errand: Errand) -> Config:
    """Return the agent's configuration."""
    databases = tuple(
        msgspec.structs.replace(target(dsn), samplers=("activity", "database"))
        for dsn in (errand.dsn,)
        if dsn
    )
    platform = {"linger": errand.linger, "resume_delay_max": 0.0, **errand.platform}
    return Config(
        databases=databases,
        sampling=Sampling(every=dict.fromkeys(SAMPLERS, 1.0), budget=None),
        state_dir=Path(errand.state),
        api_key=Secret(errand.api_key) if errand.api_key else None,
        buffers=Buffers(
            durability=errand.durability, memory_max=errand.memory_max, disk_max=errand.disk_max
        ),
        platform=msgspec.convert(
            {"url": errand.url, "ca_file": errand.ca_file, **platform}, Platform
        ),
        http=Http(address=f"127.0.0.1:{errand.port}"),
        log=Log(repeat_window=0.0),
    )


def feed(running: Agent, errand: Errand, notes: Notes) -> None:
    """Put the lines, one after the other, until the agent stops."""
    for k in range(errand.first, errand.first + errand.lines):
        if running.stopping.wait(errand.pause):
            return
        running.buffer.wait_for_room(1 << 17, 5.0)
        notes.put(running.buffer, k, errand.pad)


def main(file: Path) -> None:
    """Be the agent until it ends."""
    errand = msgspec.json.decode(file.read_bytes(), type=Errand)
    config = configuration(errand)
    logs.setup(config.log, scrub=scrub)
    logs.catch_uncaught()
    notes = Notes(Path(errand.notes))

    def on_start(running: Agent) -> None:
        journal = running.buffer.journal
        assert journal is not None
        journal._source = Noted(running.buffer, notes)
        threading.Thread(
            target=feed, args=(running, errand, notes), name="feed", daemon=True
        ).start()

    code = agent.run(
        config,
        None if errand.api_key else OpenGrant(),
        token=None if errand.api_key else lambda: TOKEN,
        state_dir=Path(errand.state),
        patience=errand.patience,
        on_start=on_start,
    )
    logs.close()
    os._exit(code)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
