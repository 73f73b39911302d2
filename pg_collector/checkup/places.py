"""A place that the agent writes to: can it, and what helps where it cannot.

No remedy takes a directory from those who use it: beside what is not the agent's own, one is made.
"""

import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import Final, NamedTuple

from pg_collector.checkup.account import current, owner
from pg_collector.checkup.finding import Finding, Level

_PROBE: Final = b"\0" * 4096
_STATE: Final = Path("/var/lib/pg-collector")
_OWN: Final = (_STATE, Path("/var/log/pg-collector"), Path("/run/pg-collector"))
_MOUNTS: Final = Path("/proc/self/mountinfo")


class Place(NamedTuple):
    """A directory, or with `file` a file, that the configuration names by `key`."""

    what: str
    key: str
    path: Path
    own: bool = False  # the agent's usual one, which nobody else uses
    file: bool = False
    alone: bool = False  # others may not write to it

    def is_own(self) -> bool:
        """Whether nobody else uses it."""
        return self.own or any(one in (self.path, *self.path.parents) for one in _OWN)


def unusable(place: Place) -> Iterator[Finding]:
    """Try a place without leaving anything there; say why where it cannot be used."""
    if place.file and (there := _exists(place.path)):
        yield from _file(place, there)
        return
    folder = place.path.parent if place.file else place.path
    at = nearest(folder)
    try:
        with tempfile.TemporaryFile(dir=at) as file:
            file.write(_PROBE)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        yield _failed(
            f"{place.what}: {place.path} cannot be written by {current()}: {error.strerror}"
            f"{described(at)}",
            _remedy(place, folder, at),
        )
        return
    status = at.stat()
    if at != folder or place.file:
        return
    if _is_strangers(place, status):
        found = f"{place.what}: {folder} belongs to {owner(status.st_uid)}, not to {current()}"
        yield _failed(found, _taken(place, folder))
    elif place.alone and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        yield _failed(
            f"{place.what}: {folder} can be written to by others{described(folder)}",
            f"chmod 700 {quote(str(folder))}" if place.is_own() else _beside(place, folder),
        )


def nearest(path: Path) -> Path:
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


def described(at: Path) -> str:
    """Return whose it is, as far as that can be seen."""
    try:
        status = at.stat()
    except OSError:
        return ""
    return f" ({at}: owner {owner(status.st_uid)}, mode {stat.S_IMODE(status.st_mode):04o})"


def mount_point(path: Path) -> Path:
    """Return where the volume of a path is mounted."""
    path = Path(os.path.realpath(path))
    try:
        lines = _MOUNTS.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        lines = []
    named = (re.sub(r"\\(\d{3})", _octal, line.split()[4]) for line in lines)
    points = {Path(one) for one in named}
    above = (path, *path.parents)
    return next((one for one in above if one in points or one.is_mount()), Path("/"))


def _octal(escaped: re.Match[str]) -> str:
    return chr(int(escaped[1], 8))


def _exists(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _file(place: Place, status: os.stat_result) -> Iterator[Finding]:
    """Try a file that is there; what it holds stays as it is."""
    error = _refusal(place, status)
    if error is not None:
        yield _failed(
            f"{place.what}: {place.path} cannot be written by {current()}: {error}"
            f"{described(place.path)}",
            _read_only(place.path) or _taken(place, place.path.parent),
        )


def _refusal(place: Place, status: os.stat_result) -> str | None:
    """Return why a file cannot be added to; None where it can."""
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"
    if place.alone and os.geteuid() not in {0, status.st_uid}:  # its mode is set at each start
        return f"belongs to {owner(status.st_uid)}"
    try:
        os.close(os.open(place.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as refused:
        return refused.strerror or str(refused)
    return None


def _is_strangers(place: Place, status: os.stat_result) -> bool:
    """Whether the agent would refuse a directory for its owner: root may lend the state's."""
    if status.st_uid == os.geteuid():
        return False
    return place.alone or (place.key == "state_dir" and status.st_uid != 0)


def _remedy(place: Place, folder: Path, at: Path) -> str:
    """Say what helps where nothing can be written at `at`."""
    try:
        if not at.is_dir():
            return f"Name a directory; {at} is none"
    except OSError:  # it is below one that may not be entered
        return _beside(place, folder)
    if (remedy := _read_only(at)) is not None:
        return remedy
    if os.access(at, os.W_OK | os.X_OK):
        nearest_one = quote(str(at))
        return f"Free some space: df -h {nearest_one} && df -i {nearest_one}"
    if folder == at:
        return _taken(place, folder)
    return f"install -d -o {current()} -m 700 {quote(str(folder))}"


def _read_only(at: Path) -> str | None:
    if not os.statvfs(at).f_flag & os.ST_RDONLY:
        return None
    where = quote(str(mount_point(at)))
    return f"mount -o remount,rw {where}   # or name a place on another volume"


def _taken(place: Place, folder: Path) -> str:
    """Say what helps against another owner."""
    if not place.is_own():
        return _beside(place, folder)
    what = quote(str(place.path if place.file and _exists(place.path) else folder))
    if place.file:
        return f"chown {current()} {what}"
    return f"chown -R {current()} {what} && chmod 700 {what}"


def _beside(place: Place, folder: Path) -> str:
    """Return the command that makes a directory of the agent's own, and which key names it."""
    usable = all(os.access(one, os.X_OK) for one in (folder, *folder.parents))
    mine = folder / "pg-collector" if usable else _OWN[1] if place.file else _STATE
    named = mine / place.path.name if place.file else mine
    made = f"install -d -o {current()} -m 700 {quote(str(mine))}"
    return f"{made}   # a directory of its own; then {place.key}: {named}"


def _failed(found: str, remedy: str) -> Finding:
    return Finding(section="disk", level=Level.FAIL, found=found, remedy=remedy)
