"""From `auth_method` to the way to log in."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from pg_collector.clock import Clock, SystemClock
from pg_collector.config.model import AuthMethod, Database
from pg_collector.pg import conninfo
from pg_collector.pg.auth.login import TOKENS, Login, Plain
from pg_collector.pg.auth.tokens import Guard, Tokens, TokenSource


class Unguarded:
    """Lets every attempt pass."""

    def guard(self) -> AbstractContextManager[None]:
        """Let it pass."""
        return nullcontext()


def login(
    database: Database,
    *,
    guard: Guard | None = None,
    clock: Clock | None = None,
    password: Callable[[], str] | None = None,
) -> Login:
    """Return the way to log in that the configuration names; nothing is fetched yet.

    `guard` is the breaker of the endpoint that gives tokens; `password` gives another password than
    the configuration's.
    """
    postgres = database.postgres
    if password is not None or postgres.auth_method not in TOKENS:
        return Plain(postgres, password)
    return Tokens(
        database.name,
        partial(_source, database),
        breaker=guard or Unguarded(),
        clock=clock or SystemClock(),
    )


def _source(database: Database) -> TokenSource:
    """Import the SDK, in the thread that fetches; raises `ConfigurationError` without it."""
    name, postgres = database.name, database.postgres
    if postgres.auth_method is AuthMethod.AWS_IAM:
        from pg_collector.pg.auth import aws_iam  # noqa: PLC0415

        hosts = [one.host for one in conninfo.route(database).endpoints]
        return aws_iam.Source(name, postgres.aws_iam, hosts)
    if postgres.auth_method is AuthMethod.GCP_IAM:
        from pg_collector.pg.auth import gcp_iam  # noqa: PLC0415

        return gcp_iam.Source(name)
    from pg_collector.pg.auth import azure_ad  # noqa: PLC0415

    return azure_ad.Source(name, postgres.azure_ad)
