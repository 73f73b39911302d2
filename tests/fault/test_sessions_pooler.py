"""A pooler is refused, and the application behind it notices nothing."""

import psycopg
import pytest

from pg_collector.errors import TargetRefused
from pg_collector.pg.session import Session
from tests.conftest import Lab
from tests.support.lab.server import Server
from tests.support.pgbouncer import PgBouncer, start_pgbouncer
from tests.support.target import target

NONE: frozenset[str] = frozenset()


@pytest.fixture
def server(lab: Lab) -> Server:
    return lab.newest().vacated()


def settings(bouncer: PgBouncer) -> list[tuple[str, ...]]:
    """Return what an application's session through the pooler sees."""
    names = ("default_transaction_read_only", "statement_timeout", "search_path", "jit", "TimeZone")
    asked = ", ".join(f"current_setting('{name}')" for name in names)
    with psycopg.connect(bouncer.dsn(), autocommit=True, prepare_threshold=None) as application:
        return application.execute(f"select {asked}").fetchall()


def ignore_options(bouncer: PgBouncer) -> None:
    with psycopg.connect(
        bouncer.dsn("postgres", "pgbouncer"), autocommit=True, prepare_threshold=None
    ) as admin:
        admin.execute(b"set ignore_startup_parameters = 'options'")


@pytest.mark.parametrize("mode", ["transaction", "session"])
@pytest.mark.parametrize("ignores", [False, True])
def test_a_pooler_is_refused_and_leaves_the_application_alone(
    server: Server, mode: str, *, ignores: bool
):
    with start_pgbouncer(server, mode=mode, size=1) as bouncer:
        before = settings(bouncer)
        if ignores:
            ignore_options(bouncer)
        for _ in range(3):
            with pytest.raises(TargetRefused, match="pooler") as refused:
                Session.open(target(bouncer.dsn()), relations=NONE)
            assert "Connect to PostgreSQL directly" in refused.value.remedy
        assert settings(bouncer) == before


def test_settings_that_did_not_take_effect_are_a_pooler_too(
    server: Server, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PGDATESTYLE", "German")
    with pytest.raises(TargetRefused, match="PGDATESTYLE") as refused:
        Session.open(target(server.dsn()), relations=NONE)
    assert refused.value.remedy == "Unset PGDATESTYLE for the agent"
