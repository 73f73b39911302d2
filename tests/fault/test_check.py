"""`pgc check`: whatever is wrong is told, and what it says against it mends it.

Each case seeds one fault on a real server, file or far side, and gets the finding that the check
has of it; then it does what the remedy says, and nothing else. The same line has to be well then.
"""

import json
import shutil
import time
from collections.abc import Callable, Generator, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pg_collector import control
from pg_collector.checkup.finding import Finding, Level, Part
from pg_collector.cli.options import Source
from tests.conftest import chosen_majors
from tests.support import process
from tests.support.agents import configuration, running
from tests.support.checkup import TRUST, Bench, bad
from tests.support.daemon import Daemon
from tests.support.far_side import Answer, FarSide
from tests.support.http_proxy import HttpProxy
from tests.support.lab.server import Server
from tests.support.pgbouncer import start_pgbouncer
from tests.support.pki import Leaf, Pki
from tests.support.ports import free_port
from tests.support.reference_platform import ReferencePlatform
from tests.support.until import until
from tests.support.volumes import memory_volume

MIB = 1024 * 1024
CANARY = "qxzjQXZJqxzj"
PASSWORD = "correct horse battery"  # noqa: S105
SERVER = frozenset((Part.POSTGRES,))
Case = Generator[None, Finding, None]


class Seeded(NamedTuple):
    """A fault: where it shows, how bad it is, words that explain it, and how it comes and goes."""

    section: str
    level: Level
    words: str
    part: Part
    case: Callable[[Bench], Case]


CASES: dict[str, Seeded] = {}


def case(
    section: str, level: Level, words: str, part: Part | None = None
) -> Callable[[Callable[[Bench], Case]], Callable[[Bench], Case]]:
    """Put a case into the table."""

    def put(function: Callable[[Bench], Case]) -> Callable[[Bench], Case]:
        there = part or Finding(section=section, level=level, found="").part
        CASES[function.__name__] = Seeded(section, level, words, there, function)
        return function

    return put


@pytest.fixture(scope="module")
def secured(pki: Pki) -> Iterator[Server]:
    """A server with TLS of this module's own: some cases restart it."""
    with Server(max(chosen_majors()), tls=pki, hba=TRUST) as server:
        yield server


@pytest.fixture
def bench(secured: Server, pki: Pki) -> Iterator[Bench]:
    bench = Bench(secured, pki)
    yield bench
    bench.close()


# --- the role and what it may see


@case("grants", Level.FAIL, "role pgcollector lacks pg_read_all_stats")
def the_role_lacks_pg_monitor(bench: Bench) -> Case:
    bench.sql("revoke pg_monitor from pgcollector")
    with bench.session("postgres"):
        found = yield
        assert found.measured["hidden_sessions"] > 0
        assert found.measured["hidden_statements"] > 0
        bench.follow(found.remedy)


@case("grants", Level.FAIL, "does not inherit")
def the_role_does_not_inherit(bench: Bench) -> Case:
    bench.sql("grant pg_monitor to pgcollector with inherit false")
    found = yield
    bench.follow(found.remedy)


@case("grants", Level.WARN, "not all settings")
def the_role_has_a_part_of_pg_monitor(bench: Bench) -> Case:
    bench.sql("create role part login in role pg_read_all_stats")
    bench.dsn("part")
    found = yield
    bench.follow(found.remedy)
    bench.stack.callback(bench.sql, "drop role part")


@case("login", Level.FAIL, "some samplers would never run")
def the_role_may_have_one_session(bench: Bench) -> Case:
    bench.sql("alter role pgcollector connection limit 1")
    found = yield
    bench.follow(found.remedy)
    limit = bench.server.value("select rolconnlimit from pg_roles where rolname = 'pgcollector'")
    assert limit == 2


@case("login", Level.WARN, "1 of the 2 sessions of role pgcollector are taken by others")
def somebody_else_has_a_session_of_the_role(bench: Bench) -> Case:
    bench.stack.callback(bench.sql, "alter role pgcollector connection limit 2")
    with bench.session("pgcollector"):
        found = yield
        bench.follow(found.remedy)
        assert not bad(bench.check(Part.POSTGRES), "login")


@case("login", Level.FAIL, "too many connections for role")
def the_sessions_of_the_role_are_all_taken(bench: Bench) -> Case:
    bench.stack.callback(bench.sql, "alter role pgcollector connection limit 2")
    with bench.session("pgcollector"), bench.session("pgcollector"):
        found = yield
        assert found.measured["sqlstate"] == "53300"
        bench.follow(found.remedy)
        assert not bad(bench.check(Part.POSTGRES), "login")


@case("login", Level.FAIL, "is not permitted to log in")
def the_role_may_not_log_in(bench: Bench) -> Case:
    bench.sql("alter role pgcollector nologin")
    found = yield
    bench.follow(found.remedy)


@case("login", Level.WARN, "is a superuser")
def the_role_is_a_superuser(bench: Bench) -> Case:
    bench.sql("alter role plain superuser")
    bench.stack.callback(bench.sql, "revoke pg_monitor from plain")
    bench.dsn("plain")
    found = yield
    bench.follow(found.remedy)


@case("login", Level.WARN, "CREATEDB, pg_read_all_data")
def the_role_may_do_more_than_it_needs(bench: Bench) -> Case:
    bench.sql("alter role pgcollector createdb", "grant pg_read_all_data to pgcollector")
    found = yield
    bench.follow(found.remedy)


@case("login", Level.WARN, "the password of role pgcollector ends in 3.0 d")
def the_password_ends_soon(bench: Bench) -> Case:
    ends = bench.server.value("select (now() + interval '3 days')::text")
    bench.sql(f"alter role pgcollector valid until '{ends}'")
    found = yield
    bench.follow(found.remedy)


@case("login", Level.FAIL, "password authentication failed")
def the_password_is_wrong(bench: Bench) -> Case:
    _with_password(bench, "wrong")
    found = yield
    assert "postgres.password_file" in found.remedy
    bench.secret(PASSWORD)


@case("login", Level.FAIL, 'database "nowhere" does not exist')
def the_database_is_none(bench: Bench) -> Case:
    bench.dsn("pgcollector", "nowhere")
    found = yield
    assert "Name a database that exists" in found.remedy
    bench.dsn("pgcollector", "postgres")


@case("login", Level.FAIL, "connection pooler")
def a_pooler_is_in_between(bench: Bench) -> Case:
    bouncer = bench.stack.enter_context(start_pgbouncer(bench.server))
    bench.postgres["conn_string"] = bouncer.dsn(sslmode="disable")
    found = yield
    assert "Connect to PostgreSQL directly" in found.remedy
    bench.dsn("pgcollector")


# --- pg_stat_statements and settings


@case("pgss", Level.WARN, 'loaded, extension missing in "bare"')
def the_extension_is_missing_in_the_database(bench: Bench) -> Case:
    _in_a_database(bench, "bare")
    found = yield
    bench.follow(found.remedy, "bare")


@case("pgss", Level.WARN, "columns are missing")
def the_extension_is_older_than_the_server(bench: Bench) -> Case:
    _in_a_database(bench, "old")
    bench.sql("create extension pg_stat_statements version '1.9'", dbname="old")
    found = yield
    bench.follow(found.remedy, "old")


@case("pgss", Level.WARN, "not loaded by this server")
def the_library_is_not_loaded(bench: Bench) -> Case:
    bench.server.restart({"shared_preload_libraries": "auto_explain,pg_prewarm"})
    found = yield
    assert "then restart PostgreSQL" in found.remedy
    bench.follow(found.remedy)
    bench.server.reload()
    (waiting,) = bad(bench.check(Part.POSTGRES), "pgss")
    assert "waits for a restart" in waiting.found
    bench.server.restart()
    loaded = bench.server.value("show shared_preload_libraries")
    assert [one.strip() for one in loaded.split(",")] == [
        "auto_explain", "pg_prewarm", "pg_stat_statements",
    ]  # fmt: skip
    bench.sql("alter system reset all")
    bench.server.settings["shared_preload_libraries"] = "pg_stat_statements"


@case("pgss", Level.WARN, "too small: entries were evicted")
def there_is_no_room_for_all_statements(bench: Bench) -> Case:
    bench.server.restart({"pg_stat_statements.max": "100"})
    bench.sql("select pg_stat_statements_reset()")
    bench.sql(*(f"select 1{', 1' * n}" for n in range(400)))  # each has an entry of its own
    found = yield
    bench.follow(found.remedy)
    bench.server.restart()
    assert bench.server.value("show pg_stat_statements.max") == "200"
    bench.sql("select pg_stat_statements_reset()")
    bench.stack.callback(bench.server.restart, {"pg_stat_statements.max": "12000"})
    bench.stack.callback(bench.sql, "alter system reset all")


@case("settings", Level.WARN, "track_io_timing is off: the times of reads and writes are 0")
def io_is_not_timed(bench: Bench) -> Case:
    bench.sql("alter system set track_io_timing = off")
    bench.server.reload()
    found = yield
    bench.follow(found.remedy)


@case("settings", Level.WARN, "compute_query_id is off")
def statements_have_no_id(bench: Bench) -> Case:
    bench.sql("alter system set compute_query_id = off")
    bench.server.reload()
    found = yield
    bench.follow(found.remedy)


@case("settings", Level.WARN, "track_counts is off")
def one_database_counts_nothing(bench: Bench) -> Case:
    bench.sql("alter database postgres set track_counts = off")
    found = yield
    assert found.remedy.startswith("ALTER DATABASE postgres")
    bench.follow(found.remedy)
    bench.stack.callback(bench.sql, "alter database postgres reset track_counts")


@case("settings", Level.WARN, "the queries of 1 sessions are cut off at 1024 bytes")
def a_query_is_longer_than_what_is_shown(bench: Bench) -> Case:
    long = f"select 1 /* {'x' * 2000} */".encode()
    with bench.session("postgres") as session:
        session.execute(long)
        found = yield
    assert "then restart PostgreSQL" in found.remedy
    bench.follow(found.remedy)
    bench.server.restart()
    session = bench.stack.enter_context(bench.session("postgres"))
    session.execute(long)


# --- the way there, and TLS


@case("network", Level.FAIL, "the name cannot be resolved")
def the_host_is_unknown(bench: Bench) -> Case:
    bench.dsn("pgcollector", host="nowhere.invalid")
    found = yield
    assert found.unreachable
    assert "mend the name in conn_string" in found.remedy
    bench.dsn("pgcollector")


@case("network", Level.FAIL, "connection refused")
def nobody_listens_there(bench: Bench) -> Case:
    bench.dsn("pgcollector", port=free_port())
    found = yield
    assert found.unreachable
    assert "ss -ltn" in found.remedy
    bench.dsn("pgcollector")


@case("tls", Level.FAIL, "server does not support SSL")
def the_server_speaks_no_tls(bench: Bench) -> Case:
    bench.secured()
    bench.sql("alter system set ssl = off")
    bench.server.reload()
    found = yield
    assert "(ssl = on)" in found.remedy
    bench.sql("alter system set ssl = on")
    bench.server.reload()


@case("tls", Level.FAIL, "signed by an authority that is not trusted here")
def the_authority_is_another_one(bench: Bench) -> Case:
    bench.secured(ca_file=str(bench.pki.other.ca))
    found = yield
    assert "postgres.tls.ca_file" in found.remedy
    bench.secured()


@case("tls", Level.FAIL, "does not match host name")
def the_certificate_is_of_another_host(bench: Bench) -> Case:
    bench.secured()
    bench.dsn("pgcollector", sslmode=None, host="db.example.test", hostaddr="127.0.0.1")
    found = yield
    assert "Write the name that the certificate has as host in conn_string" in found.remedy
    bench.secured()


@case("tls", Level.WARN, "client cert ends in 10 d")
def the_client_certificate_ends_soon(bench: Bench) -> Case:
    leaf = bench.pki.issue("nearly", "pgcollector", client=True, days=(-80, 10))
    cert = _with_certificate(bench, leaf)
    found = yield
    assert f"Renew {cert}" in found.remedy
    bench.own(bench.pki.client, "own")


@case("tls", Level.FAIL, "client cert expired on")
def the_client_certificate_has_expired(bench: Bench) -> Case:
    cert = _with_certificate(bench, bench.pki.expired_client)
    found = yield
    assert f"Renew {cert}" in found.remedy
    bench.own(bench.pki.client, "own")


@case("tls", Level.FAIL, "certificate has expired")
def the_server_certificate_has_expired(bench: Bench) -> Case:
    bench.secured()
    _present(bench, bench.pki.expired_server)
    found = yield
    assert "Renew the server's certificate" in found.remedy
    _present(bench, bench.pki.server)


# --- files


@case("secrets", Level.WARN, "others can read it; mode 0600 is needed")
def everybody_may_read_the_password(bench: Bench) -> Case:
    _with_password(bench, PASSWORD)
    path = bench.home / "password"
    path.chmod(0o644)
    found = yield
    bench.shell(found.remedy)
    assert path.stat().st_mode & 0o777 == 0o600


@case("secrets", Level.FAIL, "which it passes over while others can read it")
def libpq_passes_over_its_password_file(bench: Bench) -> Case:
    _with_password(bench, PASSWORD)
    del bench.postgres["password_file"]
    path = bench.secret(f"*:*:*:secret:{PASSWORD}", "pgpass", 0o644)
    bench.dsn("secret", passfile=str(path))
    assert "password" in bad(bench.check(Part.POSTGRES), "login")[0].found
    found = yield
    bench.shell(found.remedy)
    assert not bad(bench.check(Part.POSTGRES), "login")


@case("secrets", Level.FAIL, "which libpq refuses while others can read it")
def everybody_may_read_the_key(bench: Bench) -> Case:
    cert = _with_certificate(bench, bench.pki.client)
    key = cert.with_suffix(".key")
    bench.postgres["tls"] = {"ca_file": str(bench.pki.ca)}
    bench.dsn(
        "pgcollector", sslmode=None, host="localhost", hostaddr="127.0.0.1",
        sslcert=str(cert), sslkey=str(key),
    )  # fmt: skip
    key.chmod(0o644)
    found = yield
    bench.shell(found.remedy)


@case("secrets", Level.WARN, "every user of this host may read it (mode 0644)")
def everybody_may_read_the_api_key(bench: Bench) -> Case:
    _with_platform(bench, "https://127.0.0.1:9")
    bench.write()
    bench.file.chmod(0o644)
    found = yield
    bench.shell(found.remedy)


@case("secrets", Level.WARN, "does not read as one")
def the_api_key_is_a_placeholder(bench: Bench) -> Case:
    _with_platform(bench, "https://127.0.0.1:9")
    bench.keys["api_key"] = "your-key-here"
    found = yield
    assert "Copy it again" in found.remedy
    bench.keys["api_key"] = KEY


@case("config", Level.FAIL, "does not exist")
def the_password_file_is_missing(bench: Bench) -> Case:
    _with_password(bench, PASSWORD)
    path = bench.home / "password"
    path.unlink()
    found = yield
    assert str(path) in found.found
    bench.secret(PASSWORD)


@case("config", Level.FAIL, "unknown key 'query_timout'")
def a_key_is_misspelled(bench: Bench) -> Case:
    bench.postgres["query_timout"] = "3s"
    found = yield
    assert "did you mean 'query_timeout'?" in f"{found.found} {found.remedy}"
    bench.postgres["query_timeout"] = bench.postgres.pop("query_timout")


@case("disk", Level.FAIL, "nothing can be buffered")
def the_volume_is_full(bench: Bench) -> Case:
    volume = bench.stack.enter_context(memory_volume(64 * MIB))
    bench.keys["buffers"] = {"disk_path": str(volume.path), "disk_max": "16MB"}
    volume.fill(2 * MIB)
    found = yield
    assert "16 MB" not in found.found
    volume.free()


@case("disk", Level.WARN, "not the cap of 500 MB")
def the_volume_is_smaller_than_the_cap(bench: Bench) -> Case:
    volume = bench.stack.enter_context(memory_volume(64 * MIB))
    bench.keys["buffers"] = {"disk_path": str(volume.path)}
    found = yield
    named, _, value = found.remedy.partition("buffers.disk_max: ")
    assert named
    bench.keys["buffers"]["disk_max"] = value


# --- the platform and the clocks


@case("platform", Level.FAIL, "no connection: Connection refused")
def the_platform_is_down(bench: Bench) -> Case:
    far = _far_side(bench)
    far.down()
    found = yield
    assert found.unreachable
    far.up()


@case("platform", Level.FAIL, "something else answers: 200, text/html")
def a_portal_answers(bench: Bench) -> Case:
    far = _far_side(bench)
    page = b"<html>Accept the terms of this network</html>"
    far.always = Answer(status=200, body=page, headers={"Content-Type": "text/html"})
    found = yield
    assert not found.unreachable
    far.always = None


@case("platform", Level.FAIL, "unexpected answer: 302")
def a_portal_leads_elsewhere(bench: Bench) -> Case:
    far = _far_side(bench)
    far.always = Answer(status=302, headers={"Location": "http://portal.example/"})
    found = yield
    assert "platform.url" in found.remedy
    far.always = None


@case("platform", Level.FAIL, "401 token invalid")
def something_wants_a_login(bench: Bench) -> Case:
    far = _far_side(bench)
    far.always = Answer(status=401, problem="token-invalid")
    _ = yield
    far.always = None


@case("platform", Level.FAIL, "signed by an authority that is not trusted here")
def the_platform_has_an_authority_of_its_own(bench: Bench) -> Case:
    _far_side(bench)
    bench.keys["platform"]["ca_file"] = str(bench.pki.other.ca)
    found = yield
    assert "platform.ca_file" in found.remedy
    bench.keys["platform"]["ca_file"] = str(bench.pki.ca)


@case("platform", Level.FAIL, "by the proxy 127.0.0.1:")
def the_proxy_is_dead(bench: Bench) -> Case:
    _far_side(bench)
    proxy = bench.stack.enter_context(HttpProxy())
    bench.keys["platform"] |= {"proxy": proxy.url}
    well = bench.check(Part.PLATFORM)
    assert any(f"via proxy 127.0.0.1:{proxy.port}, CA {bench.pki.ca}" in one.found for one in well)
    proxy.die()
    _ = yield
    bench.keys["platform"]["proxy"] = bench.stack.enter_context(HttpProxy()).url


@case("platform", Level.FAIL, "the proxy wants a login (407)")
def the_proxy_wants_a_login(bench: Bench) -> Case:
    _far_side(bench)
    proxy = bench.stack.enter_context(HttpProxy(login="me:pass"))
    bench.keys["platform"] |= {"proxy": f"http://127.0.0.1:{proxy.port}"}
    found = yield
    assert "http://user:password@host:port" in found.remedy
    bench.keys["platform"]["proxy"] = proxy.url


@case("clock", Level.WARN, "clocks differ: ")
def the_clocks_differ(bench: Bench) -> Case:
    far = _far_side(bench)
    far.always = Answer(headers={"Date": _later(600)})
    found = yield
    assert found.measured["skew_s"]["platform"] == pytest.approx(600, abs=2)
    assert "timedatectl set-ntp true" in found.remedy
    far.always = None


# --- what the cases need

KEY = f"pgc_pro_{'A1b2' * 8}"


def _with_password(bench: Bench, written: str) -> None:
    """Have a role with a password, and a file that holds what is `written`."""
    bench.sql(
        "drop role if exists secret", f"create role secret login password '{PASSWORD}'",
        "grant pg_monitor to secret",
    )  # fmt: skip
    bench.server.allow(["host all secret 127.0.0.1/32 scram-sha-256", *TRUST])
    bench.stack.callback(bench.server.allow, TRUST)
    bench.dsn("secret")
    bench.postgres["password_file"] = str(bench.secret(written))


def _with_certificate(bench: Bench, leaf: Leaf) -> Path:
    cert = bench.own(leaf, "own")
    bench.secured(cert_file=str(cert), key_file=str(cert.with_suffix(".key")))
    return cert


def _present(bench: Bench, leaf: Leaf) -> None:
    """Let the server show this certificate from now on."""
    for source, name in ((leaf.certificate, "server.crt"), (leaf.key, "server.key")):
        process.give(Path(shutil.copy(source, bench.server.base / name)), 0o600)
    bench.server.reload()


def _in_a_database(bench: Bench, name: str) -> None:
    bench.sql(f"create database {name}")
    bench.stack.callback(bench.server.database(name).drop)
    bench.dsn("pgcollector", name)


def _with_platform(bench: Bench, url: str) -> None:
    bench.keys |= {"api_key": KEY, "platform": {"url": url, "ca_file": str(bench.pki.ca)}}


def _far_side(bench: Bench) -> FarSide:
    far = bench.stack.enter_context(FarSide(tls=bench.pki.server))
    _with_platform(bench, far.url)
    return far


def _later(seconds: float) -> str:
    return formatdate(time.time() + seconds, usegmt=True)


def green(findings: list[Finding], section: str, words: str) -> bool:
    """Whether a line of a section is well, and nothing there says these words any more."""
    assert findings
    there = [one for one in findings if one.section == section]
    return any(one.level is Level.OK for one in there) and not any(
        words in one.found for one in bad(findings, section)
    )


@pytest.mark.parametrize("name", CASES)
def test_a_fault_is_told_and_its_remedy_mends_it(bench: Bench, name: str):
    seeded = CASES[name]
    working = seeded.case(bench)
    next(working)
    found = bad(bench.check(seeded.part), seeded.section)
    mine = [one for one in found if seeded.words in one.found]
    assert mine, found
    assert mine[0].level is seeded.level
    assert mine[0].remedy
    with pytest.raises(StopIteration):
        working.send(mine[0])
    until(
        lambda: green(bench.check(seeded.part), seeded.section, seeded.words),
        what=f"{seeded.section} is well after: {mine[0].remedy}",
    )


# --- through processes


def test_what_it_says_to_people_and_to_machines_and_how_it_ends(bench: Bench):
    bench.dsn("plain")
    bench.postgres["password_file"] = str(bench.secret(CANARY))
    proxy = {"proxy": f"http://me:{CANARY}@127.0.0.1:9"}
    bench.keys |= {"api_key": CANARY, "platform": {"url": "https://127.0.0.1:9", **proxy}}
    bench.write()
    bench.sql("select pg_stat_statements_reset()")
    before = _left(bench)
    done = bench.pgc("check")
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("PG Collector ")
    assert str(bench.file) in lines[0]
    assert " prod" in lines
    failed = next(n for n, line in enumerate(lines) if line.startswith("   grants   FAIL "))
    assert lines[failed + 1] == "            fix:  GRANT pg_monitor TO plain;"
    assert lines[-1].startswith("2 failures, ")
    assert lines[-1].endswith("exit 1")
    assert "by the proxy 127.0.0.1:9" in done.stdout
    assert CANARY not in done.stdout + done.stderr
    code, told = bench.told()
    assert CANARY not in json.dumps(told)
    assert code == 1
    assert {one["section"] for one in told} == {
        "config", "secrets", "disk", "network", "tls", "login", "grants", "pgss", "settings",
        "samplers", "platform", "clock",
    }  # fmt: skip
    assert all(one["remedy"] for one in told if one["level"] != "ok")
    assert set(told[0]) == {
        "section", "target", "level", "found", "remedy", "measured", "unreachable",
    }  # fmt: skip
    limited = [one for one in told if one["section"] == "samplers" and one["level"] == "warn"]
    assert [one["remedy"] for one in limited] == ["GRANT pg_monitor TO plain;"], "told once"
    assert "activity.sessions" in limited[0]["measured"]["sets"]
    assert _left(bench) == before, "nothing is left, on disk or on the server"


def _left(bench: Bench) -> tuple[list[str], Any]:
    """Return what lies in the state directory, and the next transaction id of the server."""
    bench.write()
    found = sorted(str(path) for path in bench.home.rglob("*"))
    return found, bench.server.value("select pg_snapshot_xmax(pg_current_snapshot())::text")


def test_exit_codes_tell_apart_what_has_to_be_mended_what_is_away_and_what_is_invalid(
    bench: Bench,
):
    code, told = bench.told("--only", "config,postgres,samplers", "--strict")
    assert (code, [one for one in told if one["level"] != "ok"]) == (0, [])
    assert bench.told("--only", "platform")[0] == 0, "warnings alone"
    assert bench.told("--only", "platform", "--strict")[0] == 3
    bench.dsn("pgcollector", port=free_port())
    code, told = bench.told("--only", "postgres")
    assert code == 69
    assert [one["section"] for one in told] == ["network"]
    assert bench.told("--offline", "--only", "config,disk")[0] == 0
    assert bench.pgc("check", "--only", "postgres", "--offline").returncode == 2
    assert bench.pgc("check", "--only", "everything").returncode == 2
    bench.keys["nonsense"] = 1
    code, told = bench.told("--database", "prod")
    assert code == 78
    assert "nonsense" in told[0]["found"]


def test_a_server_that_says_nothing_takes_no_longer_than_it_may(bench: Bench):
    silent = FarSide()
    bench.stack.callback(silent.__exit__)
    silent.silent = True
    bench.dsn("pgcollector", port=silent.port)
    began = time.monotonic()
    code, told = bench.told("--only", "postgres", "--timeout", "2")
    assert code == 69
    assert "no answer within" in told[-1]["found"]
    assert time.monotonic() - began < 2 + START


START = 6.0  # seconds that a process may take to begin and to end, on a slow machine


@pytest.mark.root
def test_root_checks_with_the_rights_of_the_service(bench: Bench):
    account = process.ACCOUNT
    bench.home.chmod(0o755)
    key = bench.secret(KEY, "api_key")
    bench.keys |= {"api_key_file": str(key), "platform": {"url": "https://127.0.0.1:9"}}
    words = ("--user", account, "--only", "config,secrets,disk")

    def failures(code: int) -> list[dict[str, Any]]:
        found, told = bench.told(*words)
        assert found == code, told
        return [one for one in told if one["level"] == "fail"]

    bench.write()
    (unreadable,) = failures(78)
    assert f"may not be read by {account} (owner root, mode 0640)" in unreadable["found"]
    bench.shell(unreadable["remedy"])
    (unreadable,) = failures(78)
    assert str(key) in unreadable["found"]
    assert "owner root, mode 0600" in unreadable["found"]
    bench.shell(unreadable["remedy"])
    found = failures(1)
    assert {one["section"] for one in found} == {"disk"}
    assert f"cannot be written by {account}" in found[0]["found"]
    assert "owner root, mode 0755" in found[0]["found"]
    bench.shell(found[0]["remedy"])
    assert failures(0) == []
    code, told = bench.told("--user", account)
    assert [one["section"] for one in told if one["level"] == "fail"] == ["platform"]
    assert code == 69, "and the rest runs without a file of Python's own that root alone may read"


@pytest.mark.root
def test_an_agent_that_may_not_be_asked_is_named_with_who_may(bench: Bench):
    bench.home.chmod(0o755)
    bench.write()
    bench.file.chmod(0o644)
    (database,) = Source(bench.file, ()).load().config.databases
    config = configuration({"prod": bench.server.dsn(sslmode="disable")}, bench.home / "output")
    with running(config, bench.home / "pgc.sock"):
        _, told = bench.told("--user", process.ACCOUNT, "--only", "postgres")
        assert control.fingerprint(database) == control.fingerprint(config.databases[0])
    (refused,) = told
    assert refused["section"] == "login"
    assert f"{bench.home / 'pgc.sock'}: an agent listens there" in refused["found"]
    assert refused["remedy"] == "sudo -u '#0' pgc check"


def test_a_running_agent_lends_its_sessions_and_its_figures(bench: Bench, tmp_path: Path):
    with Daemon(
        tmp_path, {"prod": bench.server.dsn()}, state_dir=str(tmp_path / "state"),
        buffers={"durability": "wal"},
    ) as agent:  # fmt: skip
        agent.sampled()
        connected = 'pg_connections{target="prod"}'
        until(lambda: agent.metric(connected) == 2, what="both places of the role are taken")
        told = json.loads(agent.pgc("check", "--json").stdout)
        assert [one for one in told if one["level"] == "fail"] == []
        (login,) = [one for one in told if one["section"] == "login"]
        assert "connection limit 2, 2 used, asked through the agent" in login["found"]
        (samplers,) = [one for one in told if one["section"] == "samplers"]
        assert samplers["measured"]["activity"]["rows"] > 0
        (disk,) = [one for one in told if one["section"] == "disk"]
        assert disk["measured"]["hours_offline"] > 0
        assert "h offline" in disk["found"]
        refused = "select count(*) from pg_stat_activity where usename = 'pgcollector'"
        assert bench.server.value(refused) == 2
        bench.sql("alter role pgcollector nologin")
        bench.stack.callback(bench.sql, "alter role pgcollector login")
        bench.sql("select pg_terminate_backend(pid) from pg_stat_activity"
                  " where usename = 'pgcollector'")  # fmt: skip
        until(lambda: "is not permitted" in agent.get("/readyz"), what="the agent is shut out")
        told = json.loads(agent.pgc("check", "--json", "--only", "postgres").stdout)
        (failed,) = [one for one in told if one["level"] == "fail"]
        assert (failed["section"], failed["remedy"]) == ("login", "ALTER ROLE pgcollector LOGIN;")


def test_a_key_that_is_refused_is_told_by_the_agent_and_another_key_by_the_disk(
    bench: Bench, tmp_path: Path
):
    with ReferencePlatform(tmp_path) as platform:
        good, other = platform.new_key("pro"), platform.new_key("pro")
        bench.keys |= {"platform": {"url": platform.url}, "api_key": KEY}

        def device() -> dict[str, Any]:
            _, told = bench.told("--only", "platform")
            assert "HTTP 200" in told[0]["found"]
            found: dict[str, Any] = told[1]
            return found

        bench.write()
        bench.keys["state_dir"] = str(bench.home / "state")
        keys = {**bench.keys, "local": {"enabled": False}}
        with Daemon(bench.home, {}, "device", **keys):
            until(lambda: device()["level"] == "fail", 20.0, "the platform refused the key")
            refused = device()
            assert "api key unknown" in refused["found"]
            assert refused["remedy"]
        bench.keys["api_key"] = good
        waiting = device()
        assert (waiting["level"], waiting["remedy"]) == ("warn", "pgc activate")
        assert bench.pgc("activate").returncode == 0
        active = device()
        assert (active["level"], active["found"]) == ("ok", "device ACTIVE")
        bench.keys["api_key"] = other
        mismatch = device()
        assert (mismatch["level"], "another key" in mismatch["found"]) == ("fail", True)
        first, _, then = mismatch["remedy"].partition("#")[0].partition(" && ")
        for remedy in (first, then):
            assert bench.pgc(*remedy.split()[1:]).returncode == 0
        assert device()["level"] == "ok"
