"""The SQL that makes the monitoring role: `pgc setup sql` prints it, the demo runs it."""

from collections.abc import Sequence
from typing import Final

from pg_collector import column_statistics

AUTHENTICATION: Final = {
    "password": "-- Then give it a password, which pgc reads from a file:  \\password {user}",
    "cert": "-- pg_hba.conf:  hostssl all {user} <agent's address>/32 cert clientcert=verify-full",
    "peer": "-- pg_hba.conf:  local all {user} peer   (pgc runs as the system user {user})",
    "aws_iam": "GRANT rds_iam TO {user};",
    "gcp_iam": "-- Cloud SQL makes the role, before all this:  gcloud sql users create {name}"
    " --instance=... --type=cloud_iam_service_account",
    "azure_ad": "-- Before all this, in the database postgres, as the Entra administrator:"
    "  SELECT * FROM pgaadauth_create_principal({literal}, false, false);",
}


def script(user: str, auth: str, connection_limit: int, databases: Sequence[str]) -> list[str]:
    """Return the lines of a psql script that can be run again without harm.

    `auth` is a key of AUTHENTICATION.
    """
    role, literal = _identifier(user), _literal(user)
    lines = [
        "-- A role for PG Collector: it reads statistics, holds "
        f"{connection_limit} connections at most, and writes nothing.",
        "DO $pgc$ BEGIN",
        f"  IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {literal}) THEN",
        f"    CREATE ROLE {role} LOGIN;",
        # Only a superuser may name these, even to take them away; a cloud's administrator is none.
        f"  ELSIF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {literal}",
        "      AND (rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication)) THEN",
        f"    ALTER ROLE {role} NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION;",
        "  END IF;",
        "END $pgc$;",
        f"ALTER ROLE {role} LOGIN CONNECTION LIMIT {connection_limit};",
        f"ALTER ROLE {role} SET default_transaction_read_only = on;",
        f"GRANT pg_monitor TO {role};",
    ]
    lines += [f"GRANT CONNECT ON DATABASE {_identifier(one)} TO {role};" for one in databases]
    lines += [
        "-- For the sampler `statements`. pg_stat_statements must also stand in",
        "-- shared_preload_libraries, which needs a restart.",
        "CREATE EXTENSION IF NOT EXISTS pg_stat_statements;",
        "-- Where many databases are visited (discover), let the own statements of the agent, some",
        "-- twenty in each of them, take no places from those of others; as a superuser:",
        f"-- ALTER ROLE {role} SET pg_stat_statements.track = 'none';",
        AUTHENTICATION[auth].format(user=role, name=user, literal=literal),
    ]
    return lines


def column_statistics_script(user: str) -> list[str]:
    """Return the lines that make the function behind the sampler `bloat`, for one database.

    It may be run again. Whoever runs it owns the function, and gives away what is written in it.
    """
    role = _identifier(user)
    schema, function = column_statistics.SCHEMA, column_statistics.FUNCTION
    columns = ", ".join(f"{name} {kind}" for name, kind in column_statistics.COLUMNS)
    return [
        "-- For the sampler `bloat`, in this database only. The function shows the role of every",
        "-- column how wide it is, how many values are null, distinct or common: sizes and shares,",
        "-- never a value. Without it bloat is estimated only for tables that the role may read.",
        f"CREATE SCHEMA IF NOT EXISTS {schema};",
        f"REVOKE ALL ON SCHEMA {schema} FROM PUBLIC;",
        f"GRANT USAGE ON SCHEMA {schema} TO {role};",
        f"CREATE OR REPLACE FUNCTION {function}(relids oid[])",
        f"RETURNS TABLE ({columns})",
        "LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $pgc$",
        *column_statistics.query("relids").splitlines(),
        "$pgc$;",
        f"REVOKE ALL ON FUNCTION {function}(oid[]) FROM PUBLIC;",
        f"GRANT EXECUTE ON FUNCTION {function}(oid[]) TO {role};",
    ]


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
