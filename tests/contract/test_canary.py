"""Secrets planted by more than a hundred kinds of statement are found nowhere outside the server.

Not on disk, where lines wait; not in what the platform stored, in local files, the log, the audit
log, pages and metrics; not in what commands are told, nor in what a crash leaves. `KINDS` says what
is planted, and what level basic shows on purpose.
"""

import re
import resource
import shutil
import signal
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pg_collector import control
from pg_collector.buffer.view import View
from pg_collector.buffer_verbs import DrainRequest, PageRequest, StatusRequest
from pg_collector.column_statistics import COLUMNS
from pg_collector.device_verbs import DeviceRequest
from pg_collector.pg.role import column_statistics_script
from tests.conftest import chosen_majors
from tests.support.agents import written
from tests.support.canary import Canary
from tests.support.conditions.secrets import SETTINGS, Planted, planted
from tests.support.conditions.session import sessions
from tests.support.daemon import Daemon
from tests.support.lab.postmaster import Stop
from tests.support.lab.replication import start_pair
from tests.support.lab.server import Database, Server
from tests.support.planted import ALWAYS, KINDS
from tests.support.reference_platform import ReferencePlatform
from tests.support.sampling import SAMPLERS, Line, target
from tests.support.until import until

PAGES = ("/healthz?verbose", "/healthz", "/readyz?verbose", "/livez?verbose", "/version",
         "/metrics", "/")  # fmt: skip
LOUD = {"level": "debug", "repeat_window": "0s"}
NO_BALLAST = shutil.ignore_patterns("ballast")  # 8 MB of nothing
LEAST_KINDS, LEAST_LINES = 60, 50

# The function that the sampler `bloat` asks, written anew by somebody: it fails in two ways, one
# with a SQLSTATE that is PostgreSQL's own.
FAILING = f"""
create or replace function pgcollector.column_statistics(relids oid[])
returns table ({", ".join(f"{name} {kind}" for name, kind in COLUMNS)})
language plpgsql stable security definer as $f$
begin
  raise notice 'CANARY';
  if extract(epoch from clock_timestamp())::int % 2 = 0 then perform 'CANARY'::int; end if;
  raise 'CANARY' using errcode = '57000', detail = 'CANARY', hint = 'CANARY';
end $f$
"""
# Since 17 somebody's function may run at every login, and refuse it: here while there is a schema
# `closed`.
AT_LOGIN = """
create function at_login() returns event_trigger language plpgsql as $f$
begin
  if session_user = 'pgcollector' and to_regnamespace('closed') is not null then
    raise notice 'CANARY';
    raise 'CANARY' using detail = 'CANARY';
  end if;
end $f$;
create event trigger at_login on login execute function at_login()
"""
LOGIN_TRIGGERS_SINCE = 17
END = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'pgcollector'"


@dataclass(frozen=True)
class Scene:
    """A server where everything is planted; a standby of the oldest and the newest version."""

    canary: Canary
    server: Server
    standby: Server | None
    planted: Planted

    @property
    def database(self) -> Database:
        return self.server.database()

    def run(self, sql: str) -> None:
        self.database.query(self.canary.fill(sql, len(KINDS)))

    def close_the_door(self) -> bool:
        """Let nobody in as the agent does, where a server can be told so."""
        if self.server.major < LOGIN_TRIGGERS_SINCE:
            return False
        self.run("create schema closed")
        self.run(END)
        return True

    def as_before(self) -> None:
        """Let the agent in, and give it a function that works."""
        if self.server.major >= LOGIN_TRIGGERS_SINCE:
            self.run("drop schema if exists closed")
        self.run("\n".join(column_statistics_script("pgcollector")))


@pytest.fixture(scope="module")
def scene(major: int) -> Iterator[Scene]:
    canary = Canary()
    with ExitStack() as stack:
        standby = None
        if major in {min(chosen_majors()), max(chosen_majors())}:
            pair = stack.enter_context(start_pair(major, settings=SETTINGS))
            server, standby = pair.primary, pair.standby
        else:
            server = stack.enter_context(Server(major, settings=SETTINGS))
        database = server.database()
        if major >= LOGIN_TRIGGERS_SINCE:
            database.query(canary.fill(AT_LOGIN, len(KINDS)))
        there = stack.enter_context(planted(database, canary))
        if standby is not None:
            (reader,) = stack.enter_context(sessions(standby.database(), "reader"))
            reader.do(canary.fill("begin; select 'CANARY', NUMBER", len(KINDS)))
        yield Scene(canary, server, standby, there)
        for one in (server, standby):
            if one is not None:
                one.stop(Stop.IMMEDIATE)  # cheaper than the end of each session


def visible(scene: Scene) -> set[str]:
    """Make sure that the server shows what was planted; return the ids of statements that do."""
    database, there = scene.database, scene.planted
    statistics = database.value("select string_agg(most_common_vals::text, '') from pg_stats")
    assert scene.canary.seen(statistics.encode())
    # In this encoding the driver leaves the bytes of every other one alone.
    with database.connect(client_encoding="SQL_ASCII") as lab:
        texts = lab.execute("select queryid::text, query from pg_stat_statements").fetchall()
        at_work = dict(lab.execute("select pid, query from pg_stat_activity").fetchall())
    for pid, sign in there.sessions.items():
        assert sign in at_work[pid]
    found = {place: [one for one, text in texts if sign in text]
             for place, sign in there.statements.items()}  # fmt: skip
    assert [KINDS[place] for place, ids in found.items() if not ids] == []
    return {one.decode() for ids in found.values() for one in ids}


def sampled(daemon: Daemon, targets: Iterable[str]) -> None:
    """Wait until every sampler has given lines; that of standbys gives none on a primary."""
    series = {
        f'samples_total{{sampler="{name}",target="{where}"}}'
        for name in SAMPLERS
        for where in targets
        if where == "standby" or name != "wal_receiver"
    }

    def given() -> bool:
        page = daemon.get("/metrics")
        return all(re.search(rf"_{re.escape(one)} [1-9]", page) for one in series)

    until(given, deadline=30, what="every sampler has given lines")


def asked(daemon: Daemon, request: control.Request) -> str:
    """Return what the agent tells a command."""
    places = (daemon.home / "state", daemon.run)
    (socket,) = (one for place in places for one in place.glob("*.sock"))
    reply = control.ask(request, socket)
    assert reply is not None
    return "\n".join((str(reply.result), *reply.lines))


def answers(daemon: Daemon, dsn: str) -> bytes:
    """Return what the agent tells who asks it, by its pages and its socket."""
    state = (daemon.home / "state").resolve()
    there = control.fingerprint(target(dsn))
    found = [
        *map(daemon.get, PAGES),
        asked(daemon, control.SampleRequest(samplers=(), target="prod", connection=there)),
        asked(daemon, StatusRequest(directory=str(state / "buffer"))),
        asked(daemon, PageRequest(directory=str(state / "buffer"))),
        asked(daemon, DeviceRequest(directory=str(state))),
    ]
    assert all(found)
    return "\n".join(found).encode()


def waiting(daemon: Daemon, copy: Path) -> set[bytes]:
    """Return the lines on disk, of a copy of what one instant leaves there."""
    daemon.signal(signal.SIGSTOP)
    try:
        shutil.copytree(daemon.home / "state" / "buffer", copy, ignore=NO_BALLAST)
    finally:
        daemon.signal(signal.SIGCONT)
    view = View.open(copy)
    assert view is not None
    return {one.line for one in view.records() if one.line is not None}


def failed_with(daemon: Daemon, states: Iterable[str]) -> bool:
    """Whether the log tells of an error with each of these SQLSTATEs."""
    said = daemon.log.read_text()
    return all(f'"sqlstate":"{one}"' in said for one in states)


def rows(lines: Iterable[bytes]) -> dict[str, list[dict[str, Any]]]:
    """Return what lines hold, by set."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in map(Line, lines):
        found.setdefault(line.set, []).extend(line.rows)
    return found


def test_sixty_kinds_and_more_are_planted_and_most_stand_in_the_statistics_as_they_are():
    assert len({kind.sql for kind in KINDS}) == len(KINDS) > LEAST_KINDS
    assert sum(kind.shown == ALWAYS for kind in KINDS) > LEAST_KINDS // 2
    canary = Canary()
    for place, kind in enumerate(KINDS):
        assert canary.seen(canary.fill(kind.sql, place).encode()), kind


def test_nothing_planted_leaves_the_server(scene, tmp_path):
    canary, server = scene.canary, scene.server
    scene.as_before()
    raw = visible(scene)
    targets = {"prod": server.dsn()}
    if scene.standby is not None:
        targets["standby"] = scene.standby.dsn()
    with ReferencePlatform(tmp_path) as platform:
        daemon = Daemon(
            tmp_path, targets, "device", api_key=platform.new_key("bench"),
            # So that lines wait on disk until the end.
            platform={"url": platform.url, "linger": "300s", "batch_max_lines": 10_000,
                      "batch_max_bytes": "16MB"},
            local={"enabled": False}, state_dir=str(tmp_path / "state"),
            buffers={"durability": "wal"}, log=LOUD,
            security={"drop_utility_text": False, "audit_logging": True,
                      "audit_log_path": str(tmp_path / "audit.log")},
        )  # fmt: skip
        with daemon:
            sampled(daemon, targets)
            told = [answers(daemon, server.dsn())]
            produced = "lines_produced_total"
            enough = LEAST_LINES + 10  # of which the last ones may not be on disk yet
            until(lambda: (daemon.metric(produced) or 0) > enough, 30, "lines wait")
            scene.run(FAILING)
            errors = ["57000", "22P02"]
            until(lambda: failed_with(daemon, errors), 30, "the function has failed in both ways")
            if scene.close_the_door():
                errors.append("P0001")
                until(lambda: failed_with(daemon, errors), 30, "nobody is let in")
            told += [daemon.get(path).encode() for path in PAGES]
            kept = waiting(daemon, tmp_path / "spool")
            asked(
                daemon,
                DrainRequest(directory=str(tmp_path.resolve() / "state" / "buffer"), urge=True),
            )
            delivered = "lines_delivered_total"
            until(lambda: (daemon.metric(delivered) or 0) >= len(kept), 30, "it is delivered")
            daemon.signal(signal.SIGTERM)
            assert daemon.ended()[0] == 0
        assert platform.stop() == 0
        stored = {line.encode() for (line,) in platform.query("SELECT line FROM samples")}
    what = canary.seen(b"\n".join((*told, *stored, *kept)))
    assert not what, what
    assert canary.seen_below(tmp_path, daemon.run) == {}
    # All of it was there to be seen.
    assert (tmp_path / "audit.log").read_text().count("local command: sample") == 1
    assert len(kept) > LEAST_LINES
    assert kept <= stored
    found = rows(stored)
    assert raw <= {row["queryid"] for row in found["query_text"]}
    at_work = {row["pid"]: row["query"] for row in found["activity.sessions"]}
    assert [pid for pid in scene.planted.sessions if not at_work.get(pid)] == []
    names = {row["application_name"] for row in found["locks.blocking"]}
    assert "<email> paid with <card>" in names
    assert {row["sqlstate"] for row in found["sampler_state"]} >= set(errors)
    silent = {
        name for name, one in SAMPLERS.items() if not found.keys() & {q.set for q in one.queries}
    }
    assert silent == (set() if scene.standby else {"wal_receiver"})


@pytest.mark.ends
def test_nothing_planted_is_in_local_files_nor_in_what_a_crash_leaves(scene, tmp_path):
    scene.as_before()
    visible(scene)
    daemon = Daemon(
        tmp_path, {"prod": scene.server.dsn()}, "stumbling", log=LOUD,
        state_dir=str(tmp_path / "state"), buffers={"durability": "wal"},
        security={"drop_utility_text": False},
    )  # fmt: skip
    daemon.environment["PYTHONFAULTHANDLER"] = "1"
    daemon.prefix = ["sh", "-c", 'ulimit -S -c "$(ulimit -H -c)"; exec "$@"', "sh"]
    with daemon:
        sampled(daemon, ("prod",))
        for series in ('masking_failures_total{reason="exception"}',
                       'panics_recovered_total{component="runner"}'):  # fmt: skip
            until(lambda of=series: daemon.metric(of), what=series)  # type: ignore[misc]
        done = daemon.pgc("sample", "--json")
        assert resource.prlimit(daemon.process.pid, resource.RLIMIT_CORE)[0] == 0
        daemon.signal(signal.SIGABRT)
        # Python's own handler may stumble over threads that go on while it looks at them.
        assert daemon.ended()[0] in {-signal.SIGABRT, -signal.SIGSEGV}
    what = scene.canary.seen((done.stdout + done.stderr).encode())
    assert not what, what
    assert scene.canary.seen_below(tmp_path, daemon.run) == {}
    said = daemon.log.read_text()
    for words in ("a text could not be masked: ValueError", "RuntimeError: a defect",
                  "Fatal Python error: "):  # fmt: skip  # other threads write between its pieces
        assert words in said
    lines = [
        *written(daemon.output, "prod", "activity"),
        *map(Line, done.stdout.encode().splitlines()),
    ]
    texts = [row["query"] for line in lines if line.set == "activity.sessions" for row in line.rows]
    assert any("<not masked: " in one for one in texts)
    assert any("'?'" in one for one in texts)
