"""Every sampler every second, on every version at once: what the servers see of it."""

import os
import time

import pytest

from tests.conftest import chosen_majors
from tests.support.agents import configuration, running, written
from tests.support.proxy import FaultProxy
from tests.support.sampling import SAMPLERS

SECONDS = float(os.environ.get("PGC_SOAK_SECONDS") or (60 if os.environ.get("CI") else 15))
STATEMENT_LIMIT = 4_000.0  # ms: query_timeout of 5 s, less one second

XMAX = "select txid_snapshot_xmax(txid_current_snapshot())"
WRITES = """
select coalesce(sum(tup_inserted + tup_updated + tup_deleted), 0), coalesce(sum(temp_files), 0)
from pg_stat_database
"""
OURS = """
select count(*), count(*) filter (where state like 'idle in transaction%%'),
       count(*) filter (where backend_xid is not null)
from pg_stat_activity where usename = 'pgcollector'
"""
STATEMENTS = """
select max(s.{time}), count(*) filter (where s.query !~* '^(/\\*.*?\\*/ *)?(copy \\()?(select|set)')
from pg_stat_statements s join pg_roles r on r.oid = s.userid where r.rolname = 'pgcollector'
"""


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 240)
def test_sampling_every_second_leaves_no_trace_but_two_sessions(lab, tmp_path):
    servers = {f"pg{major}": lab.server(major) for major in chosen_majors()}
    proxies = {name: FaultProxy((one.host, one.port)) for name, one in servers.items()}
    dsns = {
        name: servers[name].dsn("pgcollector", port=proxy.port) for name, proxy in proxies.items()
    }
    for one in servers.values():
        one.query("select pg_stat_statements_reset()")
    before = {name: (one.value(XMAX), one.query(WRITES)) for name, one in servers.items()}
    most = dict.fromkeys(servers, 0)
    end = time.monotonic() + SECONDS
    try:
        with running(configuration(dsns, tmp_path)) as agent:
            while not agent.stopping.wait(1.0) and time.monotonic() < end:
                for name, one in servers.items():
                    sessions, idle_in_transaction, writing = one.query(OURS)[0]
                    most[name] = max(most[name], sessions)
                    assert idle_in_transaction == 0, name
                    assert writing == 0, name
            account = agent.buffer.account()
            assert account.balanced
            assert not account.lost
        for name, one in servers.items():
            assert proxies[name].peak == 2, name
            assert proxies[name].accepted == 2, name
            assert most[name] == 2, name
            assert (one.value(XMAX), one.query(WRITES)) == before[name], name
            column = "max_exec_time" if one.major >= 13 else "max_time"
            longest, others = one.query(STATEMENTS.format(time=column))[0]
            assert longest < STATEMENT_LIMIT, name
            assert others == 0, name
            for sampler in SAMPLERS.keys() - {"wal_receiver"}:  # which are for standbys
                taken = {line.head["at"] for line in written(tmp_path, name, sampler)}
                assert len(taken) > 0.9 * SECONDS - 3, (name, sampler)
            states = [row for x in written(tmp_path, name, "sampler_state") for row in x.rows]
            assert {row["state"] for row in states} <= {"unavailable", "limited"}, name
            assert {row["reason"] for row in states} <= {"version", "role", "privilege"}, name
    finally:
        for proxy in proxies.values():
            proxy.close()
