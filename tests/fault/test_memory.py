"""What large answers cost in memory, measured on the process from outside."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cgroup import limits
from tests.support.conditions.statements import statements
from tests.support.daemon import Daemon
from tests.support.far_side import Answer, FarSide
from tests.support.lab.server import Server
from tests.support.until import until

LIMIT_MB = 100

# The program's own peak, as the operating system saw it when it ended.
PROGRAM = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
print(done.returncode, len(done.stdout), done.stdout.count(b'"set":"statements"'), peak)
"""


@pytest.mark.ends
@pytest.mark.parametrize("form", ["--json", "--limit=20"])
def test_ten_thousand_statements_are_sampled_in_less_than_100_mb(major, form):
    pgc = Path(sys.executable).with_name("pgc")
    settings = {"pg_stat_statements.max": "12000"}
    with Server(major, settings=settings) as server, statements(server.database(), 10_000) as held:
        assert held.held >= 10_000
        dsn = server.dsn("pgcollector", sslmode="disable")
        command = [pgc, "sample", "statements", "--dsn", dsn, form]
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *command], capture_output=True, text=True, check=True
        )
    code, size, lines, peak = map(int, done.stdout.split())
    assert code == 0
    assert peak < LIMIT_MB
    if form == "--json":
        assert size > 1_000_000
        assert lines > 1  # cut into parts


@pytest.mark.root
@pytest.mark.slow
def test_an_agent_does_its_work_within_64_mib_and_is_continued_after_a_kill(
    newest_server, tmp_path
):
    """Fault 6: every sampler each second, the platform away, a kill, and all that is drained."""
    server = newest_server
    with limits(64 << 20) as limit, FarSide() as far:
        keys = {
            "local": {"enabled": False},
            "platform": {"url": far.url, "linger": "0s"},
            "buffers": {"durability": "wal"},
        }
        daemon = Daemon(tmp_path, {"prod": server.dsn("pgcollector")}, "platform", **keys)
        daemon.prefix = limit.prefix
        with daemon:
            until(lambda: far.ledger.lines, deadline=20, what="lines arrive")
            far.always = Answer(status=503)
            turns = lambda: daemon.metric('samples_total{sampler="activity",target="prod"}') or 0  # noqa: E731
            until(lambda: turns() > 15, deadline=40, what="lines wait")
            waiting = daemon.metric("lines_buffered")
            daemon.signal(signal.SIGKILL)
            daemon.process.wait(10)
        before = len(far.ledger.lines)
        far.always = None
        with daemon:
            until(
                lambda: daemon.metric("lines_buffered") == 0 and len(far.ledger.lines) > before,
                deadline=40,
                what="the backlog is drained",
            )
            daemon.signal(signal.SIGTERM)
            assert daemon.ended()[0] == 0
        far.ledger.check()
        assert waiting
        assert len(far.ledger.lines) - before > waiting / 2
        assert limit.refused == 0
