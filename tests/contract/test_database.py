"""What the sampler `database` counts, measures in turns, and tells of resets and crashes."""

from pg_collector.pg.session import Session
from tests.support.conditions.locks import deadlock
from tests.support.sampling import RELATIONS, Sampling, sampling, target
from tests.support.until import until


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
