"""What `pgc status` prints for people. Pure: a `Status`, or what a stopped agent left, to lines."""

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from pg_collector.buffer.report import Report
from pg_collector.cli.buffer_words import counted, size
from pg_collector.status import (
    BufferStatus,
    Circuit,
    OutputStatus,
    SamplerStatus,
    Status,
    TargetStatus,
)

if TYPE_CHECKING:
    from pg_collector.activation.device import Told

_TITLES: Final = ("sampler", "state", "every", "last", "next", "rows", "ms", "ok/err/skip")
_UNITS: Final = (("d", 86_400), ("h", 3600), ("min", 60))
_THOUSANDS: Final = ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k"))
_LEFT: Final = 2  # columns of text; the others are numbers

MARKS: Final = {
    "ok": "ok",
    "closed": "ok",
    "usable": "ok",
    "ACTIVE": "ok",
    "LOCAL": "ok",
    "degraded": "warn",
    "limited": "warn",
    "GRACE": "warn",
    "half-open": "warn",
    "down": "bad",
    "error": "bad",
    "open": "bad",
    "stopped": "bad",
    "STOPPED": "bad",
    "in trouble": "bad",
}


def running(now: Status) -> Iterator[str]:
    """Yield the lines of a running agent."""
    yield _head(now)
    yield _device(now)
    for one in now.targets:
        yield ""
        yield from _target(one)
    yield ""
    yield from _output(now.output, now.clock_skew_s)
    yield from _buffer(now.buffer)
    told = {f"postgres:{one.name}" for one in now.targets} | {"output"}
    others = [one for one in now.troubles if one.part not in told]
    if others:
        yield ""
    for trouble in others:
        yield f"{trouble.part}  {trouble.state}  {trouble.reason}".rstrip()
        if trouble.remedy:
            yield f"  fix: {trouble.remedy}"


def stopped(device: "Told", buffer: Report | None) -> Iterator[str]:
    """Yield the lines of an agent that does not run: what its state directory tells."""
    yield "not running"
    said = f"device {device.state}"
    if device.policy is not None:
        said += f" {device.policy.plan}"
    if device.contact_age_s is not None:
        said += f", last contact {span(device.contact_age_s)} ago"
    if device.grace_left_s is not None:
        said += f", grace left {span(device.grace_left_s)}"
    yield said
    if device.reason:
        yield f"  {device.reason}"
    if buffer is not None:
        yield from _left(buffer)


def span(seconds: float) -> str:
    """Return seconds as people read them, in two units at most: `3 d 4 h`, `41 min`, `4 s`."""
    left = abs(round(seconds))
    said = []
    for unit, factor in _UNITS:
        if left >= factor:
            said.append(f"{left // factor} {unit}")
            left %= factor
        elif said:
            break
        if len(said) == _LEFT:
            break
    if not said or (len(said) == 1 and said[0].endswith("min") and left):
        said.append(f"{left} s")
    return " ".join(said)


def short(count: int) -> str:
    """Return a count in four characters at most: 27k."""
    for least, letter in _THOUSANDS:
        if count >= least:
            return f"{count / least:.1f}".removesuffix(".0")[:4].rstrip(".") + letter
    return str(count)


def _left(buffer: Report) -> Iterator[str]:
    said = f"buffer    {counted(buffer.lines, 'line')} wait on disk"
    if buffer.disk is not None:
        said += f", {size(buffer.disk.bytes)} of {size(buffer.disk.capacity_bytes)}"
    if buffer.oldest_age_s:
        said += f" | oldest {span(buffer.oldest_age_s)}"
    if buffer.seconds_remaining is not None:
        said += f" | can hold {span(buffer.seconds_remaining)}"
    yield said
    if buffer.trouble:
        yield f"  {buffer.trouble}"
    if buffer.remedy:
        yield f"  fix: {buffer.remedy}"


def _head(now: Status) -> str:
    process, config = now.process, now.config
    cpu = 100 * process.cpu_s / process.uptime_s if process.uptime_s > 0 else 0.0
    loaded = dt.datetime.fromisoformat(config.loaded_at).strftime("%Y-%m-%d %H:%M:%S UTC")
    said = f"{now.status}  running {span(process.uptime_s)}  version {now.version}"
    said += f"  pid {process.pid}  {size(process.resident_bytes)}  cpu {cpu:.1f} %"
    said += f"  configuration of {loaded}"
    if config.reload_error:
        said += " (the last reload was refused)"
    elif config.needs_restart:
        said += f" (after a restart: {', '.join(config.needs_restart)})"
    return said


def _device(now: Status) -> str:
    device = now.device
    said = f"device    {device.state}" + (f" {device.plan}" if device.plan else "")
    if device.token_expires_in_s is not None:
        said += f"  token {span(device.token_expires_in_s)}"
    if device.policy_age_s is not None:
        said += f"  policy {span(device.policy_age_s)} old"
    if device.grace_left_s is not None:
        said += f"  grace left {span(device.grace_left_s)}"
    if device.reason:
        said += f"  {device.reason}"
    return said + (f"\n  fix: {device.remedy}" if device.remedy else "")


def _target(one: TargetStatus) -> Iterator[str]:
    server = f"PostgreSQL {one.version} {one.role}" if one.version else "not seen yet"
    said = f"{one.name}  {one.state}  {server}  {one.connections}/{one.max_connections} connections"
    yield f"{said}  breaker {_circuit(one.breaker)}"
    if one.reason:
        yield f"  {one.reason}"
    if one.remedy:
        yield f"  fix: {one.remedy}"
    if not one.samplers:
        return
    rows = [_TITLES, *(_row(sampler) for sampler in one.samplers)]
    yield from table(rows, left=_LEFT)
    if one.state == "down":
        return  # its samplers have the same reason
    for sampler in one.samplers:
        if sampler.reason and sampler.state != "unavailable":
            yield f"  {sampler.name}: {sampler.reason}"
            if sampler.remedy:
                yield f"    fix: {sampler.remedy}"


def _row(one: SamplerStatus) -> Sequence[str]:
    return (
        one.name,
        one.state,
        f"{one.every_s:g} s" if one.every_s is not None else "",
        span(one.last_age_s) if one.last_age_s is not None else "",
        span(one.next_in_s) if one.next_in_s is not None else "",
        str(one.rows) if one.rows is not None else "",
        f"{one.took_ms:.0f}" if one.took_ms is not None else "",
        "/".join(short(n) for n in (one.ok, one.failed, one.skipped)),
    )


def _output(one: OutputStatus, skew: float | None) -> Iterator[str]:
    if one.name == "none":
        yield "output    none: no platform and no local files are configured"
        return
    said = f"output    {one.name}  {one.state}"
    if one.last_delivery_age_s is not None and one.lines is not None and one.bytes is not None:
        said += f"  last delivery {span(one.last_delivery_age_s)} ago"
        said += f"  batch {counted(one.lines, 'line')} {size(one.sent_bytes or one.bytes)}"
    else:
        said += "  nothing delivered yet"
    if one.breaker is not None:
        said += f"  breaker {_circuit(one.breaker)}"
    if skew is not None:
        said += f"  clock {skew:+.1f} s"
    yield said
    if one.reason:
        yield f"  {one.reason}"
    if one.remedy:
        yield f"  fix: {one.remedy}"


def _buffer(one: BufferStatus) -> Iterator[str]:
    parts = [
        f"buffer    {counted(one.lines, 'line')} wait",
        f"memory {size(one.memory_bytes)} of {size(one.memory_capacity_bytes)}",
        f"disk {size(one.disk_bytes)} of {size(one.disk_capacity_bytes)}"
        if one.disk != "none"
        else "no disk",
        f"oldest {span(one.oldest_age_s)}",
        f"lost {sum(one.lost.values())}",
        "can hold " + ("?" if one.seconds_remaining is None else span(one.seconds_remaining)),
    ]
    if one.draining:
        parts.append("draining")
    yield " | ".join(parts)
    if one.lost:
        yield "  lost: " + ", ".join(f"{name} {count}" for name, count in sorted(one.lost.items()))
    if one.quarantined:
        yield f"  in quarantine: {counted(one.quarantined, 'line')}; see pgc buffer quarantine list"


def _circuit(one: Circuit) -> str:
    if one.retry_in_s is None:
        return one.state
    return f"{one.state}, next attempt in {span(one.retry_in_s)}"


def table(rows: Sequence[Sequence[str]], *, left: int) -> Iterator[str]:
    """Yield rows with their columns aligned: the first `left` to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield ("  " + "  ".join(cells)).rstrip()
