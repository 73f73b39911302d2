"""Limits on what a process and its children may take, kept by the kernel. Root only."""

import contextlib
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.lab.server import LabMissing

_ROOT = Path("/sys/fs/cgroup")
_PERIOD = 100_000  # microseconds
_names = itertools.count(1)


class Limits:
    """Control groups; what is started with `prefix` before it lives in them."""

    def __init__(self, memory: Path, cpu: Path | None, *, version: int) -> None:
        self._memory = memory
        self._cpu = cpu
        self._version = version

    @property
    def prefix(self) -> list[str]:
        """Return the words that start a program in them."""
        folders = {self._memory, self._cpu or self._memory}
        enter = " && ".join(f"echo $$ > {one}/cgroup.procs" for one in sorted(folders))
        return ["sh", "-c", f'{enter} && exec "$@"', "sh"]

    @property
    def refused(self) -> int:
        """How often memory was short and nothing could be given back: the kernel kills then."""
        file = self._memory / ("memory.events" if self._version == 2 else "memory.oom_control")
        return _word(file, "oom_kill")

    @property
    def peak(self) -> int:
        """The most bytes that were taken, with what the kernel keeps of files."""
        name = "memory.peak" if self._version == 2 else "memory.max_usage_in_bytes"
        return int((self._memory / name).read_text())

    @property
    def throttled(self) -> float:
        """Seconds for which the program waited because its time was used up."""
        if self._cpu is None:
            return 0.0
        file = self._cpu / "cpu.stat"
        return _word(file, "throttled_usec") / 1e6 or _word(file, "throttled_time") / 1e9


@contextmanager
def limits(memory: int, cpu: float | None = None) -> Iterator[Limits]:
    """Allow so many bytes, swap included, and so much of one core.

    Raises `LabMissing` where that cannot be had.
    """
    version = 2 if (_ROOT / "cgroup.controllers").exists() else 1
    name = f"pgc-test-{os.getpid()}-{next(_names)}"
    with contextlib.ExitStack() as stack:
        held = _folder(stack, _ROOT if version == 2 else _ROOT / "memory", name)
        paced = None
        if cpu is not None:
            paced = held if version == 2 else _folder(stack, _ROOT / "cpu", name)
        try:
            _limit_memory(held, version, memory)
            if paced is not None and cpu is not None:
                _limit_cpu(paced, version, cpu)
        except OSError as error:
            raise LabMissing(f"nothing can be limited here: {error}") from error
        yield Limits(held, paced, version=version)


def _folder(stack: contextlib.ExitStack, parent: Path, name: str) -> Path:
    folder = parent / name
    try:
        folder.mkdir()
    except OSError as error:
        raise LabMissing(f"no control groups here: {error}") from error
    stack.callback(folder.rmdir)
    return folder


def _limit_memory(folder: Path, version: int, size: int) -> None:
    if version == 2:
        (folder / "memory.max").write_text(f"{size}")
        (folder / "memory.swap.max").write_text("0")
        return
    (folder / "memory.limit_in_bytes").write_text(f"{size}")
    with contextlib.suppress(OSError):  # where swap is not accounted for
        (folder / "memory.memsw.limit_in_bytes").write_text(f"{size}")


def _limit_cpu(folder: Path, version: int, share: float) -> None:
    quota = int(share * _PERIOD)
    if version == 2:
        (folder / "cpu.max").write_text(f"{quota} {_PERIOD}")
        return
    (folder / "cpu.cfs_period_us").write_text(f"{_PERIOD}")
    (folder / "cpu.cfs_quota_us").write_text(f"{quota}")


def _word(file: Path, name: str) -> int:
    words = dict(line.split() for line in file.read_text().splitlines())
    return int(words.get(name, 0))
