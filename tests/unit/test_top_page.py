"""How the view of `pgc top` is laid out: widths, heights, what a terminal may never be told."""

import datetime as dt
import json
import threading
from typing import Any

import msgspec
import pytest
from rich.cells import cell_len

from pg_collector.cli.live.board import Board
from pg_collector.cli.live.feed import Feed, Link
from pg_collector.cli.live.grid import Column, Span, places, table
from pg_collector.cli.live.lines import Joiner
from pg_collector.cli.live.movement import Movement
from pg_collector.cli.live.page import page, whole
from pg_collector.cli.live.panels import SUBJECTS
from pg_collector.cli.live.shown import Shown
from pg_collector.cli.live.terminal import in_text, plain
from pg_collector.cli.live.words import age, ms, number, size
from pg_collector.watch_verbs import Watched
from pg_collector.watching import Said

AT = dt.datetime(2026, 11, 22, 22, 11, 30, tzinfo=dt.UTC)
EVIL = "\x1b]0;owned\x07\x1b[2J\u202e\x9b31m\nnext\tline 表表"


def line(set_name, seconds, rows, **more):
    """Return a line whose rows are those dictionaries."""
    columns = list(rows[0]) if rows else []
    head = {
        "v": 1, "set": set_name, "target": "prod", "every_s": 10.0, "took_ms": 1.0,
        "at": (AT + dt.timedelta(seconds=seconds)).isoformat(), "c": columns,
    }  # fmt: skip
    return json.dumps(head | more | {"r": [list(row.values()) for row in rows]})


def counts(state, wait, sessions=1):
    kind, _, event = wait.partition("/")
    return {
        "datname": "d", "usename": "u", "application_name": "", "backend_type": "client backend",
        "state": state, "wait_event_type": kind or None, "wait_event": event or None,
        "sessions": sessions, "max_xact_age_seconds": 3.0, "max_state_age_seconds": 4.0,
    }  # fmt: skip


def statement(queryid, calls, ms_, rows=0, toplevel=True):  # noqa: FBT002
    return {
        "userid": 10, "dbid": 5, "queryid": queryid, "calls": calls, "rows": rows,
        "total_exec_time": ms_, "toplevel": toplevel,
    }  # fmt: skip


def evil_board():
    board = Board(EVIL)
    rows = [counts(EVIL, f"{EVIL}/{EVIL}"), *(counts(f"s{n}", "Lock/tuple") for n in range(30))]
    state = {
        "sampler": "activity", "set": "activity.counts", "state": "limited", "reason": "privilege",
        "sqlstate": None, "message": EVIL, "remedy": EVIL,
    }  # fmt: skip
    text = {"userid": 10, "dbid": 5, "queryid": "7", "query": EVIL, "query_truncated": False}
    board.take([line("activity.counts", 0, rows), line("sampler_state", 0, [state])], 100.0)
    board.take([line("statements", 0, [statement("7", 1, 1.0)], epoch="e")], 100.0)
    board.take([line("statements", 60, [statement("7", 3, 5.0)], epoch="e")], 160.0)
    board.take([line("query_text", 60, [text])], 160.0)
    return board


def shown(board, **more):
    watched = Watched(
        stream="s", target="prod", targets=("prod", EVIL), last=1, every={"activity": 10.0},
        troubles={"": Said(error=EVIL, remedy=EVIL)},
    )  # fmt: skip
    return Shown(board=board, now=161.0, wall=AT, watched=watched, trouble=EVIL, **more)


@pytest.mark.parametrize("width", [20, 79, 80, 200])
@pytest.mark.parametrize("height", [1, 5, 24, 60])
def test_a_picture_fits_its_terminal_and_tells_it_nothing_but_text(width, height):
    alone = [{"zoom": key, "scroll": 7} for key in SUBJECTS]
    ways: list[dict[str, Any]] = [{}, {"help": True}, *alone]
    for more in ways:
        lines = page(shown(evil_board(), **more), width, height)
        assert len(lines) == height
        for one in lines:
            assert places(one) <= width
            assert all(span.text.isprintable() for span in one)
    for one in whole(shown(evil_board()), width):
        assert all(span.text.isprintable() for span in one)


def test_in_80_by_24_the_trouble_the_worst_waits_and_the_statement_are_to_be_seen():
    board = evil_board()
    text = in_text(page(shown(board)._replace(trouble=""), 80, 24), "utf-8")
    assert "is down" in text
    assert "Lock/tuple" in text
    assert "next line 表表" in text
    assert "100.0%" in text
    assert "every 10s" in text
    assert "of 31" in text


def test_a_terminal_that_has_no_utf_8_gets_ascii_of_the_same_width():
    text = "└ 表 ä …"
    assert plain(text, "ascii") == "` ?? ? ~"
    assert cell_len(plain(text, "ascii")) == cell_len(text)
    assert plain(text, "utf-8") == text
    in_text(page(shown(evil_board()), 80, 24), "ascii").encode("ascii")


def test_columns_of_little_weight_go_first_and_wide_characters_are_cut_whole():
    columns = [
        Column("pid", right=True), Column("user", drop=1), Column("seldom", drop=2),
        Column("query", rest=True),
    ]  # fmt: skip
    rows = [("1", "someone", "thing", Span("表" * 40, "bad"))]
    wide = in_text(table(columns, rows, 60), "utf-8").splitlines()
    assert [word in wide[0] for word in ("user", "seldom")] == [True, True]
    narrow = in_text(table(columns, rows, 36), "utf-8").splitlines()
    assert [word in narrow[0] for word in ("user", "seldom")] == [True, False]
    assert all(cell_len(one) <= 36 for one in narrow)
    assert narrow[1].endswith("表…")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (age(None), "-"), (age(0.04), "0.0s"), (age(9.96), "10s"), (age(59.6), "1m00s"),
        (age(3_599.7), "1h00m"), (age(90_000), "1d01h"), (age(-1), "0.0s"),
        (size(999), "999 B"), (size(999_600), "1 MB"), (size(34_512), "34.5 kB"),
        (number(999), "999"), (number(12_345), "12.3k"), (number(0.25), "0.25"),
        (ms(0.0312), "0.031"), (ms(4.2), "4.20"), (ms(20_154.2), "20154"),
    ],
)  # fmt: skip
def test_figures_are_short(said, words):
    assert said == words


def follow(*samples):
    """Return the movement behind lines, and whether each was of use."""
    movement = Movement()
    used = [movement.take(one) for one in Joiner().take(samples, 0.0)]
    return movement, used


def moved(movement):
    return {one.queryid: (one.calls, one.rows, one.ms) for one in movement.moved}


def test_a_delta_adds_to_the_rows_of_the_full_line_and_a_second_one_to_those_of_the_first():
    full = [statement("1", 5, 50.0, 5), statement("2", 1, 1.0)]
    movement, used = follow(
        line("statements", 0, full, epoch="e"),
        line("statements", 60, [statement("1", 7, 90.0, 9)], epoch="e", delta=True),
        line("statements", 120, [statement("1", 8, 91.0, 9), statement("2", 3, 4.0)],
             epoch="e", delta=True),
    )  # fmt: skip
    assert used == [True, True, True]
    assert movement.seconds == 60
    assert moved(movement) == {"1": (1, 0, 1.0), "2": (2, 0, 3.0)}


def test_a_full_line_is_compared_with_what_is_known_and_a_new_entry_did_all_it_counts():
    movement, _ = follow(
        line("statements", 0, [statement("1", 5, 50.0)], epoch="e"),
        line("statements", 900, [statement("1", 6, 51.0), statement("9", 4, 8.0)], epoch="e"),
    )
    assert moved(movement) == {"1": (1, 0, 1.0), "9": (4, 0, 8.0)}


def test_what_began_to_count_anew_is_not_compared():
    movement, used = follow(
        line("statements", 0, [statement("1", 5, 50.0)], epoch="e"),
        line("statements", 60, [statement("1", 900, 900.0)], epoch="f"),
    )
    assert used == [True, True]
    assert (movement.moved, movement.seconds) == ([], None)
    movement, _ = follow(
        line("statements", 0, [statement("1", 5, 50.0)], epoch="e"),
        line("statements", 60, [statement("1", 2, 3.0)], epoch="e", delta=True),
    )
    assert moved(movement) == {"1": (2, 0, 3.0)}  # evicted, and back


def test_a_delta_without_its_base_is_of_no_use_and_an_older_line_changes_nothing():
    movement, used = follow(line("statements", 0, [statement("1", 5, 50.0)], epoch="e", delta=True))
    assert used == [False]
    movement, _ = follow(
        line("statements", 60, [statement("1", 5, 50.0)], epoch="e"),
        line("statements", 0, [statement("1", 3, 30.0)], epoch="e", delta=True),
        line("statements", 61, [statement("1", 6, 60.0)], epoch="e", delta=True),
    )
    assert moved(movement) == {"1": (1, 0, 10.0)}


def test_a_fault_in_the_thread_that_asks_is_handed_to_who_has_the_terminal():
    class Broken(Link):
        def ask(self, request):
            raise RuntimeError(request.target)

    feed, seen = Feed(Broken(list), "prod", 1.0), threading.Event()
    feed.run(threading.Event(), seen.set)
    assert str(feed.failure) == "prod"
    assert seen.is_set()


def test_the_same_statement_on_the_top_level_and_inside_another_is_one():
    movement, _ = follow(
        line("statements", 0, [statement("1", 1, 1.0), statement("1", 1, 1.0, toplevel=False)]),
        line("statements", 60, [statement("1", 2, 2.0), statement("1", 4, 5.0, toplevel=False)]),
    )
    assert moved(movement) == {"1": (4, 0, 5.0)}


def test_parts_are_one_sample_and_one_that_misses_a_part_is_none():
    parts = [
        line("statements", 0, [statement(str(n), n, 1.0)], part=[n, 3], epoch="e")
        for n in (1, 2, 3)
    ]
    taken = Joiner().take([parts[0], line("locks", 0, []), *parts[1:]], 0.0)
    found = [one for one in taken if one.set == "statements"]
    assert [len(one.values) for one in found] == [3]
    assert list(Joiner().take([parts[0], parts[2]], 0.0)) == []


def test_of_sessions_alone_a_tree_is_made_where_locks_are_not_sampled():
    def session(pid, blockers):
        return {
            "pid": pid, "session_id": f"0-{pid}", "datname": "d", "usename": "u",
            "application_name": "app", "backend_type": "client backend", "state": "active",
            "wait_event_type": "Lock" if blockers else None,
            "wait_event": "transactionid" if blockers else None,
            "xact_age_seconds": 9.0, "query_age_seconds": 3.0, "state_age_seconds": 3.0,
            "blocking_pids": blockers, "query": "select ?", "query_truncated": False,
        }  # fmt: skip

    board = Board("prod")
    rows = [session(1, None), session(2, [1]), session(3, [2]), session(4, [0])]
    board.take([line("activity.sessions", 0, rows)], 0.0)
    text = in_text(page(Shown(board=board, now=1.0, wall=AT, zoom="b"), 100, 24), "utf-8")
    assert [one.split()[:2] for one in text.splitlines()[4:9]] == [
        ["1", "-"], ["└", "2"], ["└", "3"], ["prepared", "transaction"], ["└", "4"],
    ]  # fmt: skip
    assert "lock on transactionid" in text


def test_where_more_lines_wait_the_next_question_comes_at_once():
    feed = Feed(Link(list), "prod", 60.0)
    feed.watched = Watched(stream="s", target="prod", targets=("prod",), last=1)
    assert feed.delay() > 1
    feed.watched = msgspec.structs.replace(feed.watched, more=True)
    assert feed.delay() == 0
