"""The places that the agent writes to: are they its own, and do they hold an outage."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pg_collector import control
from pg_collector.buffer import storage
from pg_collector.buffer.report import Report
from pg_collector.buffer_verbs import StatusRequest
from pg_collector.checkup.asked import Asked
from pg_collector.checkup.finding import Finding, Level
from pg_collector.checkup.places import Place, nearest, unusable
from pg_collector.errors import CollectorError

# As in the configuration: 1 MB are 1024 kB.
_UNITS: Final = ((2**40, "TB"), (2**30, "GB"), (2**20, "MB"), (2**10, "kB"))


def findings(asked: Asked) -> Iterator[Finding]:
    """Look at every directory that is written to."""
    buffer = storage.directory(asked.config.buffers, asked.state_dir)
    faults = [fault for place in _places(asked, buffer) for fault in unusable(place)]
    yield from faults
    if buffer is None:
        if not faults:
            yield Finding(
                section="disk",
                level=Level.OK,
                found=f"{asked.state_dir} writable, buffer in memory",
            )
        return
    yield from _room(asked, buffer, well=not faults)


def _places(asked: Asked, buffer: Path | None) -> Iterator[Place]:
    """Yield what the agent writes to."""
    config = asked.config
    yield Place("state_dir", "state_dir", asked.state_dir, own=config.state_dir is None)
    if buffer is not None:
        usual = config.buffers.disk_path is None and (
            config.state_dir is None or os.access(buffer / "format", os.F_OK)
        )
        yield Place("the buffer", "buffers.disk_path", buffer, own=usual, alone=True)
    if config.local.enabled:
        yield Place("local.path", "local.path", config.local.path)
    if config.security.audit_logging:
        key = "security.audit_log_path"
        yield Place(key, key, config.security.audit_log_path, file=True, alone=True)
    if config.log.file is not None:
        yield Place("log.file", "log.file", config.log.file, file=True)


def _room(asked: Asked, buffer: Path, *, well: bool) -> Iterator[Finding]:
    """Compare the cap of the buffer with what the volume lets it have."""
    limits = asked.config.buffers
    at = nearest(buffer)
    try:
        volume = os.statvfs(at)
    except OSError as error:
        found = f"the buffer: {at}: {error.strerror}"
        yield Finding(section="disk", level=Level.FAIL, found=found, remedy=f"df -h {at}")
        return
    report = _report(asked, buffer)
    free = volume.f_bavail * volume.f_frsize
    floor = int(limits.min_free * volume.f_blocks * volume.f_frsize)
    held = report.disk.bytes if report is not None and report.disk is not None else _held(buffer)
    usable = min(limits.disk_max, held + max(0, free - floor))
    seconds = report.seconds_remaining if report is not None else None
    hours = None if seconds is None else seconds / 3600
    measured = {
        "free_bytes": free, "floor_bytes": floor, "cap_bytes": limits.disk_max,
        "usable_bytes": usable, "held_bytes": held, "hours_offline": hours and round(hours, 1),
    }  # fmt: skip
    lasts = "" if hours is None else f" = {hours:.0f} h offline"
    if free <= floor:
        yield Finding(
            section="disk",
            level=Level.FAIL,
            found=f"{at}: {size(free)} free, and {size(floor)} are left to others "
            f"(buffers.min_free {limits.min_free:.0%}): nothing can be buffered",
            remedy=f"Free {size(floor - free + limits.disk_max)} there: df -h {at}; "
            "or set buffers.disk_path on a larger volume",
            measured=measured,
        )
    elif usable < limits.disk_max:
        yield Finding(
            section="disk",
            level=Level.WARN,
            found=f"{at}: {size(free)} free, so that {size(usable)} can be buffered, not "
            f"the cap of {size(limits.disk_max)}{lasts}",
            remedy=f"Free {size(limits.disk_max - usable)} there, or set "
            f"buffers.disk_max: {max(1, usable // 2**20)}MB",
            measured=measured,
        )
    elif well:
        yield Finding(
            section="disk",
            level=Level.OK,
            found=f"{asked.state_dir} writable, {size(free)} free, cap {size(limits.disk_max)}"
            f"{lasts}",
            measured=measured,
        )


def _report(asked: Asked, buffer: Path) -> Report | None:
    """Ask the running agent, which knows at which rate it fills; None where none can be asked."""
    request = StatusRequest(directory=str(buffer.resolve()))
    for path in asked.sockets:
        try:
            reply = asked.ask(request, path)
        except (CollectorError, PermissionError):
            continue
        if reply is not None and reply.result is not None:
            return control.told(reply, Report)
    return None


def _held(buffer: Path) -> int:
    """Return the bytes that the buffer's segments take already."""
    total = 0
    try:
        with os.scandir(buffer) as entries:
            for entry in entries:
                total += entry.stat(follow_symlinks=False).st_size if entry.is_file() else 0
    except OSError:
        return 0
    return total


def size(count: float) -> str:
    """Return bytes for people: 41 GB."""
    for unit, name in _UNITS:
        if count >= unit:
            shown = count / unit
            return f"{shown:.0f} {name}" if shown >= 10 else f"{shown:.1f} {name}"  # noqa: PLR2004
    return f"{count:.0f} bytes"
