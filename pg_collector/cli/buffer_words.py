"""What `pgc buffer` prints for people."""

from collections.abc import Iterator
from typing import Final

from pg_collector.buffer.quarantine import Refusal
from pg_collector.buffer.report import Report

_UNITS: Final = (("TB", 1024**4), ("GB", 1024**3), ("MB", 1024**2), ("kB", 1024))
_TIMES: Final = (("d", 86_400), ("h", 3600), ("min", 60))
_ANSWER_WIDTH: Final = 60


def status(report: Report) -> Iterator[tuple[str, str]]:
    """Yield what a report says, as (name, text)."""
    yield "agent", _agent(report)
    yield "directory", report.directory or "none: lines are kept in memory only"
    yield "waiting", waiting(report)
    if (memory := report.memory) is not None:
        held = f"{size(memory.bytes)} of {size(memory.capacity_bytes)}"
        yield "memory", f"{counted(memory.lines, 'line')}, {held}"
    if (disk := report.disk) is not None:
        backlog = f", backlog {size(disk.backlog_bytes)}" if report.running else ""
        yield (
            "disk",
            f"{counted(disk.segments, 'segment')}, {size(disk.bytes)} of "
            f"{size(disk.capacity_bytes)}{backlog}; the volume has {size(disk.free_bytes)} free",
        )
    if report.seconds_remaining is not None:
        yield "room for", f"{time(report.seconds_remaining)} at the pace so far"
    if report.stream:
        yield "stream", f"{report.stream}, life {report.life}"
    kept = report.quarantine
    yield (
        "quarantine",
        f"{counted(kept.lines, 'line')}, {counted(kept.segments, 'damaged segment')}",
    )
    if report.lost is not None:
        told = ", ".join(f"{reason} {count:,}" for reason, count in sorted(report.lost.items()))
        yield "lost", told or "nothing since the agent started"
    if report.trouble:
        yield "trouble", report.trouble
    if report.remedy:
        yield "remedy", report.remedy


def _agent(report: Report) -> str:
    if report.running:
        return f"running, process {report.pid}"
    return "not running" if report.pid is None else f"process {report.pid} does not answer"


def waiting(report: Report) -> str:
    """Say how many lines wait, which, and how old the oldest is."""
    if report.first is None:
        return "nothing"
    text = f"{counted(report.lines, 'line')}, numbers {report.first} to {report.last}"
    return f"{text}, the oldest {time(report.oldest_age_s)} old" if report.oldest_age_s else text


def aligned(pairs: Iterator[tuple[str, str]]) -> Iterator[str]:
    """Yield lines of which the texts begin in one column."""
    rows = list(pairs)
    width = max(len(name) for name, _ in rows)
    return (f"{name.ljust(width)}  {text}" for name, text in rows)


def refusals(found: list[Refusal]) -> Iterator[str]:
    """Yield a table of refused lines."""
    if not found:
        yield "no line is in quarantine"
        return
    rows = [("NAME", "REFUSED AT", "SIZE", "ANSWER")]
    for one in found:
        answer = " ".join(one.reason.split())
        if len(answer) > _ANSWER_WIDTH:
            answer = answer[: _ANSWER_WIDTH - 1] + "…"
        rows.append((one.name, f"{one.at[:19]}Z", size(len(one.line.encode())), answer))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def counted(count: int, what: str) -> str:
    """Return `1 line`, `2 lines`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def size(count: int) -> str:
    """Return bytes as people read them: 17.3 MB (1 MB is 1024 kB, as in PostgreSQL)."""
    for unit, factor in _UNITS:
        if count >= factor:
            return f"{count / factor:.1f}".removesuffix(".0") + f" {unit}"
    return f"{count} B"


def time(seconds: float) -> str:
    """Return seconds as people read them: 61 h."""
    for unit, factor in _TIMES:
        if seconds >= 2 * factor:
            return f"{seconds / factor:.0f} {unit}"
    return f"{seconds:.0f} s"
