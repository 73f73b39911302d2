"""Faults of a server, of its role and of the way there, for `test_check`."""

import re
from contextlib import ExitStack

from pg_collector.checkup.finding import Level, Part
from tests.fault.check_cases import (
    PASSWORD,
    Case,
    Cases,
    present,
    with_certificate,
    with_password,
)
from tests.support.checkup import Bench, bad
from tests.support.pgbouncer import start_pgbouncer
from tests.support.ports import free_port

CASES = Cases()
case = CASES.case


# --- the role and what it may see


@case("grants", Level.FAIL, "role pgcollector lacks pg_read_all_stats")
def the_role_lacks_pg_monitor(bench: Bench) -> Case:
    bench.sql("revoke pg_monitor from pgcollector")
    with bench.session("postgres"):
        found = yield
        assert found.measured["hidden_sessions"] > 0
        assert found.measured["hidden_statements"] > 0
        bench.follow(found.remedy)


@case("grants", Level.FAIL, "does not inherit")
def the_role_does_not_inherit(bench: Bench) -> Case:
    bench.sql("grant pg_monitor to pgcollector with inherit false")
    found = yield
    bench.follow(found.remedy)


@case("grants", Level.WARN, "not all settings")
def the_role_has_a_part_of_pg_monitor(bench: Bench) -> Case:
    bench.sql("create role part login in role pg_read_all_stats")
    bench.dsn("part")
    found = yield
    bench.follow(found.remedy)
    bench.stack.callback(bench.sql, "drop role part")


@case("login", Level.FAIL, "some samplers would never run")
def the_role_may_have_one_session(bench: Bench) -> Case:
    bench.sql("alter role pgcollector connection limit 1")
    found = yield
    bench.follow(found.remedy)
    limit = bench.server.value("select rolconnlimit from pg_roles where rolname = 'pgcollector'")
    assert limit == 2


@case("login", Level.WARN, "1 of the 2 sessions of role pgcollector are taken by others")
def somebody_else_has_a_session_of_the_role(bench: Bench) -> Case:
    bench.stack.callback(bench.sql, "alter role pgcollector connection limit 2")
    with bench.session("pgcollector"):
        found = yield
        bench.follow(found.remedy)
        assert not bad(bench.check(Part.POSTGRES), "login")


@case("login", Level.FAIL, "too many connections for role")
def the_sessions_of_the_role_are_all_taken(bench: Bench) -> Case:
    bench.stack.callback(bench.sql, "alter role pgcollector connection limit 2")
    with bench.session("pgcollector"), bench.session("pgcollector"):
        found = yield
        assert found.measured["sqlstate"] == "53300"
        ((limit, sessions),) = bench.server.query(re.sub(r"--.*", "", found.remedy))
        assert (limit, sessions) == (2, 2)
        assert "raise by 2: ALTER ROLE pgcollector CONNECTION LIMIT" in found.remedy
        bench.sql(f"alter role pgcollector connection limit {limit + 2}")
        assert not bad(bench.check(Part.POSTGRES), "login")


@case("login", Level.FAIL, "too many connections for database")
def the_sessions_of_the_database_are_all_taken(bench: Bench) -> Case:
    _in_a_database(bench, "small")
    bench.sql("alter database small connection limit 3")
    with bench.session("plain", dbname="small"), ExitStack() as others:
        for _ in range(2):
            others.enter_context(bench.session("plain", dbname="small"))
        found = yield
        ((limit, sessions),) = bench.server.query(re.sub(r"--.*", "", found.remedy))
        assert (limit, sessions) == (3, 3)
        assert "raise by 2: ALTER DATABASE small CONNECTION LIMIT" in found.remedy
        bench.sql(f"alter database small connection limit {limit + 2}")


@case("login", Level.WARN, "the database narrow may have 1 session")
def the_database_has_no_place_for_both(bench: Bench) -> Case:
    _in_a_database(bench, "narrow")
    bench.sql("alter database narrow connection limit 1")
    found = yield
    bench.follow(found.remedy)


@case("login", Level.WARN, "of the 7 sessions that the server has for all are taken")
def the_server_is_nearly_full(bench: Bench) -> Case:
    usual = bench.server.value("show max_connections")
    bench.server.restart({"max_connections": "10"})
    bench.stack.callback(bench.server.restart, {"max_connections": usual})
    with ExitStack() as crowd:
        for _ in range(6):
            crowd.enter_context(bench.session("plain"))
        found = yield
        shown = bench.server.query(re.sub(r"--.*", "", found.remedy))
        assert shown[0][0] == "plain"
        assert int(shown[0][2]) == 6


@case("pgss", Level.WARN, "not loaded by this server, as far as role bare is shown")
def the_library_is_not_loaded_as_far_as_a_role_is_shown(bench: Bench) -> Case:
    bench.sql("create role bare login")
    bench.stack.callback(bench.sql, "drop role bare")
    bench.dsn("bare")
    bench.server.restart({"shared_preload_libraries": "auto_explain"})
    usual = {"shared_preload_libraries": "pg_stat_statements"}
    bench.stack.callback(bench.server.restart, usual)
    found = yield
    assert "ALTER SYSTEM" not in found.remedy, "what is loaded would be lost"
    bench.server.restart({"shared_preload_libraries": "auto_explain, pg_stat_statements"})


@case("login", Level.FAIL, "is not permitted to log in")
def the_role_may_not_log_in(bench: Bench) -> Case:
    bench.sql("alter role pgcollector nologin")
    found = yield
    bench.follow(found.remedy)


@case("login", Level.WARN, "is a superuser")
def the_role_is_a_superuser(bench: Bench) -> Case:
    bench.sql("alter role plain superuser")
    bench.stack.callback(bench.sql, "revoke pg_monitor from plain")
    bench.dsn("plain")
    found = yield
    bench.follow(found.remedy)


@case("login", Level.WARN, "CREATEDB, pg_read_all_data")
def the_role_may_do_more_than_it_needs(bench: Bench) -> Case:
    bench.sql("alter role pgcollector createdb", "grant pg_read_all_data to pgcollector")
    found = yield
    bench.follow(found.remedy)


@case("login", Level.WARN, "CREATEDB, pg_write_all_data")
def an_application_needs_what_the_role_may_do(bench: Bench) -> Case:
    bench.sql(
        "drop role if exists app", "create role app login createdb",
        "grant pg_write_all_data, pg_monitor to app",
    )  # fmt: skip
    bench.stack.callback(bench.sql, "drop role app")
    bench.dsn("app")
    with bench.session("app", application_name="shop"):
        found = yield
        assert found.remedy.startswith("pgc setup sql | sudo -u postgres psql ")
        assert "user=pgcollector" in found.remedy
        bench.dsn("pgcollector")


@case("login", Level.WARN, "is a superuser")
def somebody_else_is_the_superuser_too(bench: Bench) -> Case:
    bench.sql("create role alice login superuser", "grant pg_monitor to alice")
    bench.stack.callback(bench.sql, "drop role alice")
    bench.dsn("alice")
    with bench.session("alice", application_name="psql"):
        found = yield
        assert found.remedy.startswith("pgc setup sql | sudo -u postgres psql ")
        bench.dsn("pgcollector")


@case("login", Level.WARN, "may not connect to shut, which discover is to visit")
def a_database_is_closed_to_the_role(bench: Bench) -> Case:
    _in_a_database(bench, "shut")
    bench.sql("revoke connect on database shut from public")
    bench.dsn("pgcollector")
    bench.keys["databases"][0]["discover"] = {"enabled": True, "exclude": ["postgres"]}
    found = yield
    bench.follow(found.remedy)


@case("login", Level.WARN, "the password of role pgcollector ends in 3.0 d")
def the_password_ends_soon(bench: Bench) -> Case:
    ends = bench.server.value("select (now() + interval '3 days')::text")
    bench.sql(f"alter role pgcollector valid until '{ends}'")
    found = yield
    bench.follow(found.remedy)


@case("login", Level.FAIL, "password authentication failed")
def the_password_is_wrong(bench: Bench) -> Case:
    with_password(bench, "wrong")
    found = yield
    assert "postgres.password_file" in found.remedy
    bench.secret(PASSWORD)


@case("login", Level.FAIL, 'database "nowhere" does not exist')
def the_database_is_none(bench: Bench) -> Case:
    bench.dsn("pgcollector", "nowhere")
    found = yield
    assert "Name a database that exists" in found.remedy
    bench.dsn("pgcollector", "postgres")


@case("login", Level.FAIL, "connection pooler")
def a_pooler_is_in_between(bench: Bench) -> Case:
    bouncer = bench.stack.enter_context(start_pgbouncer(bench.server))
    bench.postgres["conn_string"] = bouncer.dsn(sslmode="disable")
    found = yield
    assert "Connect to PostgreSQL directly" in found.remedy
    bench.dsn("pgcollector")


# --- pg_stat_statements and settings


@case("pgss", Level.WARN, 'loaded, extension missing in "bare"')
def the_extension_is_missing_in_the_database(bench: Bench) -> Case:
    _in_a_database(bench, "bare")
    found = yield
    bench.follow(found.remedy, "bare")


@case("pgss", Level.WARN, "columns are missing")
def the_extension_is_older_than_the_server(bench: Bench) -> Case:
    _in_a_database(bench, "old")
    bench.sql("create extension pg_stat_statements version '1.9'", dbname="old")
    found = yield
    bench.follow(found.remedy, "old")


@case("pgss", Level.WARN, "not loaded by this server")
def the_library_is_not_loaded(bench: Bench) -> Case:
    bench.server.restart({"shared_preload_libraries": "auto_explain,pg_prewarm"})
    found = yield
    assert "then restart PostgreSQL" in found.remedy
    bench.follow(found.remedy)
    bench.server.reload()
    (waiting,) = bad(bench.check(Part.POSTGRES), "pgss")
    assert "waits for a restart" in waiting.found
    bench.server.restart()
    loaded = bench.server.value("show shared_preload_libraries")
    assert [one.strip() for one in loaded.split(",")] == [
        "auto_explain", "pg_prewarm", "pg_stat_statements",
    ]  # fmt: skip
    bench.sql("alter system reset all")
    bench.server.settings["shared_preload_libraries"] = "pg_stat_statements"


@case("pgss", Level.WARN, "too small: entries were evicted")
def there_is_no_room_for_all_statements(bench: Bench) -> Case:
    bench.server.restart({"pg_stat_statements.max": "100"})
    bench.sql("select pg_stat_statements_reset()")
    bench.sql(*(f"select 1{', 1' * n}" for n in range(400)))  # each has an entry of its own
    found = yield
    bench.follow(found.remedy)
    bench.server.restart()
    assert bench.server.value("show pg_stat_statements.max") == "200"
    assert bench.server.value("select dealloc from pg_stat_statements_info") > 1, "it outlasts it"
    bench.stack.callback(bench.server.restart, {"pg_stat_statements.max": "12000"})
    bench.stack.callback(bench.sql, "alter system reset all")


@case("settings", Level.WARN, "track_io_timing is off: the times of reads and writes are 0")
def io_is_not_timed(bench: Bench) -> Case:
    bench.sql("alter system set track_io_timing = off")
    bench.server.reload()
    found = yield
    bench.follow(found.remedy)


@case("settings", Level.WARN, "compute_query_id is off")
def statements_have_no_id(bench: Bench) -> Case:
    bench.sql("alter system set compute_query_id = off")
    bench.server.reload()
    found = yield
    bench.follow(found.remedy)


@case("settings", Level.WARN, "track_counts is off")
def one_database_counts_nothing(bench: Bench) -> Case:
    bench.sql("alter database postgres set track_counts = off")
    found = yield
    assert found.remedy.startswith("ALTER DATABASE postgres")
    bench.follow(found.remedy)
    bench.stack.callback(bench.sql, "alter database postgres reset track_counts")


@case("settings", Level.WARN, "the query of 1 session is cut off at 1024 bytes")
def a_query_is_longer_than_what_is_shown(bench: Bench) -> Case:
    long = f"select 1 /* {'x' * 2000} */".encode()
    with bench.session("postgres") as session:
        session.execute(long)
        found = yield
    assert "then restart PostgreSQL" in found.remedy
    bench.follow(found.remedy)
    bench.server.restart()
    session = bench.stack.enter_context(bench.session("postgres"))
    session.execute(long)


# --- the way there, and TLS


@case("network", Level.FAIL, "the name cannot be resolved")
def the_host_is_unknown(bench: Bench) -> Case:
    bench.dsn("pgcollector", host="nowhere.invalid")
    found = yield
    assert found.unreachable
    assert "mend the name in conn_string" in found.remedy
    bench.dsn("pgcollector")


@case("network", Level.FAIL, "connection refused")
def nobody_listens_there(bench: Bench) -> Case:
    bench.dsn("pgcollector", port=free_port())
    found = yield
    assert found.unreachable
    assert "ss -ltn" in found.remedy
    bench.dsn("pgcollector")


@case("tls", Level.FAIL, "server does not support SSL")
def the_server_speaks_no_tls(bench: Bench) -> Case:
    bench.secured()
    bench.sql("alter system set ssl = off")
    bench.server.reload()
    found = yield
    assert "(ssl = on)" in found.remedy
    bench.sql("alter system set ssl = on")
    bench.server.reload()


@case("tls", Level.FAIL, "signed by an authority that is not trusted here")
def the_authority_is_another_one(bench: Bench) -> Case:
    bench.secured(ca_file=str(bench.pki.other.ca))
    found = yield
    assert "postgres.tls.ca_file" in found.remedy
    bench.secured()


@case("tls", Level.FAIL, "does not match host name")
def the_certificate_is_of_another_host(bench: Bench) -> Case:
    bench.secured()
    bench.dsn("pgcollector", sslmode=None, host="db.example.test", hostaddr="127.0.0.1")
    found = yield
    assert "Write the name that the certificate has as host in conn_string" in found.remedy
    bench.secured()


@case("tls", Level.WARN, "client cert ends in 10 d")
def the_client_certificate_ends_soon(bench: Bench) -> Case:
    leaf = bench.pki.issue("nearly", "pgcollector", client=True, days=(-80, 10))
    cert = with_certificate(bench, leaf)
    found = yield
    assert f"Renew {cert}" in found.remedy
    bench.own(bench.pki.client, "own")


@case("tls", Level.FAIL, "client cert expired on")
def the_client_certificate_has_expired(bench: Bench) -> Case:
    cert = with_certificate(bench, bench.pki.expired_client)
    found = yield
    assert f"Renew {cert}" in found.remedy
    bench.own(bench.pki.client, "own")


@case("tls", Level.FAIL, "certificate has expired")
def the_server_certificate_has_expired(bench: Bench) -> Case:
    bench.secured()
    present(bench, bench.pki.expired_server)
    found = yield
    assert "Renew the server's certificate" in found.remedy
    present(bench, bench.pki.server)


def _in_a_database(bench: Bench, name: str) -> None:
    bench.sql(f"create database {name}")
    bench.stack.callback(bench.server.database(name).drop)
    bench.dsn("pgcollector", name)
