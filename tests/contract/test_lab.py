"""The lab does what the other tests rely on, on every version."""

import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.support.conditions.archiving import archiving
from tests.support.conditions.crowd import latin1_session, many_sessions, many_tables
from tests.support.conditions.locks import blocked_chain, deadlock, idle_in_transaction
from tests.support.conditions.maintenance import forced_checkpoint, vacuum_in_progress
from tests.support.conditions.slots import decoded_slot, invalidated_slot, retained_slots
from tests.support.conditions.statements import evicted_statements, statements
from tests.support.lab.replication import Pair, logical_replication
from tests.support.lab.server import Database, Server, binaries
from tests.support.pki import Pki
from tests.support.scratch import sweep
from tests.support.until import until


def gone(pid: int) -> bool:
    """Say whether a process has ended, also when nobody collected it yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_waiting_in_vain_says_what_was_seen_last():
    with pytest.raises(AssertionError, match=r"not within 0.1 s: a miracle; last seen: 0"):
        until(lambda: 0, 0.1, "a miracle")


# --- the server


def test_a_server_is_what_its_version_says_and_has_the_two_roles(server: Server, major: int):
    assert int(server.value("show server_version_num")) // 10_000 == major
    roles = server.query("""
        select rolname, rolconnlimit, pg_has_role(rolname, 'pg_monitor', 'member')
        from pg_roles where rolname in ('pgcollector', 'plain') order by 1
    """)
    assert roles == [("pgcollector", 2, True), ("plain", -1, False)]
    assert server.query("select 1 from pg_extension where extname = 'pg_stat_statements'")


def test_pgcollector_has_two_connections_and_no_third(server: Server):
    refused = pytest.raises(psycopg.OperationalError, match="too many connections for role")
    with psycopg.connect(server.dsn()), psycopg.connect(server.dsn()), refused:
        psycopg.connect(server.dsn())


def test_settings_change_with_and_without_a_restart(fresh_server: Server):
    port = fresh_server.port
    fresh_server.reconfigure({"work_mem": "7MB"})
    assert fresh_server.value("show work_mem") == "7MB"
    fresh_server.restart({"max_connections": "33"})
    assert fresh_server.value("show max_connections") == "33"
    assert fresh_server.port == port


def test_access_rules_can_be_replaced(fresh_server: Server):
    fresh_server.query("alter role plain password 'secret'")
    fresh_server.allow(["host all plain 127.0.0.1/32 scram-sha-256"])
    with pytest.raises(psycopg.OperationalError, match="no pg_hba"):
        psycopg.connect(fresh_server.dsn())
    psycopg.connect(fresh_server.dsn("plain", password="secret")).close()  # noqa: S106


def test_a_killed_backend_makes_the_server_recover(fresh_server: Server):
    with fresh_server.connect() as session:
        fresh_server.kill_backend(session.info.backend_pid)
        with pytest.raises(psycopg.OperationalError):
            session.execute("select 1")
    fresh_server.wait_ready()
    assert "terminated by signal 9" in fresh_server.log.read_text()


def test_a_paused_server_accepts_bytes_and_does_not_answer(server: Server):
    with server.paused(), socket.create_connection((server.host, server.port), 2) as client:
        client.sendall(struct.pack("!II", 8, 80877103))  # may we speak TLS?
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(1)
    psycopg.connect(server.dsn()).close()


def test_nothing_is_left_when_the_test_process_is_killed(tmp_path: Path, major: int):
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "from tests.support.lab.server import Server\n"
        f"server = Server({major}).start()\n"
        "server.pause()\n"
        "print(server.pid, server.base, flush=True)\n"
        "sys.stdin.read()\n"
    )
    binaries(major)
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [sys.executable, program], env={**os.environ, "PYTHONPATH": paths}, cwd=root,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        assert running.stdout is not None
        pid, base = running.stdout.readline().split()
        children = psutil.Process(int(pid)).children(recursive=True)
        running.send_signal(signal.SIGKILL)
    until(lambda: gone(int(pid)), what="the server ended")
    until(lambda: all(gone(child.pid) for child in children), what="its processes ended")

    def swept() -> bool:
        sweep(Path(base).parents[1])
        return not Path(base).exists()

    until(swept, what="its files are removed by the next one")


def test_tls_with_client_certificates_works(pki: Pki, major: int):
    rule = "hostssl all pgcollector 127.0.0.1/32 cert"
    with Server(major, tls=pki, hba=[rule]) as server:
        sure = {"sslmode": "verify-full", "sslrootcert": str(pki.ca), "host": "localhost",
                "hostaddr": "127.0.0.1"}  # fmt: skip
        mine = {"sslcert": str(pki.client.certificate), "sslkey": str(pki.client.key)}
        old = {"sslcert": str(pki.expired_client.certificate),
               "sslkey": str(pki.expired_client.key)}  # fmt: skip
        with psycopg.connect(server.dsn(**sure, **mine)) as session:
            seen = session.execute("select client_dn from pg_stat_ssl where pid = pg_backend_pid()")
            assert seen.fetchall() == [("/CN=pgcollector",)]
        with pytest.raises(psycopg.OperationalError, match="certificate expired"):
            psycopg.connect(server.dsn(**sure, **old))
        with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
            psycopg.connect(server.dsn(**{**sure, "sslrootcert": str(pki.other.ca)}, **mine))


# --- replication


def test_a_standby_streams_and_lags_when_replay_is_held_back(pair: Pair):
    pair.primary.query("create table if not exists lagging (i int)")
    pair.caught_up()
    with pair.replay_paused():
        pair.primary.query("insert into lagging select generate_series(1, 50000)")
        lag = "select pg_wal_lsn_diff(sent_lsn, replay_lsn) > 3000000 from pg_stat_replication"
        until(lambda: pair.primary.value(lag), what="the standby lags")
    pair.caught_up()
    received = psycopg.connect(pair.standby.dsn())
    with received:
        assert received.execute("select slot_name from pg_stat_wal_receiver").fetchall() == [
            ("standby",)
        ]


def test_a_standby_can_be_promoted(fresh_pair: Pair):
    fresh_pair.promote()
    fresh_pair.standby.query("create table written (i int)")


def test_rows_flow_between_two_databases_of_one_server(database: Database):
    database.server.query("create database other_side")
    other = database.server.database("other_side")
    with logical_replication(database, other) as flow:
        database.query(f"insert into {flow.table} values (2), (3)")
        flow.caught_up()
        assert other.value("select count(*) from pg_stat_subscription where pid is not null") >= 1
    other.drop()


# --- conditions


def test_three_sessions_wait_in_a_chain(database: Database):
    with blocked_chain(database) as chain:
        blockers = "select pg_blocking_pids(%s)"
        assert database.value(blockers, [chain.middle]) == [chain.head]
        assert database.value(blockers, [chain.tail]) == [chain.middle]
    assert not database.query("select 1 from pg_locks where not granted")


@pytest.mark.parametrize("aborted", [False, True])
def test_a_session_is_idle_in_transaction(database: Database, aborted: bool):  # noqa: FBT001
    with idle_in_transaction(database, aborted=aborted) as idle:
        state = database.value("select state from pg_stat_activity where pid = %s", [idle.pid])
        assert state == idle.state


def test_a_deadlock_is_counted_once(database: Database):
    with deadlock(database) as counted:
        assert (counted.before, counted.after) == (0, 1)


def test_a_forced_checkpoint_is_counted(server: Server):
    with forced_checkpoint(server) as counted:
        assert counted.after == counted.before + 1


def test_a_vacuum_stays_in_progress(database: Database):
    with vacuum_in_progress(database) as vacuum:
        seen = database.query("select pid, relid::int8 from pg_stat_progress_vacuum")
        assert seen == [(vacuum.pid, vacuum.relid)]
    assert not database.query("select 1 from pg_stat_progress_vacuum")


def test_inactive_slots_hold_wal_back(database: Database):
    with retained_slots(database) as slots:
        assert slots.at_least > 1_000_000
    assert not database.query("select 1 from pg_replication_slots")


def test_a_slot_is_invalidated(database: Database, major: int):
    if major < 13:
        pytest.skip("PostgreSQL 12 never invalidates a slot")
    with invalidated_slot(database) as slot:
        status = "select wal_status from pg_replication_slots where slot_name = %s"
        assert database.value(status, [slot.name]) == "lost"


def test_decoding_is_counted(database: Database, major: int):
    with decoded_slot(database) as slot:
        assert slot.transactions == (1 if major >= 14 else 0)


def test_archiving_fails_then_works(fresh_server: Server):
    with archiving(fresh_server) as archive:
        assert archive.fail() == 1
        assert archive.work() >= 1
        assert list(archive.directory.iterdir())


def test_ten_thousand_distinct_statements_are_held(database: Database):
    with statements(database, 10_000) as held:
        assert held.held == held.run == 10_000


def test_statements_are_evicted(fresh_server: Server, major: int):
    with evicted_statements(fresh_server) as held:
        assert held.held < 100
        if major >= 14:
            assert fresh_server.value("select dealloc from pg_stat_statements_info") > 0


def test_many_tables_are_made(database: Database):
    with many_tables(database, 300) as tables:
        count = "select count(*) from pg_stat_user_tables where schemaname = %s"
        assert database.value(count, [tables.schema]) == 300


def test_many_sessions_are_connected(fresh_server: Server):
    with many_sessions(fresh_server, 60) as crowd:
        count = "select count(*) from pg_stat_activity where pid = any(%s) and state = 'idle'"
        assert fresh_server.value(count, [list(crowd.pids)]) == 60


def test_a_latin1_session_shows_bytes_that_are_not_utf8(server: Server):
    with latin1_session(server) as latin:
        with server.connect(client_encoding="SQL_ASCII") as session:
            text = session.execute("select query from pg_stat_activity where pid = %s",
                                   [latin.pid]).fetchone()  # fmt: skip
        assert text == (latin.text,)
