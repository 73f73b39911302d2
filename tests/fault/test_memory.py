"""What large answers cost in memory, measured on the process from outside."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.conditions.statements import statements
from tests.support.lab.server import Server

pytestmark = pytest.mark.ends

LIMIT_MB = 100

# The program's own peak, as the operating system saw it when it ended.
PROGRAM = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
print(done.returncode, len(done.stdout), done.stdout.count(b'"set":"statements"'), peak)
"""


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
