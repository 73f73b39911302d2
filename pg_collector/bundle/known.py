"""The secrets that an installation knows: what a bundle must not hold, wherever it stands.

From the configuration, the files and variables that it or libpq or a cloud's SDK reads, and the
agent's own state and environment. What cannot be read is passed over: then its form may still give
it away (`scan`).
"""

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

import msgspec

from pg_collector.config import conninfo
from pg_collector.config.files import MAX_CONFIG_BYTES, read_bytes, read_text
from pg_collector.config.model import Config
from pg_collector.errors import CollectorError
from pg_collector.secret import Secret

_SECRET_KEYWORDS: Final = (
    "password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key",
)  # fmt: skip
_LABEL: Final = (
    r"(?:password|passwd|passphrase|passwort|secret|token|credential|api[_-]?key|apikey"
    r"|access[_-]?key|account[_-]?key|private[_-]?key|client[_-]?secret|secret[_-]?key)"
)
_VARIABLE: Final = re.compile(
    r"PASS|SECRET|TOKEN|KEY|CREDENTIAL|CONN_STRING|DSN|PROXY|PGC_CONFIG|AUTHORIZATION|COOKIE",
    re.IGNORECASE,
)
_OF_FILE: Final = re.compile(r"_(?:FILE|PATH)\Z|\AGOOGLE_APPLICATION_CREDENTIALS\Z")
_OF_DIRECTORY: Final = re.compile(r"_(?:DIR|DIRECTORY|PATH)\Z")
# A proxy is secret where there is a login in it.
_PROXY: Final = re.compile(r"PROXY\Z", re.IGNORECASE)
_HOSTS: Final = re.compile(r"NO_?PROXY\Z", re.IGNORECASE)
# Variables that hold one secret and nothing else: whatever it looks like.
_A_SECRET: Final = re.compile(
    r"PASSW(?:OR)?D\Z|PASSPHRASE\Z|\A(?:PG_COLLECTOR_)?API_KEY\Z|\APGC__"
    r"|\AAWS_(?:SECRET_ACCESS_KEY|SESSION_TOKEN)\Z|\AAZURE_CLIENT_SECRET\Z",
    re.IGNORECASE,
)
# What others hold that is no secret, such as TOKEN_TTL=86400.
_NO_SECRET: Final = re.compile(r"[0-9]{4,7}|true|false|null|none", re.IGNORECASE)
_PAIR: Final = re.compile(
    rf"[\"']?(?P<name>[\w.-]*{_LABEL}[\w.-]*)[\"']?[ \t]*[=:][ \t]*"
    r"(?:\"(?P<double>(?:[^\"\\]|\\.)*)\"|'(?P<single>[^']*)'|(?P<bare>[^\s,}\"']\S*))",
    re.IGNORECASE,
)
_PEM: Final = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----(.*?)(?:-----END|\Z)", re.DOTALL)
_PGPASS: Final = re.compile(r"(?:[^:\\]|\\.)*(?::(?:[^:\\]|\\.)*){3}:(.*)")
_LEAST_KEY_LINE: Final = 16  # characters of a line of a key that are worth looking for
_NAMING_FILES: Final = {
    "PGSERVICEFILE": "password",
    "AWS_SHARED_CREDENTIALS_FILE": "environment",
    "AWS_CONFIG_FILE": "environment",
    "PGSSLKEY": "private key",
}
_PLACES: Final = frozenset((*_NAMING_FILES, "PGPASSFILE"))  # whether or not they can be seen
_FILES_OF_HOME: Final = (
    ".pg_service.conf", ".postgresql/postgresql.key", ".aws/credentials",
    ".config/gcloud/application_default_credentials.json", ".azure/msal_token_cache.json",
)  # fmt: skip


class Known(NamedTuple):
    """A secret, and what kind it is in the words of the manifest."""

    kind: str
    text: str


def of_config(config: Config) -> Iterator[Known]:
    """Yield what a configuration holds, and what the files hold that it names."""
    for path, value in _leaves(config, ""):
        name = path.rpartition(".")[2]
        if isinstance(value, Secret):
            kinds = {"conn_string": "password", "proxy": "proxy login"}
            yield from of_text(kinds.get(name, name), value.reveal(), whole=True)
        elif isinstance(value, Path) and name.endswith(("key_file", "password_file", "token_file")):
            yield from of_file(name.removesuffix("_file"), value)
    for database in config.databases:
        yield from of_libpq_files(database.postgres.conn_string.reveal())


def of_environment(environ: Mapping[str, str]) -> Iterator[Known]:
    """Yield what variables hold, and the files hold that they name or that lie in the home."""
    for name, value in environ.items():
        if _VARIABLE.search(name) and not _HOSTS.search(name) and name not in _PLACES:
            yield from _of_variable(name, value)
    for name, kind in _NAMING_FILES.items():
        if environ.get(name):
            yield from of_file(kind, Path(environ[name]))
    if environ.get("PGSYSCONFDIR"):
        yield from of_file("password", Path(environ["PGSYSCONFDIR"]) / "pg_service.conf")
    if environ.get("PGPASSFILE"):
        yield from _of_pgpass(Path(environ["PGPASSFILE"]))
    if environ.get("HOME"):
        home = Path(environ["HOME"])
        yield from _of_pgpass(home / ".pgpass")
        for one in _FILES_OF_HOME:
            yield from of_file("password", home / one)


def _of_variable(name: str, value: str) -> Iterator[Known]:
    """Yield what a variable holds; of a path, what lies there: the path itself is no secret."""
    path = Path(value)
    if _OF_DIRECTORY.search(name) and os.path.isdir(path):  # noqa: PTH112  # never raises
        yield from of_directory("environment", path)
    elif _OF_FILE.search(name) or (path.is_absolute() and os.path.exists(path)):  # noqa: PTH110
        yield from of_file("environment", path)
    elif _OF_DIRECTORY.search(name):
        return
    else:
        if _PROXY.search(name):
            value = value if "://" in value else f"http://{value}"
        harmless = not _A_SECRET.search(name) and _NO_SECRET.fullmatch(value.strip())
        whole = not harmless and "\n" not in value.strip()
        yield from of_text("environment", value, whole=whole)


def of_directory(kind: str, directory: Path) -> Iterator[Known]:
    """Yield what the files of a directory hold, each a secret, as systemd lays credentials out."""
    try:
        names = sorted(os.listdir(directory))  # noqa: PTH208  # names are what is sorted
    except OSError:
        return
    for name in names:
        yield from of_file(kind, directory / name)


def of_state(directory: Path) -> Iterator[Known]:
    """Yield what the state directory holds."""
    yield from of_file("refresh token", directory / "device.json")
    try:
        key = read_bytes(directory / "masking.key", MAX_CONFIG_BYTES)
    except CollectorError:
        return
    yield Known("masking key", key.hex())
    yield Known("masking key", key.decode("latin-1").strip())


def of_file(kind: str, path: Path, *, whole: bool = True) -> Iterator[Known]:
    """Yield what a file holds, if it can be read; `whole`: a single line may be one secret."""
    try:
        text = read_text(path, MAX_CONFIG_BYTES)
    except CollectorError:
        return
    yield from of_text(kind, text, whole=whole and "\n" not in text.strip())


def of_text(kind: str, text: str, *, whole: bool) -> Iterator[Known]:
    """Yield the secrets in a text: keys, passwords of connection strings and URLs, `token = ...`.

    Where there is none in it, it is one itself if `whole`.
    """
    found = [*_keys(text), *_logins(kind, text), *_pairs(kind, text)]
    yield from found
    if whole and not found and text.strip() and not _may_be_shown(text):
        yield Known(kind, text.strip())


def is_label(name: str) -> bool:
    """Say whether what stands behind such a name is a secret."""
    return re.search(_LABEL, name, re.IGNORECASE) is not None and not _names_a_file(name)


def _names_a_file(name: str) -> bool:
    return name.lower().endswith(("file", "path"))


def _may_be_shown(text: str) -> bool:
    """Say whether it is a connection string, or a URL, without anything secret."""
    if conninfo.may_be_shown(text):
        return True
    # A password may hold what ends the name of a host: `?` and `#`.
    return "://" in text and "@" not in text.partition("://")[2].partition("/")[0]


def _keys(text: str) -> Iterator[Known]:
    for block in _PEM.finditer(text.replace("\\n", "\n")):
        for line in block[1].split():
            if len(line) >= _LEAST_KEY_LINE:
                yield Known("private key", line)


def _logins(kind: str, text: str) -> Iterator[Known]:
    for url in re.finditer(r"://([^\s/@]*(?:@[^\s/@]*)*)@", text):
        user, colon, password = url[1].partition(":")
        if colon and password:
            yield Known(kind, password)
            yield Known(kind, unquote(password))
            yield Known(kind, f"{unquote(user)}:{unquote(password)}")
    try:
        parts = conninfo.parse(text)
    except ValueError:
        return
    yield from (Known(kind, parts[name]) for name in _SECRET_KEYWORDS if parts.get(name))


def _pairs(kind: str, text: str) -> Iterator[Known]:
    for pair in _PAIR.finditer(text):
        if _names_a_file(pair["name"]):
            continue
        values = [pair["single"] or ""]
        if pair["double"]:
            with contextlib.suppress(ValueError):
                values.append(json.loads(f'"{pair["double"]}"'))
        if pair["bare"]:
            values += [pair["bare"], re.split(r"[,}\"']", pair["bare"], maxsplit=1)[0]]
        for value in values:
            if value and not value.startswith(("${", "-----BEGIN")):
                yield Known(kind, value)


def of_libpq_files(conn_string: str) -> Iterator[Known]:
    """Yield what the files hold that a connection string names."""
    try:
        parts = conninfo.parse(conn_string)
    except ValueError:
        return
    if parts.get("passfile"):
        yield from _of_pgpass(Path(parts["passfile"]))
    if parts.get("sslkey"):
        yield from of_file("private key", Path(parts["sslkey"]))
    if parts.get("servicefile"):
        yield from of_file("password", Path(parts["servicefile"]))


def _of_pgpass(path: Path) -> Iterator[Known]:
    try:
        text = read_text(path, MAX_CONFIG_BYTES)
    except CollectorError:
        return
    for line in text.splitlines():
        found = _PGPASS.fullmatch(line)
        if found and not line.startswith("#"):
            yield Known("password", found[1])
            yield Known("password", re.sub(r"\\(.)", r"\1", found[1]))


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield path and value of everything in a configuration."""
    if isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from _leaves(getattr(value, name), f"{path}.{name}")
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _leaves(one, path)
    else:
        yield path, value


def distinct(found: Iterable[Known]) -> list[Known]:
    """Return each secret once, under the kind that it came with first."""
    by_text: dict[str, Known] = {}
    for one in found:
        by_text.setdefault(one.text, one)
    return list(by_text.values())
