"""What a set's declaration makes of its rows, on real servers, with samplers made for the test."""

import msgspec
import pytest

from pg_collector.errors import Reason
from pg_collector.sample import Row
from pg_collector.samplers._kinds import Id
from pg_collector.samplers._sampler import (
    Group,
    LaneName,
    Query,
    Ranking,
    Sampler,
    Scope,
    ServerRole,
)
from pg_collector.states import States
from pg_collector.turn import Turn
from tests.support.sampling import sampling
from tests.support.until import until


class CountRow(Row, frozen=True):
    """How many there are."""

    waiting: int


class NamedRow(Row, frozen=True):
    """A database that has a name."""

    datid: Id
    datname: str
    hidden: bool = False


class SeenRow(Row, frozen=True):
    """What was worked out."""

    datname: str
    length: int
    no_such_column: int | None = None


class RawRow(Row, frozen=True):
    """What was selected."""

    datname: str
    no_such_column: int | None = None


def sampler(*queries, **more):
    return Sampler(
        name="probe",
        learns="What the test wants to know",
        group=Group.CORE,
        scope=more.pop("scope", Scope.INSTANCE),
        lane=LaneName.FAST,
        every=10.0,
        queries=queries,
        remedy={Reason.PRIVILEGE: "GRANT something TO {role};"},
        **more,
    )


def plain(name="probe", **more):
    return Query(
        set=name,
        row=NamedRow,
        relations={"d": "pg_database"},
        columns={"datid": "d.oid", "hidden": "d.datistemplate"},
        source="FROM pg_database AS d ORDER BY d.oid",
        **more,
    )


def waiting(sql):
    return Query(
        set="probe.gate",
        row=CountRow,
        relations={"a": "pg_stat_activity"},
        columns={"waiting": sql},
        source="",
    )


@pytest.fixture
def probe(database):
    """Take turns of a sampler of the test's own, on one session."""
    with sampling(database.dsn()) as there:

        def take(one):
            turn = there.turns.get("probe")
            if turn is None or turn.sampler is not one:
                states = States("prod", there.tray)
                there.turns["probe"] = Turn(one, "prod", one.every, states)
            return there.take("probe")

        yield take


def states_of(lines):
    return [row for line in lines.get("sampler_state", ()) for row in line.rows]


def test_a_gated_set_is_asked_only_while_its_gate_is_not_zero(probe):
    gated = plain("probe.rows", gate=("probe.gate", "waiting"))
    assert set(probe(sampler(waiting("0"), gated))) == {"probe.gate"}
    assert set(probe(sampler(waiting("2"), gated))) == {"probe.gate", "probe.rows"}


def test_a_gate_that_was_not_answered_is_shut(probe):
    gated = plain("probe.rows", gate=("probe.gate", "waiting"))
    lines = probe(sampler(waiting("1 / 0"), gated))
    assert "probe.rows" not in lines
    assert [(row["set"], row["state"]) for row in states_of(lines)] == [("probe.gate", "error")]


def test_rows_that_say_that_they_hide_something_limit_the_set(probe):
    lines = probe(sampler(plain(blind="hidden")))
    (state,) = states_of(lines)
    assert (state["state"], state["reason"]) == ("limited", "privilege")
    assert state["message"].startswith("2 rows")  # template0 and template1
    assert state["remedy"] == "GRANT something TO pgcollector;"
    assert len(lines["probe"][0].rows) > 2


def test_a_derived_set_sends_what_was_worked_out_and_masks_it(probe):
    def derive(rows, facts):
        for row in rows:
            assert "no_such_column" not in row
            yield row["datname"], len(row["datname"]) + (facts.major > 0), None

    query = Query(
        set="probe",
        row=SeenRow,
        relations={"d": "pg_database"},
        source="FROM pg_database AS d ORDER BY d.datname DESC",
        cap=1,
        raw=RawRow,
        derive=derive,
        free_text=("datname",),
    )
    (line,) = probe(sampler(query))["probe"]
    assert line.head["c"] == ["datname", "length"]
    assert line.head["unavailable"] == [{"field": "no_such_column", "reason": "version"}]
    (row,) = line.rows
    assert row["length"] == len(row["datname"]) + 1
    assert line.head["total_rows"] >= 4
    msgspec.convert(row, SeenRow, strict=True)


def test_the_objects_that_moved_most_are_chosen_turn_by_turn(probe, database):
    database.query("create table moves (id int primary key, moved int8)")
    database.query("insert into moves select i, i from generate_series(1, 20) as i")
    database.query("grant select on moves to pgcollector")
    query = Query(
        set="probe",
        row=NamedRow,
        relations={"d": "pg_database"},
        columns={"datid": "m.id", "datname": "m.moved::text", "hidden": "false"},
        source="FROM public.moves AS m WHERE m.id = ANY (%(ids)s::int[]) ORDER BY m.id DESC",
        ranking=Ranking(
            key="m.id", measure="m.moved", source="FROM public.moves AS m", top=3, every=1.0
        ),
    )
    one = sampler(query)
    (first,) = probe(one)["probe"]
    assert [row["datid"] for row in first.rows] == [20, 19, 18]
    assert first.head["total_rows"] == 20
    (rest,) = probe(one)["probe"]
    assert rest.rows == []
    assert "epoch_changed" not in rest.head
    database.query("update moves set moved = 30 where id = 7")
    (one_moved,) = probe(one)["probe"]
    assert [(row["datid"], row["datname"]) for row in one_moved.rows] == [(7, "30")]
    assert "epoch_changed" not in one_moved.head
    database.query("update moves set moved = 0 where id > 5")  # most fell: a reset
    (reset,) = probe(one)["probe"]
    assert reset.head["epoch_changed"] is True


def test_the_lines_of_a_database_name_it(probe, database):
    query = plain()
    assert "database" not in probe(sampler(query))["probe"][0].head
    lines = probe(sampler(query, plain("probe.all", scope=Scope.INSTANCE), scope=Scope.DATABASE))
    assert lines["probe"][0].head["database"] == database.name
    assert "database" not in lines["probe.all"][0].head


def test_a_set_with_a_time_of_its_own_is_cut_off_then(probe):
    slow = Query(
        set="probe",
        row=CountRow,
        relations={"a": "pg_stat_activity"},
        columns={"waiting": "length(pg_sleep(3)::text)"},
        source="",
        timeout=0.2,
    )
    (state,) = states_of(probe(sampler(slow)))
    assert (state["state"], state["reason"]) == ("error", "timeout")


def test_a_sampler_for_standbys_says_once_that_this_is_none_and_follows_a_promotion(fresh_pair):
    one = sampler(plain(), only_on=ServerRole.STANDBY)
    with sampling(fresh_pair.standby.dsn("pgcollector")) as there:
        there.turns["probe"] = Turn(one, "prod", one.every, States("prod", there.tray))
        assert set(there.take("probe")) == {"probe"}
        fresh_pair.promote()
        until(lambda: not fresh_pair.standby.value("select pg_is_in_recovery()"), what="promotion")
        lines = there.take("probe")
        (state,) = states_of(lines)
        assert set(lines) == {"sampler_state"}
        assert (state["set"], state["reason"], state["message"]) == (None, "role", "not a standby")
        assert there.take("probe") == {}
