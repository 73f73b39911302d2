"""Which lines a full buffer gives up first: resolution before history, history before events.

A pure function over lines in order. Lines of one sample (its parts) go or stay together.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

import msgspec

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
