"""The names that a session can see: what people called their tables, columns, roles and sessions.

They are read for who asks on the host itself, and go nowhere else.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from pg_collector.pg.session import Session

MOST: Final = 100_000  # names of one kind


def _of(catalog: str, column: str, where: str = "true") -> str:
    return f"SELECT {column}::text AS name FROM {catalog} WHERE {where}"


def _relations(kinds: str) -> str:
    return _of("pg_class", "relname", f"relkind IN ({kinds})")


# What there is of each kind of name, as SQL.
KINDS: Final[Mapping[str, str]] = {
    "database": _of("pg_database", "datname"),
    "role": _of("pg_roles", "rolname"),
    "tablespace": _of("pg_tablespace", "spcname"),
    "schema": _of("pg_namespace", "nspname"),
    "table": _relations("'r', 'p', 'f'"),
    "index": _relations("'i', 'I'"),
    "sequence": _relations("'S'"),
    "view": _relations("'v', 'm'"),
    "column": _of("pg_attribute", "attname", "attnum > 0 AND NOT attisdropped"),
    "constraint": _of("pg_constraint", "conname"),
    "trigger": _of("pg_trigger", "tgname"),
    "policy": _of("pg_policy", "polname"),
    "rule": _of("pg_rewrite", "rulename"),
    "statistics": _of("pg_statistic_ext", "stxname"),
    "function": _of("pg_proc", "proname"),
    "parameter": _of("pg_proc, unnest(proargnames) AS a(name)", "a.name", "a.name <> ''"),
    "type": _of("pg_type", "typname"),
    "collation": _of("pg_collation", "collname"),
    "language": _of("pg_language", "lanname"),
    "extension": _of("pg_extension", "extname"),
    "event trigger": _of("pg_event_trigger", "evtname"),
    "text search": _of("pg_ts_config", "cfgname") + f" UNION ALL {_of('pg_ts_dict', 'dictname')}",
    "foreign server": _of("pg_foreign_server", "srvname"),
    "foreign-data wrapper": _of("pg_foreign_data_wrapper", "fdwname"),
    "publication": _of("pg_publication", "pubname"),
    "subscription": _of("pg_stat_subscription", "subname"),
    "slot": _of("pg_replication_slots", "slot_name"),
    "application": _of("pg_stat_activity", "application_name")
    + f" UNION ALL {_of('pg_stat_replication', 'application_name')}",
    "standby": "SELECT regexp_split_to_table(current_setting('synchronous_standby_names'),"
    " '[ ,()\"]+') AS name",
    "prepared transaction": _of("pg_prepared_xacts", "gid"),
    "cluster": "SELECT current_setting('cluster_name') AS name",
}


def read(session: Session, kind: str) -> Iterator[str]:
    """Yield the names of one of KINDS that a session sees, each once, MOST at most.

    Raises what the session raises.
    """
    sql = (
        f"SELECT /* pgc:names */ DISTINCT n.name FROM ({KINDS[kind]}) AS n"
        f" WHERE n.name <> '' LIMIT {MOST}"
    )
    for answer in session.stream(sql):
        for (name,) in answer.rows:
            yield name
