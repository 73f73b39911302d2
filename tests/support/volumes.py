"""File systems of their own for a test: small, full, read-only, broken. Root only.

Each is mounted inside an empty directory and gone at the end of the `with`, whatever happened: a
small shell waits beside the test process for its end or for that of the `with`, and unmounts then.
"""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.support.lab.server import LabMissing
from tests.support.scratch import new_directory
from tests.support.until import until

_SECONDS: Final = 30.0
_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
# Until the pipe ends; then first in the friendly way, so that the loop device is free at once.
_KEEPER: Final = 'cat; umount -- "$1" || umount --lazy -- "$1"'
_GOING_DOWN: Final = 0x8004587D  # EXT4_IOC_SHUTDOWN: _IOR('X', 125, __u32), fs/ext4/ext4.h
_FREEZE: Final = 0xC0045877  # FIFREEZE and FITHAW: _IOWR('X', 119, int), linux/fs.h
_THAW: Final = 0xC0045878
_WITHOUT_FLUSH: Final = (2).to_bytes(4, "little")  # EXT4_GOING_FLAGS_NOLOGFLUSH


class Busy(Exception):
    """The file system has files that are open for writing: it cannot become read-only."""


class Volume:
    """A mounted file system; `path` is an empty directory on it that any account may enter."""

    def __init__(self, mount: Path) -> None:
        self._mount = mount
        self.path = mount / "here"
        self._filler = mount / "filler"

    @property
    def available(self) -> int:
        """How many bytes can still be written, by root too: ext4 keeps some for itself."""
        seen = os.statvfs(self._mount)
        return seen.f_bavail * seen.f_frsize

    def fill(self, leave: int = 0) -> None:
        """Take all space but `leave` bytes, rounded down to whole blocks."""
        assert os.path.ismount(self._mount), "it would fill what lies beneath"
        block = os.statvfs(self._mount).f_frsize
        with self._filler.open("ab") as filler:
            # An extent tree, too, takes blocks, and more of them while the file grows.
            while (spare := (self.available - leave) // block * block) > 0:
                self._grow(filler.fileno(), spare, block)

    def _grow(self, filler: int, spare: int, block: int) -> None:
        size = os.fstat(filler).st_size
        while spare:
            try:
                os.posix_fallocate(filler, size, spare)
            except OSError:
                if spare == block:
                    raise
                spare = spare // 2 // block * block or block
            else:
                return

    def free(self, size: int | None = None) -> None:
        """Give back so many bytes of what `fill` took, rounded up to blocks; or all of it."""
        if size is None:
            self._filler.unlink(missing_ok=True)
            return
        block = os.statvfs(self._mount).f_frsize
        rest = max(0, self._filler.stat().st_size - -(-size // block) * block)
        os.truncate(self._filler, rest)

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Remount read-only, and writable again at the end.

        Raises `Busy` while something has a file open for writing: freeze that with `immutable`.
        """
        self._remount("ro")
        try:
            yield
        finally:
            self._remount("rw")

    def _remount(self, how: str) -> None:
        done = _run("mount", "-o", f"remount,{how}", str(self._mount))
        if done.returncode != 0 and "busy" in done.stderr:
            raise Busy(done.stderr.strip())
        if done.returncode != 0:
            raise RuntimeError(done.stderr)


class DiskVolume(Volume):
    """An ext4 file system in a file."""

    def __init__(self, image: Path, mount: Path) -> None:
        super().__init__(mount)
        self._image = image

    def break_down(self) -> None:
        """Answer every access with EIO from now on, as a dead disk does; `repair` mends it.

        https://github.com/torvalds/linux/blob/master/fs/ext4/ioctl.c, ext4_force_shutdown
        """
        root = os.open(self._mount, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(root, _GOING_DOWN, _WITHOUT_FLUSH)
        finally:
            os.close(root)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let everybody who writes hang, as on a volume that something holds up."""
        root = os.open(self._mount, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(root, _FREEZE, 0)
            try:
                yield
            finally:
                fcntl.ioctl(root, _THAW, 0)
        finally:
            os.close(root)

    def repair(self) -> None:
        """Mount it anew. Raises `Busy` while something of it is open: that would stay broken."""
        for arguments in (["umount", str(self._mount)], _mount_image(self._image, self._mount)):
            done = _run(*arguments)
            if done.returncode != 0 and "busy" in done.stderr:
                raise Busy(done.stderr.strip())
            if done.returncode != 0:
                raise RuntimeError(done.stderr)


def _mount_image(image: Path, mount: Path) -> list[str]:
    return ["mount", "-t", "ext4", "-o", "loop", str(image), str(mount)]


@contextmanager
def memory_volume(size: int) -> Iterator[Volume]:
    """Mount a tmpfs of so many bytes. Raises `LabMissing` where that is not allowed."""
    mount = new_directory("volume")
    options = f"size={size},mode=0755"
    with _mounted(mount, ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(mount)]):
        volume = Volume(mount)
        volume.path.mkdir(mode=0o755)
        yield volume


@contextmanager
def disk_volume(size: int) -> Iterator[DiskVolume]:
    """Mount an ext4 of so many bytes, its journal included. Raises `LabMissing` likewise."""
    image = new_directory("image") / "ext4"
    with image.open("wb") as file:
        file.truncate(size)
    done = _run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "nodiscard", str(image))
    if done.returncode != 0:
        raise LabMissing(f"no ext4: apt-get install e2fsprogs: {done.stderr.strip()}")
    mount = new_directory("volume")
    with _mounted(mount, _mount_image(image, mount)):
        volume = DiskVolume(image, mount)
        volume.path.mkdir(mode=0o755)
        yield volume
    image.unlink()


@contextmanager
def hung_volume() -> Iterator[Path]:
    """Mount a volume that answers nobody: FUSE, whose server never says a word.

    Yields its directory: whoever looks into it waits. Raises `LabMissing` where there is no FUSE.
    """
    mount = new_directory("volume")
    try:
        server = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise LabMissing(f"no /dev/fuse: modprobe fuse: {error.strerror}") from None
    options = f"fd={server},rootmode=40000,user_id=0,group_id=0,allow_other"
    command = ["mount", "-i", "-t", "fuse", "-o", options, "hung", str(mount)]
    try:
        with _mounted(mount, command, pass_fds=(server,)):
            try:
                yield mount
            finally:
                os.close(server)  # then all who wait are told that it is gone
                server = -1
    finally:
        if server >= 0:
            os.close(server)


@contextmanager
def immutable(*paths: Path) -> Iterator[None]:
    """Let nothing below these change (chattr +i), not even through descriptors that are open.

    Writing gives EPERM. Raises `LabMissing` where the file system has no such attribute.
    """
    done = _run("chattr", "-R", "+i", *map(str, paths))
    try:
        if done.returncode != 0:
            raise LabMissing(f"no immutable files here: {done.stderr.strip()}")
        yield
    finally:
        _run("chattr", "-R", "-i", *map(str, paths))


@contextmanager
def _mounted(mount: Path, command: list[str], *, pass_fds: Sequence[int] = ()) -> Iterator[None]:
    done = _run(*command, pass_fds=pass_fds)
    if done.returncode != 0:
        raise LabMissing(f"cannot mount: {done.stderr.strip()}")
    keeper = subprocess.Popen(
        ["sh", "-c", _KEEPER, "sh", str(mount)],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env={"PATH": _PATH}, start_new_session=True,
    )  # fmt: skip
    try:
        yield
    finally:
        keeper.communicate(timeout=_SECONDS)
        until(lambda: not os.path.ismount(mount), what=f"{mount.name} is unmounted")
        mount.rmdir()


def _run(
    program: str, *arguments: str, pass_fds: Sequence[int] = ()
) -> subprocess.CompletedProcess[str]:
    found = shutil.which(program, path=_PATH)
    if found is None:
        raise LabMissing(f"no {program}: install util-linux and e2fsprogs")
    return subprocess.run(
        [found, *arguments], capture_output=True, text=True, timeout=_SECONDS, check=False,
        env={"PATH": _PATH, "LC_ALL": "C"}, pass_fds=pass_fds,
    )  # fmt: skip
