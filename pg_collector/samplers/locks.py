"""Who waits for which lock, since when, and who stands at the root of it.

pg_locks: https://www.postgresql.org/docs/current/view-pg-locks.html
pg_blocking_pids(): https://www.postgresql.org/docs/current/functions-info.html
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pg_collector.errors import Reason
from pg_collector.sample import Facts, Keep, Row
from pg_collector.samplers import _settings
from pg_collector.samplers._kinds import (
    Id,
    Name,
    Seconds,
    Time,
)
from pg_collector.samplers._sampler import Group, LaneName, Query, Sampler, Scope

MOST_WAITERS = 100


class ServerRow(Row, frozen=True):
    """Whether anybody waits. `waiting` opens the set `locks.blocking`."""

    waiting: int
    max_locks_per_transaction: int
    deadlock_timeout_seconds: Seconds
    prepared_transactions: int


class CountRow(Row, frozen=True):
    """How many locks are alike; a fast-path lock is one that its session holds by itself."""

    datname: Name | None
    locktype: str
    mode: str
    granted: bool
    fastpath: bool
    locks: int


class _SessionRow(Row, frozen=True):
    """What the server tells of a session that waits, or that somebody waits for."""

    pid: Id
    session_id: str | None
    datname: Name | None
    usename: Name | None
    application_name: Name | None
    backend_type: str | None
    state: str | None
    xact_age_seconds: Seconds | None
    state_age_seconds: Seconds | None
    blocked_by: list[int] | None
    wait_seconds: Seconds | None
    locktype: str | None
    mode: str | None
    relid: Id | None
    schemaname: Name | None
    relname: Name | None
    page: int | None
    tuple: int | None
    virtualxid: str | None
    transactionid: str | None
    classid: Id | None
    objid: Id | None
    objsubid: int | None
    query: str | None
    query_truncated: bool | None


class _WaitRow(_SessionRow, frozen=True):
    """The same with what only newer versions tell."""

    waitstart: Time | None = None  # 14


class BlockingRow(_SessionRow, frozen=True):
    """A session of the blocking forest: it waits, or somebody waits for it, or both.

    At most 100 waiters and those that they wait for are told; `waiting` of the set `locks` says how
    many there were. `pid` 0 stands for prepared transactions. `blocked_by` are the sessions that
    hold the wanted lock or stand before in its queue. `depth` counts the steps to the nearest
    `root_pid`, which waits for nobody; where sessions wait in a circle, one of them stands for the
    root. Where more wait, a session whose own blockers were not asked for stands as a root, too.
    Tables have names only in this database, and else oids. `wait_seconds` is measured from 14
    on; before, it is the age of the query.

    `holds_up_queue` marks the usual cause of a pile-up: a session that itself waits for an
    exclusive lock on a table, and others queue behind it that the present holders would let in.
    """

    root_pid: Id
    depth: int
    blocks_directly: int
    blocks_total: int
    in_circle: bool
    holds_up_queue: bool
    waitstart: Time | None = None  # 14


def forest(
    rows: Iterable[Mapping[str, Any]], _facts: Facts | None = None
) -> Iterator[tuple[Any, ...]]:
    """Yield rows of `BlockingRow`: what the server told of each session, and its place."""
    sessions = {row["pid"]: row for row in rows}
    waits = {
        pid: sorted({one for one in row["blocked_by"] or () if one in sessions and one != pid})
        for pid, row in sessions.items()
    }
    holds: dict[int, list[int]] = {pid: [] for pid in sessions}
    for pid, blockers in waits.items():
        for one in blockers:
            holds[one].append(pid)
    reached = _reached(holds)
    circles = _in_circles(waits, holds)
    places = _places(waits, holds)
    for pid in sorted(sessions, key=lambda one: (places[one][1], one)):
        root, depth = places[pid]
        row = {
            **sessions[pid],
            "blocked_by": waits[pid] or None,
            "root_pid": root,
            "depth": depth,
            "blocks_directly": len(holds[pid]),
            "blocks_total": reached[pid],
            "in_circle": pid in circles,
            "holds_up_queue": _holds_up_queue(pid, holds[pid], sessions),
        }
        yield tuple(row.get(name) for name in BlockingRow.__struct_fields__)


def _places(
    waits: Mapping[int, list[int]], holds: Mapping[int, list[int]]
) -> dict[int, tuple[int, int]]:
    """Return root and depth of each session: the nearest root, the lowest pid of equal ones."""
    places: dict[int, tuple[int, int]] = {}
    roots = sorted(pid for pid, blockers in waits.items() if not blockers)
    _walk(roots, holds, places)
    # Whom no root reaches stands in a circle, or behind one.
    for pid in sorted(waits):
        if pid not in places:
            _walk([pid], holds, places)
    return places


def _walk(
    roots: list[int], holds: Mapping[int, list[int]], places: dict[int, tuple[int, int]]
) -> None:
    queue = deque((pid, pid, 0) for pid in roots)
    while queue:
        pid, root, depth = queue.popleft()
        if pid not in places:
            places[pid] = (root, depth)
            queue.extend((one, root, depth + 1) for one in holds[pid])


def _reached(holds: Mapping[int, list[int]]) -> dict[int, int]:
    """Return how many wait for each session, directly or behind others: Warshall's closure.

    A queue has an edge for each pair in it, so that walking from each session costs its cube.
    """
    bits = {pid: 1 << place for place, pid in enumerate(holds)}
    reached = [sum(bits[one] for one in waiters) for waiters in holds.values()]
    for place, bit in enumerate(bits.values()):
        through = reached[place]
        reached = [one | through if one & bit else one for one in reached]
    found = zip(bits.items(), reached, strict=True)
    return {pid: (behind & ~bit).bit_count() for (pid, bit), behind in found}


def _in_circles(waits: Mapping[int, list[int]], holds: Mapping[int, list[int]]) -> frozenset[int]:
    """Return the sessions that wait for themselves in the end, or stand between such circles."""
    behind = _peeled(frozenset(waits), waits, holds)
    return _peeled(behind, holds, waits)


def _peeled(
    among: frozenset[int], before: Mapping[int, list[int]], after: Mapping[int, list[int]]
) -> frozenset[int]:
    """Take away, again and again, who has nobody before it; return who is left."""
    left = set(among)
    open_edges = {pid: sum(one in left for one in before[pid]) for pid in left}
    free = [pid for pid, edges in open_edges.items() if not edges]
    while free:
        pid = free.pop()
        left.discard(pid)
        for one in after[pid]:
            if one in left:
                open_edges[one] -= 1
                if not open_edges[one]:
                    free.append(one)
    return frozenset(left)


def _holds_up_queue(
    pid: int, waiters: Iterable[int], sessions: Mapping[int, Mapping[str, Any]]
) -> bool:
    """Whether a session that waits for an exclusive table lock has others queue behind it."""
    waits_for = sessions[pid]
    if waits_for["locktype"] != "relation" or waits_for["mode"] not in _EXCLUSIVE:
        return False
    return any(
        behind["locktype"] == "relation"
        and behind["relid"] == waits_for["relid"]
        and behind["mode"] not in _EXCLUSIVE
        for behind in map(sessions.__getitem__, waiters)
    )


_EXCLUSIVE = frozenset({"ExclusiveLock", "AccessExclusiveLock"})

# Wait events of others are shown to pg_read_all_stats only; pg_locks is for everybody, and dearer.
_WAITING = (
    "CASE WHEN pg_has_role('pg_read_all_stats', 'USAGE') THEN"
    " (SELECT count(*) FROM pg_stat_activity AS a WHERE a.wait_event_type = 'Lock')"
    " ELSE (SELECT count(DISTINCT l.pid) FROM pg_locks AS l WHERE NOT l.granted) END"
)

_SERVER = Query(
    set="locks",
    row=ServerRow,
    relations={"a": "pg_stat_activity", "l": "pg_locks", "p": "pg_prepared_xacts"},
    columns={
        "waiting": _WAITING,
        "max_locks_per_transaction": "current_setting('max_locks_per_transaction')::int",
        "deadlock_timeout_seconds": _settings.seconds("deadlock_timeout"),
        "prepared_transactions": "(SELECT count(*) FROM pg_prepared_xacts AS p)",
    },
    source="",
    keep=Keep.EVENT,
)

_COUNTS = Query(
    set="locks.counts",
    row=CountRow,
    relations={"l": "pg_locks", "d": "pg_database"},
    columns={"datname": "d.datname", "locks": "count(*)"},
    source=(
        "FROM pg_locks AS l LEFT JOIN pg_database AS d ON d.oid = l.database"
        " WHERE l.pid IS DISTINCT FROM pg_backend_pid()"
        " GROUP BY d.datname, l.locktype, l.mode, l.granted, l.fastpath ORDER BY count(*) DESC"
    ),
    cap=1000,
    every=60.0,
    keep=Keep.EVENT,
)

_AGE = "extract(epoch FROM clock_timestamp() - {})::float8"
_HERE = "(SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())"

# Only those who wait are asked for their blockers: each question stops all lock traffic briefly.
_BLOCKING = Query(
    set="locks.blocking",
    row=BlockingRow,
    raw=_WaitRow,
    derive=forest,
    relations={
        "a": "pg_stat_activity",
        "l": "pg_locks",
        "c": "pg_class",
        "n": "pg_namespace",
        "d": "pg_database",
    },
    columns={
        "pid": "involved",
        "session_id": "(extract(epoch FROM a.backend_start) * 1000000)::int8::text"
        " || '-' || a.pid::text",
        "xact_age_seconds": _AGE.format("a.xact_start"),
        "state_age_seconds": _AGE.format("a.state_change"),
        "blocked_by": "blockers",
        "wait_seconds": (
            f"coalesce({_AGE.format('l.waitstart')},"
            f" CASE WHEN l.pid IS NOT NULL THEN {_AGE.format('a.query_start')} END)",
            f"CASE WHEN l.pid IS NOT NULL THEN {_AGE.format('a.query_start')} END",
        ),
        **{name: f"l.{name}" for name in ("locktype", "mode", "page", "tuple", "virtualxid")},
        **{name: f"l.{name}" for name in ("classid", "objid", "objsubid", "waitstart")},
        "relid": "l.relation",
        "schemaname": "n.nspname",
        "relname": "c.relname",
        "transactionid": "l.transactionid::text",
        "query": "CASE WHEN octet_length(a.query) > 65536 THEN left(a.query, 65536)"
        " ELSE a.query END",
        "query_truncated": "octet_length(a.query)"
        f" >= least({_settings.size('track_activity_query_size')} - 1, 65537)",
    },
    source=(
        "FROM (WITH waiting AS MATERIALIZED (SELECT DISTINCT ON (l.pid) l.* FROM pg_locks AS l"
        " WHERE NOT l.granted AND l.pid IS NOT NULL ORDER BY l.pid),"
        " edges AS MATERIALIZED (SELECT w.pid AS waiter, pg_blocking_pids(w.pid) AS blockers"
        " FROM (SELECT w.pid FROM waiting AS w"
        " LEFT JOIN pg_stat_activity AS s ON s.pid = w.pid"
        f" ORDER BY s.query_start NULLS LAST, w.pid LIMIT {MOST_WAITERS}) AS w),"
        " concerned AS (SELECT e.waiter AS involved FROM edges AS e"
        " UNION SELECT unnest(e.blockers) FROM edges AS e)"
        " SELECT * FROM concerned AS k LEFT JOIN edges AS e ON e.waiter = k.involved"
        " LEFT JOIN waiting AS w ON w.pid = k.involved) AS l"
        " LEFT JOIN pg_stat_activity AS a ON a.pid = involved"
        # Planned as few or as many, by index: a hash of pg_class costs 12 ms with 10,000 tables.
        " LEFT JOIN LATERAL (SELECT t.relname, t.relnamespace FROM pg_class AS t"
        f" WHERE t.oid = l.relation AND l.database IN (0, {_HERE}) OFFSET 0) AS c ON true"
        " LEFT JOIN pg_namespace AS n ON n.oid = c.relnamespace"
    ),
    required=("pid", "blocked_by", "locktype", "mode", "relid"),
    free_text=("application_name",),
    sql_text={"query": "activity"},
    hidden=("state", "query"),
    gate=("locks", "waiting"),
    keep=Keep.EVENT,
)

SAMPLER = Sampler(
    name="locks",
    learns="Who waits for which lock and for how long, who blocks whom, and the locks held by kind",
    group=Group.CORE,
    scope=Scope.INSTANCE,
    lane=LaneName.FAST,
    every=15.0,
    queries=(_SERVER, _COUNTS, _BLOCKING),
    remedy={Reason.PRIVILEGE: "GRANT pg_monitor TO {role};"},
)
