"""What a session knows of its server, on every version, whatever may be read there."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from pg_collector.errors import SamplerError, SamplerUnavailable
from pg_collector.pg import facts
from pg_collector.pg.session import Session
from pg_collector.sample import Answer
from tests.support.conditions.crowd import latin1_session
from tests.support.lab.replication import Pair
from tests.support.lab.server import Database, Server
from tests.support.target import target
from tests.support.until import until

RELATIONS = frozenset(
    {"pg_stat_activity", "pg_stat_database", "pg_stat_statements", "pg_ls_waldir", "mine", "nope"}
)


@contextmanager
def opened(dsn: str, relations: frozenset[str] = RELATIONS) -> Iterator[Session]:
    session = Session.open(target(dsn), relations=relations)
    try:
        yield session
    finally:
        session.close()


def columns_of(database: Database, relation: str) -> frozenset[str]:
    rows = database.query(
        "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 "
        "and not attisdropped",
        [relation],
    )
    return frozenset(name for (name,) in rows)


def test_the_facts_are_the_servers(database: Database, major: int):
    with opened(database.dsn()) as session:
        seen = session.facts
    assert (seen.major, seen.database, seen.role) == (major, database.name, "pgcollector")
    assert (seen.in_recovery, seen.superuser, seen.reads_all_stats) == (False, False, True)
    identifier = database.value("select system_identifier::text from pg_control_system()")
    assert (seen.system_identifier, seen.timeline) == (identifier, 1)
    as_text = "select to_char({} at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
    assert seen.started_at == database.value(as_text.format("pg_postmaster_start_time()"))
    reset = f"{as_text.format('stats_reset')} from pg_stat_bgwriter"
    assert seen.shared_stats_reset == database.value(reset)


def test_columns_are_those_that_exist_in_pg_catalog_and_in_extensions(database: Database):
    database.query("create table mine (id int)")
    with opened(database.dsn()) as session:
        seen = session.facts.columns
    for relation in ("pg_stat_activity", "pg_stat_database", "pg_stat_statements"):
        assert seen[relation] == columns_of(database, relation)
    assert {"name", "size", "modification"} <= seen["pg_ls_waldir"]  # a function
    assert "mine" not in seen
    assert "nope" not in seen


def test_an_extension_is_found_in_any_schema(database: Database):
    database.query('create schema "My Tools"')
    database.query('alter extension pg_stat_statements set schema "My Tools"')
    with opened(database.dsn()) as session:
        extension = session.facts.extensions["pg_stat_statements"]
        assert extension.schema == "My Tools"
        assert extension.version == database.value(
            "select extversion from pg_extension where extname = 'pg_stat_statements'"
        )
        assert "queryid" in session.facts.columns["pg_stat_statements"]


def test_an_extension_that_is_not_installed_is_no_fact(database: Database):
    database.query("drop extension pg_stat_statements")
    with opened(database.dsn()) as session:
        assert "pg_stat_statements" not in session.facts.extensions
        assert "pg_stat_statements" not in session.facts.columns


def test_settings_are_those_that_the_role_may_read(database: Database):
    with opened(database.dsn()) as session:
        settings = session.facts.settings
    for name in ("track_io_timing", "block_size", "pg_stat_statements.max", "max_connections"):
        assert settings[name] == database.value(
            "select setting from pg_settings where name = %s", [name]
        )
    assert "pg_stat_statements" in settings["shared_preload_libraries"]
    with opened(database.dsn("plain")) as session:
        assert "shared_preload_libraries" not in session.facts.settings
        assert "block_size" in session.facts.settings
        assert not session.facts.reads_all_stats


def test_a_superuser_is_recognised(server: Server):
    with opened(server.dsn("postgres")) as session:
        assert session.facts.superuser
        assert session.facts.reads_all_stats


def test_what_a_managed_service_refuses_stays_unknown(database: Database, major: int):
    refused = ["pg_control_system()", "pg_control_checkpoint()", "pg_current_wal_lsn()"]
    for function in refused:
        database.query(f"revoke execute on function {function} from public")
    with opened(database.dsn()) as session:
        assert (session.facts.system_identifier, session.facts.timeline) == (None, None)
        assert session.facts.major == major
        assert session.facts.shared_stats_reset
        assert "state" in session.facts.columns["pg_stat_activity"]
        assert session.facts.settings["block_size"] == "8192"


def test_without_any_columns_there_are_no_facts():
    identity = Answer((), [(1, 180000, "d", "r", False, False, "on", "4s", "pg_catalog")])

    def run(_: str, params: object) -> Answer:
        if params is None:
            return identity
        raise SamplerError("refused")

    with pytest.raises(SamplerError, match="refused"):
        facts.read(run, RELATIONS)


def test_a_standby_is_one(pair: Pair):
    with opened(pair.standby.dsn()) as session:
        seen = session.facts
        assert session.moment().in_recovery
    identifier = pair.primary.value("select system_identifier::text from pg_control_system()")
    assert (seen.in_recovery, seen.system_identifier, seen.timeline) == (True, identifier, 1)


def test_promotion_changes_the_facts_of_a_standing_session(fresh_pair: Pair):
    with opened(fresh_pair.standby.dsn()) as session:
        assert session.moment().in_recovery
        pid = session.backend_pid
        fresh_pair.promote()
        until(lambda: not session.moment().in_recovery, deadline=2, what="it is noticed")
        assert (session.facts.in_recovery, session.facts.timeline) == (False, 2)
        assert session.backend_pid == pid  # hot standby sessions live on


def test_an_extension_updated_while_running_makes_the_facts_stale_and_then_right(
    database: Database, major: int
):
    older = {12: "1.6", 13: "1.7"}.get(major, "1.8")
    database.query("drop extension pg_stat_statements")
    database.query(f"create extension pg_stat_statements version '{older}'")
    with opened(database.dsn()) as session:
        before = session.facts.columns["pg_stat_statements"]
        asked = f"select {', '.join(sorted(before))} from public.pg_stat_statements limit 1"
        for _ in range(7):  # more often than the prepared statements' threshold
            session.fetch(asked)
        database.query("alter extension pg_stat_statements update")
        renamed = before - columns_of(database, "pg_stat_statements")
        if renamed:
            with pytest.raises(SamplerUnavailable):
                session.fetch(asked)
            assert session.stale
        else:
            session.fetch(asked)
        session.refresh()
        assert not session.stale
        now = session.facts
        assert now.extensions["pg_stat_statements"].version != older
        assert now.columns["pg_stat_statements"] == columns_of(database, "pg_stat_statements")


def test_text_in_another_encoding_does_not_break_a_sample(database: Database):
    with latin1_session(database.server) as other, opened(database.dsn()) as session:
        answer = session.fetch(
            "select query from pg_stat_activity where pid = %(pid)s", {"pid": other.pid}
        )
    assert "\ufffd" in answer.rows[0][0]


def test_facts_take_three_round_trips_at_most():
    asked: list[str] = []

    def run(sql: str, params: object) -> Answer:
        asked.append(sql)
        if params is None:
            return Answer((), [(1, 180000, "d", "r", False, False, "on", "4s", "pg_catalog")])
        names = tuple(facts._PARTS)
        return Answer(names, [tuple(None for _ in names)])

    facts.read(run, RELATIONS)
    assert len(asked) == 2


def test_who_is_there_is_asked_without_anything_that_a_search_path_can_replace(newest_server):
    """As behind a pooler that drops our settings: the owner of a database may set its path."""
    database = newest_server.database()
    database.query(
        """create schema hostile;
        create function hostile.says(text, text) returns boolean language plpgsql
         as $$ begin raise exception 'hostile'; end $$;
        create operator hostile.= (leftarg = text, rightarg = text, function = hostile.says)"""
    )
    try:
        with database.connect(options="-c search_path=hostile,pg_catalog") as session:

            def run(sql, _parameters):
                return Answer((), session.execute(sql).fetchall())

            assert facts.identify(run).superuser == "on"
            with pytest.raises(psycopg.errors.RaiseException):
                session.execute("select current_user::text = 'x'::text")
    finally:
        database.query("drop schema hostile cascade")


def test_what_our_role_alone_has_is_no_fact_of_the_server(newest_server):
    """So that its own statements can be left out of pg_stat_statements."""
    dsn, name = newest_server.dsn("pgcollector"), "pg_stat_statements.track"
    with opened(dsn) as session:
        assert session.facts.settings[name] == newest_server.settings.get(name, "top")
    newest_server.query(f"alter role pgcollector set {name} = 'none'")
    try:
        newest_server.query("select pg_stat_statements_reset()")
        with opened(dsn) as session:
            assert name not in session.facts.settings
            assert "track_counts" in session.facts.settings
        mine = "select count(*) from pg_stat_statements where userid = 'pgcollector'::regrole"
        assert newest_server.query(mine) == [(0,)]
    finally:
        newest_server.query(f"alter role pgcollector reset {name}")
