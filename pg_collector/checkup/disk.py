"""The places that the agent writes to: are they its own, and do they hold an outage."""

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import Final

import msgspec

from pg_collector.buffer import storage
from pg_collector.buffer.report import Report
from pg_collector.buffer_verbs import StatusRequest
from pg_collector.checkup.account import current, owner
from pg_collector.checkup.asked import Asked
from pg_collector.checkup.finding import Finding, Level
from pg_collector.errors import CollectorError

# As in the configuration: 1 MB are 1024 kB.
_UNITS: Final = ((2**40, "TB"), (2**30, "GB"), (2**20, "MB"), (2**10, "kB"))
_PROBE: Final = b"\0" * 4096


def findings(asked: Asked) -> Iterator[Finding]:
    """Look at every directory that is written to."""
    config = asked.config
    places = {"state_dir": asked.state_dir}
    buffer = storage.directory(config.buffers, asked.state_dir)
    if buffer is not None:
        places["the buffer"] = buffer
    if config.local.enabled:
        places["local.path"] = config.local.path
    if config.security.audit_logging:
        places["security.audit_log_path"] = config.security.audit_log_path.parent
    if config.log.file is not None:
        places["log.file"] = config.log.file.parent
    faults = [fault for what, path in places.items() for fault in _unusable(what, path)]
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


def _unusable(what: str, path: Path) -> Iterator[Finding]:
    """Try a directory by writing a file that has no name; say why where that cannot be done."""
    at = _nearest(path)
    try:
        with tempfile.TemporaryFile(dir=at) as file:
            file.write(_PROBE)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        yield Finding(
            section="disk",
            level=Level.FAIL,
            found=f"{what}: {path} cannot be written by {current()}: {error.strerror}"
            f"{_described(at)}",
            remedy=_remedy(path, at),
        )
        return
    status = at.stat()
    if what == "the buffer" and at == path and status.st_uid != os.geteuid():
        user = current()
        yield Finding(
            section="disk",
            level=Level.FAIL,
            found=f"{what}: {path} belongs to {owner(status.st_uid)}, not to {user}",
            remedy=f"chown -R {user} {quote(str(path))}",
        )
    elif what == "the buffer" and at == path and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        yield Finding(
            section="disk",
            level=Level.FAIL,
            found=f"{what}: {path} can be written to by others{_described(path)}",
            remedy=f"chmod 700 {quote(str(path))}",
        )


def _nearest(path: Path) -> Path:
    """Return the directory, or the nearest one above it: the agent makes what is missing."""
    at = path.absolute()
    while at != at.parent:
        try:
            at.stat()
        except FileNotFoundError:
            at = at.parent
        except OSError:
            break
        else:
            break
    return at


def _described(at: Path) -> str:
    try:
        status = at.stat()
    except OSError:
        return ""
    return f" ({at}: owner {owner(status.st_uid)}, mode {stat.S_IMODE(status.st_mode):04o})"


def _remedy(path: Path, at: Path) -> str:
    user, place, nearest = current(), quote(str(path)), quote(str(at))
    if not at.is_dir():
        return f"Name a directory; {at} is none"
    if os.statvfs(at).f_flag & os.ST_RDONLY:
        return f"mount -o remount,rw {nearest}"
    if os.access(at, os.W_OK | os.X_OK):
        return f"Free some space: df -h {nearest} && df -i {nearest}"
    if path == at:
        return f"chown {user} {place} && chmod 700 {place}"
    return f"install -d -o {user} -m 700 {place}"


def _room(asked: Asked, buffer: Path, *, well: bool) -> Iterator[Finding]:
    """Compare the cap of the buffer with what the volume lets it have."""
    limits = asked.config.buffers
    at = _nearest(buffer)
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
            return msgspec.convert(reply.result, Report)
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
