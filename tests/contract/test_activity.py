"""What the sampler `activity` tells of sessions that wait, hold on, or speak another encoding."""

import pytest

from tests.support.conditions.crowd import latin1_session
from tests.support.conditions.locks import blocked_chain, idle_in_transaction
from tests.support.sampling import sampling


def test_a_blocked_chain_is_seen_with_who_blocks_whom(database):
    with sampling(database.dsn()) as there, blocked_chain(database) as chain:
        found = {row["pid"]: row for row in there.rows("activity", "activity.sessions")}
        assert found[chain.tail]["blocking_pids"] == [chain.middle]
        assert found[chain.middle]["blocking_pids"] == [chain.head]
        assert found[chain.head]["blocking_pids"] is None
        assert found[chain.head]["state"] == "idle in transaction"
        assert found[chain.tail]["wait_event_type"] == "Lock"
        assert found[chain.tail]["query"] == f"update {chain.table} set v = ? where id = ?"
        assert found[chain.tail]["xact_age_seconds"] >= 0
        (server,) = there.rows("activity", "activity.server")
        assert server["blocked_sessions"] == 2
        assert server["max_connections"] > 0


def test_a_session_that_only_holds_a_transaction_open_is_listed(database):
    with sampling(database.dsn()) as there, idle_in_transaction(database) as idle:
        found = {row["pid"]: row for row in there.rows("activity", "activity.sessions")}
        assert found[idle.pid]["state"] == idle.state
        assert found[idle.pid]["application_name"] == idle.application_name
        identity, _, pid = found[idle.pid]["session_id"].partition("-")
        assert int(pid) == idle.pid
        assert int(identity) > 10**15


def test_counts_add_up_to_the_sessions_there_are(database):
    with sampling(database.dsn()) as there, blocked_chain(database):
        counted = sum(row["sessions"] for row in there.rows("activity", "activity.counts"))
        own = 1
        assert counted + own == pytest.approx(
            database.value("select count(*) from pg_stat_activity") - 1, abs=2
        )


def test_limits_of_roles_are_compared_with_what_is_used(database):
    with sampling(database.dsn()) as there:
        found = {(r["scope"], r["name"]): r for r in there.rows("activity", "activity.limits")}
        limit = found["role", "pgcollector"]
        assert (limit["connection_limit"], limit["connections"]) == (2, 1)


def test_our_own_session_is_not_among_what_it_sees(database):
    with sampling(database.dsn()) as there:
        found = there.rows("activity", "activity.sessions")
        assert there.session.backend_pid not in {row["pid"] for row in found}


def test_a_session_of_another_encoding_spoils_nothing(server):
    with latin1_session(server) as session, sampling(server.dsn("pgcollector")) as there:
        found = {row["pid"]: row for row in there.rows("activity", "activity.sessions")}
        assert found[session.pid]["query"].startswith("select '?', pg_sleep(?)")
        assert found[session.pid]["wait_event"] == "PgSleep"


def test_typographic_quotes_of_another_encoding_are_no_letters(newest_server):
    """A value pasted with them, in a session of the bytes that WIN1252 has for them."""
    newest_server.query(
        "create database bytes template template0 encoding 'SQL_ASCII' lc_collate 'C' lc_ctype 'C'"
    )
    there = newest_server.database("bytes")
    try:
        with there.connect(client_encoding="SQL_ASCII") as session:
            pid = session.info.backend_pid
            session.pgconn.exec_(b"begin")
            session.pgconn.exec_(b"select \x91hunter2\x92, \x93hunter2\x94")
            with sampling(newest_server.dsn("pgcollector")) as sampler:
                rows = sampler.rows("activity", "activity.sessions")
        found = {row["pid"]: row["query"] for row in rows}
        assert found[pid] == "select '?'"
    finally:
        there.drop()
