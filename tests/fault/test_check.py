"""`pgc check`: whatever is wrong is told, and what it says against it mends it.

Each case seeds one fault on a real server, file or far side, and gets the finding that the check
has of it; then it does what the remedy says, and nothing else. The same line has to be well then.
"""

import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pg_collector import control
from pg_collector.checkup import reach
from pg_collector.checkup.asked import Asked
from pg_collector.checkup.finding import Finding, Level, Part
from pg_collector.cli.options import Source
from pg_collector.errors import TargetDown
from tests.conftest import chosen_majors
from tests.fault import check_hosts, check_servers
from tests.fault.check_hosts import KEY
from tests.support import process
from tests.support.agents import configuration, running
from tests.support.checkup import TRUST, Bench, bad
from tests.support.daemon import Daemon
from tests.support.far_side import FarSide
from tests.support.lab.server import Server
from tests.support.pki import Pki
from tests.support.ports import free_port
from tests.support.reference_platform import ReferencePlatform
from tests.support.until import until

CANARY = "qxzjQXZJqxzj"
CASES = {**check_servers.CASES, **check_hosts.CASES}


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
    assert bench.told("--only", "samplers") == (69, told), "it is why there are none"
    assert bench.told("--offline", "--only", "config,disk")[0] == 0
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


def test_the_time_for_everything_ends_a_session_as_well(bench: Bench):
    bench.write()
    loaded = Source(bench.file, ()).load()
    (database,) = loaded.config.databases
    asked = Asked(loaded, bench.environ, frozenset(Part), time.monotonic() + 1.5)
    with reach.own(database, asked) as server:
        assert isinstance(server, reach._Own)
        ask = partial(server._session.fetch, "select pg_sleep(0.4)")
        with pytest.raises(TargetDown):
            all(ask() for _ in range(10))
    assert time.monotonic() - asked.until < START


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
    assert bench.home.stat().st_uid == 0, "what is there stays whose it is"
    bench.keys["state_dir"] = found[0]["remedy"].partition("; then state_dir: ")[2]
    assert failures(0) == []
    code, told = bench.told("--user", account)
    assert [one["section"] for one in told if one["level"] == "fail"] == ["platform"]
    assert code == 69, "and the rest runs without a file of Python's own that root alone may read"


@pytest.mark.root
def test_root_may_be_at_home_where_the_service_may_not_look(bench: Bench):
    bench.home.chmod(0o700)
    bench.environ["PG_CONN_STRING"] = bench.server.dsn(sslmode="disable")
    done = bench.pgc("check", "--user", process.ACCOUNT, "--only", "config,postgres", named=False)
    assert done.returncode == 0, done.stdout
    assert f"from the environment   running checks as {process.ACCOUNT}" in done.stdout


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
    assert refused["remedy"] == "sudo pgc check --user root"


@pytest.mark.root
def test_an_agent_may_be_where_one_may_not_look_so_that_no_third_session_is_opened(bench: Bench):
    bench.home.chmod(0o755)
    bench.write()
    bench.file.chmod(0o644)
    closed = bench.home / "run"
    closed.mkdir(mode=0o700)
    bench.environ["RUNTIME_DIRECTORY"] = str(closed)
    config = configuration({"prod": bench.server.dsn(sslmode="disable")}, bench.home / "output")
    with running(config, closed / "pgc.sock"):
        _, told = bench.told("--user", process.ACCOUNT, "--only", "postgres")
        (refused,) = told
        assert f"{closed / 'pgc.sock'}: an agent listens there" in refused["found"]
        assert refused["remedy"] == "sudo pgc check --user root"
        _, told = bench.told(*refused["remedy"].split()[3:], "--only", "postgres")
        assert any("asked through the agent" in one["found"] for one in told)


@pytest.mark.root
def test_what_may_not_be_looked_at_ends_a_section_and_not_the_check(bench: Bench):
    bench.home.chmod(0o755)
    (bench.home / "closed").mkdir(mode=0o700)
    bench.keys |= {"state_dir": str(bench.home / "closed" / "state")}
    bench.environ["RUNTIME_DIRECTORY"] = str(process.give(_made(bench.home / "run"), 0o700))
    bench.keys |= {"api_key": KEY, "platform": {"url": "https://127.0.0.1:9"}}
    bench.write()
    bench.file.chmod(0o644)
    code, told = bench.told("--user", process.ACCOUNT)
    assert code == 1
    assert {one["section"] for one in told} >= {"config", "secrets", "disk", "login", "platform"}
    assert all(one["remedy"] for one in told if one["level"] != "ok")
    disk = [one for one in told if one["section"] == "disk"]
    assert all("Permission denied" in one["found"] for one in disk), disk


@pytest.mark.root
def test_root_is_told_to_activate_as_the_service(bench: Bench):
    bench.home.chmod(0o755)
    state = process.give(_made(bench.home / "state"), 0o700)
    bench.keys |= {"state_dir": str(state), "api_key": KEY}
    bench.keys |= {"platform": {"url": "https://127.0.0.1:9"}}
    bench.write()
    bench.file.chmod(0o644)

    def waiting(*words: str) -> str:
        _, told = bench.told("--only", "platform", *words)
        (found,) = [one for one in told if "not activated yet" in one["found"]]
        return str(found["remedy"])

    assert waiting("--user", process.ACCOUNT) == f"sudo -u {process.ACCOUNT} pgc activate"
    assert waiting("--user", "root") == f"sudo -u {process.ACCOUNT} pgc activate"
    done = bench.pgc("activate")
    assert done.returncode == 73, done.stderr
    assert "belongs to user" in done.stderr
    assert list(state.iterdir()) == [], "nothing of root's is in it"


def _made(path: Path) -> Path:
    path.mkdir()
    return path


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

        def device() -> Finding:
            way, found = bench.check(Part.PLATFORM)
            assert "HTTP 200" in way.found
            return found

        bench.write()
        bench.keys["state_dir"] = str(bench.home / "state")
        keys = {**bench.keys, "local": {"enabled": False}}
        with Daemon(bench.home, {}, "device", **keys):
            until(lambda: device().level == "fail", 20.0, "the platform refused the key")
            refused = device()
            assert "api key unknown" in refused.found
            assert refused.remedy
        bench.keys["api_key"] = good
        waiting = device()
        assert (waiting.level, waiting.remedy) == ("warn", "pgc activate")
        assert bench.pgc("activate").returncode == 0
        active = device()
        assert (active.level, active.found) == ("ok", "device ACTIVE")
        bench.keys["api_key"] = other
        mismatch = device()
        assert (mismatch.level, "another key" in mismatch.found) == ("fail", True)
        first, _, then = mismatch.remedy.partition("#")[0].partition(" && ")
        for remedy in (first, then):
            assert bench.pgc(*remedy.split()[1:]).returncode == 0
        assert device().level == "ok"
