"""What a program has to do itself so that names in a folder survive a power cut."""

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut. Raises OSError.

    A file's own sync does not do that: https://man7.org/linux/man-pages/man2/fsync.2.html.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
