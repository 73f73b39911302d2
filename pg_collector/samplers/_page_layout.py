"""How many pages rows take when they are written anew: PostgreSQL's page layout as arithmetic.

https://www.postgresql.org/docs/current/storage-page-layout.html; heap_fill_tuple() in
heaptuple.c, _bt_buildadd() in nbtsort.c, deduplication in nbtdedup.c. Sizes are bytes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

MAXALIGN: Final = 8
ITEM_POINTER: Final = 4  # each tuple of a page has one
PAGE_HEADER: Final = 24
HEAP_HEADER: Final = 23
BTREE_SPECIAL: Final = 16  # at the end of each page of a B-tree
INDEX_HEADER: Final = 8
INDEX_BITMAP: Final = 8  # what a null adds to an index tuple
TID: Final = 6  # of a posting list
SHORT: Final = 127  # a varlena of up to that many bytes has a header of one byte, and no padding
INNER_FILLFACTOR: Final = 70

_ALIGN: Final = {"c": 1, "s": 2, "i": 4, "d": 8}
_UNKNOWN: Final = 1 / MAXALIGN
_INDEX_TAIL: Final = 0.5  # of a tuple stays free at the end of a page where sizes vary
_HEAP_TAIL: Final = 0.4  # less: INSERT comes back with smaller rows, a rewrite does not
_ONE_SIZE: Final = 0.9  # share of bytes from which on tuples count as all alike


class Column(NamedTuple):
    """What is known of a column's values.

    `length` and `align` are attlen and attalign; `width` the average as stored; `null` the share
    of nulls; `shape` the spread of stored lengths (column_statistics.py), None where unknown.
    """

    length: int
    align: str
    width: float
    null: float = 0.0
    shape: Mapping[int, float] | None = None

    @property
    def varies(self) -> bool:
        """Whether values differ in length, or may."""
        return self.length < 0 and (self.shape is None or len(self.shape) > 1)


class Size(NamedTuple):
    """The size of tuples: its average, whether all are alike, and how much of it varies."""

    mean: float
    fixed: bool
    varying: float = 0.0


class _Outcome(NamedTuple):
    share: float
    align: int
    residue: int  # of the stored length, modulo MAXALIGN


def heap_tuple(columns: Sequence[Column]) -> Size:
    """Return the size of a heap tuple with these columns, all that the table has or had."""
    without = _aligned(HEAP_HEADER)
    with_nulls = _aligned(HEAP_HEADER + (len(columns) + 7) // 8)
    return _tuple(columns, without, with_nulls)


def index_tuple(columns: Sequence[Column]) -> Size:
    """Return the size of an index tuple."""
    return _tuple(columns, INDEX_HEADER, INDEX_HEADER + INDEX_BITMAP)


def heap_pages(tuples: float, size: Size, fillfactor: int, block_size: int) -> int:
    """Return the pages that so many tuples take when they are written one after the other."""
    usable = block_size - PAGE_HEADER - block_size * (100 - fillfactor) // 100
    return math.ceil(tuples / _per_page(usable, size, _HEAP_TAIL))


class Keys(NamedTuple):
    """Keys that occur equally often: `keys` of them, `tuples` each."""

    keys: float
    tuples: float


def btree_pages(size: Size, groups: Sequence[Keys], fillfactor: int, block_size: int) -> int:
    """Return the pages of a B-tree that is built anew, its metapage included.

    `groups` are merged into posting lists; without deduplication each tuple is a key of its own.
    """
    room = block_size - PAGE_HEADER - BTREE_SPECIAL - 2 * ITEM_POINTER
    reserve = block_size * (100 - fillfactor) // 100
    leaves = _leaves(size, groups, room, reserve, block_size)
    fanout = max(2.0, (room - block_size * (100 - INNER_FILLFACTOR) // 100) / _item(size.mean))
    pages = level = max(1, math.ceil(leaves))
    while level > 1:
        level = math.ceil(level / fanout)
        pages += level
    return pages + 1


def _tuple(columns: Sequence[Column], without: int, with_nulls: int) -> Size:
    """Follow the columns: how long the tuple is so far, and how likely each residue is."""
    residues = [1.0] + [0.0] * (MAXALIGN - 1)
    mean = 0.0
    for column in columns:
        present = 1.0 - column.null
        after = [share * column.null for share in residues]
        for residue, likely in enumerate(residues):
            if not likely:
                continue
            for one in _outcomes(column):
                padding = -residue % one.align
                weight = likely * present * one.share
                mean += weight * padding
                after[(residue + padding + one.residue) % MAXALIGN] += weight
        # The server cuts off the fraction of the average.
        mean += present * (column.width + (0.5 if column.varies else 0.0))
        residues = after
    mean += sum(share * (-residue % MAXALIGN) for residue, share in enumerate(residues))
    no_null = math.prod(1.0 - column.null for column in columns)
    mean += without * no_null + with_nulls * (1.0 - no_null)
    whole = all(column.null in {0.0, 1.0} for column in columns)
    fixed = whole and not any(column.varies for column in columns if column.null < 1.0)
    varying = sum(column.width * (1.0 - column.null) for column in columns if column.varies)
    return Size(mean, fixed, varying)


def _outcomes(column: Column) -> Sequence[_Outcome]:
    align = _ALIGN[column.align]
    if column.length > 0:
        return (_Outcome(1.0, align, column.length % MAXALIGN),)
    if column.shape:
        total = sum(column.shape.values())
        return [
            _Outcome(share / total, 1 if slot < MAXALIGN else align, slot % MAXALIGN)
            for slot, share in column.shape.items()
        ]
    short = column.length == _CSTRING or column.width <= SHORT
    return [_Outcome(_UNKNOWN, 1 if short else align, residue) for residue in range(MAXALIGN)]


def _leaves(size: Size, groups: Sequence[Keys], room: int, reserve: int, block_size: int) -> float:
    base = _aligned(round(size.mean))
    longest = (block_size * 10 // 100) // MAXALIGN * MAXALIGN - ITEM_POINTER
    most = max(1, (longest // MAXALIGN * MAXALIGN - base) // TID)
    items: dict[int, float] = {}  # how many there are of each size
    single = 0.0
    for group in groups:
        full, rest = divmod(group.tuples, most) if group.tuples > _SINGLE else (0.0, 0.0)
        if group.tuples <= _SINGLE:
            single += group.keys * group.tuples
            continue
        _add(items, _aligned(base + most * TID), group.keys * full)
        if rest > _SINGLE:
            _add(items, _aligned(math.ceil(base + rest * TID)), group.keys)
        else:
            single += group.keys * rest
    if not items:
        return single / _per_page(room - reserve, size)
    _add(items, base, single)
    return _pages_of(items, base, room, reserve)


def _pages_of(items: Mapping[int, float], base: int, room: int, reserve: int) -> float:
    """Return the leaves that hold posting lists of these sizes.

    A leaf is left when less than the reserve is free, the list of its last tuple not counted; the
    last one then goes to the next leaf and leaves its key behind.
    """
    total = sum(_item(one) * count for one, count in items.items())
    largest = max(items, key=lambda one: _item(one) * items[one])
    count = sum(items.values())
    average = total / count
    extra = max(0.0, average - ITEM_POINTER - base)
    per_page = min((room - reserve + extra) / average, room / average - 1)
    if _item(largest) * items[largest] >= _ONE_SIZE * total:
        one = _item(largest)
        filled = (room - reserve + largest - base) // one + 1
        per_page = max(1.0, min(filled, (room + ITEM_POINTER) // one) - 1) * one / average
    return count / max(1.0, per_page)


def _per_page(usable: float, size: Size, tail: float = _INDEX_TAIL) -> float:
    """Return how many tuples a page takes; where they vary, `tail` of one is left free."""
    item = _item(size.mean)
    if size.fixed:
        return max(1.0, usable // item)
    spread = (size.varying / size.mean) ** 2 / 3
    return max(1.0, usable / item - tail * (1 + spread))


def _add(items: dict[int, float], size: int, count: float) -> None:
    if count:
        items[size] = items.get(size, 0.0) + count


def _item(size: float) -> float:
    return size + ITEM_POINTER


def _aligned(size: int) -> int:
    return (size + MAXALIGN - 1) // MAXALIGN * MAXALIGN


_CSTRING: Final = -2  # attlen of a C string
_SINGLE: Final = 1.5  # tuples a key from which on they make a posting list
