import msgspec

from pg_collector.config.model import Config, Database, Postgres, Sampling
from pg_collector.plan import DEMO, Grant, Limit, OpenGrant
from pg_collector.samplers import discover
from pg_collector.samplers._sampler import LaneName
from pg_collector.schedule import lay_out

SAMPLERS = discover()
ONE = Config(databases=(Database(name="prod"),))


def intervals(layout):
    return {job.sampler: job.every for job in layout.jobs}


def test_without_a_grant_nothing_runs():
    assert lay_out(SAMPLERS, None, ONE).jobs == ()


def test_the_sampler_owns_its_interval():
    grant = OpenGrant().grant()
    found = intervals(lay_out(SAMPLERS, grant, ONE))
    assert found == {name: sampler.every for name, sampler in SAMPLERS.items()}


def test_the_grants_minimum_has_the_last_word_and_is_told_where_the_file_asked():
    config = msgspec.structs.replace(ONE, sampling=Sampling(every={"activity": 5.0}))
    layout = lay_out(SAMPLERS, DEMO, config)
    assert intervals(layout)["activity"] == 30.0
    assert intervals(layout)["database"] == 60.0
    (paused,) = layout.paused
    assert (paused.sampler, "every 30 s" in paused.why) == ("activity", True)


def test_the_grants_default_replaces_the_samplers_and_the_file_overrides_both():
    limit = Limit(min_interval=1.0, default_interval=7.0)
    grant = Grant(plan="x", samplers={"activity": limit}, max_databases=None)
    assert intervals(lay_out(SAMPLERS, grant, ONE)) == {"activity": 7.0}
    config = msgspec.structs.replace(ONE, sampling=Sampling(every={"activity": 3.0}))
    assert intervals(lay_out(SAMPLERS, grant, config)) == {"activity": 3.0}


def test_databases_beyond_the_plan_are_paused_and_named():
    config = Config(databases=(Database(name="a"), Database(name="b")))
    layout = lay_out(SAMPLERS, DEMO, config)
    assert {job.target for job in layout.jobs} == {"a"}
    assert [(paused.target, paused.sampler) for paused in layout.paused] == [("b", None)]


def test_a_database_that_is_off_takes_no_place_of_the_plan():
    config = Config(databases=(Database(name="a", enabled=False), Database(name="b")))
    assert {job.target for job in lay_out(SAMPLERS, DEMO, config).jobs} == {"b"}


def test_the_file_narrows_what_runs():
    config = Config(
        databases=(Database(name="a", samplers=("activity", "database")),),
        sampling=Sampling(enabled={"activity": False}),
    )
    assert intervals(lay_out(SAMPLERS, OpenGrant().grant(), config)).keys() == {"database"}


def test_a_sampler_that_the_plan_lacks_is_told_only_where_it_was_asked_for():
    grant = Grant(plan="x", samplers={"activity": Limit(min_interval=1)}, max_databases=None)
    assert lay_out(SAMPLERS, grant, ONE).paused == ()
    asked = Config(databases=(Database(name="a", samplers=("activity", "statements")),))
    assert [paused.sampler for paused in lay_out(SAMPLERS, grant, asked).paused] == ["statements"]


def test_with_one_connection_everything_shares_a_lane():
    postgres = Postgres(max_connections=1)
    config = Config(databases=(Database(name="a", postgres=postgres),))
    assert {job.lane for job in lay_out(SAMPLERS, DEMO, config).jobs} == {LaneName.FAST}
