"""What the samplers `wal` and `bgwriter` count: WAL, archiving, checkpoints."""

from tests.support.conditions.archiving import archiving
from tests.support.conditions.maintenance import forced_checkpoint
from tests.support.sampling import sampling, told
from tests.support.until import until


def test_a_forced_checkpoint_is_counted_and_the_distance_begins_anew(fresh_server):
    fresh_server.query("create table written (t text)")
    with sampling(fresh_server.dsn("pgcollector")) as there:
        there.take("bgwriter")
        fresh_server.query(
            "insert into written select repeat('x', 500) from generate_series(1, 8000)"
        )
        before = there.take("bgwriter")
        (far,) = before["bgwriter.checkpoint"][0].rows
        assert far["redo_distance_bytes"] > 4_000_000
        with forced_checkpoint(fresh_server) as checkpoint:
            after = there.take("bgwriter")
        (near,) = after["bgwriter.checkpoint"][0].rows
        assert near["redo_distance_bytes"] < 1_000_000
        assert near["checkpoint_age_seconds"] < 60
        assert near["checkpoint_lsn"] != far["checkpoint_lsn"]
        assert near["max_wal_size_bytes"] == 1024**3
        assert near["checkpoint_timeout_seconds"] == 3600
        (old,), (new,) = (x["bgwriter.checkpointer"][0].rows for x in (before, after))
        assert (
            new["checkpoints_req"] - old["checkpoints_req"] == checkpoint.after - checkpoint.before
        )
        assert new["buffers_checkpoint"] > old["buffers_checkpoint"]
        if fresh_server.major >= 18:
            assert new["checkpoints_done"] == old["checkpoints_done"] + 1
        old_backends = "buffers_backend" in before["bgwriter"][0].rows[0]
        assert old_backends is (fresh_server.major < 17)
        assert ("bgwriter.io" in after) is (fresh_server.major >= 16)


def test_a_reset_of_one_view_begins_the_epoch_of_that_set(fresh_server):
    shared = "checkpointer" if fresh_server.major >= 17 else "bgwriter"
    with sampling(fresh_server.dsn("pgcollector")) as there:
        there.take("bgwriter")
        fresh_server.query(f"select pg_stat_reset_shared('{shared}')")

        told: set[str] = set()

        def changed():
            lines = there.take("bgwriter")
            told.update(
                name
                for name in ("bgwriter", "bgwriter.checkpointer")
                if lines[name][0].head.get("epoch_changed")
            )
            return told == expected

        expected = {"bgwriter.checkpointer"} | ({"bgwriter"} if fresh_server.major < 17 else set())
        until(changed, what="the reset is told")


def test_restartpoints_of_a_standby_are_counted(pair):
    if pair.major < 17:
        return  # until then the server does not count them
    with sampling(pair.standby.dsn("pgcollector")) as there:

        def requested():
            return there.rows("bgwriter", "bgwriter.checkpointer")[0]["restartpoints_req"]

        before = requested()
        pair.primary.query("checkpoint")
        pair.caught_up()
        pair.standby.query("checkpoint")
        until(lambda: requested() > before, what="the restartpoint is counted")


def test_wal_that_is_written_is_counted_on_every_version(fresh_server):
    fresh_server.query("create table written (t text)")
    with sampling(fresh_server.dsn("pgcollector")) as there:
        first = there.take("wal")
        (old,) = first["wal.position"][0].rows
        fresh_server.query(
            "insert into written select repeat('x', 500) from generate_series(1, 4000)"
        )
        expected = fresh_server.value(
            "select pg_wal_lsn_diff(pg_current_wal_lsn(), %s)::int8", [old["wal_lsn"]]
        )
        lines = there.take("wal")
        (new,) = lines["wal.position"][0].rows
        assert new["wal_position_bytes"] - old["wal_position_bytes"] >= expected > 2_000_000
        assert new["wal_file"] == fresh_server.value("select pg_walfile_name(pg_current_wal_lsn())")
        assert new["wal_segment_size_bytes"] == 16 * 1024**2
        if fresh_server.major < 14:
            assert told(first)["wal"]["reason"] == "version"
            return
        began = first["wal"][0].rows[0]

        def counted():
            (row,) = there.rows("wal")
            return row["wal_bytes"] - began["wal_bytes"] > 2_000_000 and row

        row = until(counted, what="the bytes are counted")
        assert row["wal_records"] > began["wal_records"]
        assert row["wal_write"] > began["wal_write"]
        assert row["track_wal_io_timing"] is False
        assert row["wal_write_time"] == 0


def test_an_archiver_that_fails_is_told_and_what_waits_for_it_counted(fresh_server):
    with archiving(fresh_server) as archive, sampling(fresh_server.dsn("pgcollector")) as there:
        archive.work()
        (row,) = there.rows("wal", "wal.archiver")
        assert (row["failing"], row["archive_mode"]) == (False, "on")
        failed = archive.fail()
        there.clock.ahead += 60
        lines = there.take("wal")
        (row,) = lines["wal.archiver"][0].rows
        assert row["failing"] is True
        assert row["failed_count"] >= failed
        assert row["last_failed_age_seconds"] < 60
        assert lines["wal.archive_ready"][0].rows[0]["ready_files"] >= 1
        archive.work()
        (row,) = there.rows("wal", "wal.archiver")
        assert row["failing"] is False


def test_the_files_of_wal_are_counted_and_need_a_right(database):
    with sampling(database.dsn()) as there:
        (row,) = there.rows("wal", "wal.directory")
        assert row["wal_files"] >= 1
        assert row["wal_size_bytes"] == row["wal_files"] * 16 * 1024**2
        assert row["oldest_wal_age_seconds"] > 0
    with sampling(database.dsn("plain")) as there:
        lines = there.take("wal")
        states = told(lines)
        for name in ("wal.directory", "wal.archive_ready"):
            assert states[name]["reason"] == "privilege"
            assert states[name]["remedy"] == "GRANT pg_monitor TO plain;"
        assert lines["wal.position"][0].rows
