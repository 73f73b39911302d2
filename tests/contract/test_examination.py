"""What `pgc check` asks a server: every version answers all of it, and nothing is written."""

from pg_collector.checkup.finding import Part
from pg_collector.pg import examination
from pg_collector.pg.examination import Examination
from pg_collector.pg.session import Session
from tests.support.checkup import Bench, bad
from tests.support.lab.replication import Pair
from tests.support.lab.server import Server
from tests.support.pki import Pki
from tests.support.sampling import RELATIONS, target


def examined(dsn: str) -> Examination:
    session = Session.open(target(dsn), relations=RELATIONS)
    try:
        return examination.read(session)
    finally:
        session.leave()


def test_a_monitoring_role_is_shown_everything(server: Server):
    server.vacated()
    numbers = "select txid_snapshot_xmax(txid_current_snapshot())"
    before = server.value(numbers)
    found = examined(server.dsn())
    assert server.value(numbers) == before, "no transaction id is used"
    assert (found.major, found.role, found.in_recovery) == (server.major, "pgcollector", False)
    assert found.release.startswith(str(server.major))
    assert found.standing is not None
    assert found.standing.monitor
    assert found.standing.reads_settings
    assert (found.standing.connection_limit, found.standing.powers) == (2, [])
    assert found.sessions is not None
    assert (found.sessions.own, found.sessions.hidden) == (1, 0)
    assert found.sessions.others > 0
    assert found.statements is not None
    assert found.statements.hidden == 0
    assert found.installed == found.available is not None
    assert (found.evictions is not None) is (server.major >= 14)
    since = {"compute_query_id": 14, "reserved_connections": 16}
    known = {name for name in examination.SETTINGS if server.major >= since.get(name, 0)}
    assert set(found.settings) == known
    assert abs(found.skew_s) < 1
    assert not found.late


def test_a_plain_role_is_shown_that_something_is_hidden(server: Server):
    found = examined(server.dsn("plain"))
    assert not found.reads_all_stats
    assert found.sessions is not None
    assert found.sessions.hidden > 0
    assert found.statements is not None
    assert found.statements.hidden > 0
    assert "shared_preload_libraries" not in found.settings
    assert found.settings["pg_stat_statements.max"].setting == "12000"


def test_a_standby_answers_as_well(pair: Pair):
    pair.standby.vacated()
    found = examined(pair.standby.dsn())
    assert found.in_recovery
    assert found.standing is not None
    assert found.statements is not None
    assert found.sessions is not None
    assert found.sessions.clients >= found.sessions.own == 1


def test_what_mends_a_standby_is_run_on_its_primary(pair: Pair, pki: Pki):
    bench = Bench(pair.standby, pki)
    bench.dsn("plain")
    (hidden,) = bad(bench.check(Part.POSTGRES), "grants")
    assert hidden.remedy == "GRANT pg_monitor TO plain;  -- on the primary"
    pair.primary.query(hidden.remedy)
    try:
        pair.caught_up()
        assert not bad(bench.check(Part.POSTGRES), "grants")
    finally:
        pair.primary.query("revoke pg_monitor from plain")
        pair.caught_up()
        bench.close()


def test_a_server_that_cannot_keep_up_is_asked_for_no_more(newest_server: Server):
    newest_server.query("create database test_slow")
    database = newest_server.database("test_slow")
    database.query("create schema slow; create extension pg_stat_statements schema slow")
    database.query("grant usage on schema slow to public")
    database.query("alter function slow.pg_stat_statements(bool) rename to others")
    database.query(
        "create function slow.pg_stat_statements(bool, out queryid bigint) returns setof bigint"
        " language sql as 'select 1::bigint from pg_sleep(60)'"
    )
    session = Session.open(target(database.dsn("plain"), query_timeout=2.0), relations=RELATIONS)
    try:
        found = examination.read(session)
        assert found.installed
        assert found.statements is None
        assert found.evictions is None, "what comes after the first time limit"
        assert found.late
        assert found.standing is not None
        assert session.alive
        assert session.waited < 3
    finally:
        session.leave()
        database.drop()
