"""Reading what a server is, in two statements; a managed service may refuse parts of the second.

Nothing here writes or takes a transaction id (never txid_current()).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pg_collector import column_statistics
from pg_collector.errors import SamplerError
from pg_collector.sample import Answer, Extension, Facts

Run = Callable[[str, Mapping[str, Any] | None], Answer]

# Settings that change what a sample means. Those that this role may not read, that this server does
# not have, or that ALTER ROLE gave our role alone, are missing from the facts.
SETTINGS = (
    "archive_mode", "autovacuum", "autovacuum_freeze_max_age", "autovacuum_max_workers",
    "autovacuum_multixact_freeze_max_age", "autovacuum_naptime", "autovacuum_worker_slots",
    "block_size", "cluster_name", "compute_query_id", "data_checksums", "hot_standby_feedback",
    "max_connections", "max_prepared_transactions", "max_replication_slots",
    "max_slot_wal_keep_size", "max_wal_senders", "pg_stat_statements.max",
    "pg_stat_statements.save", "pg_stat_statements.track", "pg_stat_statements.track_planning",
    "pg_stat_statements.track_utility", "reserved_connections", "server_encoding",
    "server_version", "shared_buffers", "shared_preload_libraries",
    "superuser_reserved_connections", "track_activities", "track_activity_query_size",
    "track_commit_timestamp", "track_cost_delay_timing", "track_counts", "track_functions",
    "track_io_timing", "track_wal_io_timing", "wal_level", "wal_segment_size",
)  # fmt: skip


class Identity(NamedTuple):
    """What every server tells everybody, and how this session came out."""

    backend_pid: int
    version: int
    database: str
    role: str
    in_recovery: bool
    superuser: str  # on or off
    read_only: str
    statement_timeout: str
    search_path: str


_IDENTITY = """SELECT /* pgc:facts */ pg_catalog.pg_backend_pid(),
 pg_catalog.current_setting('server_version_num')::int, pg_catalog.current_database(),
 current_user, pg_catalog.pg_is_in_recovery(),
 pg_catalog.current_setting('is_superuser'),
 pg_catalog.current_setting('default_transaction_read_only'),
 pg_catalog.current_setting('statement_timeout'), pg_catalog.current_setting('search_path')"""


def identify(run: Run) -> Identity:
    """Ask who is there. Names are qualified: the search path may not be ours yet.

    So there is no operator: anybody's could come before the system's.
    """
    return Identity(*run(_IDENTITY, None).rows[0])


# The timeline of a primary is in the name of the WAL file that it writes; the control file, which
# a standby has to make do with, follows at the next checkpoint.
_TIMELINE = """CASE WHEN pg_is_in_recovery()
 THEN (SELECT greatest(c.timeline_id, r.min_recovery_end_timeline)
       FROM pg_control_checkpoint() c, pg_control_recovery() r)
 ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END"""

_EXTENSIONS = """(SELECT json_object_agg(e.extname, json_build_array(e.extversion, n.nspname))
 FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace)"""

# The function that `pgc setup sql --bloat` makes. Anybody who may create a schema could plant one
# of its name: it counts only if it runs with its owner's rights, never with ours, and if nobody can
# replace it who has not more rights than pg_monitor anyway.
_HELPER = f"""SELECT '{column_statistics.FUNCTION}', out.col
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace,
   unnest(p.proargnames, p.proargmodes) AS out(col, mode)
  WHERE '{column_statistics.FUNCTION}' = ANY(%(relations)s) AND out.mode = 't'
  AND n.nspname = '{column_statistics.SCHEMA}' AND p.proname = '{column_statistics.NAME}'
  AND p.prosecdef AND p.pronargs = 1 AND p.proargtypes[0] = 'oid[]'::regtype
  AND pg_has_role(p.proowner, 'pg_monitor', 'MEMBER')
  AND pg_has_role(n.nspowner, 'pg_monitor', 'MEMBER')
  AND has_schema_privilege(n.oid, 'USAGE') AND has_function_privilege(p.oid, 'EXECUTE')"""

# Views and catalogs of pg_catalog and of extensions, and functions there that return columns.
_COLUMNS = f"""(WITH ours AS (
  SELECT classid, objid FROM pg_depend
  WHERE deptype = 'e' AND refclassid = 'pg_extension'::regclass),
 found AS (
  SELECT c.relname AS name, a.attname AS col FROM pg_class c
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  WHERE c.relname = ANY(%(relations)s) AND (c.relnamespace = 'pg_catalog'::regnamespace
   OR EXISTS (SELECT FROM ours WHERE classid = 'pg_class'::regclass AND objid = c.oid))
  UNION
  SELECT p.proname, out.col FROM pg_proc p,
   unnest(p.proargnames, p.proargmodes) AS out(col, mode)
  WHERE p.proname = ANY(%(relations)s) AND out.mode IN ('o', 'b', 't')
  AND (p.pronamespace = 'pg_catalog'::regnamespace
   OR EXISTS (SELECT FROM ours WHERE classid = 'pg_proc'::regclass AND objid = p.oid))
  UNION {_HELPER})
 SELECT json_object_agg(name, cols)
 FROM (SELECT name, json_agg(col) AS cols FROM found GROUP BY name) AS grouped)"""

# Each fact, and how to ask for it: the best way first.
_PARTS: dict[str, tuple[str, ...]] = {
    "system_identifier": ("(SELECT system_identifier::text FROM pg_control_system())",),
    "timeline": (_TIMELINE, "(SELECT timeline_id FROM pg_control_checkpoint())"),
    "started_at": ("pg_postmaster_start_time()",),
    "shared_stats_reset": ("(SELECT stats_reset FROM pg_stat_bgwriter)",),
    "reads_all_stats": ("pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')",),
    "settings": (
        "(SELECT json_object_agg(name, setting) FROM pg_settings WHERE name = ANY(%(settings)s)"
        " AND source NOT IN ('user', 'database user'))",
    ),
    "extensions": (_EXTENSIONS,),
    "columns": (_COLUMNS,),
}
_ESSENTIAL = "columns"


def read(run: Run, relations: frozenset[str]) -> Facts:
    """Read the facts with `run`, columns for these `relations`.

    Raises what `run` raises; a part that the server refuses is left unknown.
    """
    identity = identify(run)
    params = {"settings": list(SETTINGS), "relations": sorted(relations)}
    parts = _together(run, params)
    columns: Mapping[str, list[str]] = parts["columns"] or {}
    extensions: Mapping[str, list[str]] = parts["extensions"] or {}
    return Facts(
        version=identity.version,
        database=identity.database,
        role=identity.role,
        in_recovery=identity.in_recovery,
        superuser=identity.superuser == "on",
        columns={name: frozenset(found) for name, found in columns.items()},
        extensions={name: Extension(*found) for name, found in extensions.items()},
        settings=parts["settings"] or {},
        system_identifier=parts["system_identifier"],
        timeline=parts["timeline"],
        started_at=parts["started_at"],
        shared_stats_reset=parts["shared_stats_reset"],
        reads_all_stats=bool(parts["reads_all_stats"]),
    )


def _together(run: Run, params: Mapping[str, Any]) -> dict[str, Any]:
    wanted = ", ".join(f"{ways[0]} AS {name}" for name, ways in _PARTS.items())
    try:
        answer = run(f"SELECT /* pgc:facts */ {wanted}", params)
    except SamplerError:
        return {name: _alone(run, params, name) for name in _PARTS}
    return dict(zip(answer.columns, answer.rows[0], strict=True))


def _alone(run: Run, params: Mapping[str, Any], name: str) -> Any:
    refusal: SamplerError | None = None
    for way in _PARTS[name]:
        try:
            return run(f"SELECT /* pgc:facts */ {way}", params).rows[0][0]
        except SamplerError as error:
            refusal = error
    if name == _ESSENTIAL and refusal is not None:
        raise refusal
    return None
