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

from pg_collector.checkup import config
from pg_collector.checkup.account import current, owner
from pg_collector.checkup.asked import Asked
from pg_collector.checkup.finding import Finding, Level
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
    yield from config.open_files(asked)
    yield from _files(asked)
    yield from _key_shape(asked)
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


def _files(asked: Asked) -> Iterator[Finding]:
    """Judge the mode of each file that holds a password or a key."""
    for target in asked.targets:
        if target.postgres.password_file is not None:
            yield from _judged(target.postgres.password_file, "password_file", _OTHERS, target.name)
        passfile = _passfile(target)
        if passfile is not None and _is_file(passfile):
            what = "libpq's password file, which it passes over while others can read it"
            yield from _judged(passfile, what, _GROUP_AND_OTHERS, target.name, Level.FAIL)
        key = _key_path(target)
        if key is not None:
            yield from _judged_key(key, target.name)
    pair = asked.config.platform.client_cert
    if pair.key_file is not None:
        yield from _judged(pair.key_file, "platform.client_cert.key_file", _OTHERS, None)


def _judged(
    path: Path, what: str, refused: int, target: str | None, level: Level = Level.WARN
) -> Iterator[Finding]:
    try:
        status = path.stat()
    except OSError as error:
        yield _unreadable(path, what, target, error)
        return
    if not os.access(path, os.R_OK):
        yield _unreadable(path, what, target, PermissionError(13, "may not be read"), status)
    elif status.st_mode & refused:
        yield Finding(
            section="secrets",
            level=level,
            target=target,
            found=f"{what}: {_described(path)}: others can read it; mode 0600 is needed",
            remedy=f"chmod 600 {quote(str(path))}",
        )


def _judged_key(path: Path, target: str) -> Iterator[Finding]:
    """Judge a key as libpq does: 0600, or 0640 where root owns it."""
    try:
        by_root = path.stat().st_uid == 0
    except OSError:
        by_root = False
    refused = _OTHERS | stat.S_IWGRP | stat.S_IXGRP if by_root else _GROUP_AND_OTHERS
    what = "the client certificate's key, which libpq refuses while others can read it"
    yield from _judged(path, what, refused, target, Level.FAIL)


def _unreadable(
    path: Path, what: str, target: str | None, error: OSError, status: os.stat_result | None = None
) -> Finding:
    user = current()
    said = f" ({_owned(status)})" if status is not None else ""
    # libpq wants a key of the agent's own, or one of root's; a group is enough for the rest.
    place = quote(str(path))
    remedy = f"chown {user} {place} && chmod 600 {place}"
    if status is None:
        remedy = f"Write it: install -o {user} -m 600 FILE {place}"
    return Finding(
        section="secrets",
        level=Level.FAIL,
        target=target,
        found=f"{what}: {path} cannot be read by {user}{said}: {error.strerror}",
        remedy=remedy,
    )


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
