"""What the sampler `vacuum` tells: progress, who waits and why, who holds the horizon, ages."""

import pytest

from pg_collector.pg.session import Session
from tests.support.conditions.horizon import (
    burn_xids,
    held_by_logical_slot,
    held_by_prepared_transaction,
    held_by_session,
    held_by_standby,
)
from tests.support.conditions.maintenance import (
    commands_in_progress,
    dead_rows,
    vacuum_in_progress,
)
from tests.support.conditions.wraparound import jump_xids
from tests.support.lab.replication import start_pair
from tests.support.sampling import RELATIONS, SAMPLERS, sampling, strictly, target
from tests.support.until import until


def tables(there):
    there.clock.ahead += 900  # a full line
    return {row["relname"]: row for row in there.rows("vacuum", "vacuum.tables")}


def _toast_of(there, name):
    found = [row for row in tables(there).values() if row["toast_of"] == name]
    return found[0] if found else None


def test_dead_rows_are_counted_and_said_to_need_a_vacuum(database):
    with dead_rows(database) as rows, sampling(database.dsn()) as there:
        found = until(
            lambda: (now := tables(there).get("dead")) and now["n_dead_tup"] == rows.dead and now,
            what="the dead rows are seen",
        )
        assert found["relid"] == rows.relid
        assert found["autovacuum_enabled"] is False
        assert found["needs_vacuum"] is True
        assert found["why"] == "disabled"
        assert found["size_bytes"] == found["relpages"] * 8192
        (queue,) = there.rows("vacuum", "vacuum.queue")
        assert queue["needs_vacuum"] >= 1
        assert queue["n_dead_tup"] >= rows.dead
        assert queue["autovacuum_disabled"] == 1


def test_thresholds_follow_the_tables_options_before_the_settings(database):
    database.query("create table free (id int)")
    database.query(
        "create table bound (id int, t text) with (autovacuum_vacuum_threshold = 7,"
        " autovacuum_vacuum_scale_factor = 0.5, autovacuum_analyze_threshold = 11,"
        " autovacuum_analyze_scale_factor = 0, autovacuum_freeze_max_age = 1000000)"
    )
    database.query("insert into bound select g, 'x' from generate_series(1, 3000) as g")
    for _ in range(2):  # leaves something dead in its TOAST table
        database.query(
            "update bound set t = (select string_agg(md5(random()::text || i), '')"
            " from generate_series(1, 300) as i) where id = 1"
        )
    database.query("insert into free select generate_series(1, 3000)")
    database.query("vacuum analyze bound, free")
    with sampling(database.dsn()) as there:
        found = tables(there)
        assert found["bound"]["vacuum_threshold"] == 7 + 0.5 * 3000
        assert found["bound"]["analyze_threshold"] == 11
        assert found["bound"]["freeze_max_age"] == 1_000_000
        assert found["free"]["vacuum_threshold"] == 50 + 0.2 * 3000
        assert found["free"]["analyze_threshold"] == 50 + 0.1 * 3000
        assert found["free"]["freeze_max_age"] == 200_000_000
        if database.server.major >= 13:
            share = 1.0
            if database.server.major >= 18:
                assert found["free"]["relallfrozen"] is not None
                share = 1 - found["free"]["relallfrozen"] / found["free"]["relpages"]
            expected = 1000 + 0.2 * 3000 * share
            assert found["free"]["vacuum_insert_threshold"] == pytest.approx(expected)
        else:
            assert "n_ins_since_vacuum" not in found["free"]
        toast = until(
            lambda: _toast_of(there, "public.bound"), what="its TOAST table has dead rows"
        )
        assert toast["relkind"] == "t"
        # Of its table, which it follows.
        assert toast["vacuum_threshold"] == 7 + 0.5 * (toast["reltuples"] or 0)
        database.query("update bound set id = 0 where id <= 1600")
        why = until(
            lambda: (row := tables(there)["bound"])["n_dead_tup"] == 1600 and row["why"],
            what="the dead rows are over the threshold",
        )
        assert why == "dead_tuples"


def test_eighteen_caps_the_threshold_of_large_tables(database):
    if database.server.major < 18:
        pytest.skip("the setting came with 18")
    database.query("create table large (id int) with (autovacuum_vacuum_max_threshold = 100)")
    database.query("insert into large select generate_series(1, 5000)")
    database.query("vacuum analyze large")
    with sampling(database.dsn()) as there:
        assert tables(there)["large"]["vacuum_threshold"] == 100


def test_a_vacuum_in_progress_is_seen_with_its_table_and_phase(database):
    with vacuum_in_progress(database) as vacuum, sampling(database.dsn()) as there:
        (row,) = there.rows("vacuum", "vacuum.progress")
        assert (row["pid"], row["relid"], row["relname"]) == (
            vacuum.pid, vacuum.relid, vacuum.table,
        )  # fmt: skip
        assert row["phase"] == "scanning heap"
        assert row["heap_blks_total"] > 0
        assert row["is_autovacuum"] is False
        assert row["running_seconds"] > 0
        other = "max_dead_tuple_bytes" if database.server.major >= 17 else "max_dead_tuples"
        assert row[other] > 0


def test_every_other_command_that_shows_its_progress_is_seen(database):
    tables = {
        "create_index": "indexed", "cluster": "clustered", "analyze": "analyzed", "copy": "copied",
    }  # fmt: skip
    queries = {query.set: query for query in SAMPLERS["vacuum"].queries}
    with commands_in_progress(database) as pids:
        for role in ("pgcollector", "plain"):
            with sampling(database.dsn(role)) as there:
                lines = there.take("vacuum")
            for command, pid in pids.items():
                (line,) = lines[f"vacuum.progress_{command}"]
                strictly(queries[line.set], line)
                (row,) = (row for row in line.rows if row["pid"] == pid)
                if role == "plain":  # it sees who, and not what
                    assert row.get("phase") is None
                    assert row.get("relname") is None
                    continue
                assert row.get("relname") == tables.get(command)
                if command == "cluster":
                    assert row["phase"] == "rebuilding index"
                    assert row["command"] == "VACUUM FULL"
                    assert row["heap_tuples_written"] == 1000
                if command == "copy":
                    assert (row["command"], row["type"]) == ("COPY FROM", "PIPE")


def test_each_of_the_five_who_hold_back_the_horizon_is_named(major):
    settings = {"max_prepared_transactions": "3"}
    with start_pair(major, settings=settings) as pair:
        database = pair.primary.database()
        with sampling(database.dsn()) as there:

            def holder(kind):
                burn_xids(pair.primary, 30)
                rows = there.rows("vacuum", "vacuum.horizon")
                (oldest,) = [row for row in rows if row["is_oldest"]]
                assert oldest["kind"] == kind, rows
                assert oldest["age_xids"] >= 30
                return oldest

            assert not any(r["age_xids"] > 5 for r in there.rows("vacuum", "vacuum.horizon"))
            with held_by_session(database) as pid:
                row = holder("session")
                assert (row["pid"], row["application_name"]) == (pid, "holder")
                assert (row["state"], row["query"]) == ("idle in transaction", "select ?")
                assert row["held_seconds"] > 0
            with held_by_prepared_transaction(database) as gid:
                assert holder("prepared_transaction")["name"] == gid
            with held_by_standby(pair, slot=True):
                assert holder("slot")["name"] == "standby"
                _ages_of_feedback(there, "slots", "xmin_age")
                _ages_of_feedback(there, "replication", "slot_xmin_age")
            with held_by_standby(pair, slot=False):
                assert holder("standby")["application_name"] == "standby"
                _ages_of_feedback(there, "replication", "backend_xmin_age")
            with held_by_logical_slot(database) as slot:
                assert holder("slot_catalog")["name"] == slot


def _ages_of_feedback(there, name, column):
    """The samplers that list who may hold it back tell the same age, in the type they declare."""
    (line,) = there.take(name)[name]
    strictly(SAMPLERS[name].queries[0], line)
    assert [row[column] >= 30 for row in line.rows] == [True]


def test_dead_rows_that_an_open_transaction_protects_are_told_apart(database):
    with dead_rows(database) as rows, sampling(database.dsn()) as there:
        with held_by_session(database):
            database.query(f"delete from {rows.table} where id % 4 = 1")
            until(
                lambda: tables(there)["dead"]["n_dead_tup"] == rows.dead * 1.5,
                what="the rows that were deleted are known",
            )
            database.query(f"vacuum {rows.table}")
            protected = until(
                lambda: (row := tables(there)["dead"])["last_vacuum"] and row["n_dead_tup"] and row,
                what="the vacuum is known",
            )
            assert protected["n_dead_tup"] == rows.dead / 2
            assert protected["dead_not_removable"] == rows.dead / 2
        database.query(f"vacuum {rows.table}")
        free = until(
            lambda: (row := tables(there)["dead"])["n_dead_tup"] == 0 and row,
            what="all are removed",
        )
        assert free["dead_not_removable"] == 0


def test_what_did_not_change_is_not_sent_again_though_transactions_go_on(database):
    database.query("create table still as select generate_series(1, 100) as i")
    database.query("analyze still")
    with sampling(database.dsn()) as there:
        there.take("vacuum")

        def rests() -> bool:
            # Up to 14 the collector tells a new database's epoch late: a full line follows it.
            burn_xids(database.server, 20, database.name)
            (line,) = there.take("vacuum")["vacuum.tables"]
            still = any(row["relname"] == "still" for row in line.rows)
            return not still and bool(line.head.get("delta"))

        until(rests, what="the table is left out after transactions")


def test_old_transaction_ids_are_told_against_the_real_limits(fresh_server):
    # Else the server sends autovacuum at once, even where it is off.
    fresh_server.restart({"autovacuum_freeze_max_age": "2000000000"})
    fresh_server.query("create table impatient (i int) with (autovacuum_freeze_max_age = 100000)")
    fresh_server.query("insert into impatient select generate_series(1, 50000)")
    fresh_server.query("analyze impatient")  # only now its size is known
    jump_xids(fresh_server, 1_900_000_000)
    with sampling(fresh_server.dsn("pgcollector")) as there:
        lines = there.take("vacuum")
        databases = {row["datname"]: row for x in lines["vacuum.wraparound"] for row in x.rows}
        mine = databases["postgres"]
        assert 1_899_000_000 < mine["xid_age"] <= 1_900_000_000
        reserve = 3_000_000 if fresh_server.major >= 14 else 1_000_000
        assert mine["xids_left"] == 2_147_483_647 - reserve - mine["xid_age"]
        assert mine["autovacuum_freeze_max_age"] == 2_000_000_000
        assert mine["multixacts_left"] > 2_000_000_000
        oldest = lines["vacuum.oldest"][0].rows
        assert max(row["xid_age"] for row in oldest) == pytest.approx(mine["xid_age"], abs=10)
        (queue,) = lines["vacuum.queue"][0].rows
        assert queue["needs_wraparound_vacuum"] == 1
        rows = lines["vacuum.tables"][0].rows
        assert [row["relname"] for row in rows if row["why"] == "wraparound"] == ["impatient"]


def test_a_reset_begins_an_epoch_of_this_database(database):
    with sampling(database.dsn()) as there:
        there.take("vacuum")
        database.query("select pg_stat_reset()")

        heads = {}

        def changed():  # until 14 the statistics may be of another moment in each statement
            found = {
                name: lines[0].head
                for name, lines in there.take("vacuum").items()
                if lines[0].head.get("epoch_changed")
            }
            heads.update(found)
            together = database.server.major >= 15
            return (found if together else heads).keys() >= {"vacuum.queue", "vacuum.tables"}

        until(changed, what="the reset is told")
        assert heads["vacuum.queue"]["epoch"] == heads["vacuum.tables"]["epoch"]
        assert heads["vacuum.tables"]["database"] == database.name
        assert "delta" not in heads["vacuum.tables"], "it builds on rows of another epoch"


def test_after_a_crash_a_table_is_not_said_to_be_never_vacuumed(fresh_server):
    database = fresh_server.database()
    database.query("create table vacuumed as select generate_series(1, 1000) as i")
    database.query("vacuum analyze vacuumed")
    with sampling(fresh_server.dsn("pgcollector")) as there:
        until(lambda: tables(there)["vacuumed"]["last_vacuum"], what="the vacuum is known")
        with fresh_server.connect() as victim:
            fresh_server.kill_backend(victim.info.backend_pid)
        fresh_server.wait_ready()
        there.session.close()
        there.session = Session.open(target(fresh_server.dsn("pgcollector")), relations=RELATIONS)
        (line,) = there.take("vacuum")["vacuum.tables"]
        mine = {row["relname"]: row for row in line.rows}["vacuumed"]
        assert mine["last_vacuum"] is None  # not known any more, and the line says since when:
        assert line.head["epoch_changed"] is True
        assert line.head["epoch"] > line.head["at"][:10]
        assert mine["why"] is None
        there.session.close()


def test_workers_and_their_limits_are_told(database):
    with sampling(database.dsn()) as there:
        (row,) = there.rows("vacuum", "vacuum.workers")
        assert row["autovacuum"] is False  # in the lab
        assert row["workers"] == 0
        assert row["autovacuum_max_workers"] == 3
        assert row["autovacuum_naptime_seconds"] == 60
        assert (row["autovacuum_worker_slots"] is None) == (database.server.major < 18)


def test_all_tables_are_gone_through_once_a_minute_however_often_there_is_a_turn(database):
    with sampling(database.dsn()) as there:
        there.turns["vacuum"].every = 15.0
        turns = [there.take("vacuum")]
        database.query("create table late as select generate_series(1, 20000) as i")
        database.query("delete from late")
        database.query("vacuum late")  # relpages tell its size
        database.query("insert into late select generate_series(1, 20000)")
        database.query("analyze late")
        turns += [there.take("vacuum") for _ in range(4)]
        assert ["vacuum.queue" in lines for lines in turns] == [True, False, False, False, True]
        assert turns[0]["vacuum.queue"][0].head["every_s"] == 60.0
        names = [{row["relname"] for row in lines["vacuum.tables"][0].rows} for lines in turns]
        assert ["late" in found for found in names] == [False, False, False, False, True]
