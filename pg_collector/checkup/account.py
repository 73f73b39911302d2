"""Whose rights the checks have: those of the account that the agent runs under."""

import importlib
import os
import pwd
from pathlib import Path
from typing import Final

from pg_collector.config.rights import SERVICE

# Places of whoever typed the command, which the service does not have.
_OWN_PLACES: Final = ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME")

# What others import late; by then Python's own files may be out of reach, as in a home of root.
IMPORTED_LATE: Final = ("_strptime", "encodings.idna", "encodings.utf_8_sig", "grp")


def become(name: str = SERVICE) -> str:
    """Give up root for an account, for good; return the name of whom this process belongs to.

    Nothing changes for others than root, or where there is no such account.
    """
    if os.geteuid() == 0:
        try:
            account = pwd.getpwnam(name)
        except KeyError:
            return current()
        for one in IMPORTED_LATE:
            importlib.import_module(one)
        os.initgroups(account.pw_name, account.pw_gid)
        os.setgid(account.pw_gid)  # of root: the real, the effective and the saved one
        os.setuid(account.pw_uid)
        os.environ.update({"HOME": account.pw_dir, "USER": account.pw_name})
        os.environ["LOGNAME"] = account.pw_name
        for one in _OWN_PLACES:
            os.environ.pop(one, None)
        if not os.access(".", os.X_OK):  # where whoever typed the command was at home
            os.chdir("/")
    return current()


def command(place: Path | None = None) -> str:
    """Return the check that may look where this one may not: as the owner of a place."""
    for one in (place, *place.parents) if place is not None else ():
        try:
            return f"sudo pgc check --user {owner(one.stat().st_uid)}"
        except OSError:
            continue
    return "sudo pgc check --user root"


def current() -> str:
    """Return the name of this process's account, or its number."""
    return owner(os.geteuid())


def owner(uid: int) -> str:
    """Return the name of an account, or its number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
