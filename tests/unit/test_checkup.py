"""What the check makes of its findings, where no server is needed to see it."""

import itertools

import pytest
from typer.testing import CliRunner

from pg_collector.checkup import clock, disk, grants, login, pgss, platform, run, settings, target
from pg_collector.checkup.finding import Finding, Level, Part, exit_code
from pg_collector.cli import app
from pg_collector.pg.examination import Examination, Role, Sessions, Setting, Trouble

OK = Finding(section="config", level=Level.OK, found="well")
WARN = Finding(section="settings", level=Level.WARN, found="so so")
FAIL = Finding(section="grants", level=Level.FAIL, found="bad")
AWAY = Finding(section="network", level=Level.FAIL, found="away", unreachable=True)


@pytest.mark.parametrize(
    ("findings", "lenient", "strict"),
    [
        ((), 0, 0),
        ((OK,), 0, 0),
        ((OK, WARN), 0, 3),
        ((WARN, AWAY), 69, 69),
        ((AWAY, AWAY), 69, 69),
        ((AWAY, FAIL, WARN), 1, 1),
        ((FAIL,), 1, 1),
    ],
)
def test_the_exit_code_says_what_kind_of_thing_is_to_be_done(findings, lenient, strict):
    for order in itertools.permutations(findings):
        assert exit_code(order, strict=False) == lenient
        assert exit_code(order, strict=True) == strict


def test_every_section_is_of_a_part_that_can_be_asked_for():
    sections = ("network", "tls", "login", "grants", "pgss", "settings")
    assert {Finding(section=one, level=Level.OK, found="").part for one in sections} == {
        Part.POSTGRES
    }
    assert all(Finding(section=one, level=Level.OK, found="").part is one for one in Part
               if one is not Part.POSTGRES)  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--only", "postgres", "--offline"), "without the network"),
        (("--only", "everything"), "--only takes of these: config, secrets"),
        (("--only", ""), "--only takes of these: config, secrets"),
        (("--timeout", "0"), "--timeout"),
    ],
)
def test_what_cannot_be_asked_is_wrong_usage(words, said):
    done = CliRunner().invoke(app, ["check", *words])
    assert done.exit_code == 2
    assert said in done.output


def skewed(**seconds: float) -> Finding:
    others = (
        Finding(section="login", target=name, level=Level.OK, found="", measured={clock.SKEW: one})
        for name, one in seconds.items()
    )
    (found,) = clock.findings(others)
    return found


@pytest.mark.parametrize(
    ("seconds", "level", "words"),
    [
        ({}, Level.OK, "compared with nobody's"),
        ({"prod": 29.0, "platform": -29.0}, Level.OK, "prod +29.0 s, platform -29.0 s"),
        ({"prod": 31.0, "platform": 0.0}, Level.WARN, "clocks differ"),
        ({"prod": 600.0, "platform": 600.0}, Level.WARN, "this host's clock is wrong"),
    ],
)
def test_clocks_may_differ_by_half_a_minute(seconds, level, words):
    found = skewed(**seconds)
    assert found.level is level
    assert words in found.found


def test_a_date_header_is_exact_to_a_second_and_no_more():
    assert platform._skew(100.0, before=100.2, after=100.9) == 0.0
    assert platform._skew(100.0, before=102.0, after=103.0) == -1.0
    assert platform._skew(160.0, before=100.0, after=101.0) == 59.0


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 kB"), (500 * 2**20, "500 MB"),
     (41 * 2**30, "41 GB"), (3 * 2**40, "3.0 TB")],
)  # fmt: skip
def test_sizes_are_written_as_in_the_configuration(count, text):
    assert disk.size(count) == text


def refused(message: str, sqlstate: str | None = None, kind: str = "refused") -> Finding:
    trouble = Trouble(message=message, remedy="r", sqlstate=sqlstate, kind=kind)
    (found,) = login.refused("prod", trouble)
    return found


@pytest.mark.parametrize(
    ("message", "sqlstate", "kind", "section", "unreachable"),
    [
        ("db1:5432: server does not support SSL", None, "refused", "tls", False),
        ("db1:5432: certificate authentication failed", "28000", "login", "login", False),
        ("db1:5432: no answer within 5.0 s (waited for: first answer)", None, "down", "network", 1),
        ("db1:5432: the database system is starting up", "57P03", "down", "login", True),
        ("db1:5432: sorry, too many clients already", "53300", "down", "login", False),
    ],
)
def test_a_session_that_is_refused_is_told_where_it_belongs(
    message, sqlstate, kind, section, unreachable
):
    found = refused(message, sqlstate, kind)
    assert (found.section, found.unreachable) == (section, bool(unreachable))


def test_of_a_limit_that_was_reached_the_remedy_says_whose_it_is():
    of_role = refused('db1:5432: too many connections for role "Mon"', "53300", "down")
    assert of_role.remedy.startswith("SELECT rolconnlimit")
    assert "rolname = 'Mon'" in of_role.remedy
    assert 'ALTER ROLE "Mon" CONNECTION LIMIT …' in of_role.remedy, "no number that nobody read"
    of_database = refused('db1:5432: too many connections for database "shop"', "53300", "down")
    assert of_database.remedy.startswith("SELECT datconnlimit")
    assert "ALTER DATABASE shop CONNECTION LIMIT …" in of_database.remedy
    odd = refused("""db1:5432: too many connections for role "o'x" """, "53300", "down")
    assert "rolname = 'o''x'" in odd.remedy


def libraries(
    setting: str, *, source: str = "configuration file", pending_restart: bool = False
) -> Finding:
    one = Setting(
        name="shared_preload_libraries", setting=setting,
        source=source, pending_restart=pending_restart,
    )  # fmt: skip
    examined = Examination(
        version=180_000, database="postgres", role="mon", in_recovery=False, superuser=False,
        reads_all_stats=True, round_trip_ms=1.0, skew_s=0.0, settings={one.name: one},
    )  # fmt: skip
    (found,) = pgss.findings("prod", examined)
    return found


@pytest.mark.parametrize(
    ("elsewhere", "role", "remedy"),
    [
        (0, "mon", "ALTER ROLE mon INHERIT;  -- where nobody else needs it"),
        (1, "mon", "pgc setup sql | sudo -u postgres psql   # then user=pgcollector"),
        (None, "mon", "pgc setup sql | sudo -u postgres psql   # then user=pgcollector"),
        (1, "pgcollector", "pgc setup sql --user pgc_agent | sudo -u postgres psql"),
    ],
)
def test_a_role_that_others_use_keeps_what_it_inherits(elsewhere, role, remedy):
    standing = Role(
        bootstrap=False, rolcreaterole=False, rolcreatedb=False, rolreplication=False,
        rolbypassrls=False, connection_limit=-1, valid_days=None, monitor=False,
        monitor_member=True, reads_settings=False, powers=[],
    )  # fmt: skip
    sessions = Sessions(
        own=2, elsewhere=elsewhere, others=1, hidden=1, cut=0, clients=2, in_database=2,
        database_limit=-1,
    )  # fmt: skip
    examined = Examination(
        version=150_000, database="postgres", role=role, in_recovery=False, superuser=False,
        reads_all_stats=False, round_trip_ms=1.0, skew_s=0.0, standing=standing, sessions=sessions,
    )  # fmt: skip
    (found,) = grants.findings("prod", examined)
    assert found.remedy.startswith(remedy)


def test_what_is_in_the_way_of_a_section_is_a_finding_after_those_before_it(tmp_path):
    def looked():
        yield OK
        (tmp_path / "nowhere" / "file").stat()

    first, last = run._whole("disk", looked())
    assert first is OK
    assert (last.section, last.level) == ("disk", Level.FAIL)
    assert f"{tmp_path}/nowhere/file: No such file or directory" in last.found
    assert last.remedy == "sudo pgc check --user root"


def test_what_is_loaded_stays_loaded_each_library_a_value_of_its_own():
    remedy = libraries('auto_explain, "$libdir/plugins/x"').remedy
    wanted = "'auto_explain', '$libdir/plugins/x', 'pg_stat_statements'"
    assert remedy.startswith(f"ALTER SYSTEM SET shared_preload_libraries = {wanted};")
    assert "Restart" in libraries("", pending_restart=True).remedy
    assert "ALTER SYSTEM" not in libraries("", source="command line").remedy
    assert "extension missing" in libraries("pg_stat_statements").found


@pytest.mark.parametrize(
    ("state", "reason", "trouble", "level", "remedy"),
    [
        ("ACTIVE", "", "", Level.OK, ""),
        ("ACTIVE", "", "nobody there", Level.WARN, "as told"),
        ("GRACE", "no contact", "nobody there", Level.WARN, "as told"),
        ("STOPPED", "the subscription was cancelled", "", Level.FAIL, "as told"),
        ("UNPROVISIONED", "", "", Level.WARN, "pgc activate"),
        (
            "UNPROVISIONED",
            "401 api key unknown",
            "401 api key unknown",
            Level.FAIL,
            "config.yaml:1",
        ),
        ("UNPROVISIONED", "403 key revoked", "", Level.FAIL, "config.yaml:1"),
    ],
)
def test_a_device_is_told_by_what_it_may_do(state, reason, trouble, level, remedy):
    found = platform._standing(state, reason, "as told", trouble, "config.yaml:1")
    assert found[0] is level
    assert remedy in found[2]
    assert found[1].count("401") <= 1, "what is the same is said once"


def test_libraries_that_the_role_may_not_see_are_not_written_over():
    examined = Examination(
        version=180_000, database="postgres", role="mon", in_recovery=False, superuser=False,
        reads_all_stats=False, round_trip_ms=1.0, skew_s=0.0,
    )  # fmt: skip
    (found,) = pgss.findings("prod", examined)
    assert "not loaded" in found.found
    assert "ALTER SYSTEM" not in found.remedy
    assert "beside what is there" in found.remedy


@pytest.mark.parametrize(
    ("remedy", "there"),
    [
        ("GRANT pg_monitor TO mon;", "GRANT pg_monitor TO mon;  -- on the primary"),
        ("CREATE EXTENSION x;  -- in the database shop",
         "CREATE EXTENSION x;  -- in the database shop, on the primary"),
        ("ALTER SYSTEM SET track_counts = on;", "ALTER SYSTEM SET track_counts = on;"),
        ("chmod 600 /key", "chmod 600 /key"),
        ("", ""),
    ],
)  # fmt: skip
def test_sql_that_a_standby_refuses_is_for_its_primary(remedy, there):
    one = Finding(section="grants", level=Level.FAIL, found="bad", remedy=remedy)
    assert target.on_primary(one).remedy == there


@pytest.mark.parametrize(
    ("source", "levels"),
    [
        ("user", [Level.OK]),
        ("database user", [Level.OK]),
        ("database", [Level.WARN]),
        ("configuration file", [Level.WARN]),
    ],
)
def test_that_our_own_statements_are_not_counted_is_well(source, levels):
    name = "pg_stat_statements.track"
    one = Setting(name=name, setting="none", source=source, pending_restart=False)
    examined = Examination(
        version=170000, database="shop", role="watcher", in_recovery=False, superuser=False,
        reads_all_stats=True, round_trip_ms=1.0, skew_s=0.0, settings={name: one},
    )  # fmt: skip
    assert [found.level for found in settings.findings("prod", examined)] == levels
