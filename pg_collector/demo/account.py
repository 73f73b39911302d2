"""Whom the demo's server runs as: PostgreSQL refuses root, and an account without an entry."""

import os
import pwd
from typing import Any, NamedTuple

from pg_collector.errors import StateError

_PREFERRED = ("nobody", "postgres", "daemon")


class Account(NamedTuple):
    """An unprivileged account of this machine."""

    name: str
    uid: int
    gid: int

    def popen(self) -> dict[str, Any]:
        """Return what makes subprocess run a program as this account, without our groups."""
        if self.uid == os.geteuid():
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": ()}


def find() -> Account:
    """Return who the server runs as: ourselves, or somebody unprivileged where we are root.

    Raises StateError where there is nobody.
    """
    if os.geteuid() != 0:
        return _ourselves()
    entries = {entry.pw_name: entry for entry in pwd.getpwall() if entry.pw_uid != 0}
    for name in (*_PREFERRED, *sorted(entries)):
        if name in entries:
            entry = entries[name]
            return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise StateError(
        "PostgreSQL does not run as root, and /etc/passwd knows no other account",
        remedy="Add one (useradd --system demo), or run the demo as an ordinary user.",
    )


def _ourselves() -> Account:
    uid = os.geteuid()
    try:
        return Account(pwd.getpwuid(uid).pw_name, uid, os.getegid())
    except KeyError:
        raise StateError(
            f"the account that runs this (uid {uid}) is not in /etc/passwd, and PostgreSQL "
            "does not start without an entry",
            remedy="Run the demo as an account that is listed there.",
        ) from None
