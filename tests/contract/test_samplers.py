"""Each sampler, asked on each supported server, primary and standby: strictly as it declares."""

import random

import msgspec
import pytest

from pg_collector.errors import Reason
from pg_collector.pg.session import Session
from pg_collector.sample import Keep
from pg_collector.samplers._sampler import Scope
from tests.support.conditions.crowd import latin1_session
from tests.support.conditions.locks import blocked_chain
from tests.support.sampling import (
    RELATIONS,
    SAMPLERS,
    Sampling,
    sampling,
    strictly,
    target,
    told,
)

NAMES = sorted(SAMPLERS)


@pytest.fixture
def furnished(pair):
    """The pair with a table and an index that are large enough to be estimated."""
    if not pair.primary.query("select 1 from pg_class where relname = 'furniture'"):
        pair.primary.query("create table furniture as select generate_series(1, 5000) as id")
        pair.primary.query("create index on furniture (id)")
        pair.primary.query("analyze furniture")
    pair.caught_up()
    return pair


@pytest.fixture(params=["primary", "standby"])
def role_dsn(request, furnished):
    pair = furnished
    server = getattr(pair, request.param)
    return request.param, server.dsn("pgcollector")


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
                assert state["message"].startswith("this server has no"), state


@pytest.mark.parametrize("name", NAMES)
def test_a_role_that_may_only_log_in_gets_rows_of_the_same_types(furnished, name):
    for role, server in (("primary", furnished.primary), ("standby", furnished.standby)):
        with sampling(server.dsn("plain")) as there:
            for state in as_declared(there, name, role).values():
                assert state["state"] in {"limited", "unavailable"}
                assert state["reason"] in {Reason.PRIVILEGE, Reason.VERSION}
                missing = state["message"].startswith("this server has no")
                assert missing or (state["reason"] == Reason.PRIVILEGE and state["remedy"]), state


@pytest.mark.parametrize("name", NAMES)
def test_no_version_lacks_what_every_version_has(pair, name):
    """What is missing is missing because it came later: it has a default in the row type."""
    with sampling(pair.primary.dsn("pgcollector")) as there:
        for of, lines in there.take(name).items():
            for line in lines if of != "sampler_state" else ():
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
    since_19 = {
        "generic_plan_calls", "custom_plan_calls", "wal_fpi_bytes", "mode", "started_by",
        "backup_type", "mem_exceeded_count", "slotsync_skip_count", "slotsync_skip_reason",
    }  # fmt: skip
    until_16 = {"buffers_backend", "buffers_backend_fsync", "max_dead_tuples", "num_dead_tuples"}
    with sampling(pair.primary.dsn("pgcollector")) as there:
        for name in NAMES:
            for lines in there.take(name).values():
                fields = {
                    one["field"] for line in lines for one in line.head.get("unavailable", ())
                }
                assert fields <= since_19 | until_16


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


def test_text_in_another_encoding_spoils_no_sampler(server):
    """Asked in that database and in one of UTF-8: the session's text is not what either expects."""
    with latin1_session(server) as session:
        session.database.query("create table café as select generate_series(1, 5000) as id")
        session.database.query("analyze café")
        for database in (session.database, server.database()):
            with sampling(database.dsn()) as there:
                lines = {name: there.take(name) for name in NAMES}
            for name in NAMES:
                states = told(lines[name]).values()
                assert not [row for row in states if row["state"] == "error"], (name, states)
            rows = lines["vacuum"]["vacuum.horizon"][0].rows
            assert {row["pid"]: row["query"] for row in rows} == {
                session.pid: "select '?', pg_sleep(?)"
            }
            names = {row["relname"] for row in lines["vacuum"]["vacuum.tables"][0].rows}
            assert ("café" in names) is (database == session.database)


@pytest.mark.ends
def test_a_thousand_turns_take_no_transaction_id(fresh_server):
    next_id = "select txid_snapshot_xmax(txid_current_snapshot())"
    with sampling(fresh_server.dsn("pgcollector")) as there:
        before = fresh_server.value(next_id)
        for turn in range(1_000):
            there.take(NAMES[turn % len(NAMES)])
        assert fresh_server.value(next_id) == before


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
