"""Tables of cells as lines of text, cut to a width. Pure.

A width is counted in places of a terminal: some characters take two. What a cell says is made
printable here, whoever wrote it.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from rich.cells import cell_len

from pg_collector.cli.printable import printable

GAP: Final = 2  # places between two columns
TEXT_LEAST: Final = 20  # places for the column that takes the rest; others are left out before


class Span(NamedTuple):
    """Some text in a style: plain, dim, title, good, warn, bad, bar."""

    text: str
    style: str = "plain"


Line = list[Span]


class Column(NamedTuple):
    """A column. `rest`: it takes what is left; `drop`: the greatest goes first, 0 never."""

    title: str
    right: bool = False
    rest: bool = False
    drop: int = 0
    most: int = 40


Cell = str | Span
Row = Sequence[Cell]


def line(*parts: Cell) -> Line:
    """Return a line of these parts, printable."""
    return [_printable(one) for one in parts]


def clean(cell: Cell) -> Span:
    """Return a cell on one line and printable; only blanks before it are kept."""
    text, style = cell if isinstance(cell, Span) else (cell, "plain")
    indent = len(text) - len(text.lstrip(" "))
    return _printable(Span(" " * indent + " ".join(text.split()), style))


def _printable(cell: Cell) -> Span:
    text, style = cell if isinstance(cell, Span) else (cell, "plain")
    return Span(printable(text), style)


def cut(text: str, width: int) -> str:
    """Return a text that takes so many places at most."""
    if cell_len(text) <= width:
        return text
    kept = []
    left = width - 1
    for character in text:
        left -= cell_len(character)
        if left < 0:
            break
        kept.append(character)
    return "".join(kept) + "…" if width > 0 else ""


def fit(spans: Iterable[Span], width: int) -> Line:
    """Return a line that takes so many places at most."""
    found: Line = []
    left = width
    for text, style in spans:
        if left <= 0:
            break
        shown = cut(text, left)
        found.append(Span(shown, style))
        left -= cell_len(shown)
    return found


def ends(left: Iterable[Span], right: Iterable[Span], width: int) -> Line:
    """Return a line with something at either end; the left one gives way."""
    last = fit(right, width)
    room = width - places(last)
    first = fit(left, max(0, room - 1))
    return [*first, Span(" " * (room - places(first))), *last]


def places(spans: Iterable[Span]) -> int:
    """Return how many places a line takes."""
    return sum(cell_len(text) for text, _ in spans)


def table(columns: Sequence[Column], rows: Sequence[Row], width: int) -> list[Line]:
    """Return a heading and a line for each row."""
    cells = [[clean(cell) for cell in row] for row in rows]
    wanted = [_wanted(number, column, cells) for number, column in enumerate(columns)]
    kept = _kept(columns, wanted, width)
    widths = {number: wanted[number] for number in kept}
    rest = [number for number in kept if columns[number].rest]
    if rest:
        others = sum(widths[number] + GAP for number in kept if number not in rest)
        widths[rest[0]] = max(0, width - others)
    heading = [Span(column.title, "dim") for column in columns]
    return [_row(columns, widths, row, width) for row in (heading, *cells)]


def _wanted(number: int, column: Column, cells: Sequence[Sequence[Span]]) -> int:
    longest = max((cell_len(row[number].text) for row in cells), default=0)
    return max(cell_len(column.title), min(longest, column.most))


def _kept(columns: Sequence[Column], wanted: Sequence[int], width: int) -> list[int]:
    """Return the columns for which there is room."""
    kept = list(range(len(columns)))
    while True:
        needed = sum(
            (TEXT_LEAST if columns[number].rest else wanted[number]) + GAP for number in kept
        )
        droppable = [number for number in kept if columns[number].drop]
        if needed - GAP <= width or not droppable:
            return kept
        kept.remove(max(droppable, key=lambda number: columns[number].drop))


def _row(
    columns: Sequence[Column], widths: dict[int, int], row: Sequence[Span], width: int
) -> Line:
    found: Line = []
    for number, places_ in widths.items():
        if found:
            found.append(Span(" " * GAP))
        shown = cut(row[number].text, places_)
        padding = Span(" " * (places_ - cell_len(shown)))
        text = Span(shown, row[number].style)
        found += [padding, text] if columns[number].right else [text, padding]
    while found and not found[-1].text.strip():
        found.pop()
    return fit(found, width)
