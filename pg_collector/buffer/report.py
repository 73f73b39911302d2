"""What `pgc buffer status` says: the same words from a running agent and from a directory."""

import math

import msgspec


class MemoryReport(msgspec.Struct, frozen=True, kw_only=True):
    """The lines that a running agent has in memory; on disk, too, but for the newest."""

    lines: int
    bytes: int
    capacity_bytes: int


class DiskReport(msgspec.Struct, frozen=True, kw_only=True):
    """The segments; `backlog_bytes` of them are of waiting lines that no memory holds."""

    segments: int
    bytes: int
    backlog_bytes: int
    capacity_bytes: int
    free_bytes: int  # of the volume


class QuarantineReport(msgspec.Struct, frozen=True, kw_only=True):
    """Lines that the far side refused, and segments that were damaged."""

    lines: int
    segments: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A buffer at one moment. `first` and `last` are numbers of the stream; None: nothing waits.

    Where `running` is false and there is a `pid`, that process has the buffer and does not answer.
    """

    running: bool
    directory: str = ""  # empty: memory only
    pid: int | None = None
    stream: str = ""
    life: str = ""
    first: int | None = None
    last: int | None = None
    lines: int = 0
    oldest_age_s: float = 0.0
    seconds_remaining: float | None = None  # None: unknown
    memory: MemoryReport | None = None
    disk: DiskReport | None = None
    quarantine: QuarantineReport = QuarantineReport(lines=0, segments=0)
    lost: dict[str, int] | None = None  # since the agent started; None: only it could say
    trouble: str = ""
    remedy: str = ""


def remaining(room: float, pace: float) -> float | None:
    """Return the seconds until so many bytes of room are used, at bytes a second; None: unknown."""
    seconds = room / pace if pace > 0 else math.inf
    return max(0.0, seconds) if seconds < math.inf else None
