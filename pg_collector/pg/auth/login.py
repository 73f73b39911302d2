"""What all ways to log in have in common."""

from collections.abc import Callable
from typing import Final, Protocol

from pg_collector.config.model import AuthMethod, Postgres
from pg_collector.pg.auth import password
from pg_collector.wire import Wire

# The password for a host, a port and a user; None leaves it to libpq.
Sign = Callable[[str, str, str], str | None]


# Those whose passwords are tokens, which let in whoever has them.
TOKENS: Final = frozenset((AuthMethod.AWS_IAM, AuthMethod.GCP_IAM, AuthMethod.AZURE_AD))


class Login(Protocol):
    """A way to log in, of one target; for both of its lanes, so for two threads."""

    def prepare(self, wire: Wire) -> Sign:
        """Return what signs the next attempt; called right before it.

        Waits for a far side within bounds only, and no longer than `wire` is whole. Raises
        `ConfigurationError`, `TargetDown`, `TargetRefused`.
        """

    def refused(self, sign: Sign) -> bool:
        """Hear that the server refused what `sign` gave; say whether to try again at once."""


class Plain:
    """Whatever the configuration has: a password, a file that holds one, or nothing."""

    def __init__(self, postgres: Postgres, ask: Callable[[], str] | None = None) -> None:
        """`ask` gives another password than the configuration's."""
        self._postgres = postgres
        self._ask = ask

    def prepare(self, wire: Wire) -> Sign:  # noqa: ARG002  # nothing is waited for
        """Read it anew: a file may have been replaced. Raises `TargetDown` where it is gone."""
        text = self._ask() if self._ask is not None else password.find(self._postgres)
        return lambda _host, _port, _user: text

    def refused(self, sign: Sign) -> bool:  # noqa: ARG002  # there is no other
        """Say no: it would be the same again."""
        return False
