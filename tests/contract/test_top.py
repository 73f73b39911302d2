"""What `pgc top` makes of real lines: the tree, what statements and databases did, lags, vacuum."""

import time
from typing import Any

import pytest

from pg_collector.cli.live import server as servers
from pg_collector.cli.live import sessions
from pg_collector.cli.live.board import Board
from pg_collector.cli.live.feed import SAMPLERS
from pg_collector.cli.live.page import whole
from pg_collector.cli.live.panels import SUBJECTS
from pg_collector.cli.live.shown import Shown
from pg_collector.cli.live.terminal import in_text
from pg_collector.clock import SystemClock
from pg_collector.mirror import SETS
from tests.conftest import chosen_majors
from tests.support.conditions.locks import blocked_chain
from tests.support.conditions.maintenance import vacuum_in_progress
from tests.support.conditions.statements import reset_statements
from tests.support.sampling import sampling
from tests.support.until import until

pytestmark = pytest.mark.ends


def take(board: Board, there: Any, *samplers: str) -> None:
    """Take turns, and give their lines to a board as the mirror would."""
    for name in samplers or SAMPLERS:
        for set_name, lines in there.take(name).items():
            if set_name in SETS:
                board.take([one.raw for one in lines], time.monotonic())


def text(board: Board) -> str:
    """Return the picture of a board."""
    shown = Shown(board=board, now=time.monotonic(), wall=SystemClock().now())
    return in_text(whole(shown, 160), "utf-8")


def test_a_chain_is_a_tree_from_its_root_down_with_masked_texts(database):
    board = Board("prod")
    with sampling(database.dsn()) as there:
        with blocked_chain(database) as chain:
            take(board, there)
            found = sessions.blocking(board)
            assert [(one.pid, one.depth) for one in found] == [
                (chain.head, 0), (chain.middle, 1), (chain.tail, 2),
            ]  # fmt: skip
            assert found[2].blocked_by == (chain.middle,)
            assert found[0].blocks == 2
            assert found[1].wait_s is not None
            assert "ShareLock on transaction" in (found[1].lock or "")
            assert found[2].query == f"update {chain.table} set v = ? where id = ?"
            waiting = {one.wait: one for one in sessions.waits(board)}
            assert waiting["Lock/transactionid"].sessions == 2
            assert servers.totals(board).blocked == 2
            picture = text(board)
            assert f"└ {chain.tail}" in picture
            # Where locks are not sampled, sessions tell the same tree.
            of_sessions = Board("prod")
            take(of_sessions, there, "activity")
            assert [(one.pid, one.depth) for one in sessions.blocking(of_sessions)] == [
                (one.pid, one.depth) for one in found
            ]
        take(board, there, "activity", "locks")
        assert sessions.blocking(board) == []
        assert "nobody waits for a lock" in text(board)


def test_what_a_role_may_not_see_is_no_all_clear(database):
    board = Board("prod")
    with sampling(database.dsn("plain")) as there, blocked_chain(database):
        take(board, there)
        picture = text(board)
    assert "nobody waits" not in picture
    assert "GRANT pg_monitor TO plain" in picture


def test_what_statements_and_databases_did_is_the_difference_of_two_samples(database):
    board = Board("prod")
    with sampling(database.dsn()) as there:
        reset_statements(database)
        database.query("select count(*) from pg_class where relname <> 'x'")
        take(board, there)
        assert sessions.statements(board) == []
        assert "counted from now on" in text(board)
        for _ in range(3):
            database.query("select count(*) from pg_class where relname <> 'canary-4711'")
        database.query("select generate_series(1, 1000)")
        take(board, there, "statements")
        found = {one.query: one for one in sessions.statements(board)}
        counted = found["select count(*) from pg_class where relname <> $1"]
        assert (counted.calls, counted.rows) == (3, 3)
        assert 0 < counted.mean_ms < 1_000
        everything = sessions.statements(board)
        assert sum(one.share for one in everything) == pytest.approx(1)
        assert sessions.statements(board, "rows")[0].query == "select generate_series($1, $2)"
        board.own = frozenset(one.queryid for one in everything if one.query is None)
        assert sum(one.share for one in sessions.statements(board)) == pytest.approx(1)
        assert all(one.query for one in sessions.statements(board))
        take(board, there, "statements")  # another delta: what rested did nothing
        assert counted.queryid not in {one.queryid for one in sessions.statements(board)}

        def committed() -> float:
            take(board, there, "database")
            return max((one.commits_per_s or 0.0 for one in servers.databases(board)), default=0.0)

        until(committed, what="its commits are counted")
        assert servers.totals(board).transactions_per_s
        assert "canary" not in text(board)


def test_a_vacuum_under_way_is_told_and_gone_when_it_has_ended(database):
    board = Board("prod")
    with sampling(database.dsn()) as there:
        with vacuum_in_progress(database):
            take(board, there, "vacuum")
            (found,) = servers.vacuums(board)
            assert found.automatic is False
            assert found.phase
            assert found.table
        take(board, there, "vacuum")
        assert servers.vacuums(board) == []


def test_standbys_slots_and_a_standby_itself_are_told(lab):
    pair = lab.pair(max(chosen_majors()))
    primary, standby = Board("prod"), Board("prod")
    with sampling(pair.primary.dsn("pgcollector")) as there:
        take(primary, there, "replication", "slots", "wal_receiver")
    with sampling(pair.standby.dsn("pgcollector")) as there:
        take(standby, there, "replication", "slots", "wal_receiver")
    (receives,) = servers.standbys(primary)
    assert (receives.state, receives.slot) == ("streaming", "standby")
    assert receives.replay_lag_bytes is not None
    (slot,) = servers.slots(primary)
    assert (slot.name, slot.active) == ("standby", True)
    assert servers.receiver(primary) is None
    received = servers.receiver(standby)
    assert received is not None
    assert received.status == "streaming"
    assert received.replay_lag_bytes is not None
    assert "this standby" in text(standby)
    assert {"a", "b", "s", "d", "r", "v"} == set(SUBJECTS)
