"""How a file comes to be read by the agent's user, and by nobody else.

What others may use stays as it is: outside of the configuration's own directory a copy is advised.
"""

import os
from pathlib import Path
from shlex import quote
from typing import Final, NamedTuple

SERVICE: Final = "pg-collector"
OWN: Final = Path("/etc/pg-collector")
_WRITTEN: Final = (Path("/var/lib/pg-collector"), Path("/var/log/pg-collector"))
_SHALLOW: Final = 2  # parts of /etc, /root: directories of everybody's


class User(NamedTuple):
    """An account and its group."""

    uid: int
    name: str
    gid: int
    group: str


def user() -> User:
    """Return the agent's user: the account of this process, and of root's the service's."""
    import pwd  # noqa: PLC0415  # only when something is wrong

    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        try:
            account = pwd.getpwnam(SERVICE)
        except KeyError:
            pass
        else:
            uid, gid = account.pw_uid, account.pw_gid
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    return User(uid, name, gid, _group_name(gid))


def as_service(path: Path, bits: int) -> str | None:
    """Return what to do where it is not the file that is wrong, but this user; else None.

    So it is where the service may use it already: `bits` are 4 to read it, 1 to enter it.
    """
    import pwd  # noqa: PLC0415  # only when something is wrong

    try:
        account, status = pwd.getpwnam(SERVICE), path.stat()
    except (KeyError, OSError):
        return None
    if os.geteuid() in (0, account.pw_uid):
        return None
    owners = status.st_uid == account.pw_uid and status.st_mode & bits << 6
    groups = status.st_gid == account.pw_gid and status.st_mode & bits << 3
    if not (owners or groups):
        return None
    return f"run pgc as the agent's user: sudo -u {SERVICE} pgc ..."


def is_own(path: Path, directory: Path | None) -> bool:
    """Say whether a path lies in the directory of the configuration, or in a usual one."""
    path = path.absolute()
    if any(one in (path, *path.parents) for one in (OWN, *_WRITTEN)):
        return True
    if directory is None:
        return False
    directory = directory.absolute()
    if directory.name == "config.d":
        directory = directory.parent
    shared = len(directory.parts) <= _SHALLOW or directory.name == "etc"
    return path.parent == directory or (not shared and directory in path.parents)


def to_private(path: Path, directory: Path | None = None) -> str:
    """Return the command after which the agent's user alone may read a file."""
    me = user()
    try:
        status = path.stat()
    except OSError:
        return copy(path)
    if status.st_uid == me.uid:
        return f"chmod 600 {quote(str(path))}"
    if is_own(path, directory):
        return f"chown {me.name} {quote(str(path))} && chmod 600 {quote(str(path))}"
    return copy(path)


def to_closed(path: Path, directory: Path | None = None) -> str:
    """Return the command after which not everybody may read a file, and the agent's user may."""
    me = user()
    try:
        status = path.stat()
    except OSError:
        return copy(path)
    if me.uid == status.st_uid or me.gid == status.st_gid:
        return f"chmod 640 {quote(str(path))}"
    return to_group(path, "640") if is_own(path, directory) else copy(path)


def to_group(path: Path, mode: str) -> str:
    """Return the command that lets the agent's group use what keeps its owner."""
    place = quote(str(path))
    return f"chgrp {user().group} {place} && chmod {mode} {place}"


def copy(path: Path) -> str:
    """Return the command that makes a copy of the agent's own."""
    source, place = quote(str(path)), quote(str(OWN / path.name))
    return f"install -D -o {user().name} -m 600 {source} {place}   # and name this copy"


def barrier(path: Path) -> Path:
    """Return the topmost directory on the way to a path that this user may not enter."""
    path = path.absolute()
    above = [*reversed(path.parents)]
    return next((one for one in above if not os.access(one, os.X_OK)), path.parent)


def _group_name(gid: int) -> str:
    """Return the name of a group, which need not have its user's; or its number."""
    try:
        import grp  # noqa: PLC0415  # only when something is wrong

        return grp.getgrgid(gid).gr_name
    except (ImportError, KeyError):  # who gave up root may not reach Python's own files any more
        return str(gid)
