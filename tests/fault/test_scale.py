"""Ten thousand tables with twenty thousand indexes: what the samplers cost server and agent."""

import subprocess
import sys
from pathlib import Path

import pytest

from pg_collector.pg.role import column_statistics_script
from tests.support.conditions.crowd import many_tables
from tests.support.lab.server import Server
from tests.support.sampling import SAMPLERS, sampling, told

TABLES = 10_000
STATEMENT_MS = 1_000.0
LIMIT_MB = 100

# The program's own peak, as the operating system saw it when it ended.
PROGRAM = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
print(done.returncode, len(done.stdout), peak)
"""
LONGEST = """
select s.{time}, s.query from pg_stat_statements s join pg_roles r on r.oid = s.userid
where r.rolname = 'pgcollector' order by 1 desc limit 1
"""


@pytest.mark.slow
@pytest.mark.ends
@pytest.mark.timeout(240)
def test_no_statement_takes_a_second_and_the_agent_stays_small(major):
    settings = {"max_locks_per_transaction": "256", "shared_buffers": "128MB"}
    with Server(major, settings=settings) as server:
        database = server.database()
        with many_tables(database, TABLES):
            database.query("\n".join(column_statistics_script("pgcollector")))
            # As if all had data: sizes decide what is looked at.
            database.query(
                "update pg_class set relpages = 11 + oid::int8 % 90, reltuples = 1000"
                " where relnamespace = 'crowd'::regnamespace"
            )
            assert database.value("select count(*) from pg_index") > 2 * TABLES
            _no_statement_takes_long(database)
            dsn = database.dsn(sslmode="disable")
            pgc = Path(sys.executable).with_name("pgc")
            done = subprocess.run(
                [sys.executable, "-c", PROGRAM, pgc, "sample", "--dsn", dsn, "--json"],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            _, size, peak = map(int, done.stdout.split())
            assert size > 100_000
            assert peak < LIMIT_MB


def _no_statement_takes_long(database):
    server = database.server
    with sampling(database.dsn()) as there:
        for _ in range(2):  # the first turn warms the server's caches
            server.query("select pg_stat_statements_reset()")
            there.clock.ahead += 7200
            for name in SAMPLERS:
                states = told(there.take(name)).values()
                assert not [one for one in states if one["state"] == "error"], name
        column = "max_exec_time" if server.major >= 13 else "max_time"
        took, query = server.query(LONGEST.format(time=column))[0]
        assert took < STATEMENT_MS, (took, query)
