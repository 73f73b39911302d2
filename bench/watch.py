"""What processes and a server cost, read from outside: /proc, and the server's own statistics."""

import itertools
import re
import statistics
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

import psutil

from tests.support.lab.server import Server
from tests.support.until import until

RSS_EVERY: Final = 1.0  # seconds
PSS_EVERY: Final = 15.0
ROLE: Final = "pgcollector"

MB: Final = 1 << 20


class Memory(NamedTuple):
    """Of a process, in MB."""

    rss_p50: float
    rss_p99: float
    rss_peak: float
    pss: float


class ServerCost(NamedTuple):
    """What a role's statements cost a server, as it counts them itself, and in processor time."""

    calls: int
    rows: int
    exec_ms: float
    blocks: int  # read from the cache or below it
    slowest_ms: float
    backend_cpu: float  # seconds
    connections: int  # accepted


class Watch:
    """Looks at a process and its children while the block runs, from a thread of its own."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._rss: list[int] = []
        self._pss: list[int] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)
        self.cpu = 0.0  # seconds, user and system
        self.seconds = 0.0
        self._began = 0.0

    def __enter__(self) -> Self:
        self.cpu = -self._cpu()
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.seconds = time.monotonic() - self._began
        self.cpu += self._cpu()
        self._ended.set()
        self._thread.join(10)

    @property
    def memory(self) -> Memory:
        """What was seen."""
        rss = sorted(self._rss)
        return Memory(
            rss[len(rss) // 2] / MB,
            rss[min(len(rss) - 1, int(len(rss) * 0.99))] / MB,
            rss[-1] / MB,
            statistics.median(self._pss) / MB,
        )

    @property
    def drift(self) -> float:
        """MB by which the last tenth of the time was above the first."""
        tenth = max(1, len(self._rss) // 10)
        first, last = self._rss[:tenth], self._rss[-tenth:]
        return (statistics.median(last) - statistics.median(first)) / MB

    def _tree(self) -> Iterable[psutil.Process]:
        return (self._process, *self._process.children(recursive=True))

    def _cpu(self) -> float:
        """Return the processor seconds so far, to the nanosecond, ended threads included."""
        total = 0.0
        for one in self._tree():
            with suppress(OSError):
                total += time.clock_gettime(_clock_of(one.pid))
        return total

    def _look(self) -> None:
        looked = -PSS_EVERY
        while not self._ended.is_set():
            with suppress(psutil.NoSuchProcess):
                self._rss.append(sum(one.memory_info().rss for one in self._tree()))
                now = time.monotonic()
                if now - looked >= PSS_EVERY:
                    looked = now
                    self._pss.append(sum(one.memory_full_info().pss for one in self._tree()))
            self._ended.wait(RSS_EVERY)


def _clock_of(pid: int) -> int:
    """Return the processor clock of a process, as clock_getcpuclockid(3) does."""
    return (~pid << 3) | _SCHEDULED


_SCHEDULED: Final = 2  # CPUCLOCK_SCHED of the kernel: what the scheduler counts, not its ticks


class ServerWatch:
    """The same for the server: what the role's sessions make it do."""

    def __init__(self, server: Server, role: str = ROLE) -> None:
        self._server = server
        self._role = role
        self._before = self._backends()
        self._cluster = self._cluster_cpu()
        self._began = time.monotonic()
        self._connections = self._accepted()
        server.query("select pg_stat_statements_reset(%s::regrole::oid)", [role])

    def cost(self, idle: float) -> ServerCost:
        """Return what it came to since then; `idle` is the cluster's own processor time a second.

        Where sessions stayed, their processes tell; of those that came and went, the cluster does.
        """
        after = self._backends()
        stayed = after.keys() == self._before.keys() and bool(after)
        seconds = time.monotonic() - self._began
        if stayed:
            cpu = sum(after[pid] - self._before[pid] for pid in after)
        else:
            cpu = max(0.0, self._cluster_cpu() - self._cluster - idle * seconds)
        calls, rows, exec_ms, blocks, slowest = self._server.query(_STATEMENTS, [self._role])[0]
        return ServerCost(
            int(calls), int(rows), float(exec_ms), int(blocks), float(slowest), cpu,
            self._accepted() - self._connections,
        )  # fmt: skip

    def idle(self) -> float:
        """Return the cluster's processor time a second since then."""
        return (self._cluster_cpu() - self._cluster) / (time.monotonic() - self._began)

    def _backends(self) -> dict[int, float]:
        """Return the processor seconds of the role's backends, to the nanosecond."""
        sql = "select pid from pg_stat_activity where usename = %s"
        pids = self._server.query(sql, [self._role])
        return {pid: int(_read(f"/proc/{pid}/schedstat").split()[0]) / 1e9 for (pid,) in pids}

    def _cluster_cpu(self) -> float:
        postmaster = psutil.Process(self._server.pid)
        times = postmaster.cpu_times()
        total = times.user + times.system + times.children_user + times.children_system
        for one in postmaster.children():
            with suppress(psutil.NoSuchProcess):
                each = one.cpu_times()
                total += each.user + each.system
        return float(total)

    def _accepted(self) -> int:
        log = self._server.log.read_text("utf-8", "replace")
        return len(re.findall(rf"connection authorized: user={self._role} ", log))


_STATEMENTS: Final = """
select coalesce(sum(calls), 0), coalesce(sum(rows), 0), coalesce(sum(total_exec_time), 0),
  coalesce(sum(shared_blks_hit + shared_blks_read), 0), coalesce(max(max_exec_time), 0)
from pg_stat_statements where userid = %s::regrole and toplevel"""


def _read(path: str) -> str:
    return Path(path).read_text("ascii")


def lateness(taken: list[float]) -> dict[str, float]:
    """Return how late turns were, in ms, against the phase of the earliest ones."""
    every = statistics.median(b - a for a, b in itertools.pairwise(taken))
    every = max(1.0, round(every))
    phases = [at % every for at in taken[5:] or taken]
    # The phase of a set is where its earliest turns are; it may lie just before a full interval.
    best = min(phases, key=lambda p: sum((q - p) % every for q in phases))
    late = sorted((phase - best) % every * 1000 for phase in phases)
    return {
        "every_s": every,
        "p50": late[len(late) // 2],
        "p99": late[min(len(late) - 1, int(len(late) * 0.99))],
    }


def rest(seconds: float) -> None:
    """Let time pass."""
    ends = time.monotonic() + seconds
    until(lambda: time.monotonic() >= ends, deadline=seconds + 60.0)
