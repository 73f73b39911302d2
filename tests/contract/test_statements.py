"""What the sampler `statements` counts, whose texts it sends, and how rarely."""

import re

import psycopg
import pytest

from pg_collector import changes
from pg_collector.errors import Reason, SamplerTimeout
from pg_collector.runner import RECHECK
from tests.support.conditions.statements import (
    distinct_statement,
    evicted_statements,
    reset_statements,
    run_distinct,
    statements,
)
from tests.support.sampling import SAMPLERS, sampling, strictly, told


def test_statements_are_counted_and_their_text_is_sent_once_and_masked(database):
    with sampling(database.dsn()) as there:
        reset_statements(database)
        there.take("statements")
        for value in (1, 2, 3):
            database.query(f"select 'secret-{value}', {value} where 'x' <> 'canary-4711'")
        lines = there.take("statements")
        texts = [row for line in lines["query_text"] for row in line.rows]
        (mine,) = [row for row in texts if "where" in row["query"] and "<>" in row["query"]]
        counters = {row["queryid"]: row for line in lines["statements"] for row in line.rows}
        assert counters[mine["queryid"]]["calls"] == 3
        assert counters[mine["queryid"]]["rows"] == 3
        everything = b"".join(line.raw for found in lines.values() for line in found)
        assert b"secret-" not in everything
        assert b"canary" not in everything
        again = there.take("statements")
        known = [row["queryid"] for line in again.get("query_text", ()) for row in line.rows]
        assert mine["queryid"] not in known


def test_only_changed_statements_are_sent_and_a_reset_sends_all(database):
    with sampling(database.dsn()) as there, statements(database, 200):
        first = there.take("statements")["statements"]
        assert sum(len(line.rows) for line in first) >= 200
        assert "delta" not in first[0].head
        database.query("select 42 + 42")
        (second,) = there.take("statements")["statements"]
        assert second.head["delta"] is True
        assert second.head["base"] == first[0].head["at"]
        assert 0 < len(second.rows) < 20
        assert second.head["total_rows"] >= 200
        reset_statements(database)
        third = there.take("statements")["statements"]
        assert "delta" not in third[0].head
        assert third[0].head["epoch_changed"] is True


def test_a_reset_of_minima_and_maxima_alone_sends_the_entry_again(database):
    if database.server.major < 17:
        pytest.skip("they are reset alone with 1.11 of the extension, which came with 17")
    entry = "from pg_stat_statements where query like 'select %' || chr(42) || ' $2 where $3 <>%'"
    with sampling(database.dsn()) as there:
        database.query("select 6 * 7 where 1 <> 0")
        assert "delta" not in there.take("statements")["statements"][0].head
        reset = f"select queryid::text, pg_stat_statements_reset(0, 0, queryid, true) {entry}"
        ((queryid, _),) = database.query(reset)
        (line,) = there.take("statements")["statements"]
        assert line.head["delta"] is True
        (row,) = [one for one in line.rows if one["queryid"] == queryid]
        assert (row["calls"], row["min_exec_time"], row["max_exec_time"]) == (1, 0, 0)


def test_our_own_statements_are_left_out_once_they_are_known(database):
    with sampling(database.dsn()) as there:
        reset_statements(database)
        there.take("statements")
        there.take("statements")
        lines = there.take("statements")
        texts = [row["query"] for line in lines.get("query_text", ()) for row in line.rows]
        assert not any("pg_stat_statements(" in text for text in texts)
        mine = database.query(
            "select queryid::text from pg_stat_statements"
            " where query like 'SELECT /* pgc:statements%'"
        )
        sent = {row["queryid"] for line in lines["statements"] for row in line.rows}
        assert mine
        assert not sent & {queryid for (queryid,) in mine}


def test_evictions_are_told(fresh_server):
    with evicted_statements(fresh_server), sampling(fresh_server.dsn("pgcollector")) as there:
        (info,) = there.rows("statements", "statements.info")
        assert info["max_entries"] == 100
        if fresh_server.major >= 14:
            assert info["dealloc"] > 0


EXTENSION_VERSIONS = {
    12: ["1.4", "1.5", "1.6", "1.7"],
    13: ["1.7", "1.8"],
    14: ["1.8", "1.9"],
    15: ["1.9", "1.10"],
    16: ["1.10"],
    17: ["1.10", "1.11"],
    18: ["1.4", "1.7", "1.8", "1.9", "1.10", "1.11", "1.12"],
}


def test_every_version_of_the_extension_is_read_and_updated_under_way(database):
    versions = EXTENSION_VERSIONS[database.server.major]
    database.query("drop extension pg_stat_statements")
    database.query(f"create extension pg_stat_statements version '{versions[0]}'")
    query = next(q for q in SAMPLERS["statements"].queries if q.set == "statements")
    with sampling(database.dsn()) as there:
        widths = []
        for version in versions:
            database.query(f"alter extension pg_stat_statements update to '{version}'")
            lines = there.take("statements")
            assert "sampler_state" not in lines, lines["sampler_state"][0].rows
            for line in lines["statements"]:
                strictly(query, line)
                assert line.rows
            widths.append(len(lines["statements"][0].head["c"]))
            there.session.refresh()
        assert widths == sorted(widths)


def test_an_extension_that_is_dropped_is_told_and_read_again_when_it_is_back(database):
    with sampling(database.dsn()) as there:
        assert there.rows("statements")
        database.query("drop extension pg_stat_statements")
        lines = there.take("statements")
        (state,) = [r for x in lines["sampler_state"] for r in x.rows if r["set"] == "statements"]
        assert state["state"] == "unavailable"
        assert "CREATE EXTENSION pg_stat_statements" in state["remedy"]
        database.query("create extension pg_stat_statements")
        for _ in range(12):  # turns of a minute: the server is looked at again within ten
            lines = there.take("statements")
            if "statements" in lines:
                break
        assert lines["statements"][0].rows
        (back,) = [r for x in lines["sampler_state"] for r in x.rows if r["set"] == "statements"]
        assert back["state"] == "ok"


def test_an_extension_that_is_not_there_names_its_remedy(server):
    with sampling(server.dsn("pgcollector", "template1")) as there:
        lines = there.take("statements")
        states = told(lines).values()
        assert {row["state"] for row in states} == {"unavailable"}
        assert all('In the database "template1": CREATE EXTENSION' in s["remedy"] for s in states)


def test_large_texts_come_a_few_at_a_time_until_all_are_there(database):
    with sampling(database.dsn()) as there:
        reset_statements(database)
        there.take("statements")
        with database.connect() as session:
            for number in range(300):  # 10 kB each, 3 MB together
                session.execute(f"{distinct_statement(number)}{', 1' * 1500}", prepare=False)
        texts: dict[str, str] = {}
        sizes = []
        for _ in range(12):
            lines = there.take("statements").get("query_text", [])
            sizes.append(sum(len(line.raw) for line in lines))
            texts |= {row["queryid"]: row["query"] for line in lines for row in line.rows}
            there.clock.ahead += 600
        assert 1_000_000 < max(sizes) < 1_400_000
        assert sum(len(text) > 5_000 for text in texts.values()) >= 300


def test_after_a_loss_texts_and_the_full_line_follow_once_nothing_more_is_lost(database):
    with sampling(database.dsn()) as there, statements(database, 100):
        there.take("statements")
        assert "delta" in there.take("statements")["statements"][0].head
        there.tray.losses = 5
        assert "delta" in there.take("statements")["statements"][0].head  # it may still go on
        lines = there.take("statements")
        assert "delta" not in lines["statements"][0].head
        assert sum(len(line.rows) for line in lines["query_text"]) >= 100
        assert "query_text" not in there.take("statements")


def test_what_was_lost_before_the_first_turn_makes_nothing_come_twice(database):
    with sampling(database.dsn()) as there, statements(database, 20):
        there.tray.losses = 5
        assert "query_text" in there.take("statements")
        second = there.take("statements")
        assert "delta" in second["statements"][0].head
        assert sum(len(line.rows) for line in second.get("query_text", ())) < 20


def test_utility_statements_are_sent_as_their_command_and_passwords_never(database):
    role = f"canary_{database.name}"
    with sampling(database.dsn()) as there:
        reset_statements(database)
        there.take("statements")
        database.query(f"create role {role} login password 'canary-password-0815'")
        database.query(f"drop role {role}")
        lines = there.take("statements")
        texts = [row["query"] for line in lines["query_text"] for row in line.rows]
        assert any(re.fullmatch("CREATE <[0-9a-f]{16}>", text) for text in texts)
        raw = b"".join(line.raw for found in lines.values() for line in found)
        assert b"canary" not in raw


def test_long_texts_are_read_without_a_temporary_file(newest_server):
    """The server gives all texts, whichever are wanted."""
    database = newest_server.database()
    written = "select temp_files from pg_stat_database where datname = current_database()"
    reset_statements(database)
    with database.connect() as app:
        for number in range(200):
            app.execute(f"{distinct_statement(number)} /* {'x' * 100_000} */ + 0", prepare=False)
    before = database.value(written)
    with sampling(database.dsn()) as there:
        texts = [row for line in there.take("statements")["query_text"] for row in line.rows]
    assert sum(row["query_truncated"] for row in texts) == 200
    newest_server.vacated()
    assert database.value(written) == before
    reset_statements(database)


def test_texts_that_took_too_long_leave_the_server_in_peace(newest_server, monkeypatch):
    """It reads all of them each time, be it for one: 900 MB of them took it twice the memory."""
    database, asked = newest_server.database(), []
    with sampling(database.dsn()) as there, statements(database, 100):
        stream = there.session.stream

        def slow(sql, params=None, **options):
            if "(true)" in sql:
                asked.append(there.clock.monotonic())
                there.clock.ahead += 4.0
                raise SamplerTimeout("too long", reason=Reason.TIMEOUT)
            return stream(sql, params, **options)

        monkeypatch.setattr(there.session, "stream", slow)
        for _ in range(4):  # a minute each
            there.take("statements")
    first, second = asked
    assert second - first >= 80


def test_bytes_that_are_no_text_stand_in_the_way_until_the_remedy_is_followed(newest_server):
    database = newest_server.database()
    create = "create database no_encoding encoding 'SQL_ASCII' locale 'C' template template0"
    newest_server.query(create)
    try:
        dsn = newest_server.dsn("pgcollector", "no_encoding", client_encoding="SQL_ASCII")
        with psycopg.connect(dsn, autocommit=True) as elsewhere:
            elsewhere.execute(b'select 1 as "\xff"')
        with sampling(database.dsn()) as there:
            state = told(there.take("statements"))["query_text"]
            assert (state["state"], state["sqlstate"]) == ("unavailable", "22021")
            _, sql = state["remedy"].split("encoding: ")
            database.query(sql)
            there.clock.ahead += RECHECK
            assert told(there.take("statements"))["query_text"]["state"] == "ok"
    finally:
        newest_server.query("drop database no_encoding with (force)")


def test_entries_that_come_and_go_bring_a_full_line_before_its_time(newest_server, monkeypatch):
    """What went away is forgotten with it, and not remembered for a quarter of an hour."""
    crowd = 200
    monkeypatch.setattr(changes, "CROWD", crowd)
    database, few = newest_server.database(), crowd * 2 // 5
    evicted = (
        "select count(pg_stat_statements_reset(userid, dbid, queryid)) from (select *"
        f" from pg_stat_statements where query like 'select $1 %' limit {few}) as found"
    )
    with sampling(database.dsn()) as there, statements(database, crowd):
        assert "delta" not in there.take("statements")["statements"][0].head
        deltas: list[bool] = []
        for turn in range(6):  # a minute each
            assert database.value(evicted) == few
            run_distinct(database, few, first=crowd + turn * few)
            deltas += {"delta" in line.head for line in there.take("statements")["statements"]}
    assert len(deltas) == 6
    assert deltas[:2] == [True, True]
    assert not all(deltas)
