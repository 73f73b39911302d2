"""Be another account for a while, within this process. Root only."""

import importlib
import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager

from pg_collector.checkup.account import IMPORTED_LATE
from pg_collector.samplers import discover
from tests.support import process


@contextmanager
def as_account(name: str = process.ACCOUNT) -> Iterator[None]:
    """Have the rights of an account, for `access` as well; root's come back at the end."""
    account, groups = pwd.getpwnam(name), os.getgroups()
    discover()  # files of Python's and of the program's may lie where root alone may look
    for one in IMPORTED_LATE:
        importlib.import_module(one)
    os.setgroups([])
    os.setresgid(account.pw_gid, account.pw_gid, 0)
    os.setresuid(account.pw_uid, account.pw_uid, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(groups)
