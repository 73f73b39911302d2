"""`pgc buffer`: on directories that no agent has open, and beside a running agent."""

import hashlib
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from pg_collector.buffer.journal import Journal
from pg_collector.buffer.quarantine import Quarantine, Refusal
from pg_collector.buffer.spill import SpillingBuffer
from pg_collector.buffer.spool import Limits
from pg_collector.clock import SystemClock
from pg_collector.config.model import Durability
from pg_collector.metrics import Metrics
from pg_collector.sample import Gap, Keep
from tests.fault.test_control import _closing, _python_for_all, listening
from tests.support.daemon import Daemon
from tests.support.lines import check, make
from tests.support.process import ACCOUNT, as_owner
from tests.support.scratch import new_directory
from tests.support.until import until

# Each segment is made with dozens of syncs: this is about commands, other tests are about disks.
IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
LIMITS = Limits(segment_bytes=60_000, ballast=0)
PAD = 1500
REFUSED = Refusal(
    stream="s", number=7, reason="400 at \x1b[31m$.r", at="2026-01-01T00:00:00.000000Z",
    line=make(99, 10).decode(),
)  # fmt: skip


class Home:
    """A stopped agent's home: a configuration, and a directory that a real buffer filled."""

    def __init__(self, path: Path, **keys):
        self.path = path
        self.directory = path / "state" / "buffer"
        self.keys = {
            "databases": [{"name": "prod", "postgres": {"conn_string": "host=127.0.0.1"}}],
            "state_dir": str(path / "state"),
            **keys,
        }

    def pgc(self, *words, wrap=None, python=sys.executable):
        file = self.path / "config.json.yaml"
        file.write_text(json.dumps(self.keys))
        command = [str(python), "-m", "pg_collector", "buffer", *words, "--config", str(file)]
        environment = {
            "PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(self.path),
            "RUNTIME_DIRECTORY": str(self.path / "run"),
            "PYTHONPATH": ":".join(filter(None, sys.path)),
        }  # fmt: skip
        done = subprocess.run(
            wrap(command) if wrap else command,
            capture_output=True, text=True, env=environment, cwd=self.path, timeout=60, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def status(self, code=0):
        done = self.pgc("status", "--json")
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    @contextmanager
    def buffer(self):
        """Open the buffer as an agent does."""
        clock = SystemClock()
        buffer = SpillingBuffer(200_000, Metrics(clock), clock, Durability.WAL)
        buffer.journal = Journal(self.directory, LIMITS, clock, buffer)
        buffer.journal.open()
        assert buffer.journal.trouble is None
        try:
            yield buffer
        finally:
            assert buffer.close(5.0) == 0

    def fill(self, *counters):
        with self.buffer() as buffer:
            put(buffer, counters)

    def refuse(self, *refusals):
        for refusal in refusals:
            Quarantine(self.directory / "quarantine").add(refusal)

    def files(self):
        """Return what every file is: nothing may change it that only reads."""
        return {
            str(path.relative_to(self.path)): (
                path.lstat().st_mtime_ns,
                hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
            )
            for path in sorted(self.directory.rglob("*"))
        }

    def segments(self):
        return sorted(self.directory.glob("seg-*"))


def put(buffer, counters):
    for k in counters:
        buffer.put(make(k, PAD), Keep.EVENT)
        if k % 20 == 0:
            buffer.journal.flush()
    buffer.journal.flush()


def acked(buffer, lines):
    while lines:
        batch = buffer.peek(1 << 20, lines)
        buffer.ack(batch.last)
        lines -= len(batch.lines)


def exported(text):
    """Return counters of lines and gaps, in order."""
    found = []
    for line in text.splitlines():
        told = json.loads(line)
        found.append(Gap(*told["gap"].values()) if "gap" in told else check(line.encode()))
    return found


@pytest.fixture
def home():
    with tempfile.TemporaryDirectory(prefix="buffer-cli-", dir=IN_MEMORY) as folder:
        yield Home(Path(folder))


def test_status_verify_and_export_of_a_stopped_buffer_agree_and_change_nothing(home):
    with home.buffer() as buffer:
        put(buffer, range(1, 101))
        acked(buffer, 17)
        shutil.copytree(home.directory, home.path / "crashed")  # the newest are in a log
    home.refuse(REFUSED)
    before = home.files()
    told = home.status()
    assert told["running"] is False
    assert (told["first"], told["last"], told["lines"]) == (18, 100, 83)
    assert told["disk"]["segments"] == len(home.segments()) > 2
    assert told["disk"]["bytes"] >= 83 * PAD // 2
    assert told["oldest_age_s"] > 0
    assert told["seconds_remaining"] > 0
    assert told["quarantine"] == {"lines": 1, "segments": 0}
    assert told["stream"] == (home.directory / "stream").read_text().strip()
    assert (told["trouble"], told["lost"], told["memory"]) == ("", None, None)

    people = home.pgc("status")
    assert people.returncode == 0
    assert "83 lines, numbers 18 to 100" in people.stdout
    assert len({line.index("  ") for line in people.stdout.splitlines() if len(line) > 12}) >= 1

    verified = home.pgc("verify")
    assert verified.returncode == 0, verified.stdout
    assert "all is well" in verified.stdout

    out = home.path / "lines.ndjson"
    assert "exported 83 lines, from number 18" in home.pgc("export", str(out)).stderr
    assert out.stat().st_mode & 0o777 == 0o600
    assert exported(out.read_text()) == list(range(18, 101))
    assert [one.name for one in home.path.glob(".*")] == []
    assert home.files() == before

    home.directory = home.path / "crashed"
    home.keys["buffers"] = {"disk_path": str(home.directory)}
    assert any(path.stat().st_size for path in home.directory.rglob("*-wal"))
    before = home.files()
    assert home.status()["lines"] == 83
    assert exported(home.pgc("export", "-").stdout) == list(range(18, 101))
    assert home.pgc("verify", "--json").returncode == 0
    assert home.files() == before


def test_a_buffer_whose_agent_does_not_answer_can_be_looked_at_and_is_left_alone(home):
    home.keys["local"] = {"enabled": True, "path": str(home.path / "out")}
    (home.path / "run").mkdir()
    with listening(home.path / "run" / "pgc.sock", _closing), home.buffer() as buffer:
        put(buffer, range(1, 41))
        before = home.files()
        told = home.status(code=1)
        assert (told["first"], told["last"], told["lines"]) == (1, 40, 40)
        assert f"process {os.getpid()} has the buffer" in told["trouble"]
        assert (told["running"], told["pid"]) == (False, os.getpid())
        assert f"process {os.getpid()} does not answer" in home.pgc("status").stdout
        del home.keys["local"]  # the remedy must not be to start a second one
        drained = home.pgc("drain")
        assert (drained.returncode, "pgc start" in drained.stderr) == (69, False)
        assert "pgc.sock does not answer" in drained.stderr
        home.keys["local"] = {"enabled": True, "path": str(home.path / "out")}
        for words in (["export", "-"], ["drain"]):
            done = home.pgc(*words)
            assert done.returncode == 69, (words, done.stderr)
            assert f"process {os.getpid()}" in done.stderr
            assert "state_dir" in done.stderr
        assert home.files() == before
        put(buffer, range(41, 45))


def test_damage_is_named_exported_around_and_left_to_the_agent(home):
    home.fill(*range(1, 121))
    first, second, third, *_ = home.segments()
    database = second / "cache.db"
    content = bytearray(database.read_bytes())
    at = content.rindex(b"PGC1") + 60  # within a record's compressed line
    content[at] ^= 0xFF
    database.write_bytes(content)
    (third / "cache.db").write_bytes(b"nothing")
    before = home.files()

    done = home.pgc("verify")
    assert done.returncode == 1
    assert re.search(rf"^{second.name}: number \d+: ", done.stdout, re.MULTILINE)
    assert re.search(rf"^{third.name}: ", done.stdout, re.MULTILINE)
    assert first.name not in done.stdout
    found = json.loads(home.pgc("verify", "--json").stdout)["damaged"]
    assert [one["where"] for one in found] == [second.name, third.name]

    told = exported(home.pgc("export", "-").stdout)
    gaps = [one for one in told if isinstance(one, Gap)]
    assert sum(gap.last - gap.first + 1 for gap in gaps) + len(told) - len(gaps) == 120
    assert {gap.reason for gap in gaps} == {"damaged"}
    assert [one for one in told if isinstance(one, int)] == sorted(
        set(range(1, 121)) - {n for gap in gaps for n in range(gap.first, gap.last + 1)}
    )
    assert home.files() == before

    shutil.rmtree(first)
    lost = json.loads(home.pgc("verify", "--json").stdout)["damaged"][0]
    assert lost["what"] == "no segment holds them"
    assert home.status()["trouble"] == ""


def test_an_export_that_fails_leaves_no_file(home):
    home.fill(1, 2, 3)
    nowhere = home.pgc("export", str(home.path / "missing" / "lines.ndjson"))
    assert nowhere.returncode == 1
    assert "No such file or directory" in nowhere.stderr
    full = home.pgc(
        "export", str(home.path / "x"),
        wrap=lambda command: ["sh", "-c", 'ulimit -f 0; trap "" XFSZ; exec "$@"', "sh", *command],
    )  # fmt: skip
    assert full.returncode == 1
    assert "File too large" in full.stderr
    assert sorted(one.name for one in home.path.iterdir()) == ["config.json.yaml", "state"]


def test_drain_of_a_stopped_buffer_writes_to_the_local_files_or_says_what_it_takes(home):
    home.fill(*range(1, 61))
    away = home.pgc("drain")
    assert away.returncode == 69
    assert "account" in away.stderr
    assert "pgc start" in away.stderr
    assert home.status()["lines"] == 60

    output = home.path / "output"
    home.keys["local"] = {"enabled": True, "path": str(output)}
    output.write_text("in the way")
    held = home.pgc("drain", "--timeout", "0.5")
    assert held.returncode == 1
    assert "60 lines wait still" in held.stderr
    output.unlink()
    done = home.pgc("drain")
    assert done.returncode == 0, done.stderr
    written = (output / "prod" / "database" / "current.jsonl").read_bytes().splitlines()
    assert [check(line) for line in written] == list(range(1, 61))
    assert home.status()["first"] is None
    home.fill(61)
    assert home.status()["first"] == 61


def test_purge_deletes_what_waits_and_tells_the_far_side(home):
    with home.buffer() as buffer:
        put(buffer, range(1, 51))
        acked(buffer, 10)
    assert home.pgc("purge").returncode == 2
    assert home.status()["lines"] == 40
    done = home.pgc("purge", "--yes")
    assert (done.returncode, done.stdout) == (0, "purged 40 lines\n")
    assert not home.segments()
    assert home.pgc("verify").returncode == 0
    with home.buffer() as buffer:
        put(buffer, [51])
        batch = buffer.peek(1 << 20, 100)
        assert batch is not None
        assert batch.gaps == (Gap(11, 50, "purged"),)
        assert [number for number, _ in batch.numbered()] == [51]
        buffer.ack(batch.last)


def test_numbers_promised_before_a_crash_are_not_used_again_after_a_purge(home):
    clock = SystemClock()
    buffer = SpillingBuffer(200_000, Metrics(clock), clock, Durability.OVERFLOW)
    buffer.journal = Journal(home.directory, LIMITS, clock, buffer)
    buffer.journal.open()
    buffer.journal.step()
    buffer.put(make(1, 10), Keep.EVENT)
    sent = buffer.peek(1 << 20, 10)
    assert sent is not None
    crashed = home.path / "crashed"
    shutil.copytree(home.directory, crashed)
    buffer.close(1.0)
    home.keys["buffers"] = {"disk_path": str(crashed)}
    home.directory = crashed
    done = home.pgc("purge", "--yes")
    assert done.returncode == 0
    assert "(crash)" in done.stderr
    with home.buffer() as buffer:
        assert buffer.put(make(2, 10), Keep.EVENT) > sent.last


def test_refused_lines_are_listed_shown_requeued_and_purged(home):
    home.fill(1, 2)
    others = [msgspec.structs.replace(REFUSED, number=n, line=make(n, 10).decode()) for n in (8, 9)]
    home.refuse(REFUSED, *others)
    before = home.files()
    listed = home.pgc("quarantine", "list").stdout
    assert [line.split()[0] for line in listed.splitlines()[1:]] == [
        one.name for one in (REFUSED, *others)
    ]
    assert "\x1b" not in listed
    lines = home.pgc("quarantine", "list", "--json").stdout.splitlines()
    assert json.loads(lines[0])["reason"] == REFUSED.reason
    shown = home.pgc("quarantine", "show", REFUSED.name).stdout
    assert REFUSED.line in shown
    assert "\x1b" not in shown
    for words in (["show", "x"], ["requeue", "x"]):
        done = home.pgc("quarantine", *words)
        assert done.returncode == 1
        assert "no line x in quarantine" in done.stderr
    assert home.pgc("quarantine", "requeue").returncode == 2
    del before["state/buffer/lock"]  # requeue and purge had to open it
    assert {name: home.files()[name] for name in before if "quarantine/" in name} == {
        name: one for name, one in before.items() if "quarantine/" in name
    }

    assert home.pgc("quarantine", "purge", others[0].name).stdout == "purged 1 line\n"
    assert home.pgc("quarantine", "requeue", "--all").stdout == "requeued 2 lines\n"
    told = home.status()
    assert told["quarantine"]["lines"] == 0
    assert (told["first"], told["last"]) == (1, 4)
    assert exported(home.pgc("export", "-").stdout) == [1, 2, 99, 9]


def test_a_directory_that_is_missing_empty_or_in_a_memory_that_is_gone_is_no_riddle(home):
    for state in ("missing", "empty"):
        assert home.status()["first"] is None
        for words in (["verify"], ["export", "-"]):
            assert home.pgc(*words).returncode == 0, words
        assert home.directory.exists() is (state == "empty")
        assert home.pgc("purge", "--yes").stdout == "purged 0 lines\n"
        home.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    shutil.rmtree(home.directory)
    home.keys["buffers"] = {"durability": "memory"}
    gone = home.pgc("status")
    assert gone.returncode == 69
    assert "durability is memory" in gone.stderr
    home.keys["buffers"] = {}
    home.fill(1)
    home.keys["buffers"] = {"durability": "memory"}
    assert home.status()["lines"] == 1  # what was left by a life with a disk


def test_a_newer_format_is_left_alone(home):
    home.fill(1, 2)
    (home.directory / "format").write_text("2\n")
    before = home.files()
    told = home.status(code=1)
    assert "format 2, this agent knows 1" in told["trouble"]
    assert "newer agent" in told["remedy"]
    for words in (["export", "-"], ["purge", "--yes"]):
        done = home.pgc(*words)
        assert done.returncode == 1, words
        assert "format 2" in done.stderr
    after = home.files()
    assert {name for name in after if after[name] != before.get(name)} <= {"state/buffer/lock"}


@pytest.mark.root
def test_another_users_directory_can_be_read_by_root_and_changed_by_its_owner_only():
    place = new_directory("home")
    place.chmod(0o777)
    home = Home(place)
    home.fill(1, 2, 3)
    python = _python_for_all()
    denied = home.pgc("status", wrap=as_owner, python=python)
    assert denied.returncode == 77, denied.stderr
    assert "sudo -u 'root'" in denied.stderr
    account = pwd.getpwnam(ACCOUNT)
    for path in (home.directory, *home.directory.rglob("*")):
        os.chown(path, account.pw_uid, account.pw_gid)
    before = home.files()
    assert home.status()["lines"] == 3
    assert exported(home.pgc("export", "-").stdout) == [1, 2, 3]
    assert home.pgc("verify").returncode == 0
    for words in (["purge", "--yes"], ["quarantine", "requeue", "--all"]):
        done = home.pgc(*words)
        assert done.returncode == 73, done.stderr
        assert f"sudo -u '{ACCOUNT}'" in done.stderr
    assert home.files() == before


@pytest.fixture
def child(newest_server, tmp_path):
    """Return a function that starts an agent with a disk buffer."""

    def start(how):
        return Daemon(
            tmp_path, {"prod": newest_server.dsn("pgcollector")}, how,
            state_dir=str(tmp_path / "state"), buffers={"durability": "wal"},
        )  # fmt: skip

    return start


def test_a_running_agent_tells_exports_and_requeues_without_being_disturbed(child, tmp_path):
    home = Home(tmp_path)
    with home.buffer() as buffer:
        put(buffer, range(1, 301))  # more than fits into a page
    home.refuse(REFUSED)
    with child("away") as agent:

        def status():
            done = agent.pgc("buffer", "status", "--json")
            return json.loads(done.stdout) if done.returncode in {0, 1} else {}

        told = until(
            lambda: (one := status()).get("running") and one["lines"] > 310 and one, deadline=30
        )
        assert told["pid"] == agent.process.pid
        assert told["first"] == 1
        assert told["last"] >= told["lines"]
        assert told["memory"]["lines"] > 0
        assert told["disk"]["segments"] >= 2
        assert told["quarantine"]["lines"] == 1
        assert "nobody there" in told["trouble"]
        assert told["remedy"] == "Wait."
        people = agent.pgc("buffer", "status")
        assert f"running, process {agent.process.pid}" in people.stdout
        assert people.returncode == 1

        assert "all is well" in agent.pgc("buffer", "verify").stdout
        lines = agent.pgc("buffer", "export", "-").stdout.splitlines()
        assert [check(line.encode()) for line in lines[:300]] == list(range(1, 301))
        assert len(lines) > 310
        assert not [line for line in lines if '"gap"' in line]

        assert agent.pgc("buffer", "quarantine", "requeue", REFUSED.name).returncode == 0
        assert agent.pgc("buffer", "quarantine", "list", "--json").stdout == ""
        again = agent.pgc("buffer", "export", "-").stdout.splitlines()
        assert again[: len(lines)] == lines
        assert REFUSED.line in again[len(lines) :]

        refused = agent.pgc("buffer", "purge", "--yes")
        assert refused.returncode == 1
        assert "Stop it first" in refused.stderr
        late = agent.pgc("buffer", "drain", "--timeout", "0.5")
        assert late.returncode == 1
        assert "lines wait still: nobody there" in late.stderr

        counts = ("lines_produced_total", "lines_delivered_total", "lines_buffered",
                  "lines_quarantined")  # fmt: skip
        produced, delivered, buffered, quarantined = until(
            lambda: (found := [agent.metric(one) for one in counts])[0] == sum(found[1:]) and found
        )
        assert (delivered, quarantined) == (0, 0)
        assert produced == buffered >= len(again)
        agent.process.kill()
        agent.process.wait()
    held = home.pgc("export", "-")
    assert REFUSED.line in held.stdout.splitlines()  # it is on disk, and nowhere else
    assert not list((home.directory / "quarantine").iterdir())


def test_drain_of_a_running_agent_ends_when_what_waited_has_arrived(child, tmp_path):
    home = Home(tmp_path)
    with child("files") as agent:
        until(lambda: (agent.metric("lines_delivered_total") or 0) > 0, deadline=30)
        started = time.monotonic()
        done = agent.pgc("buffer", "drain", "--timeout", "20")
        assert done.returncode == 0, done.stderr
        assert time.monotonic() - started < 15
        assert agent.pgc("buffer", "quarantine", "purge", "--all").stdout == "purged 0 lines\n"
        agent.process.terminate()
        assert agent.ended()[0] == 0
    assert home.status()["first"] is None
