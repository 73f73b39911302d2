"""The password of one connection attempt, wherever the configuration says it is."""

from pathlib import Path
from typing import Final

from pg_collector.config.files import MAX_SECRET_BYTES, Unreadable, read_text
from pg_collector.config.model import AuthMethod, Postgres
from pg_collector.errors import TargetDown

_WITH: Final = frozenset({AuthMethod.AUTO, AuthMethod.PASSWORD})


def find(postgres: Postgres) -> str | None:
    """Return the password to send, or None to leave it to libpq.

    Called at each attempt, so that a file that was replaced is read anew. `password` wins over
    `password_file`. Raises `TargetDown` when the file cannot be read.
    """
    if postgres.auth_method not in _WITH:
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
