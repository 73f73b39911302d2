"""The variables that stand for keys, and what a container without a file is made of.

Variables of libpq (PGHOST, PGSERVICE, …) are read by libpq alone; here they only say that there
is a database to connect to, and what to call it.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pg_collector.config import conninfo, scalars
from pg_collector.config.document import Entry, Listing, Node, Scalar, Tree
from pg_collector.config.files import (
    MAX_SECRET_BYTES,
    Unreadable,
    expanded,
    read_secret,
    read_text,
)
from pg_collector.config.layers import Layers
from pg_collector.config.problems import DEFAULT, Origin, Problems
from pg_collector.config.reading import Reading
from pg_collector.config.schema import Kind, Shape
from pg_collector.errors import ConfigurationError
from pg_collector.secret import Secret

WHOLE: Final = "PGC_CONFIG"
ANY_KEY: Final = "PGC__"

# A later one wins over an earlier one of the same key.
KEYS: Final[Mapping[str, str]] = {
    "API_KEY": "api_key",
    "PG_COLLECTOR_API_KEY": "api_key",
    "LOG_LEVEL": "log.level",
    "PG_COLLECTOR_LOG_LEVEL": "log.level",
    "LOG_FORMAT": "log.format",
    "PG_COLLECTOR_LOG_FORMAT": "log.format",
    "HTTP_ADDRESS": "http.address",
}
DATABASE_KEYS: Final[Mapping[str, str]] = {
    "PG_NAME": "name",
    "PG_CONN_STRING": "postgres.conn_string",
    "PG_PASSWORD": "postgres.password",
    "PG_AUTH_METHOD": "postgres.auth_method",
    "PG_TLS_MODE": "postgres.tls.mode",
    "PG_CA_FILE": "postgres.tls.ca_file",
    "PG_CERT_FILE": "postgres.tls.cert_file",
    "PG_KEY_FILE": "postgres.tls.key_file",
}
PARAMETERS: Final[Mapping[str, str]] = {
    "PG_HOST": "host",
    "PG_PORT": "port",
    "PG_USER": "user",
    "PG_DB": "dbname",
}
SECRETS: Final = ("API_KEY", "PG_COLLECTOR_API_KEY", "PG_CONN_STRING", "PG_PASSWORD")
_LIBPQ: Final = ("PGHOST", "PGHOSTADDR", "PGSERVICE", "PGDATABASE")
_MEANS_A_DATABASE: Final = ("PG_CONN_STRING", "PG_CONN_STRING_FILE", *PARAMETERS, *_LIBPQ)


def overlay(layers: Layers, environ: Mapping[str, str], problems: Problems) -> None:
    """Put the variables on top of the files; an empty variable counts as not set."""
    for name, key in _with_files(KEYS):
        if environ.get(name):
            layers.put_text(key.split("."), environ[name], f"env {name}")
    _overlay_database(layers, environ)
    for name in sorted(environ):
        if name.startswith(ANY_KEY) and environ[name]:
            parts = name.removeprefix(ANY_KEY).lower().split("__")
            if all(parts):
                layers.put_text(parts, environ[name], f"env {name}")
            else:
                problems.add(
                    Origin(f"env {name}"), "", "names no key", "write PGC__SECTION__KEY=value"
                )
        elif name.startswith("PGC_") and name != WHOLE:
            layers.warnings.append(
                f"env {name} is not read: write PGC__SECTION__KEY, with two underscores each"
            )
    for name in SECRETS:
        if environ.get(name) and environ.get(f"{name}_FILE"):
            problems.add(
                Origin(f"env {name}_FILE"), "", f"{name} is set, too", "keep one of the two"
            )


def finish(
    values: dict[str, Any], reading: Reading, environ: Mapping[str, str], warnings: list[str]
) -> None:
    """Complete the values that depend on others: connection parameters, systemd credentials."""
    databases = values["databases"]
    if len(databases) == 1:
        _connect(databases[0]["postgres"], reading, environ)
    elif databases:
        warnings += _unused(reading, environ, len(databases))
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if directory:
        _credentials(values, reading, Path(directory))


def _unused(reading: Reading, environ: Mapping[str, str], count: int) -> list[str]:
    """Warn of variables that would describe the only database where there are several."""
    names = [*(name for name, _ in _with_files(DATABASE_KEYS)), *PARAMETERS]
    unused = [name for name in names if environ.get(name) and name not in reading.used]
    if not unused:
        return []
    return [
        f"env {', '.join(unused)}: not used, because there are {count} databases; "
        f"write ${{{unused[0]}}} where it belongs"
    ]


def _with_files(names: Mapping[str, str]) -> list[tuple[str, str]]:
    pairs = []
    for name, key in names.items():
        pairs.append((name, key))
        if name in SECRETS:
            pairs.append((f"{name}_FILE", f"{key}_file"))
    return pairs


def _overlay_database(layers: Layers, environ: Mapping[str, str]) -> None:
    entry = layers.tree.entries.get("databases")
    listed = entry.node if entry is not None else None
    if _is_empty(listed):
        if not any(environ.get(name) for name in _MEANS_A_DATABASE):
            return
        origin = Origin("env " + next(name for name in _MEANS_A_DATABASE if environ.get(name)))
        only = Tree({"name": Entry(origin, Scalar(_name(environ), origin))}, origin)
        layers.put(["databases"], Listing((only,), origin))
    elif not isinstance(listed, Listing) or len(listed.items) != 1:
        return
    for name, key in _with_files(DATABASE_KEYS):
        if environ.get(name):
            parts = ["databases", "0", *key.split(".")]
            layers.put_text(parts, environ[name], f"env {name}")


def _is_empty(node: Node | None) -> bool:
    if isinstance(node, Scalar):
        return node.text is None
    return node is None or (isinstance(node, Listing) and not node.items)


def _name(environ: Mapping[str, str]) -> str:
    """Return a name for the only database: its host, as far as that is a name."""
    text = environ.get("PG_CONN_STRING", "")
    if not text and environ.get("PG_CONN_STRING_FILE"):
        try:
            text = read_secret(expanded(environ["PG_CONN_STRING_FILE"]))
        except ConfigurationError:  # told by whoever reads the value
            text = ""
    try:
        host = conninfo.parse(text).get("host", "")
    except ValueError:
        host = ""
    for candidate in (
        environ.get("PG_HOST"),
        host,
        environ.get("PGHOST"),
        environ.get("PGSERVICE"),
    ):
        if candidate and not candidate.startswith(("/", "@")):
            return (
                re.sub(r"[^A-Za-z0-9._-]", "-", candidate.split(",")[0])[:63].lstrip("._-")
                or "local"
            )
    return "local"


def _connect(postgres: dict[str, Any], reading: Reading, environ: Mapping[str, str]) -> None:
    path = "databases[0].postgres.conn_string"
    origin = reading.origins.get(path, DEFAULT)
    parameters: dict[str, str] = {}
    for name, keyword in PARAMETERS.items():
        if environ.get(name):
            try:
                parameters[keyword] = scalars.convert(Shape(kind=Kind.TEXT), environ[name])
            except ConfigurationError as error:
                reading.fault(Origin(f"env {name}"), path, str(error), error.remedy)
    by_flag = origin.source == "--set" or origin.source.startswith(f"env {ANY_KEY}")
    if by_flag or path in reading.bad:
        return
    if origin == DEFAULT:
        if not parameters and not any(environ.get(name) for name in _LIBPQ):
            return
        # What libpq finds in PGDATABASE or in a service file must not be covered by a default.
        by_libpq = environ.get("PGDATABASE") or environ.get("PGSERVICE")
        text = ""
        if not by_libpq:
            parameters = {"dbname": "postgres", **parameters}
    else:
        text = postgres["conn_string"].reveal()
    if parameters or origin == DEFAULT:
        postgres["conn_string"] = Secret(conninfo.add(text, parameters))
        used = [name for name in (*PARAMETERS, *_LIBPQ) if environ.get(name)]
        reading.origins[path] = origin if origin != DEFAULT else Origin(f"env {used[0]}")


def _credentials(values: dict[str, Any], reading: Reading, directory: Path) -> None:
    """Fill what is missing from the files that systemd's LoadCredential laid out."""
    file = directory / "api_key"
    if values["api_key"] is None and "api_key" not in reading.bad and _holds(file):
        origin = Origin("credential api_key")
        values["api_key"] = reading.secret_file(file, origin, "api_key")
        reading.origins["api_key"] = origin
    file = directory / "postgres_password"
    if not _holds(file):
        return
    for number, database in enumerate(values["databases"]):
        postgres = database["postgres"]
        if (
            postgres["password"] is None
            and postgres["password_file"] is None
            and postgres["auth_method"] in ("auto", "password")
            and not conninfo.has_password(postgres["conn_string"].reveal())
        ):
            path = f"databases[{number}].postgres.password_file"
            origin = Origin("credential postgres_password")
            if reading.secret_file(file, origin, path) is not None:
                postgres["password_file"] = file
                reading.origins[path] = origin


def _holds(credential: Path) -> bool:
    """Whether there is one. A blank one is what a unit gives where its own source is missing."""
    try:
        return bool(read_text(credential, MAX_SECRET_BYTES).strip())
    except Unreadable:
        return credential.exists()  # whoever reads it says why not
