"""Each sampler, asked on each supported server, primary and standby: strictly as it declares."""

import random
import re

import msgspec
import pytest

from pg_collector.errors import Reason
from pg_collector.pg.session import Session
from pg_collector.sample import Keep
from pg_collector.samplers._sampler import Scope
from tests.support.conditions.crowd import latin1_session
from tests.support.conditions.locks import blocked_chain, deadlock, idle_in_transaction
from tests.support.conditions.statements import (
    distinct_statement,
    evicted_statements,
    reset_statements,
    statements,
)
from tests.support.sampling import RELATIONS, SAMPLERS, Sampling, sampling, target
from tests.support.until import until

NAMES = sorted(SAMPLERS)


@pytest.fixture(params=["primary", "standby"])
def role_dsn(request, pair):
    server = getattr(pair, request.param)
    return request.param, server.dsn("pgcollector")


def strictly(query, line):
    """The columns are the declared ones in their order, and every value has the declared type."""
    fields = query.row.__struct_fields__
    columns = line.head["c"]
    assert columns == [name for name in fields if name in columns]
    for row in line.rows:
        msgspec.convert(row, query.row, strict=True)
    missing = {one["field"] for one in line.head.get("unavailable", ())}
    assert set(columns) | missing == set(fields)


def told(lines):
    """Return the states of a turn, by set."""
    return {row["set"]: row for line in lines.get("sampler_state", ()) for row in line.rows}


def as_declared(there, name, role):
    """Take a turn: each set answers strictly as declared, or it is said why it does not."""
    sampler = SAMPLERS[name]
    queries = {query.set: query for query in reversed(sampler.all_queries)}
    looked_up = {lookup.query.set for lookup in sampler.lookups}
    sees_all = there.session.facts.reads_all_stats
    lines = there.take(name)
    states = told(lines)
    if sampler.only_on not in {None, role}:
        assert states.pop(None)["reason"] == Reason.ROLE
        assert set(lines) == {"sampler_state"}
        return {}
    for query in queries.values():
        if query.set not in lines and (sees_all or query.set not in looked_up):
            assert query.optional or query.gate or query.set in states, query.set
        for line in lines.get(query.set, ()):
            strictly(query, line)
            assert line.head["target"] == "prod"
            assert line.head["server"] == there.session.facts.system_identifier
            per_database = (query.scope or sampler.scope) is Scope.DATABASE
            assert line.head.get("database") == (
                there.session.facts.database if per_database else None
            )
    assert any(line.rows for query in queries for line in lines.get(query, ()))
    return states


@pytest.mark.parametrize("name", NAMES)
def test_the_rows_it_declares_are_the_rows_it_gets(role_dsn, name):
    role, dsn = role_dsn
    with sampling(dsn) as there:
        assert there.session.facts.in_recovery is (role == "standby")
        queries = {query.set: query for query in SAMPLERS[name].all_queries}
        for of, state in as_declared(there, name, role).items():
            if state["state"] == "limited":  # by what one may not read of the objects themselves
                assert queries[of].blind
                assert state["remedy"]
            else:
                assert (state["state"], state["reason"]) == ("unavailable", Reason.VERSION)


@pytest.mark.parametrize("name", NAMES)
def test_a_role_that_may_only_log_in_gets_rows_of_the_same_types(pair, name):
    for role, server in (("primary", pair.primary), ("standby", pair.standby)):
        with sampling(server.dsn("plain")) as there:
            for state in as_declared(there, name, role).values():
                assert state["state"] in {"limited", "unavailable"}
                assert state["reason"] in {Reason.PRIVILEGE, Reason.VERSION}
                assert state["reason"] == Reason.VERSION or state["remedy"]


@pytest.mark.parametrize("name", NAMES)
def test_no_version_lacks_what_every_version_has(pair, name):
    """What is missing is missing because it came later: it has a default in the row type."""
    with sampling(pair.primary.dsn("pgcollector")) as there:
        for lines in there.take(name).values():
            for line in lines:
                query = next(q for q in SAMPLERS[name].all_queries if q.set == line.set)
                optional = dict(
                    zip(
                        reversed(query.row.__struct_fields__),
                        reversed(query.row.__struct_defaults__),
                        strict=False,
                    )
                )
                for missing in line.head.get("unavailable", ()):
                    assert missing["reason"] == "version"
                    assert missing["field"] in optional, (line.set, missing["field"])


def test_the_newest_version_lacks_nothing(pair):
    if pair.major < 18:
        pytest.skip("only the newest version has everything")
    absent = {"generic_plan_calls", "custom_plan_calls"}  # of PostgreSQL 19
    with sampling(pair.primary.dsn("pgcollector")) as there:
        for name in NAMES:
            for lines in there.take(name).values():
                fields = {
                    one["field"] for line in lines for one in line.head.get("unavailable", ())
                }
                assert fields <= absent


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


def test_a_deadlock_is_counted(database):
    with sampling(database.dsn()) as there:

        def deadlocks():
            rows = {row["datname"]: row for row in there.rows("database")}
            return rows[database.name]["deadlocks"]

        before = deadlocks()
        with deadlock(database):
            until(lambda: deadlocks() == before + 1, what="the deadlock is counted")


def test_databases_have_their_size_age_and_the_shared_row(database):
    with sampling(database.dsn()) as there:
        lines = there.take("database")
        rows = {row["datid"]: row for line in lines["database"] for row in line.rows}
        assert rows[0]["datname"] is None
        mine = next(row for row in rows.values() if row["datname"] == database.name)
        assert mine["frozen_xid_age"] >= 0
        assert mine["xact_commit"] >= 0
        sizes = {row["datname"]: row["size_bytes"] for row in lines["database.size"][0].rows}
        assert sizes[database.name] > 1_000_000
        temporary = {row["spcname"] for row in lines["database.temp_files"][0].rows}
        assert temporary == {"pg_default"}


def test_sizes_are_measured_in_turns_each_database_once_in_five(database):
    with sampling(database.dsn()) as there:
        everything = {row["datid"] for row in there.rows("database", "database.size")}
        seen = []
        for _ in range(10):  # every other turn: sizes come every 60 s, the sampler every 30 s
            seen += [row["datid"] for row in there.rows("database", "database.size")]
        assert sorted(seen) == sorted(everything)


def test_a_reset_of_a_database_begins_an_epoch(database):
    with sampling(database.dsn()) as there:

        def counted():  # until 14 that takes half a second, and counting begins with it
            (line,) = there.take("database")["database"]
            commits = {row["datname"]: row["xact_commit"] for row in line.rows}
            return line if commits[database.name] else None

        first = until(counted, what="transactions are counted")
        assert "epoch_changed" not in first.head
        (second,) = there.take("database")["database"]
        assert "epoch_changed" not in second.head
        database.query("select pg_stat_reset()")

        def changed():
            (line,) = there.take("database")["database"]
            return line if line.head.get("epoch_changed") else None

        line = until(changed, what="the reset is told")
        assert line.head["epoch"] == first.head["epoch"]  # of the server; the row has its own
        mine = {row["datname"]: row["stats_reset"] for row in line.rows}[database.name]
        assert (
            mine > {row["datname"]: row["stats_reset"] or "" for row in second.rows}[database.name]
        )
        (after,) = there.take("database")["database"]
        assert "epoch_changed" not in after.head


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


def test_a_session_of_another_encoding_spoils_nothing(server):
    with latin1_session(server) as session, sampling(server.dsn("pgcollector")) as there:
        found = {row["pid"]: row for row in there.rows("activity", "activity.sessions")}
        assert found[session.pid]["query"].startswith("select '?', pg_sleep(?)")
        assert found[session.pid]["wait_event"] == "PgSleep"


def test_a_role_with_only_login_is_told_what_it_misses_and_what_mends_it(database):
    with sampling(database.dsn("plain")) as there, blocked_chain(database):
        for name in ("activity", "database", "statements"):
            lines = there.take(name)
            assert lines[SAMPLERS[name].queries[0].set]
            states = told(lines)
            assert states
            for state in states.values():
                assert state["state"] in {"limited", "unavailable"}
                assert state["reason"] == Reason.PRIVILEGE
                assert state["remedy"] == "GRANT pg_monitor TO plain;"
        (server,) = there.rows("activity", "activity.server")
        assert server["hidden_sessions"] >= 3


def test_what_is_missing_is_told_once_and_mended_without_a_restart(database):
    role = f"mended_{database.name}"
    database.query(f"create role {role} login")
    try:
        with sampling(database.dsn(role)) as there:
            assert "sampler_state" in there.take("activity")
            assert "sampler_state" not in there.take("activity")
            database.query(f"grant pg_monitor to {role}")
            news = []
            for _ in range(70):  # turns of ten seconds
                news += there.take("activity").get("sampler_state", [])
            assert {row["state"] for line in news for row in line.rows} == {"ok"}
    finally:
        database.query(f"drop owned by {role}")
        database.query(f"drop role {role}")


def test_an_extension_that_is_not_there_names_its_remedy(server):
    with sampling(server.dsn("pgcollector", "template1")) as there:
        lines = there.take("statements")
        states = told(lines).values()
        assert {row["state"] for row in states} == {"unavailable"}
        assert all('In the database "template1": CREATE EXTENSION' in s["remedy"] for s in states)


def test_columns_that_go_away_cost_their_fields_and_never_the_turn(pair):
    """What a future version may take away, taken away at random, asked on the real server."""
    rng = random.Random(pair.major)  # noqa: S311
    with sampling(pair.primary.dsn("pgcollector")) as there:
        facts = there.session.facts
        for _ in range(40):
            columns = {
                relation: frozenset(name for name in sorted(names) if rng.random() > 0.15)
                for relation, names in facts.columns.items()
            }
            there.session.facts = msgspec.structs.replace(facts, columns=columns)
            for name in NAMES:
                states = told(there.take(name)).values()
                assert not [row for row in states if row["state"] == "error"]


def test_a_crash_begins_an_epoch_although_a_reset_was_seen_before(fresh_server):
    with sampling(fresh_server.dsn("pgcollector")) as there:
        there.take("database")
        fresh_server.query("select pg_stat_reset()")
        until(
            lambda: there.take("database")["database"][0].head.get("epoch_changed"),
            what="the reset is told",
        )
        epoch = there.take("database")["database"][0].head["epoch"]
        with fresh_server.connect() as victim:
            fresh_server.kill_backend(victim.info.backend_pid)
        fresh_server.wait_ready()
        again = Session.open(target(fresh_server.dsn("pgcollector")), relations=RELATIONS)
        there.session = again
        try:
            (line,) = there.take("database")["database"]
            assert line.head["epoch_changed"] is True
            assert line.head["epoch"] > epoch
            (line,) = there.take("database")["database"]
            assert "epoch_changed" not in line.head
        finally:
            again.close()


def test_after_a_crash_no_counter_falls_within_an_epoch(fresh_server):
    database = fresh_server.database()
    database.query("create table counted (id int primary key)")
    database.query("insert into counted select generate_series(1, 1000)")
    database.query("create extension if not exists pg_stat_statements")
    with sampling(fresh_server.dsn("pgcollector")) as there:
        before = {name: there.take(name) for name in NAMES}
        with fresh_server.connect() as victim:
            fresh_server.kill_backend(victim.info.backend_pid)
        fresh_server.wait_ready()
        there.session.close()
        there.session = Session.open(target(fresh_server.dsn("pgcollector")), relations=RELATIONS)
        for name in NAMES:
            counting = {q.set for q in SAMPLERS[name].all_queries if q.keep is Keep.CUMULATIVE}
            after = there.take(name)
            for name_of_set in counting & set(before[name]) & set(after):
                head = after[name_of_set][0].head
                assert head["epoch_changed"] is True, name_of_set
                assert head["epoch"] > before[name][name_of_set][0].head["epoch"], name_of_set
        there.session.close()


def test_a_database_that_comes_or_goes_begins_no_epoch(server):
    name = f"passing_{server.major}"
    with sampling(server.dsn("pgcollector")) as there:
        there.take("database")
        seen = []
        server.query(f"create database {name}")
        seen += there.take("database")["database"]
        server.query("select 1", dbname=name)

        def counted():
            lines = there.take("database")["database"]
            seen.extend(lines)
            rows = {row["datname"]: row for row in lines[0].rows}
            return rows[name]["xact_commit"] > 0

        until(counted, what="its first transaction is counted")
        server.database(name).drop()
        seen += there.take("database")["database"]
        assert not [line for line in seen if line.head.get("epoch_changed")]


def test_what_a_server_refuses_is_not_asked_each_turn(database):
    """Two sets at once, as a managed service may: neither wakes the other up again."""
    asked = []

    class Refusing(Session):
        def stream(self, sql, params=None, *, timeout=None, chunk=500):
            if "pg_ls_tmpdir" in sql or "pg_database_size" in sql:
                asked.append(sql)
                sql = "select no_such_function()"
            return super().stream(sql, params, timeout=timeout, chunk=chunk)

        def refresh(self):
            asked.append("facts")
            super().refresh()

    session = Refusing.open(target(database.dsn()), relations=RELATIONS)
    try:
        there = Sampling(session)
        asked.clear()
        for _ in range(10):
            there.take("database")
        assert len(asked) <= 4, asked  # each set once, and the facts
    finally:
        session.close()


def test_a_set_in_parts_goes_on_with_the_others_when_one_takes_too_long(database):
    parts = []

    class Slow(Session):
        def stream(self, sql, params=None, *, timeout=None, chunk=500):
            if "pg_database_size" in sql:
                parts.append(params["part"])
                if params["part"] in {None, 1}:
                    sql, timeout = "select pg_sleep(3)", 0.1
            return super().stream(sql, params, timeout=timeout, chunk=chunk)

    session = Slow.open(target(database.dsn()), relations=RELATIONS)
    try:
        there = Sampling(session)
        for _ in range(10):  # a turn of the set every other turn of the sampler
            there.take("database")
        assert parts[:5] == [None, 0, 1, 2, 3]
    finally:
        session.close()


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


def test_an_error_that_a_user_raised_is_not_repeated(database):
    class Raising(Session):
        def stream(self, sql, params=None, *, timeout=None, chunk=500):
            if "pg_ls_tmpdir" in sql:
                sql = "select public.raises()"
            return super().stream(sql, params, timeout=timeout, chunk=chunk)

    database.query(
        "create function public.raises() returns int language plpgsql as"
        " $$ begin raise exception 'canary of Jane Doe'; end $$"
    )
    session = Raising.open(target(database.dsn()), relations=RELATIONS)
    try:
        lines = Sampling(session).take("database")
        (state,) = [row for x in lines["sampler_state"] for row in x.rows]
        assert (state["set"], state["state"], state["sqlstate"]) == (
            "database.temp_files", "error", "P0001",
        )  # fmt: skip
        assert "canary" not in state["message"]
    finally:
        session.close()


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
