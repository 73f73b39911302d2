"""What the sampler `bloat` estimates, against what tables and indexes take when rewritten."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from pg_collector.pg.role import column_statistics_script
from pg_collector.pg.session import Session
from tests.support.lab.server import Database
from tests.support.sampling import RELATIONS, Sampling, sampling, target, told
from tests.support.until import until

FRESH = 0.03  # points that an estimate may be off: of what was just filled
HOLED = 0.05  # of what was half, or two thirds, deleted

# Columns, storage options, and what a row holds.
LAYOUTS: Mapping[str, tuple[str, str, str]] = {
    "plain": ("id bigint, a bigint, t text", "", "g, g, repeat('x', 40)"),
    "padded": (
        "a bool, b bigint, c bool, d bigint, e bool, f bigint", "", "true, g, true, g, true, g"
    ),
    "loose": ("id bigint, t text", "fillfactor = 70", "g, repeat('x', 40)"),
    "nulls": (
        "id bigint, a int, b int, c int, d int, e int, f int, h int, i int, j int", "",
        "g, g, null, null, null, null, null, null, null, null",
    ),
    "half_null": (
        "id bigint, a int, b text, c bigint", "",
        "g, case when g % 2 = 0 then g end, case when g % 3 = 0 then repeat('q', 10) end, g",
    ),
    "mixed": (
        "a text, b bigint, c text, d timestamptz, e bool, f numeric", "",
        "repeat('y', g % 20), g, repeat('z', g % 33), now(), true, g * 1.5",
    ),
    "toasted": (
        "id bigint, t text", "",
        "g, (select string_agg(md5((g * i)::text), '') from generate_series(1, 100) as i)",
    ),
    "varied": ("id bigint, t text", "", "g, repeat('x', (g * 7919) % 1500)"),
    "numbers": ("n numeric, d timestamptz, e numeric(12, 2)", "", "g, now(), g % 1000 + 0.25"),
    "wide": (
        ", ".join(f"c{number} int" for number in range(12)) + ", t text", "",
        ", ".join(f"case when g % {number + 2} > 0 then g end" for number in range(12))
        + ", md5(g::text)",
    ),
    "named": ("id bigint, n name, b bool, m name", "", "g, 'n' || g, true, 'm'"),
    "dropped": ("id bigint, gone text, a int, t text", "", "g, 'x', g, md5(g::text)"),
}  # fmt: skip
ROWS = {"toasted": 4_000, "varied": 12_000}
INDEXES: Mapping[str, str] = {
    "i_unique": "unique index i_unique on keys (id)",
    "i_text": "index i_text on keys (u)",
    "i_few": "index i_few on keys (b)",
    "i_many": "index i_many on keys (s)",
    "i_expression": "index i_expression on keys (upper(u))",
    "i_partial": "index i_partial on keys (b) where b < 3",
    "i_including": "index i_including on keys (id) include (b)",
    "i_plain": "index i_plain on keys (b) with (fillfactor = 70)",
    "i_numeric": "index i_numeric on keys (n)",
    "i_both": "index i_both on keys (b, s)",
}


@pytest.fixture(scope="module")
def furnished(lab, server) -> Iterator[Database]:
    """A database with every layout, the function in it, and pgstattuple."""
    lab.server(server.major)
    server.query("create database bloated")
    database = server.database("bloated")
    database.query("create extension pgstattuple")
    database.query("\n".join(column_statistics_script("pgcollector")))
    yield database
    lab.server(server.major)
    database.drop()


def fill(database: Database, *names: str) -> None:
    """Make tables of these layouts, analyzed."""
    for name in names:
        write(database, name)
    analyze(database, *names)


def write(database: Database, name: str) -> None:
    columns, options, values = LAYOUTS[name]
    rows = ROWS.get(name, 20_000)
    settings = ", ".join(one for one in ("autovacuum_enabled = off", options) if one)
    database.query(f"drop table if exists {name}")
    database.query(f"create table {name} ({columns}) with ({settings})")
    if name == "dropped":
        database.query("alter table dropped drop column gone")
        values = values.replace("'x', ", "")
    database.query(f"insert into {name} select {values} from generate_series(1, {rows}) as g")


def analyze(database: Database, *names: str) -> None:
    """Vacuum and analyze, and wait until the server knows of no change since: it tells late."""
    for name in names:
        settle(database, name)
    database.query(f"vacuum analyze {', '.join(names)}")
    changed = (
        "select count(*) from pg_stat_all_tables"
        " where relname = any(%s) and n_mod_since_analyze <> 0"
    )
    until(lambda: database.value(changed, [list(names)]) == 0, what="all are analyzed")


def settle(database: Database, name: str) -> None:
    """Wait until the server knows of every row that was put in and taken out."""
    told = (
        f"select n_tup_ins - n_tup_del = (select count(*) from {name})"
        " from pg_stat_all_tables where relname = %s"
    )
    until(lambda: database.value(told, [name]), what=f"the changes of {name} are known")


def estimates(database: Database, set_name: str, by: str) -> dict[str, dict[str, Any]]:
    with sampling(database.dsn()) as there:
        return {row[by]: row for row in there.rows("bloat", set_name)}


def signed(row: dict[str, Any]) -> float:
    """Return the share that is empty, below 0 where more pages are estimated than there are."""
    return 1 - float(row["est_pages"]) / float(row["relpages"])


def pages(database: Database, name: str) -> int:
    sql = "select relpages from pg_class where relname = %s"
    return int(database.value(sql, [name]))


# A page has been laid out the same way since 8.3, and the statistics have the same names.
@pytest.mark.ends
def test_tables_of_every_layout_are_estimated_when_fresh_and_when_rows_are_gone(furnished):
    off = {}
    fill(furnished, *LAYOUTS)
    found = estimates(furnished, "bloat.tables", "relname")
    for name in LAYOUTS:
        off[name, "fresh"] = (signed(found[name]), FRESH)
        assert found[name]["confidence"] in {"high", "medium"}, found[name]
    for share, gone in (("half", "% 2 = 0"), ("two thirds", "% 3 <> 0")):
        fill(furnished, *LAYOUTS)
        for name in LAYOUTS:
            # By the place in the page, so that every page loses its share.
            furnished.query(f"delete from {name} where (ctid::text::point)[1]::int {gone}")
        analyze(furnished, *LAYOUTS)
        found = estimates(furnished, "bloat.tables", "relname")
        for name in LAYOUTS:
            before = pages(furnished, name)
            furnished.query(f"vacuum full {name}")
            furnished.query(f"analyze {name}")
            truth = 1 - pages(furnished, name) / before
            off[name, share] = (signed(found[name]) - truth, HOLED)
    wrong = {key: round(by, 4) for key, (by, limit) in off.items() if abs(by) > limit}
    assert not wrong, {key: round(by, 4) for key, (by, _) in off.items()}


def test_what_pgstattuple_finds_free_is_near_what_is_estimated(furnished):
    fill(furnished, "plain")
    furnished.query("delete from plain where id % 2 = 0")
    settle(furnished, "plain")
    analyze(furnished, "plain")
    (row,) = [estimates(furnished, "bloat.tables", "relname")["plain"]]
    free = furnished.value("select free_percent from pgstattuple('plain')")
    # Line pointers of removed rows are neither free nor used.
    assert row["bloat_ratio"] * 100 == pytest.approx(free, abs=5)
    assert row["confidence"] == "high"
    assert row["method"] == "function"
    assert row["bloat_bytes"] == (row["relpages"] - row["est_pages"]) * 8192


def test_b_trees_are_estimated_with_duplicates_merged_when_fresh_and_when_rows_are_gone(furnished):
    furnished.query("drop table if exists keys")
    furnished.query(
        "create table keys (id bigint, b int, s text, u text, n numeric)"
        " with (autovacuum_enabled = off)"
    )
    furnished.query(
        "insert into keys select g, g % 10, 'k' || (g % 500), md5(g::text), g % 100"
        " from generate_series(1, 150000) as g"
    )
    for sql in INDEXES.values():
        furnished.query(f"create {sql}")
    analyze(furnished, "keys")
    fresh = estimates(furnished, "bloat.indexes", "indexrelname")
    off = {(name, "fresh"): (signed(fresh[name]), FRESH) for name in INDEXES}
    furnished.query("delete from keys where id % 3 <> 0")
    analyze(furnished, "keys")
    holed = estimates(furnished, "bloat.indexes", "indexrelname")
    before = {name: pages(furnished, name) for name in INDEXES}
    furnished.query("reindex table keys")
    furnished.query("analyze keys")
    for name in INDEXES:
        truth = 1 - pages(furnished, name) / before[name]
        off[name, "third"] = (signed(holed[name]) - truth, HOLED)
    sure = [name for name in INDEXES if fresh[name]["confidence"] == "high"]
    wrong = {key: by for key, (by, limit) in off.items() if key[0] in sure and abs(by) > limit}
    assert not wrong, {key: round(by, 4) for key, (by, _) in off.items()}
    assert set(INDEXES) - set(sure) <= {"i_both"}
    assert fresh["i_few"]["deduplicated"] is (furnished.server.major >= 13)
    assert not any(fresh[name]["deduplicated"] for name in ("i_unique", "i_including", "i_numeric"))


def test_a_fresh_b_tree_is_as_dense_as_pgstatindex_says(furnished):
    furnished.query("drop table if exists dense")
    furnished.query("create table dense as select generate_series(1, 30000) as id")
    furnished.query("create unique index dense_id on dense (id)")
    analyze(furnished, "dense")
    row = estimates(furnished, "bloat.indexes", "indexrelname")["dense_id"]
    leaves, inner = furnished.query(
        "select leaf_pages, internal_pages from pgstatindex('dense_id')"
    )[0]
    assert row["est_pages"] == pytest.approx(leaves + inner + 1, abs=2)


def test_what_was_never_analyzed_or_changed_since_says_so(furnished):
    furnished.query("drop table if exists unknown, changed")
    for name in ("unknown", "changed"):
        furnished.query(f"create table {name} (id int) with (autovacuum_enabled = off)")
        furnished.query(f"insert into {name} select generate_series(1, 20000)")
    furnished.query("vacuum unknown")
    analyze(furnished, "changed")
    furnished.query("update changed set id = id + 1")
    found = until(
        lambda: (
            (now := estimates(furnished, "bloat.tables", "relname"))["changed"]["confidence"]
            == "low"
            and now
        ),
        what="the change is known",
    )
    assert "20000 rows changed" in found["changed"]["reason"]
    assert (found["unknown"]["confidence"], found["unknown"]["reason"]) == (
        "unavailable", "never analyzed",
    )  # fmt: skip
    assert found["unknown"]["bloat_ratio"] is None
    assert not found["unknown"]["hidden"]


def test_without_a_right_to_the_statistics_nothing_is_estimated_and_the_remedy_is_told(database):
    database.query("create table secret as select generate_series(1, 20000) as id")
    database.query("create index on secret (id)")
    database.query("analyze secret")
    with sampling(database.dsn()) as there:
        lines = there.take("bloat")
        for name in ("bloat.tables", "bloat.indexes"):
            (row,) = [row for line in lines[name] for row in line.rows]
            assert row["confidence"] == "unavailable"
            assert row["bloat_ratio"] is None
            assert row["hidden"] is True
            state = told(lines)[name]
            assert (state["state"], state["reason"]) == ("limited", "privilege")
            assert "pgc setup sql --bloat --user pgcollector" in state["remedy"]
        database.query("\n".join(column_statistics_script("pgcollector")))
        there.session.refresh()
        there.clock.ahead += 7200
        lines = there.take("bloat")
        (row,) = lines["bloat.tables"][0].rows
        assert (row["confidence"], row["method"]) == ("high", "function")
        assert {state["state"] for state in told(lines).values()} == {"ok"}


def test_a_role_that_may_read_the_tables_needs_no_function(database):
    database.query("create table shown as select generate_series(1, 20000) as id")
    settle(database, "shown")
    analyze(database, "shown")
    database.query("grant select on shown to pgcollector")
    with sampling(database.dsn()) as there:
        (row,) = there.rows("bloat", "bloat.tables")
        assert (row["confidence"], row["method"], row["hidden"]) == ("high", "pg_stats", False)


def test_a_function_that_somebody_planted_is_not_run(database):
    """Whoever may create a schema must not have us run what he likes, with our rights or his."""
    planted = "\n".join(column_statistics_script("pgcollector"))
    role = f"planter_{database.name}"
    database.query(f"create role {role} login")
    try:
        database.query(f"grant create on database {database.name} to {role}")
        database.query(f"set role {role}; {planted}")
        assert _sees(database) is False
        database.query("alter function pgcollector.column_statistics(oid[]) owner to postgres")
        assert _sees(database) is False  # he owns the schema: he can put another there
        database.query("alter schema pgcollector owner to postgres")
        assert _sees(database) is True
        database.query("alter function pgcollector.column_statistics(oid[]) security invoker")
        assert _sees(database) is False
    finally:
        database.query(f"drop owned by {role} cascade")
        database.query(f"drop role {role}")


def _sees(database: Database) -> bool:
    session = Session.open(target(database.dsn()), relations=RELATIONS)
    try:
        return "pgcollector.column_statistics" in session.facts.columns
    finally:
        session.close()


def test_the_function_shows_sizes_and_never_a_value(database):
    database.query("\n".join(column_statistics_script("pgcollector")))
    database.query("create table people as select 'canary-' || (g % 7) as name"
                   " from generate_series(1, 5000) as g")  # fmt: skip
    database.query("analyze people")
    with sampling(database.dsn()) as there:
        answer = there.session.fetch(
            "select * from pgcollector.column_statistics(array(select oid from pg_class))"
        )
        assert [row for row in answer.rows if row[3] == len("canary-1") + 1]
        assert "canary" not in str(answer.rows)
        assert Sampling(there.session).take("bloat")
    with sampling(database.dsn("plain")) as there:
        assert "pgcollector.column_statistics" not in there.session.facts.columns


def test_odd_options_and_emptied_tables_cost_no_other_row(database):
    """What a server takes: a fraction as fillfactor, a table whose rows are all gone."""
    database.query("\n".join(column_statistics_script("pgcollector")))
    database.query("create table ordinary as select generate_series(1, 20000) as id")
    database.query("create table fraction (id int) with (fillfactor = 70.5)")
    database.query("insert into fraction select generate_series(1, 20000)")
    database.query("create table emptied (id int) with (autovacuum_enabled = off)")
    database.query("insert into emptied select generate_series(1, 20000)")
    database.query("delete from emptied")
    database.query("vacuum analyze ordinary")
    database.query("vacuum analyze fraction")
    if database.server.major >= 13:
        database.query("vacuum (truncate off) emptied")

    def counted() -> dict[str, dict[str, Any]]:
        analyze(database, "ordinary")  # until 14 its rows may be counted after that
        found = estimates(database, "bloat.tables", "relname")
        return found if found["ordinary"]["confidence"] != "low" else {}

    found = until(counted, what="no change since the analyze is known")
    assert found["ordinary"]["confidence"] == "high"
    assert found["fraction"]["fillfactor"] in {70, 71}
    if database.server.major >= 14:  # until then no rows and nobody counted look alike
        assert (found["emptied"]["est_pages"], found["emptied"]["bloat_ratio"]) == (0, 1)


def test_wide_histograms_are_read_in_time(database):
    database.query("\n".join(column_statistics_script("pgcollector")))
    columns = ", ".join(f"md5((g * {number})::text) as c{number}" for number in range(1, 41))
    for number in range(10):
        database.query(
            f"create table w{number} as select {columns} from generate_series(1, 500) as g"
        )
    database.query("analyze")
    with sampling(database.dsn()) as there:
        (line,) = there.take("bloat")["bloat.tables"]
        assert len(line.rows) == 10
        assert line.head["took_ms"] < 1000
