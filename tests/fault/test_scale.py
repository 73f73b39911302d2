"""Ten thousand tables with twenty thousand indexes: what the samplers cost server and agent."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pg_collector.pg.role import column_statistics_script
from tests.support.agents import written
from tests.support.conditions.crowd import many_tables
from tests.support.daemon import Daemon
from tests.support.lab.server import Server
from tests.support.sampling import SAMPLERS, sampling, told
from tests.support.until import until

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
@pytest.mark.ends(oldest="long")
@pytest.mark.timeout(240)
def test_no_statement_takes_a_second_and_the_agent_stays_small(major, tmp_path):
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
            _a_sample_stays_small(database)
            _the_agent_stays_small(database, tmp_path)


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


def _a_sample_stays_small(database):
    dsn = database.dsn(sslmode="disable")
    pgc = Path(sys.executable).with_name("pgc")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, pgc, "sample", "--dsn", dsn, "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    _, size, peak = map(int, done.stdout.split())
    assert size > 100_000
    assert peak < LIMIT_MB


def _the_agent_stays_small(database, home):
    """Three turns of every sampler, a second apart."""
    with Daemon(home, {"prod": database.dsn()}) as agent:

        def turns(name):
            return len({line.head["at"] for line in written(agent.output, "prod", name)})

        names = set(SAMPLERS) - {"wal_receiver"}  # which is for standbys
        until(lambda: all(turns(name) >= 3 for name in names), 60.0, "three turns of each")
        status = Path(f"/proc/{agent.process.pid}/status").read_text()
        peak = int(status.partition("VmHWM:")[2].split()[0]) // 1024
        assert peak < LIMIT_MB
        agent.signal(signal.SIGTERM)
        assert agent.ended()[0] == 0
        estimated = [row for x in written(agent.output, "prod", "bloat") for row in x.rows]
        assert len(estimated) >= 500  # 200 tables and 300 indexes
