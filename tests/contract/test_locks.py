"""What the sampler `locks` tells: the gate, the forest, the queue behind a waiting ALTER TABLE."""

import pytest

from pg_collector.pg.session import Session
from tests.support.conditions.horizon import held_by_prepared_transaction
from tests.support.conditions.locks import blocked_chain, ddl_queue
from tests.support.conditions.session import sessions
from tests.support.sampling import RELATIONS, Sampling, sampling, target
from tests.support.until import until


def forest(there):
    return {row["pid"]: row for row in there.rows("locks", "locks.blocking")}


def test_a_chain_of_three_is_a_tree_with_its_root_and_depths(database):
    with sampling(database.dsn()) as there, blocked_chain(database) as chain:
        lines = there.take("locks")
        assert lines["locks"][0].rows[0]["waiting"] == 2
        found = {row["pid"]: row for row in lines["locks.blocking"][0].rows}
        assert set(found) == {chain.head, chain.middle, chain.tail}
        depths = [found[pid]["depth"] for pid in (chain.head, chain.middle, chain.tail)]
        assert depths == [0, 1, 2]
        assert {row["root_pid"] for row in found.values()} == {chain.head}
        assert [found[chain.head][name] for name in ("blocks_directly", "blocks_total")] == [1, 2]
        head, tail = found[chain.head], found[chain.tail]
        assert head["state"] == "idle in transaction"
        assert head["blocked_by"] is None
        assert head["xact_age_seconds"] > 0
        assert tail["blocked_by"] == [chain.middle]
        assert tail["locktype"] == "transactionid"
        assert tail["transactionid"] is not None
        assert tail["wait_seconds"] >= 0
        assert tail["query"] == f"update {chain.table} set v = ? where id = ?"
        if database.server.major >= 14:
            assert tail["waitstart"] is not None


def test_a_waiting_alter_table_that_holds_up_readers_is_marked(database):
    with sampling(database.dsn()) as there, ddl_queue(database) as queue:
        found = forest(there)
        assert found[queue.reader]["depth"] == 0
        alter = found[queue.alter]
        assert (alter["mode"], alter["blocked_by"]) == ("AccessExclusiveLock", [queue.reader])
        assert alter["holds_up_queue"] is True
        assert alter["blocks_directly"] == len(queue.behind)
        for pid in queue.behind:
            assert queue.alter in found[pid]["blocked_by"]
            assert found[pid]["holds_up_queue"] is False
            assert (found[pid]["schemaname"], found[pid]["relname"]) == ("public", queue.table)
        assert not found[queue.reader]["holds_up_queue"]


def test_a_prepared_transaction_stands_at_the_root_as_pid_0(fresh_server):
    fresh_server.restart({"max_prepared_transactions": "3"})
    database = fresh_server.database()
    with (
        sampling(database.dsn()) as there,
        held_by_prepared_transaction(database),
        sessions(database, "waiter") as (waiter,),
    ):
        waiter.send("truncate prepared")
        found = until(lambda: forest(there), what="somebody waits")
        assert found[waiter.pid]["blocked_by"] == [0]
        assert found[0]["depth"] == 0
        assert found[0]["blocks_total"] == 1
        assert there.rows("locks")[0]["prepared_transactions"] == 1


def test_an_advisory_lock_that_is_waited_for_has_its_key(database):
    with sampling(database.dsn()) as there, sessions(database, "one", "two") as (one, two):
        one.do("select pg_advisory_lock(4711)")
        two.send("select pg_advisory_lock(4711)")
        found = until(lambda: forest(there).get(two.pid), what="it waits")
        assert (found["locktype"], found["objid"]) == ("advisory", 4711)
        assert found["blocked_by"] == [one.pid]
        one.do("select pg_advisory_unlock_all()")
        two.outcome()


@pytest.mark.parametrize("role", ["pgcollector", "plain"])
def test_nothing_is_asked_of_the_lock_table_while_nobody_waits(database, role):
    asked = []

    class Recording(Session):
        def stream(self, sql, params=None, *, timeout=None, chunk=500):
            asked.append(sql)
            return super().stream(sql, params, timeout=timeout, chunk=chunk)

    session = Recording.open(target(database.dsn(role)), relations=RELATIONS)
    try:
        there = Sampling(session)
        there.take("locks")
        asked.clear()
        lines = there.take("locks")
        assert lines["locks"][0].rows[0]["waiting"] == 0
        assert "locks.blocking" not in lines
        assert len(asked) == 1
        with blocked_chain(database):
            assert len(forest(there)) == 3
    finally:
        session.close()


def test_locks_are_counted_by_kind_and_mode(database):
    with sampling(database.dsn()) as there, sessions(database, "holder") as (holder,):
        database.query("create table held (i int)")
        holder.do("begin")
        holder.do("lock table held in share row exclusive mode")
        there.clock.ahead += 60
        counts = {
            (row["datname"], row["mode"]): row["locks"]
            for row in there.rows("locks", "locks.counts")
            if row["locktype"] == "relation" and row["granted"]
        }
        assert counts[database.name, "ShareRowExclusiveLock"] == 1
