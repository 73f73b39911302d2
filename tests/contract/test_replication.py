"""What the samplers `replication`, `slots` and `wal_receiver` tell of real standbys and slots."""

import pytest

from pg_collector.errors import Reason
from tests.support.conditions.session import sessions
from tests.support.conditions.slots import decoded_slot, invalidated_slot, retained_slots
from tests.support.lab.replication import SLOT, logical_replication
from tests.support.sampling import SAMPLERS, sampling, told
from tests.support.until import until

WRITE = "insert into written select repeat('x', 500) from generate_series(1, 4000)"
LEAST = 2_000_000  # bytes of WAL that it makes


def test_paused_replay_is_so_many_bytes_behind_on_both_sides(pair):
    primary, standby = pair.primary, pair.standby
    primary.query("create table if not exists written (t text)")
    pair.caught_up()
    with (
        sampling(primary.dsn("pgcollector")) as here,
        sampling(standby.dsn("pgcollector")) as there,
    ):
        with pair.replay_paused():
            primary.query(WRITE)
            row = until(
                lambda: (
                    (now := here.rows("replication")[0])["replay_lag_bytes"] > LEAST
                    and now["flush_lag_bytes"] == 0
                    and now
                ),
                what="the standby has it all and replays nothing",
            )
            assert (row["state"], row["sync_state"], row["slot_name"]) == (
                "streaming", "async", SLOT,
            )  # fmt: skip
            assert row["application_name"] == "standby"
            lines = there.take("wal_receiver")
            (replay,) = lines["wal_receiver.replay"][0].rows
            assert replay["replay_lag_bytes"] == pytest.approx(row["replay_lag_bytes"], abs=100_000)
            assert replay["replay_paused"] is True
            assert replay["caught_up"] is False
            if pair.major >= 14:
                assert replay["replay_pause_state"] == "paused"
            (receiver,) = lines["wal_receiver"][0].rows
            assert (receiver["status"], receiver["slot_name"]) == ("streaming", SLOT)
            assert receiver["last_msg_receipt_age_seconds"] < 60
        pair.caught_up()

        def caught_up():
            (row,) = there.rows("wal_receiver", "wal_receiver.replay")
            return row["caught_up"] and row["replay_lag_bytes"] == 0

        until(caught_up, what="it caught up")
        (server,) = here.rows("replication", "replication.server")
        assert (server["receivers"], server["streaming"]) == (1, 1)
        assert server["in_recovery"] is False
        assert server["replay_lsn"] is None
        (own,) = there.rows("replication", "replication.server")
        assert own["in_recovery"] is True
        assert own["current_wal_lsn"] is None
        assert own["replay_lag_bytes"] == 0


def test_a_time_lag_that_cannot_be_measured_is_null_and_not_zero(pair):
    with sampling(pair.primary.dsn("pgcollector")) as there:
        pair.primary.query("create table if not exists written (t text)")
        pair.primary.query(WRITE)
        pair.caught_up()

        def idle():
            (row,) = there.rows("replication")
            return (
                [row] if row["replay_lag_seconds"] is None and not row["replay_lag_bytes"] else []
            )

        (quiet,) = until(idle, 20.0, "nothing is left to measure")
        assert quiet["write_lag_seconds"] is None
        assert quiet["reply_time"] is not None


def test_whether_the_synchronous_standbys_are_there_is_told(fresh_pair):
    primary = fresh_pair.primary
    with sampling(primary.dsn("pgcollector")) as there:

        def satisfied(names):
            primary.reconfigure({"synchronous_standby_names": names, "synchronous_commit": "local"})

            def in_force():
                (row,) = there.rows("replication", "replication.server")
                known = row["synchronous_standby_names"] == (names or None)
                return [row] if known and (not names or row["sync"] + row["quorum"]) else None

            return until(in_force, what="the setting is in force")[0]

        assert satisfied("")["synchronous_satisfied"] is None
        row = satisfied("standby")
        assert (row["synchronous_required"], row["synchronous_satisfied"]) == (1, True)
        row = satisfied("ANY 1 (standby, nobody)")
        assert (row["quorum"], row["synchronous_satisfied"]) == (1, True)
        row = satisfied("FIRST 2 (standby, nobody)")
        assert (row["synchronous_required"], row["synchronous_satisfied"]) == (2, False)


def test_a_subscription_its_errors_and_its_tables_are_told(database, server):
    other = server.database(f"{database.name}_sub")
    server.query(f"create database {other.name}")
    try:
        with (
            logical_replication(database, other, f"flow_{database.name}") as flow,
            sampling(other.dsn()) as there,
        ):
            lines = there.take("replication")
            rows = [row for line in lines["replication.subscriptions"] for row in line.rows]
            mine = next(row for row in rows if row["subname"] == flow.name)
            assert mine["pid"] is not None
            assert mine["received_lsn"] is not None
            states = until(lambda: _ready(there), what="the table is copied")
            assert [(row["state"], row["tables"]) for row in states] == [("r", 1)]
            if server.major < 15:
                assert "replication.subscription_stats" not in lines
                return
            # The same key again: the worker cannot apply it.
            other.query(f"insert into {flow.name} values (77)")
            database.query(f"insert into {flow.name} values (77)")

            def failed():
                rows = there.rows("replication", "replication.subscription_stats")
                row = next(one for one in rows if one["subname"] == flow.name)
                return row["apply_error_count"] > 0 and row

            row = until(failed, 20.0, "the error is counted")
            if server.major >= 18:
                assert row["confl_insert_exists"] > 0
    finally:
        other.drop()


def _ready(there):
    there.clock.ahead += 60
    rows = there.rows("replication", "replication.table_sync")
    return rows if {row["state"] for row in rows} == {"r"} else None


def test_slots_that_nobody_reads_hold_back_so_many_bytes(database):
    with retained_slots(database) as slots, sampling(database.dsn()) as there:
        lines = there.take("slots")
        found = {row["slot_name"]: row for row in lines["slots"][0].rows}
        for name in (slots.physical, slots.logical):
            assert found[name]["retained_wal_bytes"] >= slots.at_least
            assert found[name]["active"] is False
        assert found[slots.logical]["database"] == database.name
        assert found[slots.logical]["catalog_xmin_age"] >= 0
        assert found[slots.physical]["confirmed_flush_lsn"] is None
        (limits,) = lines["slots.limits"][0].rows
        assert limits["most_retained_wal_bytes"] >= slots.at_least
        assert limits["slots"] >= 2
        assert limits["max_slot_wal_keep_size_bytes"] is None
        assert limits["wal_keep_size_bytes"] == 0
        if database.server.major >= 17:
            assert found[slots.logical]["inactive_seconds"] >= 0
        assert limits["idle_replication_slot_timeout_seconds"] is None  # off


def test_a_slot_that_was_never_used_retains_an_unknown_amount_not_zero(database):
    database.query("select pg_create_physical_replication_slot('unused', false)")
    try:
        with sampling(database.dsn()) as there:
            found = {row["slot_name"]: row for row in there.rows("slots")}["unused"]
            assert found["restart_lsn"] is None
            assert found["retained_wal_bytes"] is None
    finally:
        database.query("select pg_drop_replication_slot('unused')")


def test_a_slot_that_lost_its_wal_says_so_and_what_led_to_it(fresh_server):
    if fresh_server.major < 13:
        pytest.skip("12 never invalidates a slot")
    with (
        invalidated_slot(fresh_server.database()) as slot,
        sampling(fresh_server.dsn("pgcollector")) as there,
    ):
        lines = there.take("slots")
        found = {row["slot_name"]: row for row in lines["slots"][0].rows}[slot.name]
        assert found["wal_status"] == "lost"
        assert lines["slots.limits"][0].rows[0]["max_slot_wal_keep_size_bytes"] == 20 * 1024**2
        if fresh_server.major >= 17:
            assert found["invalidation_reason"] == "wal_removed"


def test_a_slot_that_may_lose_its_wal_tells_how_much_is_left(fresh_server):
    if fresh_server.major < 13:
        pytest.skip("12 never invalidates a slot")
    settings = {"max_slot_wal_keep_size": "96MB"}
    if fresh_server.major >= 18:
        settings["idle_replication_slot_timeout"] = "1d"
    fresh_server.reconfigure(settings)
    fresh_server.query("create table written (t text)")
    with (
        retained_slots(fresh_server.database()) as slots,
        sampling(fresh_server.dsn("pgcollector")) as there,
    ):

        def slot():
            lines = there.take("slots")
            return next(r for r in lines["slots"][0].rows if r["slot_name"] == slots.physical)

        before = slot()
        assert before["wal_status"] == "reserved"
        # The server counts whole files: of the one that holds the oldest WAL, and of the limit.
        most = (96 + 16) * 1024**2 - before["retained_wal_bytes"]
        assert most - 16 * 1024**2 <= before["safe_wal_size"] <= most
        fresh_server.query(WRITE)
        assert slot()["safe_wal_size"] <= before["safe_wal_size"] - LEAST
        there.clock.ahead += 600
        (limits,) = there.rows("slots", "slots.limits")
        assert limits["max_slot_wal_keep_size_bytes"] == 96 * 1024**2
        if fresh_server.major >= 18:
            assert limits["idle_replication_slot_timeout_seconds"] == 86_400


def test_what_decoding_did_is_counted_by_slot(database):
    if database.server.major < 14:
        pytest.skip("the view came with 14")
    with decoded_slot(database) as slot, sampling(database.dsn()) as there:
        rows = {row["slot_name"]: row for row in there.rows("slots", "slots.statistics")}
        assert rows[slot.name]["total_txns"] == slot.transactions
        assert rows[slot.name]["total_bytes"] > 0


def test_a_transaction_too_large_for_memory_is_counted_where_it_was_decoded(database):
    if database.server.major < 14:
        pytest.skip("the view came with 14")
    with decoded_slot(database) as slot, sampling(database.dsn()) as there:
        database.query("insert into decoded select generate_series(1, 5000)")
        with database.connect() as session:
            session.execute("set logical_decoding_work_mem = '64kB'")
            session.execute(
                "select count(*) from pg_logical_slot_get_changes(%s, null, null)", [slot.name]
            )

        def spilled():
            rows = there.rows("slots", "slots.statistics")  # those that changed
            return next((row for row in rows if row["spill_txns"]), None)

        row = until(spilled, what="the spilled transaction is counted")
        assert (row["slot_name"], row["spill_txns"]) == (slot.name, 1)
        assert row["spill_count"] >= 1
        assert row["spill_bytes"] > 64 * 1024


def test_what_replay_cancels_on_a_standby_is_counted(fresh_pair):
    primary, standby = fresh_pair.primary, fresh_pair.standby
    standby.reconfigure({"max_standby_streaming_delay": "50ms"})
    primary.query("create table read as select generate_series(1, 1000) as i")
    fresh_pair.caught_up()
    with (
        sampling(standby.dsn("pgcollector")) as there,
        sessions(standby.database(), "reader") as (reader,),
    ):
        reader.do("begin isolation level repeatable read")
        reader.do("select count(*) from read")
        primary.query("delete from read")
        primary.query("vacuum read")

        def cancelled():
            (row,) = there.rows("wal_receiver", "wal_receiver.conflicts")
            return sum(row.values()) and row

        row = until(cancelled, 20.0, "the conflict is counted")
        assert row["confl_snapshot"] == sum(row.values()) == 1


def test_a_primary_is_not_a_standby_and_that_is_said_once(server):
    with sampling(server.dsn("pgcollector")) as there:
        lines = there.take("wal_receiver")
        assert set(lines) == {"sampler_state"}
        state = told(lines)[None]
        assert (state["sampler"], state["state"], state["reason"], state["message"]) == (
            "wal_receiver", "unavailable", Reason.ROLE, "not a standby",
        )  # fmt: skip
        assert there.take("wal_receiver") == {}


def test_a_promotion_between_two_turns_costs_no_set_of_any_sampler(fresh_pair):
    with sampling(fresh_pair.standby.dsn("pgcollector")) as there:
        for name in SAMPLERS:
            assert there.take(name)
        fresh_pair.promote()
        there.clock.ahead += 7200
        for name in SAMPLERS:
            states = told(there.take(name)).values()
            assert not [one for one in states if one["state"] == "error"], name
            if name == "wal_receiver":
                assert [one["reason"] for one in states] == [Reason.ROLE]
        (row,) = there.rows("replication", "replication.server")
        assert row["in_recovery"] is False
        assert row["last_xact_replay_age_seconds"] is None  # the old value stays in the server
