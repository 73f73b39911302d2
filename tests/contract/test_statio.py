"""What the sampler `statio` tells: blocks by table and index, I/O, small caches, sequences."""

import pytest

from tests.support.conditions.session import sessions
from tests.support.sampling import sampling, told
from tests.support.until import until

SLRU = {
    "commit_timestamp",
    "multixact_member",
    "multixact_offset",
    "notify",
    "other",
    "serializable",
    "subtransaction",
    "transaction",
}
READ = "set enable_seqscan = off; set enable_bitmapscan = off; "


class Latest:
    """The last row seen of each object: in a turn at rest a ranked set has no row of it."""

    def __init__(self, there, set_name, by):
        self._there, self._set, self._by = there, set_name, by
        self._rows = {}

    def look(self):
        for row in self._there.rows("statio", self._set):
            self._rows[row[self._by]] = row
        return self._rows


def hourly(there, set_name):
    there.clock.ahead += 3600
    return there.rows("statio", set_name)


def names(lines, set_name, field):
    return {row[field] for row in lines[set_name][0].rows}


@pytest.fixture
def toasted(database):
    """Table `read` with two indexes and a value of many kB, written and read."""
    database.query(
        "create table read (id int primary key, k int, t text);"
        " alter table read alter t set storage external;"
        " create index on read (k);"
        " insert into read select g, g, repeat('x', 20000) from generate_series(1, 30) as g;"
    )
    database.query(READ + "select sum(length(lower(t))) from read where id between 3 and 20")
    database.query(READ + "select id from read where k = 7")
    return database


def counted(database):
    """Return what the server counts of the table `read`, in the sampler's names."""
    (blocks,) = database.query(
        "select heap_blks_read, heap_blks_hit, toast_blks_read, toast_blks_hit"
        " from pg_statio_user_tables where relname = 'read'"
    )
    found = dict(
        zip(
            ("heap_blks_read", "heap_blks_hit", "toast_blks_read", "toast_blks_hit"),
            blocks,
            strict=True,
        )
    )
    for name, oid in (("idx", "oid"), ("tidx", "reltoastrelid")):
        (sums,) = database.query(
            "select sum(idx_blks_read)::int8, sum(idx_blks_hit)::int8 from pg_statio_all_indexes"
            f" where relid = (select {oid} from pg_class where oid = 'public.read'::regclass)"
        )
        found |= zip((f"{name}_blks_read", f"{name}_blks_hit"), sums, strict=True)
    return found


def test_a_table_that_was_read_has_the_blocks_that_the_server_counts(toasted):
    with sampling(toasted.dsn()) as there:
        latest = Latest(there, "statio.tables", "relname")

        def same():
            row = latest.look().get("read")
            expected = counted(toasted)
            return row and {name: row[name] for name in expected} == expected and row

        row = until(same, what="both count the same")
        for part in ("heap", "idx", "toast", "tidx"):
            assert row[f"{part}_blks_hit"] > 0, part
        assert row["relid"] == toasted.value("select 'public.read'::regclass::oid::int8")
        assert row["schemaname"] == "public"
        # Of 18 values each is 10 TOAST rows, in pages of 4.
        assert row["toast_blks_hit"] + row["toast_blks_read"] >= 18 * 10
        if toasted.server.major >= 13:
            columns = [name for name in row if "_blks_" in name]
            (view,) = toasted.query(
                f"select {', '.join(columns)} from pg_statio_user_tables where relname = 'read'"
            )
            assert dict(zip(columns, view, strict=True)) == {name: row[name] for name in columns}


def test_a_table_without_indexes_and_toast_has_null_and_not_0(database):
    database.query("create table bare (id int); insert into bare values (1); table bare")
    with sampling(database.dsn()) as there:
        latest = Latest(there, "statio.tables", "relname")
        row = until(lambda: latest.look().get("bare"), what="the table was read")
        assert row["heap_blks_hit"] > 0
        for part in ("idx", "toast", "tidx"):
            assert (row[f"{part}_blks_read"], row[f"{part}_blks_hit"]) == (None, None)


def test_of_many_tables_those_appear_that_were_read_since_the_turn_before(database):
    database.query(
        "do $$ begin for i in 1..50 loop"
        " execute format('create table t%s (id int)', i);"
        " execute format('insert into t%s values (1)', i);"
        " execute format('select * from t%s', i);"
        " end loop; for i in 1..5 loop"
        " execute format('create table empty%s (id int)', i); end loop; end $$"
    )
    with sampling(database.dsn()) as there:
        totals = []

        def turn():
            (line,) = there.take("statio")["statio.tables"]
            totals.append(line.head.get("total_rows", len(line.rows)))
            return {row["relname"] for row in line.rows}

        seen = until(turn, what="the first tables are seen")
        assert seen == {f"t{number}" for number in range(1, 51)}
        assert turn() == set()
        database.query("table t7")
        assert until(turn, what="one table was read") == {"t7"}
        assert turn() == set()
        assert totals[-1] == 50, "of those that were never read, the database's own line tells"
        lines = there.take("statio")
        (row,) = lines["statio.database"][0].rows
        assert (row["tables"], row["indexes"], row["sequences"]) == (55, 0, 0)


def test_scans_of_an_index_are_counted_and_one_at_rest_is_absent(toasted):
    # A table of its own: to plan a query is to look at every index of its table.
    toasted.query("create table calm (id int primary key); insert into calm values (1)")
    with sampling(toasted.dsn()) as there:
        latest = Latest(there, "statio.indexes", "indexrelname")
        until(lambda: latest.look().get("read_k_idx", {}).get("idx_scan") == 1, what="one scan")
        assert latest.look()["read_pkey"]["indisprimary"] is True
        until(lambda: "calm_pkey" in latest.look(), what="the calm one was written")

        def idle():
            (line,) = there.take("statio")["statio.indexes"]
            assert line.head["total_rows"] == 3
            return not line.rows

        until(idle, what="all rests")
        for key in (8, 9, 10):
            toasted.query(READ + f"select * from read where k = {key}")
        seen = []

        def moved():
            seen.extend(there.rows("statio", "statio.indexes"))
            return seen and seen[-1]["idx_scan"] == 4 and seen[-1]

        row = until(moved, what="three more scans are counted")
        assert {one["indexrelname"] for one in seen} == {"read_k_idx", "read_pkey"}
        assert (row["idx_tup_read"], row["idx_tup_fetch"]) == (4, 4)
        assert (row["indisunique"], row["indisprimary"], row["indisvalid"]) == (False, False, True)
        assert row["relname"] == "read"
        scanned, hit = toasted.query(
            "select i.idx_scan, b.idx_blks_hit from pg_stat_user_indexes as i"
            " join pg_statio_user_indexes as b using (indexrelid)"
            " where i.indexrelname = 'read_k_idx'"
        )[0]
        assert (row["idx_scan"], row["idx_blks_hit"]) == (scanned, hit)
        if toasted.server.major >= 16:
            assert row["last_idx_scan"] == toasted.value(
                "select to_char(last_idx_scan at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US')"
                " || 'Z' from pg_stat_user_indexes where indexrelname = 'read_k_idx'"
            )
        else:
            assert "last_idx_scan" not in row
        until(idle, what="all rests again")


def test_a_reset_of_the_database_begins_the_epoch_of_its_sets(toasted):
    sets = ("statio.database", "statio.tables", "statio.indexes")
    with sampling(toasted.dsn()) as there:
        latest = Latest(there, "statio.tables", "relname")
        until(lambda: latest.look().get("read"), what="the server counts")
        before = there.take("statio")
        assert not any(before[name][0].head.get("epoch_changed") for name in sets)
        toasted.query("select pg_stat_reset()")

        told = {}

        def changed():  # until 14 the statistics may be of another moment in each statement
            found = {
                name: lines[0]
                for name, lines in there.take("statio").items()
                if lines[0].head.get("epoch_changed")
            }
            told.update(found)
            together = toasted.server.major >= 15
            return (found if together else told).keys() >= set(sets)

        until(changed, what="the reset is told")
        (row,) = told["statio.database"].rows
        for name in sets:
            epoch = told[name].head["epoch"]
            assert epoch == row["stats_reset"] > before[name][0].head["epoch"], name

        def told_no_more():
            after = there.take("statio")
            return not any(after[name][0].head.get("epoch_changed") for name in sets)

        assert told_no_more() or (toasted.server.major < 15 and told_no_more())


def test_reads_of_client_backends_move_with_a_scan_from_16_on(database):
    with sampling(database.dsn()) as there:
        first = there.take("statio")
        if database.server.major < 16:
            assert told(first)["statio.io"]["state"] == "unavailable"
            assert told(first)["statio.io"]["reason"] == "version"
            assert "statio.io" not in told(there.take("statio"))
            return
        assert "statio.io" not in told(first)
        scan = ("client backend", "relation", "normal")
        rows = {}

        def look():
            # Only what changed since the line before is sent.
            for row in there.rows("statio", "statio.io"):
                rows[row["backend_type"], row["object"], row["context"]] = row
            return rows.get(scan)

        for row in first["statio.io"][0].rows:
            rows[row["backend_type"], row["object"], row["context"]] = row
        began = rows[scan]["reads"] + rows[scan]["hits"]
        database.query("create table scanned (id int)")
        database.query("insert into scanned select generate_series(1, 20000)")
        for _ in range(5):
            database.query("select count(*) from scanned")
        pages = database.value("select pg_relation_size('scanned') / 8192")
        row = until(
            lambda: (now := look()) and now["reads"] + now["hits"] >= began + 5 * pages and now,
            what="the scans are counted",
        )
        assert row["reads"] > 0
        if database.server.major < 18:
            assert row["read_bytes"] == row["reads"] * 8192
        else:  # one read may be of several blocks
            assert row["read_bytes"] >= row["reads"] * 8192
            assert row["read_bytes"] % 8192 == 0
        assert row["extend_bytes"] >= pages * 8192
        assert row["stats_reset"] == there.take("statio")["statio.io"][0].head["epoch"]
        never = [one for one in rows.values() if one["context"] == "bulkread"]
        assert all(one["fsyncs"] is None for one in never)


def test_small_caches_have_the_same_names_on_every_version(database):
    with sampling(database.dsn()) as there:
        lines = there.take("statio")
        if database.server.major < 13:
            assert told(lines)["statio.slru"]["reason"] == "version"
            return
        assert names(lines, "statio.slru", "name") == SLRU
        (row,) = (r for r in lines["statio.slru"][0].rows if r["name"] == "transaction")
        assert row["blks_hit"] + row["blks_read"] + row["blks_zeroed"] > 0


SEQUENCES = """
create sequence near as smallint;
select setval('near', 32000);
create sequence down as int increment -1 minvalue -100 maxvalue -1;
select setval('down', -90);
create sequence unused maxvalue 10;
create sequence wide minvalue -9223372036854775808 maxvalue 9223372036854775807;
select setval('wide', -9223372036854775808);
create sequence over minvalue -9223372036854775808 maxvalue 9223372036854775807;
select setval('over', 9223372036854775807);
create sequence steps increment 10 maxvalue 100;
select setval('steps', 51);
create table owner (id serial, other int generated always as identity);
insert into owner values (default), (default);
"""


def test_sequences_tell_how_much_is_used_and_what_is_left(database):
    database.query(SEQUENCES)
    database.query("grant select on all sequences in schema public to pgcollector")
    with sampling(database.dsn()) as there:
        lines = there.take("statio")
        assert "statio.sequences" not in told(lines)
        rows = {row["sequencename"]: row for row in lines["statio.sequences"][0].rows}
    left = {name: (row["last_value"], row["values_left"]) for name, row in rows.items()}
    most = 2**63 - 1
    assert left == {
        "near": (32000, 767),
        "down": (-90, 10),
        "unused": (None, 10),
        "wide": (-(2**63), most),
        "over": (most, 0),
        "steps": (51, 4),
        "owner_id_seq": (2, 2**31 - 3),
        "owner_other_seq": (2, 2**31 - 3),
    }
    used = {name: row["used_ratio"] for name, row in rows.items()}
    assert used["near"] == pytest.approx(31999 / 32766)
    assert used["down"] == pytest.approx(89 / 99)
    assert (used["unused"], used["wide"], used["over"]) == (0, 0, 1)
    assert list(rows)[:3] == ["over", "near", "down"]
    assert [rows[name]["data_type"] for name in ("near", "down", "wide")] == [
        "smallint",
        "integer",
        "bigint",
    ]
    assert rows["owner_id_seq"]["owned_by"] == "public.owner.id"
    assert rows["owner_other_seq"]["owned_by"] == "public.owner.other"
    assert rows["near"]["owned_by"] is None
    assert not any(row["hidden"] or row["locked"] for row in rows.values())


def test_a_value_that_the_role_may_not_see_is_null_and_the_remedy_helps(database):
    database.query("create sequence secret; select setval('secret', 42)")
    with sampling(database.dsn()) as there:
        lines = there.take("statio")
        (row,) = lines["statio.sequences"][0].rows
        assert row["hidden"] is True
        assert (row["last_value"], row["used_ratio"], row["values_left"]) == (None, None, None)
        state = told(lines)["statio.sequences"]
        assert (state["state"], state["reason"]) == ("limited", "privilege")
        grant = "GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO pgcollector;"
        assert state["remedy"].endswith(grant)
        database.query(grant)
        there.clock.ahead += 3600
        lines = there.take("statio")
        (row,) = lines["statio.sequences"][0].rows
        assert (row["hidden"], row["last_value"]) == (False, 42)
        assert told(lines)["statio.sequences"]["state"] == "ok"


def test_an_unused_large_index_and_an_invalid_one_are_told(database):
    database.query(
        "create table wide (id int, k int, u int);"
        " insert into wide select g, g, g from generate_series(1, 60000) as g;"
        " create index large on wide (k); create unique index guard on wide (u);"
        " create index small on wide (id) where id < 10; create index torn on wide (id)"
        " where id < 10;"
    )
    database.query("update pg_index set indisvalid = false where indexrelid = 'torn'::regclass")
    with sampling(database.dsn()) as there:
        rows = {row["indexrelname"]: row for row in hourly(there, "statio.idle_indexes")}
        assert {name: row["why"] for name, row in rows.items()} == {
            "large": "unused",
            "torn": "invalid",
        }
        assert rows["torn"]["being_built"] is False
        large = rows["large"]
        assert large["size_bytes"] == database.value("select pg_relation_size('large')")
        assert large["size_bytes"] > 1024**2
        assert (large["relname"], large["idx_scan"], large["being_built"]) == ("wide", 0, False)
        database.query(READ + "select id from wide where k = 7")

        def left():
            return {row["indexrelname"] for row in hourly(there, "statio.idle_indexes")}

        until(lambda: left() == {"torn"}, what="the scan is counted")


def test_an_index_that_is_being_built_is_told_from_a_torn_one(database):
    database.query("create table busy (id int)")
    with sampling(database.dsn()) as there, sessions(database, "one", "two") as (one, two):
        one.do("begin")
        one.do("insert into busy values (1)")
        two.send("create index concurrently growing on busy (id)")
        row = until(
            lambda: hourly(there, "statio.idle_indexes"), what="the index is there, not valid"
        )[0]
        assert (row["indexrelname"], row["why"]) == ("growing", "invalid")
        assert row["being_built"] is True
        one.do("commit")
        assert two.outcome() is None
        assert hourly(there, "statio.idle_indexes") == []
