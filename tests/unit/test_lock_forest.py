"""The blocking forest: worked out from who waits for whom, whatever the shape of it."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pg_collector.sample import Facts
from pg_collector.samplers.locks import BlockingRow, forest

FACTS = Facts(version=180004, database="d", role="r", in_recovery=False, columns={})


def session(pid: int, blocked_by: list[int] | None = None, **more: Any) -> dict[str, Any]:
    names = dict.fromkeys(BlockingRow.__struct_fields__)
    return names | {"pid": pid, "blocked_by": blocked_by} | more


def placed(*rows: dict[str, Any]) -> dict[int, dict[str, Any]]:
    fields = BlockingRow.__struct_fields__
    found = [dict(zip(fields, row, strict=True)) for row in forest(rows, FACTS)]
    assert len(found) == len({row["pid"] for row in found})
    return {row["pid"]: row for row in found}


def test_a_chain_has_depths_and_one_root():
    found = placed(session(1), session(2, [1]), session(3, [2]))
    assert [(one["root_pid"], one["depth"]) for one in found.values()] == [(1, 0), (1, 1), (1, 2)]
    assert [one["blocks_total"] for one in found.values()] == [2, 1, 0]
    assert found[1]["blocked_by"] is None
    assert not any(one["in_circle"] for one in found.values())


def test_a_session_behind_two_stands_under_the_nearest_root():
    found = placed(session(9), session(1), session(2, [9]), session(3, [2, 1]))
    assert (found[3]["root_pid"], found[3]["depth"]) == (1, 1)
    assert found[9]["blocks_total"] == 2
    assert found[1]["blocks_directly"] == 1


def test_a_circle_ends_and_is_told_and_those_behind_it_are_not_in_it():
    found = placed(session(5, [7]), session(7, [5]), session(8, [7]))
    assert [pid for pid, one in found.items() if one["in_circle"]] == [5, 7]
    assert (found[8]["root_pid"], found[8]["depth"]) == (5, 2)
    assert found[5]["blocks_total"] == 2


def test_a_parallel_leader_that_is_named_twice_or_waits_for_itself_counts_once():
    found = placed(session(1), session(2, [1, 1, 2]))
    assert found[2]["blocked_by"] == [1]
    assert found[1]["blocks_directly"] == 1


def test_the_queue_behind_a_waiting_exclusive_lock_has_its_head_marked():
    wants = {"locktype": "relation", "relid": 42}
    found = placed(
        session(1),
        session(2, [1], mode="AccessExclusiveLock", **wants),
        session(3, [2], mode="AccessShareLock", **wants),
        session(4, [2], mode="AccessExclusiveLock", **wants),
    )
    assert [pid for pid, one in found.items() if one["holds_up_queue"]] == [2]


def test_a_chain_of_five_hundred_is_no_matter():
    found = placed(session(1), *(session(n, [n - 1]) for n in range(2, 501)))
    assert found[500]["depth"] == 499
    assert found[1]["blocks_total"] == 499


@given(st.lists(st.lists(st.integers(0, 12), max_size=5), min_size=1, max_size=12))
def test_whoever_waits_for_whom_nobody_is_lost_and_every_edge_is_kept(edges):
    rows = [session(pid, blockers) for pid, blockers in enumerate(edges)]
    found = placed(*rows)
    assert set(found) == set(range(len(edges)))
    for pid, row in found.items():
        known = {one for one in edges[pid] if one < len(edges) and one != pid}
        assert set(row["blocked_by"] or ()) == known
        root = found[row["root_pid"]]
        assert root["depth"] == 0
        assert (row["depth"] == 0) == (pid == row["root_pid"])
        if row["depth"]:
            assert row["depth"] == 1 + min(
                found[one]["depth"] for one in known if found[one]["root_pid"] == root["pid"]
            )
        assert row["in_circle"] or not _waits_for_itself(pid, edges)


def _waits_for_itself(pid: int, edges: list[list[int]]) -> bool:
    seen: set[int] = set()
    stack = [one for one in edges[pid] if one != pid and one < len(edges)]
    while stack:
        one = stack.pop()
        if one == pid:
            return True
        if one not in seen:
            seen.add(one)
            stack += [
                next_one for next_one in edges[one] if next_one < len(edges) and next_one != one
            ]
    return False
