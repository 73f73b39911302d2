"""The demo's sentences about sessions."""

from typing import Any

from pg_collector.demo import words


def session(pid: int, name: str = "app", **more: Any) -> dict[str, Any]:
    return {
        "pid": pid,
        "application_name": name,
        "usename": "shop",
        "backend_type": "client backend",
        "state": "active",
        "wait_event_type": None,
        "wait_event": None,
        "query_age_seconds": 1.0,
        "blocking_pids": None,
        "query": "SELECT ?",
        **more,
    }


def waiting(pid: int, name: str, *blockers: int, age: float = 3.1) -> dict[str, Any]:
    return session(
        pid,
        name,
        wait_event_type="Lock",
        wait_event="transactionid",
        blocking_pids=list(blockers),
        query_age_seconds=age,
    )


IDLE = session(119, "stock", state="idle in transaction", query_age_seconds=None)


def test_a_blocked_session_is_told_with_its_blocker_and_what_that_one_does() -> None:
    assert words.blocking([waiting(123, "orders-2", 119), IDLE]) == [
        (0, "pid 123 (orders-2) waits 3.1 s for pid 119 (stock), which is idle in transaction")
    ]


def test_a_chain_is_told_from_its_head_with_growing_depth() -> None:
    rows = [waiting(3, "c", 2), waiting(2, "b", 119), waiting(4, "d", 119), IDLE]
    found = words.blocking(rows)
    assert [(depth, text.split(" waits ")[0]) for depth, text in found] == [
        (0, "pid 2 (b)"),
        (1, "pid 3 (c)"),
        (0, "pid 4 (d)"),
    ]
    assert found[1][1].endswith("for pid 2 (b), which waits itself")


def test_a_circle_is_told_and_ends() -> None:
    found = words.blocking([waiting(1, "a", 2), waiting(2, "b", 1)])
    assert [text.split(" waits ")[0] for _, text in found] == ["pid 1 (a)", "pid 2 (b)"]


def test_a_session_behind_a_circle_is_told_too() -> None:
    found = words.blocking([waiting(1, "a", 2), waiting(2, "b", 1), waiting(3, "c", 1)])
    assert len(found) == 3


def test_several_blockers_are_counted() -> None:
    found = words.blocking([waiting(5, "a", 119, 7, 8), IDLE])
    assert found[0][1].endswith("pid 119 (stock), which is idle in transaction and 2 more")


def test_a_prepared_transaction_and_an_unseen_blocker_have_words() -> None:
    found = words.blocking([waiting(5, "a", 0), waiting(6, "b", 77)])
    assert [text.split(" for ")[1] for _, text in found] == ["a prepared transaction", "pid 77"]


def test_nobody_blocked_is_no_sentence() -> None:
    assert words.blocking([IDLE, session(1)]) == []


def test_waits_are_counted_in_words_most_frequent_first() -> None:
    rows = [
        *(waiting(pid, "a", 119) for pid in (1, 2, 3)),
        session(4, wait_event_type="IO", wait_event="DataFileRead"),
        session(5, wait_event_type="Timeout", wait_event="PgSleep"),
        session(6),
        IDLE,
    ]
    assert words.waits(rows) == [
        "3 sessions wait for a row lock",
        "1 session waits for disk",
        "1 session sleeps",
        "1 session sits idle in transaction",
    ]


def test_an_unknown_wait_is_named_as_the_server_names_it() -> None:
    rows = [session(1, wait_event_type="InjectionPoint", wait_event="spot")]
    assert words.waits(rows) == ["1 session waits for spot"]


def test_the_longest_query_is_a_clients_and_not_our_own() -> None:
    rows = [
        session(1, "pg-collector", query_age_seconds=99.0),
        session(2, backend_type="autovacuum worker", query_age_seconds=50.0),
        session(3, "reports", query_age_seconds=4.5, query="SELECT\n  city\tFROM\x1b[2J c"),
        session(4, state="idle in transaction", query_age_seconds=None),
    ]
    found = words.longest(rows)
    assert found is not None
    assert (found.seconds, found.who) == (4.5, "pid 3 (reports)")
    assert found.query == "SELECT city FROM [2J c"


def test_without_a_running_query_there_is_no_longest() -> None:
    assert words.longest([IDLE]) is None


def test_a_session_without_a_name_is_called_by_its_role() -> None:
    found = words.longest([session(9, "")])
    assert found is not None
    assert found.who == "pid 9 (shop)"
