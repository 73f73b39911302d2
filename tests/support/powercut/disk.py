"""The state of a recorded tree: what is durable, and what a power cut may or may not take."""

import enum
import os
import random
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from tests.support.powercut.log import Kind, Operation, Unreplayable

SECTOR: Final = 512
_CHUNK: Final = 64 * 1024
_ZEROS: Final = bytes(_CHUNK)

Coins = Callable[[int], int]  # for so many things: bit n says whether the nth is kept


class Survival(enum.Enum):
    """What a power cut leaves of that which was not synced (see the package)."""

    STRICT = "strict"
    TORN = "torn"
    WHOLE = "whole"

    def coins(self, seed: str) -> Coins:
        """Return what decides; the same seed decides alike."""
        if self is Survival.TORN:
            return random.Random(seed).getrandbits  # noqa: S311 - it must come out alike
        return (lambda count: (1 << count) - 1) if self is Survival.WHOLE else (lambda _count: 0)


class Write:
    """Data that is not durable yet, or (`certain`) is, but lies above older data that is not."""

    __slots__ = ("certain", "data", "offset")

    def __init__(self, offset: int, data: bytes, *, certain: bool = False) -> None:
        self.offset = offset
        self.data = data
        self.certain = certain

    def apply(self, content: bytearray) -> None:
        end = self.offset + len(self.data)
        if len(content) < self.offset:
            content.extend(bytes(self.offset - len(content)))
        content[self.offset : end] = self.data

    def sectors(self) -> range:
        return range(self.offset // SECTOR, -(-(self.offset + len(self.data)) // SECTOR))


class Resize:
    """A size that is not durable yet; `grow` leaves a larger file as it is."""

    __slots__ = ("grow", "size")

    def __init__(self, size: int, *, grow: bool) -> None:
        self.size = size
        self.grow = grow

    def apply(self, content: bytearray) -> None:
        if len(content) < self.size:
            content.extend(bytes(self.size - len(content)))
        elif not self.grow:
            del content[self.size :]


class File:
    """A regular file: its durable content, and the changes since."""

    def __init__(self, mode: int, content: bytes = b"") -> None:
        self.mode = mode
        self.size = len(content)  # as the running program sees it
        self._durable = bytearray(content)
        self._pending: list[Write | Resize] = []

    def change(self, one: Write | Resize) -> None:
        if isinstance(one, Write):
            self.size = max(self.size, one.offset + len(one.data))
        else:
            self.size = max(self.size, one.size) if one.grow else one.size
        self._pending.append(one)

    def pages(self, offset: int, data: bytes, *, synced: bool) -> None:
        """Take what a shared mapping held, cut off at the end of the file."""
        data = data[: max(0, self.size - offset)]
        if not data:
            return
        one = Write(offset, data, certain=synced)
        self.change(one)
        if synced:
            one.apply(self._durable)

    def sync(self) -> None:
        for one in self._pending:
            one.apply(self._durable)
        self._pending.clear()

    def survivor(self, coins: Coins) -> bytes | bytearray:
        """Return the content after a cut."""
        if not self._pending:
            return self._durable
        kept = list(self._kept(coins))
        if not kept:
            return self._durable
        content = bytearray(self._durable)
        for one in reversed(kept):
            one.apply(content)
        return content

    def _kept(self, coins: Coins) -> Iterator[Write | Resize]:
        """Yield what survives, newest first. With a write to a sector go the older ones to it."""
        written: set[int] = set()
        for one in reversed(self._pending):
            if isinstance(one, Resize):
                if coins(1):
                    yield one
                continue
            sectors = one.sectors()
            bits = -1 if one.certain else coins(len(sectors))
            chosen = [n for n in sectors if n in written or bits >> (n - sectors.start) & 1]
            written.update(chosen)
            if len(chosen) == len(sectors):
                yield one
            else:
                yield from map(one_sector, [one] * len(chosen), chosen)


def one_sector(write: Write, number: int) -> Write:
    """Return the part of a write that lies in one sector."""
    start = max(write.offset, number * SECTOR)
    end = min(write.offset + len(write.data), (number + 1) * SECTOR)
    return Write(start, write.data[start - write.offset : end - write.offset])


class Change:
    """A change of names that is kept or lost as a whole: what they lead to from then on."""

    def __init__(self, *effects: tuple["Folder", str, "File | Folder | None"]) -> None:
        self._effects = list(effects)
        for folder in self._folders():
            folder.pending.append(self)

    def _folders(self) -> list["Folder"]:
        return list(dict.fromkeys(folder for folder, _, _ in self._effects))

    def apply(self, folder: "Folder", names: dict[str, "File | Folder"]) -> None:
        """Change the names of one folder."""
        for where, name, node in self._effects:
            if where is folder:
                if node is None:
                    names.pop(name, None)
                else:
                    names[name] = node


class Folder:
    """A directory: its durable names, and the changes since."""

    def __init__(self, mode: int) -> None:
        self.mode = mode
        self.durable: dict[str, File | Folder] = {}
        self.pending: list[Change] = []

    def sync(self) -> None:
        for change in self.pending:
            change.apply(self, self.durable)
        self.pending.clear()

    def survivors(self, coin: Callable[[Change], bool]) -> dict[str, "File | Folder"]:
        """Return the names after a cut."""
        names = dict(self.durable)
        for change in self.pending:
            if coin(change):
                change.apply(self, names)
        return names


class Disk:
    """A tree that follows the recorded operations, and can be written as a cut would leave it."""

    def __init__(self, directory: Path, numbers: Mapping[Path, int]) -> None:
        """Start from a copy of the tree; `numbers` are the inode numbers of the recorded one."""
        self._nodes: dict[int, File | Folder] = {}
        self._root = Folder(directory.stat().st_mode & 0o7777)
        self._nodes[numbers[Path()]] = self._root
        for path, number in sorted(numbers.items()):
            if path != Path():
                self._take(directory / path, number, self._folder(numbers[path.parent]))

    def _take(self, path: Path, number: int, folder: Folder) -> None:
        mode = path.lstat().st_mode
        if number not in self._nodes:  # hard links share one
            if stat.S_ISDIR(mode):
                self._nodes[number] = Folder(mode & 0o7777)
            elif stat.S_ISREG(mode):
                self._nodes[number] = File(mode & 0o7777, path.read_bytes())
            else:
                raise Unreplayable(f"neither file nor directory: {path.name}")
        folder.durable[path.name] = self._nodes[number]

    def apply(self, one: Operation) -> None:
        """Follow one operation. Raises `Unreplayable` for a file it never saw."""
        if one.kind in {Kind.CREATE, Kind.MAKE_DIRECTORY, Kind.LINK, Kind.UNLINK, Kind.RENAME}:
            self._name(one)
        elif one.kind is Kind.SYNC:
            self._node(one.ino).sync()
        elif one.kind is Kind.SYNC_ALL:
            for node in self._nodes.values():
                node.sync()
        elif one.kind is Kind.MODE:
            self._node(one.ino).mode = one.offset
        elif one.kind not in {Kind.MARK, Kind.SYNC_RANGE}:
            self._content(self._file(one.ino), one)

    def _content(self, file: File, one: Operation) -> None:
        if one.kind is Kind.WRITE:
            file.change(Write(one.offset, one.data))
        elif one.kind in {Kind.PAGES, Kind.PAGES_SYNCED}:
            file.pages(one.offset, one.data, synced=one.kind is Kind.PAGES_SYNCED)
        else:
            file.change(Resize(one.offset, grow=one.kind is Kind.ALLOCATE))

    def _name(self, one: Operation) -> None:
        if one.kind is Kind.RENAME:
            node = self._node(one.ino)
            old, new = one.names
            leaving = (self._folder(one.directory), old, None) if one.directory else None
            coming = (self._folder(one.offset), new, node) if one.offset else None
            Change(*(effect for effect in (leaving, coming) if effect))
            return
        node_or_none: File | Folder | None = None
        if one.kind is Kind.CREATE:  # a new life of this number
            node_or_none = self._nodes[one.ino] = File(one.offset)
        elif one.kind is Kind.MAKE_DIRECTORY:
            node_or_none = self._nodes[one.ino] = Folder(one.offset)
        elif one.kind is Kind.LINK:
            node_or_none = self._node(one.ino)
        Change((self._folder(one.directory), one.names[0], node_or_none))

    def image(self, where: Path, survival: Survival, seed: str) -> None:
        """Write the tree as a cut now would leave it to `where`, which must not exist."""
        coins = survival.coins(seed)
        decided: dict[Change, bool] = {}

        def coin(change: Change) -> bool:
            if change not in decided:
                decided[change] = bool(coins(1))
            return decided[change]

        def write(folder: Folder, path: Path) -> None:
            path.mkdir(mode=0o700)
            for name, node in folder.survivors(coin).items():
                if isinstance(node, Folder):
                    write(node, path / name)
                else:
                    write_file(path / name, node.survivor(coins), node.mode)
            path.chmod(folder.mode)

        write(self._root, where)

    def _node(self, ino: int) -> File | Folder:
        if ino not in self._nodes:
            raise Unreplayable(f"a file that the recorder never saw: inode {ino}")
        return self._nodes[ino]

    def _file(self, ino: int) -> File:
        node = self._node(ino)
        if not isinstance(node, File):
            raise Unreplayable(f"content for a directory: inode {ino}")
        return node

    def _folder(self, ino: int) -> Folder:
        node = self._node(ino)
        if not isinstance(node, Folder):
            raise Unreplayable(f"a name in a file: inode {ino}")
        return node


def write_file(path: Path, content: bytes | bytearray, mode: int) -> None:
    """Write a file, leaving holes where it holds long runs of zeros."""
    view = memoryview(content)
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    try:
        os.fchmod(descriptor, mode)
        for start in range(0, len(view), _CHUNK):
            chunk = view[start : start + _CHUNK]
            if chunk != _ZEROS[: len(chunk)]:
                os.pwrite(descriptor, chunk, start)
        os.ftruncate(descriptor, len(view))
    finally:
        os.close(descriptor)
