"""Volumes that are full, read-only, broken: collecting goes on, the loss is counted, it resumes."""

import resource
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import pytest

from pg_collector.errors import StoreDown, StoreFull
from tests.fault.buffer_rig import MB, RESUMES, SMALL, Rig, segments
from tests.support.until import until
from tests.support.volumes import disk_volume, immutable, memory_volume

pytestmark = pytest.mark.root
SPIN: Final = 0.05  # of one core
WATCHED: Final = 3.0  # seconds


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@contextmanager
def quiet(rig: Rig) -> Iterator[None]:
    """Assert that what happens meanwhile, and some seconds of one line each 0.1 s, is no spin."""
    began, used = time.monotonic(), processor_seconds()
    yield

    def over() -> bool:
        rig.put(1)
        return time.monotonic() - began > WATCHED

    until(over, 2 * WATCHED)
    share = (processor_seconds() - used) / (time.monotonic() - began)
    assert share < SPIN, f"{share:.1%} of a core"


def works_again(rig: Rig) -> None:
    """Assert that the disk is used again in time, and that all is delivered and accounted for."""
    began = time.monotonic()
    until(lambda: rig.journal.trouble is None, RESUMES, "the disk is used again")
    assert time.monotonic() - began < RESUMES
    rig.put(20)
    rig.written()


def loses_nothing(rig: Rig) -> None:
    """Assert that the disk is used again, and that all there was has arrived."""
    works_again(rig)
    until(lambda: rig.buffer.account().buffered == 0, RESUMES, "all is delivered")
    assert rig.buffer.account().lost == {}
    figures = rig.verify(returning=True)
    assert figures.told == 0
    assert figures.streams <= 3


def test_a_disk_that_fills_up_and_is_freed_costs_what_the_policy_says():
    """Fault 7: nobody delivers at first; then somebody does, while it is still full."""
    with memory_volume(5 * MB) as volume, Rig(volume.path / "buffer", memory_max=300_000) as rig:
        rig.put(300)
        rig.written()
        volume.fill()
        rig.put(200)
        until(lambda: rig.journal.trouble is not None, RESUMES, "it is noticed")
        assert isinstance(rig.journal.trouble, StoreFull)
        assert rig.journal.trouble.remedy
        for _ in range(30):
            rig.put(20)
        assert rig.buffer.account().buffered > 0
        acked = rig.buffer.account().delivered
        assert rig.step(max_lines=50)
        assert rig.buffer.account().delivered == acked + 50, "an acknowledgement needs no room"
        assert rig.journal.call(lambda spool: spool.state.acked) == 50
        volume.free()
        works_again(rig)
        rig.deliver()
        lost = rig.buffer.account().lost
        assert set(lost) <= {"memory_full", "thinned", "disk_full"}
        assert sum(lost.values()) > 0
        figures = rig.verify()
        assert figures.streams == 1


def test_a_disk_that_stays_full_while_lines_are_delivered_loses_nothing():
    """Fault 7: lines go out from memory, under a stream of their own, and back again."""
    with memory_volume(5 * MB) as volume, Rig(volume.path / "buffer") as rig:
        rig.start_sender()
        rig.put(100)
        until(lambda: rig.buffer.account().buffered == 0, RESUMES, "all is delivered")
        volume.fill()
        rig.put(300)
        until(lambda: rig.journal.trouble is not None, RESUMES, "it is noticed")
        until(lambda: rig.buffer.account().buffered == 0, 2 * RESUMES, "memory has to do")
        volume.free()
        loses_nothing(rig)


def test_a_disk_that_is_full_at_the_start_leaves_memory_and_harms_no_segment():
    """Fault 8: degraded, and whole again when there is room."""
    with memory_volume(5 * MB) as volume:
        directory = volume.path / "buffer"
        with Rig(directory) as rig:
            for _ in range(6):
                rig.put(50)
                rig.written()
            rig.step(max_lines=60)
            image = rig.crash(volume.path / "image")
        before = [path.name for path in segments(image)]
        assert len(before) > 3
        volume.fill()
        with Rig(image, rig.far) as again:
            if again.journal.trouble is not None:
                assert isinstance(again.journal.trouble, (StoreFull, StoreDown))
            again.put(200)
            until(lambda: again.journal.trouble is not None, RESUMES, "it is noticed")
            assert not list((image / "quarantine").iterdir())
            volume.free()
            works_again(again)
            assert not list((image / "quarantine").iterdir()), "no good segment is set aside"
            again.deliver()
            assert again.verify().told == 0
            assert again.buffer.account().lost == {}


def test_a_new_buffer_on_a_full_disk_begins_when_there_is_room():
    """Fault 8: not even the cursor can be made."""
    with memory_volume(2 * MB) as volume:
        volume.fill()
        with Rig(volume.path / "buffer") as rig:
            assert rig.journal.trouble is not None
            rig.put(100)
            rig.deliver()
            rig.put(100)
            volume.free()
            works_again(rig)
            rig.deliver()
            assert rig.verify().told == 0


def test_a_disk_that_is_long_at_one_thing_is_told_with_what_to_look_at(tmp_path):
    release = threading.Event()
    with Rig(tmp_path / "buffer") as rig:
        busy = threading.Thread(target=lambda: rig.journal.call(lambda _spool: release.wait(10)))
        busy.start()
        try:
            with pytest.raises(StoreDown, match="did not answer within") as caught:
                rig.journal.call(lambda spool: spool.top, timeout=0.05)
        finally:
            release.set()
            busy.join()
    assert "mount options" in caught.value.remedy


@pytest.mark.slow
def test_files_that_refuse_every_write_cost_nothing_and_no_processor():
    """Fault 9: EPERM on everything, with a sender at work."""
    with disk_volume(24 * MB) as volume, Rig(volume.path / "buffer") as rig:
        rig.put(100)
        rig.written()
        rig.start_sender()
        with immutable(rig.directory), quiet(rig):
            rig.put(10)
            until(lambda: rig.journal.trouble is not None, RESUMES, "it is noticed")
            trouble = rig.journal.trouble
            assert isinstance(trouble, StoreDown)
            assert "mount options" in trouble.remedy
        works_again(rig)
        until(lambda: rig.buffer.account().buffered == 0, RESUMES, "all is delivered")
        assert rig.verify(returning=True).told == 0
        assert rig.buffer.account().lost == {}


@pytest.mark.slow
def test_a_read_only_volume_is_written_again_when_it_is_writable():
    """Fault 9: read-only at the start, remounted under the agent."""
    with disk_volume(24 * MB) as volume:
        with Rig(volume.path / "buffer") as rig:
            rig.put(100)
            rig.written()
        with ExitStack() as stack:
            stack.enter_context(volume.read_only())
            with Rig(rig.directory, rig.far) as again:
                assert isinstance(again.journal.trouble, StoreDown)
                with quiet(again):
                    again.put(10)
                stack.close()
                works_again(again)
                again.deliver()
                assert again.verify().told == 0


@pytest.mark.slow
def test_a_disk_that_dies_is_no_spin_and_what_is_on_it_is_continued():
    """Fault 9: EIO on every access. The files of a dead mount are let go of by a restart only."""
    with disk_volume(24 * MB) as volume:
        with Rig(volume.path / "buffer") as rig:
            rig.put(300)
            rig.written()
            rig.step(max_lines=300)
            volume.break_down()
            with quiet(rig):
                rig.put(10)
                until(lambda: rig.journal.trouble is not None, RESUMES, "it is noticed")
                assert isinstance(rig.journal.trouble, StoreDown)
            rig.deliver()
            assert rig.verify().told == 0
        volume.repair()
        with Rig(rig.directory, rig.far) as again:
            again.put(20)
            again.written()
            again.deliver()
            assert again.verify(returning=True).told == 0


@pytest.mark.slow
def test_lines_that_went_out_without_the_disk_come_twice_under_no_stream():
    """Fault 9: the disk dies, lines go out, an acknowledgement is lost, the disk comes back."""
    with disk_volume(24 * MB) as volume, Rig(volume.path / "buffer") as rig:
        rig.put(50)
        rig.written()
        rig.deliver()
        with immutable(rig.directory):
            rig.put(100)
            until(lambda: rig.step(max_lines=60, ack=False), 2 * RESUMES, "memory has to do")
        rig.put(20)
        works_again(rig)
        rig.deliver()
        figures = rig.verify(returning=True)
        assert figures.told == 0
        assert figures.streams == 2
        assert rig.buffer.account().lost == {}


def test_the_minimum_of_free_space_is_left_to_others(monkeypatch: pytest.MonkeyPatch):
    """Fault 7: beyond a floor, which is lowered here."""
    monkeypatch.setattr("pg_collector.buffer.spool.FLOOR", MB)
    limits = SMALL._replace(min_free=0.25, segment_bytes=MB)
    with (
        memory_volume(8 * MB) as volume,
        Rig(volume.path / "buffer", limits=limits, memory_max=MB) as rig,
    ):
        lowest = volume.available
        for _ in range(60):
            rig.put(10, 20_000)
            rig.journal.urge()
            rig.buffer.wait_for_room(200_000, 1.0)
            lowest = min(lowest, volume.available)
            if rig.buffer.account().lost:
                break
        assert set(rig.buffer.account().lost) <= {"memory_full", "thinned", "disk_full"}
        assert rig.buffer.account().lost, "the policy is at work"
        # For a moment a segment that is thinned out is there twice.
        assert lowest >= 2 * MB - limits.segment_bytes
        rig.put(20, 1000)
        rig.deliver()
        assert rig.verify().told > 0


def test_the_ballast_is_spent_when_it_is_needed_and_set_aside_again():
    limits = SMALL._replace(ballast=MB)
    with memory_volume(8 * MB) as volume, Rig(volume.path / "buffer", limits=limits) as rig:
        ballast = rig.directory / "ballast"
        assert ballast.stat().st_blocks * 512 == MB
        rig.put(50)
        rig.written()
        volume.fill()
        rig.put(300)
        rig.written()
        assert not ballast.exists()
        volume.free()
        until(ballast.exists, RESUMES, "it is there again")
        rig.deliver()
        assert rig.verify().told == 0


@pytest.mark.parametrize("left", [0, 300_000, 700_000])
def test_a_volume_with_hardly_any_room_is_not_tried_with_a_new_stream_each_time(
    left: int, monkeypatch: pytest.MonkeyPatch
):
    """Fault 7: a small file fits in all the time, what is written together does not."""
    monkeypatch.setattr("pg_collector.buffer.spill.LOOSE_AFTER", 0.2)
    monkeypatch.setattr("pg_collector.buffer.journal.RETRY_FIRST", 0.1)
    monkeypatch.setattr("pg_collector.buffer.journal.RETRY_LONGEST", 0.1)
    with memory_volume(8 * MB) as volume, Rig(volume.path / "buffer", memory_max=4 * MB) as rig:
        rig.put(100)
        rig.written()
        rig.start_sender()
        until(lambda: rig.buffer.account().buffered == 0, RESUMES, "all is delivered")
        volume.fill(leave=left)
        for _ in range(20):
            rig.put(1000, 1000)
            until(lambda: rig.buffer.account().buffered == 0, RESUMES, "memory has to do")
        volume.free()
        loses_nothing(rig)
