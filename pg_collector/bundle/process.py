"""What a bundle says of the agent's process, as the kernel tells it: limits, memory, open files."""

import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from pg_collector.bundle import host

_PROC: Final = Path("/proc")
_CGROUPS: Final = Path("/sys/fs/cgroup")
_STATUS: Final = (
    "State", "Pid", "PPid", "Uid", "Gid", "FDSize", "VmPeak", "VmSize", "VmLck", "VmHWM", "VmRSS",
    "RssAnon", "RssFile", "VmData", "VmSwap", "Threads", "CapEff", "NoNewPrivs", "Seccomp",
    "Cpus_allowed_list", "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches",
)  # fmt: skip
_OF_GROUP: Final = (
    "memory.max", "memory.high", "memory.current", "memory.peak", "memory.events", "cpu.max",
    "cpu.stat", "pids.max", "pids.current",  # version 2
    "memory.limit_in_bytes", "memory.usage_in_bytes", "cpu.cfs_quota_us", "cpu.cfs_period_us",
)  # fmt: skip


def facts(pid: int) -> str:
    """Return what may be seen of a process, as JSON. Raises OSError where it is gone."""
    home = _PROC / str(pid)
    status = dict(host.fields(home / "status", _STATUS))
    told: Mapping[str, Callable[[], Any]] = {
        "threads": lambda: [_thread(one) for one in sorted((home / "task").iterdir())],
        "open_files": lambda: _open_files(home),
        "limits": lambda: _limits(home),
        "oom_score": lambda: int((home / "oom_score").read_text("ascii")),
        "io": lambda: dict(host.fields(home / "io", ("read_bytes", "write_bytes", "syscr"))),
        "cgroups": lambda: _groups(home),
        "user_namespace": lambda: os.readlink(home / "ns/user"),  # noqa: PTH115  # no path
    }
    return host.as_json({"status": status, **{name: _told(work) for name, work in told.items()}})


def environment(pid: int) -> dict[str, str]:
    """Return the variables of a process; none where this user may not see them."""
    try:
        text = (_PROC / str(pid) / "environ").read_bytes().decode("utf-8", "replace")
    except OSError:
        return {}
    pairs = (one.partition("=") for one in text.split("\0"))
    return {name: value for name, _, value in pairs if name}


def _told(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except (OSError, ValueError) as error:
        return {"error": getattr(error, "strerror", None) or type(error).__name__}


def _thread(task: Path) -> str:
    """Return name and state of a thread, and where in the kernel it waits: `sender S do_poll`."""
    try:
        stat = (task / "stat").read_text("utf-8", "replace")
        name, _, rest = stat.partition("(")[2].rpartition(")")
        wait = (task / "wchan").read_text("ascii") or "-"
    except OSError:  # it has ended, or is another user's
        return "?"
    return f"{name} {rest.split()[0]} {wait}"


def _open_files(home: Path) -> dict[str, Any]:
    """Return how many descriptors there are, by what they are."""
    kinds: Counter[str] = Counter()
    for one in (home / "fd").iterdir():
        try:
            target = os.readlink(one)  # noqa: PTH115  # `socket:[7]` is no path
        except OSError:  # closed meanwhile
            continue
        kinds["file" if target.startswith("/") else target.partition(":")[0]] += 1
    return {"count": kinds.total(), "by_kind": dict(kinds)}


def _limits(home: Path) -> dict[str, str]:
    """Return the soft and hard limits, as `/proc/PID/limits` has them in columns."""
    head, *lines = (home / "limits").read_text("ascii").splitlines()
    soft, units = head.index("Soft"), head.index("Units")
    return {line[:soft].strip(): " ".join(line[soft:units].split()) for line in lines}


def _groups(home: Path) -> dict[str, dict[str, str]]:
    """Return the limits and counters of the control groups, by their path."""
    found: dict[str, dict[str, str]] = {}
    for line in (home / "cgroup").read_text("utf-8", "replace").splitlines():
        _, controllers, path = line.split(":", 2)
        place = _CGROUPS / controllers / path.lstrip("/")
        values = {}
        for name in _OF_GROUP:
            try:
                values[name] = " ".join((place / name).read_text("ascii").split())
            except OSError:
                continue
        if values:
            found[f"{controllers}:{path}"] = values
    return found
