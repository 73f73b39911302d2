"""pgc as on a system that is no Linux: what only Linux has is taken away before anything is loaded.

    python -m tests.support.elsewhere start --once --local DIR

`command` hides /proc, too, for which one has to be root.
"""

import ctypes
import os
import select
import socket
import sys
import time
from typing import Any, Final

# What macOS' Python does not have, of what Linux' has.
MISSING: Final = {
    os: """
        copy_file_range eventfd fdatasync getresgid getresuid getrandom memfd_create pidfd_open
        pipe2 posix_fadvise posix_fallocate sched_getaffinity sched_setaffinity setresgid setresuid
        splice O_DIRECT O_PATH O_TMPFILE
        """,
    socket: """
        AF_NETLINK AF_PACKET AF_VSOCK SO_BINDTODEVICE SO_PASSCRED SO_PEERCRED SOCK_CLOEXEC
        SOCK_NONBLOCK TCP_KEEPIDLE TCP_USER_TIMEOUT MSG_NOSIGNAL
        """,
    select: "epoll",
    time: "CLOCK_BOOTTIME pthread_getcpuclockid",
}
FUNCTIONS: Final = frozenset({"mallopt", "malloc_trim", "prctl"})
_HIDE_PROC: Final = 'mount -t tmpfs none /proc && exec "$@"'


class _Library(ctypes.CDLL):
    """A library in which these functions are not found."""

    def __getattr__(self, name: str) -> Any:
        if name in FUNCTIONS:
            raise AttributeError(f"no {name} on this system")
        return super().__getattr__(name)


def command(*words: str) -> list[str]:
    """Return what runs pgc so."""
    hiding = ["unshare", "--mount", "sh", "-c", _HIDE_PROC, "sh"] if os.geteuid() == 0 else []
    return [*hiding, sys.executable, "-m", "tests.support.elsewhere", *words]


def main() -> None:
    """Take it away, then be pgc."""
    for module, names in MISSING.items():
        for name in names.split():
            if hasattr(module, name):
                delattr(module, name)
    ctypes.CDLL = _Library  # type: ignore[misc]
    from pg_collector.cli import main as pgc  # noqa: PLC0415  # after all that

    pgc()


if __name__ == "__main__":
    main()
