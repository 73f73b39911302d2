"""Files and folders where systems differ: where ours lie, what survives a power cut, room on disk.

What only Linux has, has its fallback here. On macOS what outlasts a run lies where that system
keeps such things, in ~/Library/Application Support/pg-collector, unless XDG_STATE_HOME says
otherwise; configuration files are looked for in the same places as on Linux.
"""

import fcntl
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

# macOS' own fsync leaves data in the disk's cache: fcntl(2) there, F_FULLFSYNC.
_FULL_SYNC: Final[int | None] = getattr(fcntl, "F_FULLFSYNC", None)
_ZEROS: Final = bytes(64 * 1024)


def state_home(environ: Mapping[str, str], system: str = sys.platform) -> Path:
    """Return the directory that a user's programs keep their state below; `system` is Python's."""
    if environ.get("XDG_STATE_HOME"):
        return Path(environ["XDG_STATE_HOME"])
    home = Path(environ.get("HOME", "/"))
    return home / ("Library/Application Support" if system == "darwin" else ".local/state")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut. Raises OSError.

    A file's own sync does not do that: https://man7.org/linux/man-pages/man2/fsync.2.html.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync(fd)
    finally:
        os.close(fd)


def sync(fd: int) -> None:
    """Make a file survive a power cut. Raises OSError."""
    if _FULL_SYNC is not None:
        try:
            fcntl.fcntl(fd, _FULL_SYNC)
        except OSError:  # not every file system knows it; a real fault is found again below
            pass
        else:
            return
    os.fsync(fd)


def sync_data(fd: int) -> None:
    """Make what a file holds survive a power cut, if not its times. Raises OSError."""
    if hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:
        sync(fd)


def reserve(fd: int, size: int) -> None:
    """Give a new file so many bytes, taken from the volume now. Raises OSError."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
        return
    left = size
    while left:
        left -= os.write(fd, _ZEROS[:left])
