"""Where secrets are from, and who else could read their files.

What libpq passes over without a word is told here: a password file that others can read, or a key.
https://www.postgresql.org/docs/current/libpq-pgpass.html
"""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from pg_collector.checkup import config, unit
from pg_collector.checkup.account import current, owner
from pg_collector.checkup.asked import Asked
from pg_collector.checkup.finding import Finding, Level
from pg_collector.config import rights
from pg_collector.config.model import AuthMethod, Database
from pg_collector.errors import ConfigurationError
from pg_collector.pg import conninfo
from pg_collector.pg.auth.login import TOKENS
from pg_collector.pg.tls_parameters import home

_GROUP_AND_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OTHERS = stat.S_IRWXO
_KEY = re.compile(r"pgc_[a-z0-9_-]+_[A-Za-z0-9]{32}")


def findings(asked: Asked) -> Iterator[Finding]:
    """Look at every secret that the configuration names."""
    told: dict[str, Finding] = {}
    for path, one in _files(asked):
        told.setdefault(str(path), one)  # once, whoever uses it
    for place, one in config.open_files(asked):
        told.setdefault(place, one)
    yield from told.values()
    yield from _key_shape(asked)
    yield from unit.findings(asked.unit)
    said = ", ".join(_sources(asked)) or "none needed"
    yield Finding(section="secrets", level=Level.OK, found=said)


def _sources(asked: Asked) -> Iterator[str]:
    """Yield where each secret is from."""
    origins = asked.loaded.origins
    if asked.config.api_key is not None:
        place = origins.get("api_key") or origins.get("api_key_file")
        yield f"api_key from {place}"
    for target in asked.targets:
        yield f"{target.name}: {_login(target)}"
    files = (
        asked.config.platform.client_cert.key_file,
        asked.config.http.tls.key_file,
        asked.config.http.token_file,
    )
    yield from (_described(path) for path in files if path is not None)


def _login(target: Database) -> str:
    """Say with what a target is logged in to."""
    postgres = target.postgres
    if postgres.auth_method in TOKENS:
        return f"tokens ({postgres.auth_method})"
    if postgres.auth_method in {AuthMethod.CERT, AuthMethod.PEER}:
        return _key_of(target) if postgres.auth_method is AuthMethod.CERT else "peer, no secret"
    if postgres.password is not None:
        return "password from the configuration"
    if postgres.password_file is not None:
        return f"password from {_described(postgres.password_file)}"
    passfile = _passfile(target)
    if passfile is not None and _is_file(passfile):
        return f"password file {_described(passfile)}"
    return "what libpq finds"


def _key_of(target: Database) -> str:
    path = _key_path(target)
    return f"key {_described(path)}" if path is not None else "no key"


class _Secret(NamedTuple):
    """A file that holds a secret, and the modes that are refused."""

    path: Path
    what: str
    refused: int
    target: str | None = None
    level: Level = Level.WARN


def _files(asked: Asked) -> Iterator[tuple[Path, Finding]]:
    """Judge the mode of each file that holds a password or a key; yield it with the finding."""
    for secret in _secrets(asked):
        found = _judged(secret, asked)
        if found is not None:
            yield secret.path, found


def _secrets(asked: Asked) -> Iterator[_Secret]:
    for target in asked.targets:
        if target.postgres.password_file is not None:
            yield _Secret(target.postgres.password_file, "password_file", _OTHERS, target.name)
        passfile = _passfile(target)
        if passfile is not None and _is_file(passfile):
            what = "libpq's password file, which it passes over while others can read it"
            yield _Secret(passfile, what, _GROUP_AND_OTHERS, target.name, Level.FAIL)
        key = _key_path(target)
        if key is not None:
            what = "the client certificate's key, which libpq refuses while others can read it"
            yield _Secret(key, what, _refused(key), target.name, Level.FAIL)
    pair = asked.config.platform.client_cert
    if pair.key_file is not None:
        yield _Secret(pair.key_file, "platform.client_cert.key_file", _OTHERS)


def _refused(key: Path) -> int:
    """Return the modes of a key that libpq refuses: it wants 0600, or 0640 where root owns it."""
    try:
        by_root = key.stat().st_uid == 0
    except OSError:
        by_root = False
    return _OTHERS | stat.S_IWGRP | stat.S_IXGRP if by_root else _GROUP_AND_OTHERS


def _judged(secret: _Secret, asked: Asked) -> Finding | None:
    path = secret.path
    try:
        status = path.stat()
    except OSError as error:
        absent = not isinstance(error, PermissionError)
        return _unreadable(secret, error, _written(path) if absent else rights.copy(path))
    if not os.access(path, os.R_OK):
        refused = PermissionError(13, "may not be read")
        return _unreadable(secret, refused, _private(path, asked), status)
    if not status.st_mode & secret.refused:
        return None
    return Finding(
        section="secrets",
        level=secret.level,
        target=secret.target,
        found=f"{secret.what}: {_described(path)}: others can read it; mode 0600 is needed",
        remedy=_private(path, asked),
    )


def _unreadable(
    secret: _Secret, error: OSError, remedy: str, status: os.stat_result | None = None
) -> Finding:
    said = f" ({_owned(status)})" if status is not None else ""
    return Finding(
        section="secrets",
        level=Level.FAIL,
        target=secret.target,
        found=f"{secret.what}: {secret.path} cannot be read by {current()}{said}: {error.strerror}",
        remedy=remedy,
    )


def _written(path: Path) -> str:
    return f"Write it: install -o {current()} -m 600 FILE {quote(str(path))}"


def _private(path: Path, asked: Asked) -> str:
    """Return what leaves a file to the agent alone, or a copy of what others may use."""
    places = [one.parent for one in asked.loaded.files]
    if path.parent == home():
        places.append(path.parent)
    return rights.to_private(path, next((one for one in places if rights.is_own(path, one)), None))


def _key_shape(asked: Asked) -> Iterator[Finding]:
    """Doubt an API key that is none: a placeholder, or a part of one."""
    key = asked.config.api_key
    if key is not None and _KEY.fullmatch(key.reveal()) is None:
        place = asked.loaded.origins.get("api_key", "the configuration")
        yield Finding(
            section="secrets",
            level=Level.WARN,
            found=f"api_key from {place} does not read as one: pgc_PLAN_ and 32 letters and digits",
            remedy="Copy it again, whole; the platform shows it once, when it is made",
        )


def _passfile(target: Database) -> Path | None:
    """Return libpq's password file for a target that may need it."""
    postgres = target.postgres
    if postgres.auth_method not in {AuthMethod.AUTO, AuthMethod.PASSWORD}:
        return None
    if postgres.password is not None or postgres.password_file is not None:
        return None
    named = _parameters(target).get("passfile")
    if named:
        return Path(named)
    folder = home()
    return folder / ".pgpass" if folder is not None else None


def _key_path(target: Database) -> Path | None:
    named = _parameters(target).get("sslkey")
    return Path(named) if named else None


def _parameters(target: Database) -> dict[str, str]:
    try:
        route = conninfo.route(target)
    except ConfigurationError:
        return {}  # whoever connects tells of it
    return {**route.params, **route.tls}


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _described(path: Path) -> str:
    try:
        return f"{path} {_owned(path.stat())}"
    except OSError:
        return str(path)


def _owned(status: os.stat_result) -> str:
    return f"{stat.S_IMODE(status.st_mode):04o} {owner(status.st_uid)}"
