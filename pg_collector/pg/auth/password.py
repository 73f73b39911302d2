"""The password of one connection attempt, wherever the configuration says it is."""

from collections.abc import Callable
from pathlib import Path

from pg_collector.config.files import MAX_SECRET_BYTES, Unreadable, read_text
from pg_collector.config.model import AuthMethod, Postgres
from pg_collector.errors import ConfigurationError, TargetDown

_TOKENS = frozenset({AuthMethod.AWS_IAM, AuthMethod.GCP_IAM, AuthMethod.AZURE_AD})
_WITHOUT = frozenset({AuthMethod.CERT, AuthMethod.PEER})


def find(postgres: Postgres, ask: Callable[[], str] | None = None) -> str | None:
    """Return the password to send, or None to leave it to libpq.

    Called at each attempt, so that a file that was replaced and a token that ran out are read
    anew. `ask` (a token source) wins over `password`, that over `password_file`. Raises
    `ConfigurationError` for a method that needs a token source and has none, `TargetDown` when
    the file cannot be read.
    """
    method = postgres.auth_method
    if ask is not None:
        return ask()
    if method in _TOKENS:
        raise ConfigurationError(
            f"postgres.auth_method: {method} comes with a later version",
            remedy="Use auto, password, cert or peer",
        )
    if method in _WITHOUT:
        return None
    if postgres.password is not None:
        return postgres.password.reveal()
    if postgres.password_file is not None:
        return _read(postgres.password_file)
    return None


def _read(path: Path) -> str:
    try:
        text = read_text(path, MAX_SECRET_BYTES)
    except Unreadable as error:
        raise TargetDown(f"password_file {error}", remedy=error.remedy) from None
    return text.removesuffix("\n").removesuffix("\r")
