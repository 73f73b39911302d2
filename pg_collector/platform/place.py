"""The directory of a platform: what lies where, and who has it."""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pg_collector.errors import StateError
from pg_collector.platform import keys
from pg_collector.platform.identity import Identity

IDENTITY: Final = "identity.sqlite"
SAMPLES: Final = "samples.duckdb"
SIGNING: Final = "signing.keys"
_LOCK: Final = "lock"


class Place:
    """An existing directory of a platform. Raises StateError where there is none."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.identity = directory / IDENTITY
        self.samples = directory / SAMPLES
        self.signing = directory / SIGNING
        if not self.identity.is_file() or not self.signing.is_file():
            raise StateError(
                f"{directory} holds no platform", remedy=f"pgc platform init {directory} makes one."
            )

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Have the directory for this process alone; raises StateError if another one has it."""
        fd = os.open(self.directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.read(fd, 20).decode(errors="replace").strip() or "another process"
                raise StateError(
                    f"{self.directory} is in use: process {owner} serves it",
                    remedy="One platform a directory; stop that one first.",
                ) from None
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(fd)


def make(directory: Path, url: str) -> str:
    """Make the directory of a new platform; return the administrator's token.

    Only its digest is kept. Raises StateError where something is there already, OSError.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise StateError(f"{directory} is not empty", remedy="Give it a new directory.")
    directory.chmod(0o700)
    token = f"pga_{secrets.token_urlsafe(32)}"
    keys.make(directory / SIGNING)
    unfinished = directory / f"{IDENTITY}.new"
    Identity.make(unfinished, {"url": url, "admin_digest": keys.digest(token)})
    unfinished.chmod(0o600)
    unfinished.rename(directory / IDENTITY)  # last: with it the place is complete
    return token
