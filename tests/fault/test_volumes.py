"""Volumes of a test are as full, as read-only and as broken as asked, and gone afterwards."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.until import until
from tests.support.volumes import Busy, DiskVolume, Volume, disk_volume, immutable, memory_volume

pytestmark = pytest.mark.root
MB = 1 << 20


@pytest.fixture
def disk() -> Iterator[DiskVolume]:
    with disk_volume(24 * MB) as volume:
        yield volume


@pytest.fixture(params=["tmpfs", "ext4"])
def volume(request: pytest.FixtureRequest) -> Iterator[Volume]:
    if request.param == "ext4":
        with disk_volume(24 * MB) as disk:
            yield disk
    else:
        with memory_volume(5 * MB) as memory:
            yield memory


def test_a_volume_is_as_large_as_asked():
    with memory_volume(5 * MB) as volume:
        assert 5 * MB - 64 * 1024 < volume.available <= 5 * MB


def test_it_can_be_filled_to_the_last_block_and_freed_again(volume: Volume):
    before = volume.available
    volume.fill()
    assert volume.available == 0
    with pytest.raises(OSError, match="No space") as full:
        (volume.path / "a").write_bytes(b"x" * 5000)
    assert full.value.errno == errno.ENOSPC
    (volume.path / "a").unlink(missing_ok=True)
    volume.free()
    assert volume.available >= before - 64 * 1024
    (volume.path / "a").write_bytes(b"x" * 5000)


def test_what_is_left_can_be_written(volume: Volume):
    volume.fill(leave=64 * 1024)
    assert volume.available == 64 * 1024
    (volume.path / "a").write_bytes(b"x" * 60 * 1024)
    volume.free(MB)
    (volume.path / "b").write_bytes(b"x" * (MB - 64 * 1024))


def test_a_volume_becomes_read_only_and_writable_again(volume: Volume):
    (volume.path / "a").write_bytes(b"a")
    with volume.read_only():
        with pytest.raises(OSError, match="Read-only") as refused:
            (volume.path / "b").touch()
        assert refused.value.errno == errno.EROFS
        assert (volume.path / "a").read_bytes() == b"a"
    (volume.path / "b").touch()


def test_a_volume_with_a_file_that_is_written_is_busy(volume: Volume):
    with (volume.path / "a").open("wb") as file:
        with pytest.raises(Busy), volume.read_only():
            raise AssertionError("it became read-only")
        file.write(b"still writable")


def test_immutable_files_refuse_descriptors_that_are_open(disk: DiskVolume):
    path = disk.path / "a"
    with path.open("wb", buffering=0) as file:
        file.write(b"before")
        with immutable(disk.path):
            with pytest.raises(PermissionError):
                file.write(b"while")
            with pytest.raises(PermissionError):
                path.unlink()
        file.write(b", after")
    assert path.read_bytes() == b"before, after"


def test_a_broken_disk_answers_with_eio_and_keeps_what_was_synced(disk: DiskVolume):
    path = disk.path / "a"
    with path.open("wb", buffering=0) as file:
        file.write(b"kept")
        for descriptor in (file.fileno(), os.open(disk.path, os.O_RDONLY)):
            os.fsync(descriptor)
        os.close(descriptor)
        disk.break_down()
        with pytest.raises(OSError, match="Input/output") as broken:
            file.write(b"more")
        assert broken.value.errno == errno.EIO
        with pytest.raises(OSError, match="Input/output"):
            os.fsync(file.fileno())
        with pytest.raises(Busy):
            disk.repair()
    disk.repair()
    assert path.read_bytes() == b"kept"
    (disk.path / "b").write_bytes(b"works again")


def mounts() -> set[str]:
    return {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}


def test_a_volume_is_gone_after_a_failed_test_even_while_files_are_open():
    opened = []

    def fail() -> None:
        with memory_volume(MB) as volume:
            opened.append((volume.path / "a").open("wb"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with opened[0] as file:
        mount = Path(file.name).parent.parent
        assert str(mount) not in mounts()
        assert not mount.exists()


def test_a_volume_is_gone_when_its_process_was_killed():
    program = """
import sys, time
from tests.support.volumes import memory_volume
with memory_volume(1 << 20) as volume:
    print(volume.path.parent, flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        mount = process.stdout.readline().strip()
        assert mount in mounts()
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    until(lambda: mount not in mounts(), what="the keeper unmounted it")
