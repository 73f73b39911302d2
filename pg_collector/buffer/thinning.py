"""Which lines a full buffer gives up first: resolution before history, history before events.

A pure function over lines in order. Lines of one sample (its parts) go or stay together.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

import msgspec

from pg_collector.buffer.records import Record
from pg_collector.sample import Keep

LEVELS: Final = 5  # after so many passes nothing is left to thin


class _Head(msgspec.Struct, frozen=True):
    target: str = ""
    set: str = ""
    at: str = ""


_decoder: Final = msgspec.json.Decoder(_Head)


def given_up(lines: Iterable[tuple[int, Keep, bytes]], level: int) -> set[int]:
    """Return the numbers of the lines (number, keep, line) that a pass of this level gives up.

    Level 1 takes the changes-only lines: the next full line carries the same counters. Each level
    after it takes every second sample of cumulative counters, in each set of each target. Events
    and facts stay.
    """
    gone: set[int] = set()
    samples: defaultdict[tuple[str, str], dict[str, list[int]]] = defaultdict(dict)
    for number, keep, line in lines:
        if keep is Keep.DELTA:
            gone.add(number)
        elif keep is Keep.CUMULATIVE and level > 1:
            head = _head(line)
            samples[head.target, head.set].setdefault(head.at, []).append(number)
    for moments in samples.values():
        for numbers in list(moments.values())[1::2]:
            gone.update(numbers)
    return gone


def _head(line: bytes) -> _Head:
    try:
        return _decoder.decode(line)
    except msgspec.DecodeError:
        return _Head()


def without(first: int, last: int, records: list[Record], gone: set[int]) -> list[Record]:
    """Return the records that stay, and one gap for each run of numbers that do not."""
    kept: list[Record] = []

    def give_up(start: int, end: int, reason: str, created: float) -> None:
        before = kept[-1] if kept else None
        if before is not None and before.line is None and before.reason == reason:
            kept[-1] = before._replace(last=end)
        else:
            kept.append(Record(start, end, None, reason=reason, created=created))

    at = first
    for record in records:
        if at < record.first:
            give_up(at, record.first - 1, "damaged", record.created)
        if record.line is None:
            give_up(record.first, record.last, record.reason, record.created)
        elif record.first in gone:
            give_up(record.first, record.last, "thinned", record.created)
        else:
            kept.append(record)
        at = record.last + 1
    if at <= last:
        give_up(at, last, "damaged", 0.0)
    return kept
