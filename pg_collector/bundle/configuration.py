"""The configuration in force, as a bundle shows it: of connection strings where they lead to."""

from typing import Final

import msgspec

from pg_collector.config import conninfo, render
from pg_collector.config.load import Loaded
from pg_collector.config.model import Database
from pg_collector.secret import Secret

_SHOWN: Final = ("host", "hostaddr", "port", "dbname", "service", "sslmode")


def shown(loaded: Loaded) -> str:
    """Return what `pgc config show --origin` prints, with less of each connection string."""
    databases = tuple(map(_reduced, loaded.config.databases))
    config = msgspec.structs.replace(loaded.config, databases=databases)
    less = msgspec.structs.replace(loaded, config=config)
    warnings = "".join(f"# warning: {one}\n" for one in loaded.warnings)
    return warnings + render.as_yaml(less, origins=True)


def _reduced(database: Database) -> Database:
    text = database.postgres.conn_string.reveal()
    try:
        parts = conninfo.parse(text)
    except ValueError:
        return database  # shown as (secret)
    kept = {name: parts[name] for name in _SHOWN if parts.get(name)}
    where = Secret(conninfo.add("", kept))
    postgres = msgspec.structs.replace(database.postgres, conn_string=where)
    return msgspec.structs.replace(database, postgres=postgres)
