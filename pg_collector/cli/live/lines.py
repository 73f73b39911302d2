"""Lines as they are read again: whole samples, their rows by column. Pure."""

import datetime as dt
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

Row = dict[str, Any]


class _Line(msgspec.Struct):
    set: str
    target: str
    at: str
    every_s: float
    c: list[str]
    r: list[list[Any]]
    epoch: str | None = None
    epoch_changed: bool = False
    delta: bool = False
    part: tuple[int, int] | None = None
    total_rows: int | None = None


class Sample(NamedTuple):
    """What one set gave at one moment. `came`: when it was read, in seconds of any clock."""

    set: str
    at: dt.datetime
    every: float
    columns: tuple[str, ...]
    values: list[list[Any]]
    came: float
    delta: bool = False
    epoch: str | None = None
    epoch_changed: bool = False
    total: int | None = None

    @property
    def rows(self) -> Iterator[Row]:
        """The rows, by column."""
        return (dict(zip(self.columns, row, strict=True)) for row in self.values)


class Joiner:
    """Makes samples of lines, and one of those that are parts."""

    def __init__(self) -> None:
        self._parts: dict[str, list[_Line]] = {}

    def take(self, raw: Iterable[str | bytes], now: float) -> Iterator[Sample]:
        """Yield what lines give, as soon as it is whole."""
        for one in raw:
            line = _lines.decode(one)
            if line.part is None:
                yield _sample([line], now)
                continue
            number, count = line.part
            gathered = self._parts.setdefault(line.set, [])
            if number == 1 or (gathered and gathered[0].at != line.at):
                gathered.clear()
            if len(gathered) != number - 1:
                continue  # one before it is missing
            gathered.append(line)
            if number == count:
                yield _sample(self._parts.pop(line.set), now)


def _sample(lines: list[_Line], now: float) -> Sample:
    head = lines[0]
    return Sample(
        set=head.set,
        at=dt.datetime.fromisoformat(head.at),
        every=head.every_s,
        columns=tuple(head.c),
        values=[row for line in lines for row in line.r],
        came=now,
        delta=head.delta,
        epoch=head.epoch,
        epoch_changed=head.epoch_changed,
        total=head.total_rows,
    )


_lines = msgspec.json.Decoder(_Line)
