"""Damage to files, as disks, people and restored backups do it: seeded, and told in a sentence."""

import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

PAGE: Final = 4096


class Damage(NamedTuple):
    """What was done to which file (relative to the directory)."""

    kind: str
    path: Path
    detail: str

    def __str__(self) -> str:
        return f"{self.kind} {self.path}: {self.detail}"


def damage(
    directory: Path, seed: int, *, times: int = 1, older: Path | None = None
) -> list[Damage]:
    """Damage `times` files below `directory`; return what was done.

    `older` is an earlier copy of the directory: one more kind puts a file back from there. Raises
    ValueError where there is no file to damage.
    """
    chance = random.Random(seed)  # noqa: S311 - it must come out alike
    return [_one(directory, chance, older) for _ in range(times)]


def _one(directory: Path, chance: random.Random, older: Path | None) -> Damage:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    if not files:
        raise ValueError(f"no file below {directory}")
    if older is not None and chance.randrange(len(_KINDS) + 1) == 0:
        kept = [path for path in files if (older / path.relative_to(directory)).is_file()]
        if kept:
            return _put_back(directory, older, chance.choice(kept))
    path = chance.choice(files)
    kind = chance.choice(list(_KINDS))
    if path.stat().st_size == 0:  # nothing else can be done to it
        kind = "delete"
    return Damage(kind, path.relative_to(directory), _KINDS[kind](path, chance))


def _put_back(directory: Path, older: Path, path: Path) -> Damage:
    name = path.relative_to(directory)
    shutil.copyfile(older / name, path)
    return Damage("put back", name, f"an older copy of {path.stat().st_size} bytes")


def _flip(path: Path, chance: random.Random) -> str:
    at = chance.randrange(path.stat().st_size)
    mask = chance.randint(1, 255)
    with path.open("r+b") as file:
        file.seek(at)
        (before,) = file.read(1)
        file.seek(at)
        file.write(bytes([before ^ mask]))
    return f"byte {at} from {before:#04x} to {before ^ mask:#04x}"


def _zero(path: Path, chance: random.Random) -> str:
    size = path.stat().st_size
    start = chance.randrange(-(-size // PAGE)) * PAGE
    length = min(PAGE, size - start)
    with path.open("r+b") as file:
        file.seek(start)
        file.write(bytes(length))
    return f"{length} zeros at {start}"


def _garble(path: Path, chance: random.Random) -> str:
    size = path.stat().st_size
    start = chance.randrange(size)
    length = min(chance.randint(2, 200), size - start)
    with path.open("r+b") as file:
        file.seek(start)
        file.write(chance.randbytes(length))
    return f"{length} random bytes at {start}"


def _truncate(path: Path, chance: random.Random) -> str:
    before = path.stat().st_size
    size = chance.randrange(before)
    with path.open("r+b") as file:
        file.truncate(size)
    return f"from {before} bytes to {size}"


def _empty(path: Path, _chance: random.Random) -> str:
    before = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(0)
    return f"{before} bytes gone"


def _delete(path: Path, _chance: random.Random) -> str:
    before = path.stat().st_size
    path.unlink()
    return f"{before} bytes gone"


_KINDS: Final[dict[str, Callable[[Path, random.Random], str]]] = {
    "flip": _flip,
    "zero": _zero,
    "garble": _garble,
    "truncate": _truncate,
    "empty": _empty,
    "delete": _delete,
}

KINDS: Final[Sequence[str]] = (*_KINDS, "put back")
