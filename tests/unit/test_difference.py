"""What differs between two configurations: keys as the file writes them, and what may change."""

from pathlib import Path

import msgspec

from pg_collector.config.difference import compare
from pg_collector.config.model import (
    Breaker,
    Breakers,
    Config,
    Database,
    Http,
    Local,
    Log,
    LogLevel,
    Postgres,
    Sampling,
    Security,
)
from pg_collector.secret import Secret

replace = msgspec.structs.replace

A = Database(name="a", postgres=Postgres(conn_string=Secret("password=hunter2")))
B = Database(name="b")
ONE = Config(databases=(A, B))


def test_the_same_is_no_difference():
    found = compare(ONE, Config(databases=(A, B)))
    assert found == (ONE, (), ())


def test_keys_are_told_as_the_file_writes_them_and_no_value_is():
    wanted = replace(
        ONE,
        databases=(
            replace(A, postgres=Postgres(conn_string=Secret("password=correcthorse"))),
            Database(name="c"),
        ),
        sampling=Sampling(enabled={"wal": False}, every={"activity": 5.0}),
        log=Log(level=LogLevel.DEBUG),
        breakers=Breakers(postgres=Breaker(reset=5.0)),
        security=Security(drop_utility_text=False),
    )
    found = compare(ONE, wanted)
    assert set(found.accepted) == {
        "databases.a.postgres.conn_string",
        "databases.b",
        "databases.c",
        "sampling.enabled.wal",
        "sampling.activity",
        "log.level",
        "breakers.postgres.reset",
        "security.drop_utility_text",
    }
    assert found.refused == ()
    assert found.config == wanted


def test_what_needs_a_restart_is_refused_by_name_and_keeps_its_value():
    wanted = replace(
        ONE,
        api_key=Secret("hunter2"),
        state_dir=Path("/elsewhere"),
        http=Http(address="off"),
        local=Local(enabled=True),
        security=Security(drop_utility_text=False),
    )
    found = compare(ONE, wanted)
    assert set(found.refused) == {
        "api_key",
        "state_dir",
        "http.address",
        "local.enabled",
    }
    assert found.accepted == ("security.drop_utility_text",)
    assert found.config == replace(ONE, security=Security(drop_utility_text=False))
    assert compare(found.config, wanted).refused == found.refused  # said again next time


def test_the_order_of_databases_is_a_difference():
    assert compare(ONE, Config(databases=(B, A))).accepted == ("databases",)
