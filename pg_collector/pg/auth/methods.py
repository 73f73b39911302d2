"""From `auth_method` to the way to log in."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from pg_collector.clock import Clock, SystemClock
from pg_collector.config.model import AuthMethod, Database
from pg_collector.pg.auth.login import Login, Plain
from pg_collector.pg.auth.tokens import Guard, Ticket, Tokens, TokenSource

TOKENS: Final = frozenset((AuthMethod.AWS_IAM, AuthMethod.GCP_IAM, AuthMethod.AZURE_AD))


class Unguarded:
    """Lets every attempt pass."""

    def guard(self) -> AbstractContextManager[None]:
        """Let it pass."""
        return nullcontext()


def login(
    database: Database,
    *,
    guard: Callable[[str], Guard] = lambda _component: Unguarded(),
    clock: Clock | None = None,
    password: Callable[[], str] | None = None,
) -> Login:
    """Return the way to log in that the configuration names; nothing is fetched yet.

    `guard` makes the breaker of the endpoint that gives tokens, by its component's name;
    `password` gives another password than the configuration's.
    """
    postgres = database.postgres
    if password is not None or postgres.auth_method not in TOKENS:
        return Plain(postgres, password)
    return Tokens(
        database.name,
        _Lazily(database),
        breaker=guard(f"token:{database.name}"),
        clock=clock or SystemClock(),
    )


class _Lazily:
    """A source whose SDK is imported when the first token is wanted, in the thread that waits."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._source: TokenSource | None = None

    def fetch(self, *, anew: bool) -> Ticket:
        """Return a ticket; raises `ConfigurationError` without the SDK, else as the source does."""
        if self._source is None:
            self._source = _source(self._database)
        return self._source.fetch(anew=anew)


def _source(database: Database) -> TokenSource:
    name, postgres = database.name, database.postgres
    if postgres.auth_method is AuthMethod.AWS_IAM:
        from pg_collector.pg.auth import aws_iam  # noqa: PLC0415

        return aws_iam.Source(name, postgres.aws_iam)
    if postgres.auth_method is AuthMethod.GCP_IAM:
        from pg_collector.pg.auth import gcp_iam  # noqa: PLC0415

        return gcp_iam.Source(name)
    from pg_collector.pg.auth import azure_ad  # noqa: PLC0415

    return azure_ad.Source(name, postgres.azure_ad)
