"""Builds the buffer that a configuration asks for."""

from pathlib import Path
from typing import Final

from pg_collector.buffer.journal import Journal
from pg_collector.buffer.shelf import SEGMENT_BYTES
from pg_collector.buffer.spill import SpillingBuffer
from pg_collector.buffer.spool import Limits
from pg_collector.clock import Clock
from pg_collector.config.model import Buffers, Durability
from pg_collector.metrics import Metrics

FOLDER: Final = "buffer"
SEGMENT_LEAST: Final = 256 * 1024


def location(settings: Buffers, state_dir: Path) -> Path:
    """Return where the disk buffer lies, or would: with `memory` there may be one of before."""
    return settings.disk_path if settings.disk_path is not None else state_dir / FOLDER


def directory(settings: Buffers, state_dir: Path | None) -> Path | None:
    """Return where the disk buffer lies; None where lines are kept in memory only."""
    if settings.durability is Durability.MEMORY:
        return None
    if settings.disk_path is None and state_dir is None:
        return None
    return location(settings, state_dir or Path())


def buffer(
    settings: Buffers, state_dir: Path | None, metrics: Metrics, clock: Clock
) -> SpillingBuffer:
    """Return the buffer, its journal not yet open."""
    place = directory(settings, state_dir)
    durability = settings.durability if place is not None else Durability.MEMORY
    found = SpillingBuffer(settings.memory_max, metrics, clock, durability)
    capacity = settings.disk_max if place is not None else 0
    metrics.buffer_capacity_bytes.labels("disk").set(capacity)
    if place is not None:
        segment = min(SEGMENT_BYTES, max(SEGMENT_LEAST, settings.disk_max // 8))
        limits = Limits(settings.disk_max, settings.min_free, segment)
        journal = found.journal = Journal(place, limits, clock, found)
        metrics.buffer_disk_bytes.set_function(lambda: journal.backlog_bytes)
        metrics.buffer_journal_bytes.set_function(lambda: journal.bytes - journal.backlog_bytes)
        metrics.is_draining.set_function(lambda: found.backlog)
        metrics.buffer_disk_usable.set_function(lambda: journal.trouble is None)
    metrics.buffer_seconds_remaining.set_function(found.seconds_remaining)
    return found
