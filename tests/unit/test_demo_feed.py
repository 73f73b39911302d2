"""What the demo's view learns from the lines that were delivered."""

import json

import pytest

from pg_collector.demo.feed import Board, ShownOutlet, Written
from pg_collector.demo.watch import size
from pg_collector.errors import Deferred
from pg_collector.outlets import Receipt
from pg_collector.sample import Batch


def line(name: str, at: str = "t1", pids: tuple[int, ...] = ()) -> bytes:
    head = {"v": 1, "set": name, "target": "demo", "at": at, "c": ["pid"], "r": [[p] for p in pids]}
    return json.dumps(head).encode()


class Half:
    """An outlet that takes a batch's first line only."""

    name = "half"

    def __init__(self) -> None:
        self.closed = False

    def deliver(self, batch: Batch) -> Receipt:
        return Receipt(batch.first)

    def close(self) -> None:
        self.closed = True


class Away:
    name = "away"

    def deliver(self, batch: Batch) -> Receipt:
        raise Deferred(f"not {batch.first}")

    def close(self) -> None:
        pass


def test_only_lines_that_were_taken_are_counted() -> None:
    board = Board()
    first, second = line("database.databases"), line("activity.sessions", pids=(1,))
    outlet = ShownOutlet(Half(), board)
    assert outlet.deliver(Batch(7, 8, (first, second))).through == 7
    assert board.written == {"database": Written(1, len(first) + 1)}
    assert board.sessions.rows == ()


def test_what_was_not_delivered_is_not_shown() -> None:
    board = Board()
    with pytest.raises(Deferred):
        ShownOutlet(Away(), board).deliver(Batch(1, 1, (line("server"),)))
    assert board.total == Written(0, 0)


def test_closing_closes_the_outlet_behind() -> None:
    inner = Half()
    ShownOutlet(inner, Board()).close()
    assert inner.closed


def test_the_latest_sessions_replace_the_earlier_and_parts_are_joined() -> None:
    board = Board()
    board.take(line("activity.sessions", "t1", (1,)))
    board.take(line("activity.sessions", "t2", (2, 3)))
    board.take(line("activity.sessions", "t2", (4,)))
    board.take(line("activity.counts", "t2", (9,)))
    assert [row["pid"] for row in board.sessions.rows] == [2, 3, 4]
    assert board.total.lines == 4


def test_sizes_are_written_for_people() -> None:
    assert [size(n) for n in (0, 999, 1000, 34_500, 1_200_000)] == [
        "0 B", "999 B", "1.0 kB", "34.5 kB", "1.2 MB",
    ]  # fmt: skip
