"""Record a run, and go through it again, stopping at the moments of power cuts."""

import os
import random
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tests.support.powercut.disk import Disk, Survival
from tests.support.powercut.log import Kind, operations
from tests.support.preload import compiled

_TURNING: Final = {
    Kind.SYNC, Kind.SYNC_ALL, Kind.RENAME, Kind.UNLINK, Kind.TRUNCATE, Kind.CREATE,
    Kind.MAKE_DIRECTORY, Kind.MARK,
}  # fmt: skip


class Image(NamedTuple):
    """A tree as a power cut left it, after `point` operations."""

    path: Path
    point: int
    survival: Survival
    seed: str
    marks: Mapping[str, Sequence[int]]  # what the program had promised, in order


class Recording:
    """What happens in a directory from now on, written to `log` by one program after another.

    The directory must exist, and what is in it counts as durable. The log lies outside.
    """

    def __init__(self, directory: Path, log: Path) -> None:
        self.directory = directory
        self.log = log
        self._before = log.with_name(log.name + ".before")
        shutil.copytree(directory, self._before, symlinks=True)
        self._numbers = {
            path.relative_to(directory): path.lstat().st_ino
            for path in (directory, *directory.rglob("*"))
        }

    def environment(self, base: Mapping[str, str] = os.environ) -> dict[str, str]:
        """Return the environment of the program to record; `LabMissing` without a compiler."""
        library = str(compiled(Path(__file__).with_name("recorder.c")))
        return {
            **base,
            "LD_PRELOAD": " ".join(filter(None, (library, base.get("LD_PRELOAD")))),
            "POWERCUT_DIRECTORY": str(self.directory),
            "POWERCUT_LOG": str(self.log),
        }

    def points(self, count: int, *, seed: int) -> list[int]:
        """Choose moments: half of them anywhere, half beside a sync, a name or a promise."""
        total = 0
        turning: list[int] = []
        for total, one in enumerate(operations(self.log), 1):
            if one.kind in _TURNING:
                turning += (total - 1, total)
        chance = random.Random(seed)  # noqa: S311 - it must come out alike
        beside = chance.sample(turning, min(count // 2, len(turning)))
        return sorted(beside + [chance.randint(0, total) for _ in range(count - len(beside))])

    def images(
        self,
        points: Iterable[int],
        place: Path,
        *,
        survivals: Sequence[Survival] = (Survival.STRICT, Survival.TORN),
        seed: int = 0,
    ) -> Iterator[Image]:
        """Go through the log once; at each point (ascending) yield one image for each survival.

        An image lies below `place`, may be changed, and is removed when the next is asked for.
        """
        disk = Disk(self._before, self._numbers)
        marks: dict[str, list[int]] = {}
        log = operations(self.log)
        done = 0
        for number, point in enumerate(points):
            for one in log if point > done else ():
                done += 1
                if one.kind is Kind.MARK:
                    marks.setdefault(one.names[0], []).append(one.offset)
                disk.apply(one)
                if done == point:
                    break
            for survival in survivals:
                path = place / f"image-{number}-{survival.value}"
                luck = f"{seed}-{number}-{point}"
                disk.image(path, survival, luck)
                copies = {name: tuple(numbers) for name, numbers in marks.items()}
                try:
                    yield Image(path, point, survival, luck, copies)
                finally:
                    shutil.rmtree(path)
