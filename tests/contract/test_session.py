"""A session on every version: what it may do, what it gives back, what it leaves behind."""

import datetime as dt
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pg_collector.config.model import Database as Target
from pg_collector.config.model import Tls, TlsMode
from pg_collector.errors import (
    Reason,
    SamplerError,
    SamplerTimeout,
    SamplerUnavailable,
    TargetDown,
    TargetRefused,
)
from pg_collector.pg.prepared import MOST
from pg_collector.pg.session import Session
from pg_collector.sample import Answer
from tests.conftest import Lab, chosen_majors
from tests.support.conditions.session import sessions
from tests.support.lab.server import Database, Server
from tests.support.pki import Pki
from tests.support.target import target
from tests.support.until import until

NONE: frozenset[str] = frozenset()
PASSWORD = "correct horse battery"  # noqa: S105


@contextmanager
def opened(database: Target, **more: Any) -> Iterator[Session]:
    session = Session.open(database, relations=NONE, **more)
    try:
        yield session
    finally:
        session.close()


@pytest.fixture
def session(server: Server) -> Iterator[Session]:
    ours = "select count(*) from pg_stat_activity where usename = 'pgcollector'"
    until(lambda: server.value(ours) == 0, what="sessions of earlier tests are gone")
    with opened(target(server.dsn())) as session:
        yield session


@pytest.fixture
def newest(lab: Lab) -> Server:
    """For what does not depend on the version."""
    return lab.newest()


# --- what it may do


def test_its_settings_hold_from_the_first_statement_on(session: Session):
    wanted = {
        "default_transaction_read_only": "on",
        "statement_timeout": "4s",
        "lock_timeout": "100ms",
        "idle_in_transaction_session_timeout": "10s",
        "search_path": "pg_catalog",
        "jit": "off",
        "max_parallel_workers_per_gather": "0",
        "TimeZone": "UTC",
        "DateStyle": "ISO, MDY",
        "IntervalStyle": "postgres",
        "application_name": "pg-collector",
        "client_encoding": "UTF8",
        "tcp_keepalives_idle": "10",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "3",
        "tcp_user_timeout": "15000",
    }
    names = ", ".join(f"current_setting('{name}')" for name in wanted)
    assert dict(zip(wanted, session.fetch(f"select {names}").rows[0], strict=True)) == wanted
    sources = "select distinct source from pg_settings where name in ('jit', 'search_path')"
    assert session.fetch(sources).rows == [("client",)]


def test_the_roles_own_settings_do_not_win(fresh_server: Server):
    fresh_server.query("alter role pgcollector set default_transaction_read_only = off")
    fresh_server.query("alter role pgcollector set statement_timeout = 0")
    fresh_server.query("alter role pgcollector set search_path = public")
    with opened(target(fresh_server.dsn())) as session:
        assert session.fetch("select current_setting('statement_timeout')").rows == [("4s",)]


@pytest.mark.parametrize(
    "sql",
    ["create table t ()", "create temp sequence s", "select nextval('pg_class')"],
)
def test_it_cannot_write(session: Session, sql: str):
    with pytest.raises(SamplerError):
        session.fetch(sql)
    assert session.alive


def test_it_takes_no_transaction_id_and_stays_in_no_transaction(session: Session, server: Server):
    next_id = "select txid_snapshot_xmax(txid_current_snapshot())"
    before = server.value(next_id)
    for _ in range(50):
        session.moment()
        session.fetch("select * from pg_stat_activity")
    session.refresh()
    assert server.value(next_id) == before
    state = (
        "select state, backend_xid, backend_xmin, xact_start from pg_stat_activity where pid = %s"
    )
    assert server.query(state, [session.backend_pid]) == [("idle", None, None, None)]


PREPARED = "select statement from pg_prepared_statements order by 1"


def test_what_is_asked_again_is_prepared_once_and_what_is_fetched_never(session: Session):
    for _ in range(12):
        session.fetch("select %(x)s::int", {"x": 1})
    for turn in range(3):
        assert session.fetch(PREPARED).rows == ([] if turn < 2 else [("select $1::int",)])
        for number in range(1 + turn):
            (answer,) = session.stream("select %(x)s::int", {"x": number})
            assert answer.rows == [(number,)]


def test_a_prepared_statement_whose_columns_became_others_is_prepared_anew(
    session: Session, server: Server
):
    def asked() -> list[Answer]:
        return list(session.stream("select * from public.changing order by 1"))

    first: list[Answer] = []
    try:
        for columns in ("1 as a", "2::text as b, 3 as c"):
            server.query("drop view if exists changing")
            server.query(f"create view changing as select {columns}")
            server.query("grant select on changing to public")
            first = asked()
            assert first == asked() == asked()
        assert first == [Answer(("b", "c"), [("2", 3)])]
    finally:
        server.query("drop view if exists changing")


def test_a_session_keeps_a_bounded_number_of_statements(session: Session):
    for number in range(MOST + 20):
        for _ in range(3):
            assert next(session.stream(f"select {number}")).rows == [(number,)]
    (row,) = session.fetch("select count(*) from pg_prepared_statements").rows
    assert row == (MOST,)


# --- what it gives back

VALUES: list[tuple[str, Any]] = [
    ("1::int2", 1),
    ("9223372036854775807", 9223372036854775807),
    ("4294967295::oid", 4294967295),
    ("true", True),
    ("1.5::float8", 1.5),
    ("0.1::float4", 0.1),
    ("'NaN'::float8", None),
    ("'-Infinity'::float4", None),
    ("12345678901234567890123::numeric", 12345678901234567890123),
    ("1.50::numeric", 1.5),
    ("2.000::numeric", 2),
    ("-0.5::numeric", -0.5),
    ("'NaN'::numeric", None),
    ("'2026-11-22 18:00:00.1234+02'::timestamptz", "2026-11-22T16:00:00.123400Z"),
    ("'2026-11-22 18:00:00+00'::timestamptz", "2026-11-22T18:00:00.000000Z"),
    ("'infinity'::timestamptz", None),
    ("'-infinity'::timestamptz", None),
    ("'0044-03-15 BC'::timestamptz", None),
    ("'20000-01-01'::timestamptz", None),
    ("'2026-11-22 18:00:00.5'::timestamp", "2026-11-22T18:00:00.500000"),
    ("'infinity'::timestamp", None),
    ("'1 day 02:03:04.5'::interval", 93784.5),
    ("'-00:00:01'::interval", -1.0),
    ("'10.0.0.1'::inet", "10.0.0.1"),
    ("'10.0.0.0/8'::cidr", "10.0.0.0/8"),
    ("'0/16B3748'::pg_lsn", "0/16B3748"),
    ("'123'::xid", "123"),
    ("'pg_class'::regclass", "pg_class"),
    ("'abc'::name", "abc"),
    ("'r'::\"char\"", "r"),
    ("'\\x00ff'::bytea", "\\x00ff"),
    ("'{1,2,NULL}'::int[]", [1, 2, None]),
    ("'{a,\"b c\"}'::text[]", ["a", "b c"]),
    ("'{2026-11-22 18:00:00+00}'::timestamptz[]", ["2026-11-22T18:00:00.000000Z"]),
    ("'{\"a\": [1, 2.5]}'::jsonb", {"a": [1, 2.5]}),
    ("'[1,5)'::int4range", "[1,5)"),
    ("row(1, 'x')", "(1,x)"),
    ("null::text", None),
    ("txid_current_snapshot()::text is null", False),
]


def test_every_value_is_ready_for_json(session: Session):
    got = session.fetch("select " + ", ".join(sql for sql, _ in VALUES)).rows[0]
    for (sql, expected), value in zip(VALUES, got, strict=True):
        assert (type(value), value) == (type(expected), expected), sql
    json.dumps(got, allow_nan=False)


def test_whole_views_are_ready_for_json(server: Server, session: Session):
    views = "select relname from pg_class where relkind = 'v' and relname ~ '^pg_stat' and relnamespace = 'pg_catalog'::regnamespace"  # noqa: E501
    for (view,) in server.query(views):
        try:
            answer = session.fetch(f"select * from {view}")
        except SamplerUnavailable:
            continue
        json.dumps(answer.rows, allow_nan=False)


def test_infinite_intervals_are_none(newest: Server):
    with opened(target(newest.dsn())) as session:
        assert session.fetch("select 'infinity'::interval, '-infinity'::interval").rows == [
            (None, None)
        ]


def test_parameters_are_values_and_lists(session: Session):
    sql = "select %(n)s::int + 1, %(part)s::int is null, 3 = any(%(ids)s), %(t)s"
    params = {"n": 1, "part": None, "ids": [1, 2, 3], "t": "it's"}
    assert session.fetch(sql, params).rows == [(2, True, True, "it's")]


def test_percent_signs_need_no_escape_where_there_are_no_parameters(session: Session):
    assert session.fetch("select 'abc' like 'a%'").rows == [(True,)]


def test_columns_are_named_also_where_there_is_no_row(session: Session):
    answer = session.fetch("select pid, state from pg_stat_activity where false")
    assert (answer.columns, answer.rows) == (("pid", "state"), [])


def test_the_moment_is_the_servers_clock(session: Session, server: Server):
    moments = [session.moment() for _ in range(2)]
    assert moments[0].at < moments[1].at
    assert not moments[0].in_recovery
    seen = dt.datetime.fromisoformat(moments[0].at)
    assert abs(server.value("select clock_timestamp()") - seen) < dt.timedelta(seconds=10)


# --- streams


def test_a_stream_comes_in_chunks_and_whole(session: Session):
    chunks = list(session.stream("select i, 'x' as t from generate_series(1, 1234) i", chunk=500))
    assert [len(chunk.rows) for chunk in chunks] == [500, 500, 234]
    assert {chunk.columns for chunk in chunks} == {("i", "t")}
    assert [row[0] for chunk in chunks for row in chunk.rows] == list(range(1, 1235))
    assert list(session.stream("select 1 where false")) == []
    assert len(next(session.stream("select %(a)s::int", {"a": 1})).rows) == 1
    for _ in range(3):  # prepared from the second time on; whole chunks, and an end of their own
        found = list(session.stream("select generate_series(1, %(n)s)", {"n": 1000}, chunk=500))
        assert [len(chunk.rows) for chunk in found] == [500, 500]


def test_lists_in_parameters_hold_any_text(session: Session):
    texts = ["plain", "it's", 'a "b" \\c', "{x,y}", "", "null", "ünï"]
    sql = "select unnest(%(texts)s::text[]), 1 = any(%(ids)s::int8[]), '%%' "
    for _ in range(3):
        (answer,) = session.stream(sql, {"texts": texts, "ids": [3, 1]})
        assert answer.rows == [(text, True, "%") for text in texts]


def test_an_abandoned_stream_leaves_the_session_usable(session: Session):
    pid = session.backend_pid
    stream = session.stream("select i, repeat('x', 1000) from generate_series(1, 1000000) i")
    assert len(next(stream).rows) == 500
    del stream
    assert session.fetch("select pg_backend_pid()").rows == [(pid,)]


def test_a_stream_that_was_cut_by_another_statement_says_so(session: Session):
    stream = session.stream("select * from generate_series(1, 1000000)")
    next(stream)
    session.moment()
    with pytest.raises(SamplerError, match="cut off"):
        next(stream)
    assert session.alive


def test_a_stream_that_fails_is_translated_and_the_session_lives(session: Session):
    with pytest.raises(SamplerUnavailable):
        next(session.stream("select nope"))
    assert session.stale
    broken = "select 1 / (1000 - i) from generate_series(1, 2000) i"
    with pytest.raises(SamplerError, match="division by zero"):
        list(session.stream(broken, chunk=100))
    assert session.fetch("select 1").rows == [(1,)]


# --- bounds that the server keeps


def test_a_slow_statement_ends_and_the_session_lives(server: Server):
    with opened(target(server.dsn(), query_timeout=1.0)) as session:
        started = time.monotonic()
        with pytest.raises(SamplerTimeout) as timeout:
            session.fetch("select pg_sleep(10)")
        assert 0.4 < time.monotonic() - started < 1.0
        assert timeout.value.reason is Reason.TIMEOUT
        assert session.fetch("select 1").rows == [(1,)]


def test_a_shorter_bound_stops_the_server_too_and_the_session_lives(session: Session):
    started = time.monotonic()
    with pytest.raises(SamplerTimeout):
        session.fetch("select pg_sleep(10)", timeout=0.3)
    assert time.monotonic() - started < 0.8
    assert session.fetch("select 1").rows == [(1,)]


def test_a_longer_bound_than_the_configured_one_is_not_to_be_had(server: Server):
    with opened(target(server.dsn(), query_timeout=1.0)) as session:
        started = time.monotonic()
        with pytest.raises(SamplerTimeout):
            session.fetch("select pg_sleep(3)", timeout=3.0)
        assert time.monotonic() - started < 1.5


def test_a_held_lock_costs_a_tenth_of_a_second(database: Database):
    with opened(target(database.dsn())) as session, sessions(database, "holder") as [holder]:
        holder.do("create table held (id int)")
        holder.do("begin; lock table held")
        started = time.monotonic()
        with pytest.raises(SamplerTimeout) as timeout:
            session.fetch("select pg_relation_size('public.held')")
        assert timeout.value.reason is Reason.LOCK
        assert time.monotonic() - started < 1.0


# --- who is let in


@pytest.fixture(scope="module")
def asking(major: int) -> Iterator[Server]:
    """A server that asks for passwords on loopback."""
    method = "scram-sha-256" if major >= 14 else "md5"
    with Server(major, hba=[f"host all pgcollector 127.0.0.1/32 {method}"]) as server:
        yield server


@pytest.fixture
def guarded(asking: Server) -> Server:
    """The same, with the password as it should be."""
    asking.query(f"alter role pgcollector password '{PASSWORD}'")
    return asking


def test_the_password_comes_from_the_file_and_may_change(guarded: Server, tmp_path: Path):
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    database = target(guarded.dsn(), password_file=file)
    with opened(database) as session:
        assert session.facts.role == "pgcollector"
    guarded.query("alter role pgcollector password 'new one'")
    file.write_text("new one")
    with opened(database):
        pass


@pytest.mark.parametrize(
    ("dsn", "sqlstate", "remedy"),
    [
        ({"password": "hunter2hunter2"}, "28P01", "password_file"),
        ({}, None, "password_file"),
        ({"user": "plain", "password": "hunter2hunter2"}, "28000", "pg_hba.conf"),
        ({"password": PASSWORD, "dbname": "nope"}, "3D000", "nope"),
        ({"password": PASSWORD, "options": "-c nope=1"}, "42704", "options"),
    ],
)
def test_a_refusal_names_its_remedy_and_no_secret(
    guarded: Server, dsn: dict[str, str], sqlstate: str | None, remedy: str
):
    with pytest.raises(TargetRefused) as refused:
        Session.open(target(guarded.dsn(**dsn)), relations=NONE)
    assert refused.value.sqlstate == sqlstate
    assert remedy in refused.value.remedy
    error: BaseException | None = refused.value
    while error is not None:
        assert "hunter2" not in f"{error} {error!r} {refused.value.remedy}"
        error = error.__cause__


def test_a_database_without_connect_is_refused_with_the_grant(database: Database):
    database.query(f"revoke connect on database {database.name} from public")
    with pytest.raises(TargetRefused) as refused:
        Session.open(target(database.dsn()), relations=NONE)
    assert refused.value.remedy == f"GRANT CONNECT ON DATABASE {database.name} TO pgcollector;"


def test_a_role_over_its_connection_limit_waits_for_a_place(server: Server):
    database = target(server.dsn())
    with opened(database), opened(database):
        with pytest.raises(TargetDown) as down:
            Session.open(database, relations=NONE)
        assert down.value.sqlstate == "53300"
        assert "CONNECTION LIMIT" in down.value.remedy


def test_the_first_host_that_answers_is_taken(newest: Server):
    dsn = newest.dsn(host="127.0.0.1,127.0.0.1", port=f"1,{newest.port}")
    with opened(target(dsn)) as session:
        assert session.alive


def test_a_server_of_the_wrong_kind_is_passed_over(newest: Server):
    with pytest.raises(TargetDown, match="not in hot standby"):
        Session.open(target(newest.dsn(target_session_attrs="standby")), relations=NONE)
    for attrs in ("read-write", "prefer-standby", "primary"):
        with opened(target(newest.dsn(target_session_attrs=attrs))) as session:
            assert not session.facts.in_recovery


def test_it_works_over_the_unix_socket_without_tls(server: Server):
    dsn = server.dsn("postgres", host=str(server.base))
    with opened(target(dsn, sslmode=None, tls=Tls(mode=TlsMode.VERIFY_FULL))) as session:
        assert session.facts.superuser


# --- TLS

HOSTSSL = "hostssl all pgcollector 127.0.0.1/32"


@pytest.fixture(scope="module")
def secured(pki: Pki) -> Iterator[Server]:
    with Server(max(chosen_majors()), tls=pki, hba=[f"{HOSTSSL} trust"]) as server:
        yield server


def with_tls(server: Server, **tls: Any) -> Target:
    return target(server.dsn(host="localhost", hostaddr="127.0.0.1"), sslmode=None, tls=Tls(**tls))


def test_certificates_are_verified_by_default(secured: Server, pki: Pki):
    with opened(with_tls(secured, ca_file=str(pki.ca))) as session:
        assert session.fetch("select ssl from pg_stat_ssl where pid = pg_backend_pid()").rows == [
            (True,)
        ]
    with pytest.raises(TargetRefused, match="certificate verify failed") as refused:
        Session.open(with_tls(secured, ca_file=str(pki.other.ca)), relations=NONE)
    assert "ca_file" in refused.value.remedy


def test_the_name_is_verified_although_the_address_is_given(secured: Server, pki: Pki):
    dsn = secured.dsn(host="db.example.test", hostaddr="127.0.0.1")
    database = target(dsn, sslmode=None, tls=Tls(ca_file=str(pki.ca)))
    with pytest.raises(TargetRefused, match="does not match host name"):
        Session.open(database, relations=NONE)


def test_a_client_certificate_is_shown(secured: Server, pki: Pki):
    secured.allow([f"{HOSTSSL} cert"])
    client = {"cert_file": pki.client.certificate, "key_file": pki.client.key}
    with opened(with_tls(secured, ca_file=str(pki.ca), **client)) as session:
        assert session.facts.role == "pgcollector"
    with pytest.raises(TargetRefused) as refused:
        Session.open(with_tls(secured, ca_file=str(pki.ca)), relations=NONE)
    assert "cert_file" in refused.value.remedy


def test_a_server_without_tls_is_refused_unless_that_was_chosen(newest: Server, pki: Pki):
    with pytest.raises(TargetRefused, match="does not support SSL"):
        Session.open(with_tls(newest, ca_file=str(pki.ca)), relations=NONE)
    with opened(with_tls(newest, mode=TlsMode.PREFER)):
        pass


# --- the lab's own session, for comparison


def test_a_plain_session_would_have_failed_where_ours_does_not(newest: Server):
    with psycopg.connect(newest.dsn()) as plain, pytest.raises(psycopg.DataError):
        plain.execute("select 'infinity'::timestamptz").fetchall()
