"""A limit on what a process and its children may take of memory, kept by the kernel. Root only."""

import contextlib
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.lab.server import LabMissing

_ROOT = Path("/sys/fs/cgroup")
_names = itertools.count(1)


class MemoryLimit:
    """A control group; what is started with `prefix` before it lives in it."""

    def __init__(self, folder: Path, *, version: int) -> None:
        self.folder = folder
        self._version = version

    @property
    def prefix(self) -> list[str]:
        """Return the words that start a program in it."""
        return ["sh", "-c", f'echo $$ > {self.folder}/cgroup.procs && exec "$@"', "sh"]

    @property
    def refused(self) -> int:
        """How often the limit was met and nothing could be given back: the kernel kills then."""
        file = self.folder / ("memory.events" if self._version == 2 else "memory.oom_control")
        words = dict(line.split() for line in file.read_text().splitlines())
        return int(words.get("oom_kill", 0))


@contextmanager
def memory_limit(size: int) -> Iterator[MemoryLimit]:
    """Make a group of so many bytes, swap included. Raises `LabMissing` where none can be made."""
    version = 2 if (_ROOT / "cgroup.controllers").exists() else 1
    parent = _ROOT if version == 2 else _ROOT / "memory"
    folder = parent / f"pgc-test-{os.getpid()}-{next(_names)}"
    try:
        folder.mkdir()
    except OSError as error:
        raise LabMissing(f"no control groups here: {error}") from error
    try:
        try:
            _limit(folder, version, size)
        except OSError as error:
            raise LabMissing(f"memory cannot be limited here: {error}") from error
        yield MemoryLimit(folder, version=version)
    finally:
        folder.rmdir()


def _limit(folder: Path, version: int, size: int) -> None:
    if version == 2:
        (folder / "memory.max").write_text(f"{size}")
        (folder / "memory.swap.max").write_text("0")
        return
    (folder / "memory.limit_in_bytes").write_text(f"{size}")
    with contextlib.suppress(OSError):  # where swap is not accounted for
        (folder / "memory.memsw.limit_in_bytes").write_text(f"{size}")
