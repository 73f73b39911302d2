"""Sessions and statements in figures, from a board. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from pg_collector.cli.live.board import Board
from pg_collector.cli.live.figures import Blocked, Session, Statement, Wait
from pg_collector.cli.live.lines import Row
from pg_collector.cli.live.movement import ORDERS
from pg_collector.samplers.locks import BlockingRow, forest

_SESSION: Final = ("query_age_seconds", "wait_event")  # of who is in no row: not known
PREPARED: Final = 0  # the pid that stands for prepared transactions
_CLIENTS: Final = frozenset(
    ("client backend", "parallel worker", "walsender", "autovacuum worker", None)
)


def waits(board: Board) -> list[Wait]:
    """Return what sessions do, those that wait for locks first, then the most frequent."""
    found: dict[tuple[str | None, str | None], list[Row]] = {}
    for row in board.rows("activity.counts"):
        if row["backend_type"] in _CLIENTS:
            found.setdefault((row["state"], wait(row)), []).append(row)
    made = [
        Wait(
            state=state,
            wait=what,
            sessions=sum(row["sessions"] for row in rows),
            longest_s=most(row["max_state_age_seconds"] for row in rows),
            longest_xact_s=most(row["max_xact_age_seconds"] for row in rows),
        )
        for (state, what), rows in found.items()
    ]
    return sorted(made, key=_by_weight)


def _by_weight(one: Wait) -> tuple[Any, ...]:
    idle = one.state in (None, "idle")
    lock = (one.wait or "").startswith("Lock/")
    return (idle, not lock, -one.sessions, -(one.longest_s or 0.0))


def sessions(board: Board) -> list[Session]:
    """Return the sessions at work, the longest transaction first."""
    made = [
        Session(
            pid=row["pid"],
            user=row["usename"],
            database=row["datname"],
            application=row["application_name"],
            client=row["client_addr"],
            state=row["state"],
            wait=wait(row),
            state_s=row["state_age_seconds"],
            xact_s=row["xact_age_seconds"],
            query=row["query"],
        )
        for row in board.rows("activity.sessions")
        if row["backend_type"] in _CLIENTS
    ]
    return sorted(made, key=lambda one: (-(one.xact_s or 0.0), -(one.state_s or 0.0)))


def blocking(board: Board) -> list[Blocked]:
    """Return the trees of who blocks whom, the largest first, each from its root down."""
    rows = {row["pid"]: row for row in _forest(board)}
    below: dict[int, list[int]] = {}
    roots = []
    for pid, row in rows.items():
        above = [one for one in row["blocked_by"] or () if one in rows]
        nearest = [one for one in above if rows[one]["depth"] == row["depth"] - 1]
        if row["depth"] == 0 or not above:
            roots.append(pid)
        else:
            below.setdefault(min(nearest or above), []).append(pid)
    roots.sort(key=lambda pid: (-rows[pid]["blocks_total"], pid))
    found: list[Blocked] = []
    said: set[int] = set()
    stack = [(0, pid) for pid in reversed(roots)]
    while stack:
        depth, pid = stack.pop()
        if pid in said:
            continue
        said.add(pid)
        found.append(_blocked(rows[pid], depth))
        longest = sorted(below.get(pid, ()), key=lambda one: rows[one]["wait_seconds"] or 0.0)
        stack += [(depth + 1, one) for one in longest]
    return found


def _forest(board: Board) -> Iterator[Row]:
    """Yield the rows of `locks.blocking`; without a sample of `locks`, as `activity` tells."""
    if board.sampler("locks") is not None:
        yield from board.rows("locks.blocking")
        return
    all_of_them = {row["pid"]: row for row in board.rows("activity.sessions")}
    waiting = {
        pid: row["blocking_pids"] for pid, row in all_of_them.items() if row["blocking_pids"]
    }
    concerned = waiting.keys() | {one for blockers in waiting.values() for one in blockers}
    nothing = dict.fromkeys(_SESSION)
    raw: list[Row] = []
    for pid in concerned:
        row = all_of_them.get(pid, nothing)
        waits = pid in waiting
        raw.append(
            {
                **row,
                "pid": pid,
                "blocked_by": waiting.get(pid),
                "wait_seconds": row["query_age_seconds"] if waits else None,
                "locktype": row["wait_event"] if waits else None,
                "mode": "lock" if waits else None,
                "relid": None,
            }
        )
    for place in forest(raw):
        yield dict(zip(BlockingRow.__struct_fields__, place, strict=True))


def _blocked(row: Row, depth: int) -> Blocked:
    return Blocked(
        pid=row["pid"],
        depth=depth,
        blocked_by=tuple(row["blocked_by"] or ()),
        blocks=row["blocks_total"],
        user=row["usename"],
        database=row["datname"],
        application=row["application_name"],
        state=row["state"],
        wait_s=row["wait_seconds"],
        state_s=row["state_age_seconds"],
        xact_s=row["xact_age_seconds"],
        lock=_lock(row),
        in_circle=row["in_circle"],
        holds_up_queue=row["holds_up_queue"],
        query=row["query"],
    )


def _lock(row: Row) -> str | None:
    """Return what a session waits for: `AccessExclusiveLock on public.orders`."""
    if row["locktype"] is None:
        return None
    where = row["locktype"]
    if row["relname"] is not None:
        where = f"{row['schemaname']}.{row['relname']}"
    elif row["relid"] is not None:
        where = f"{row['locktype']} {row['relid']}"
    elif row["transactionid"] is not None:
        where = f"transaction {row['transactionid']}"
    return f"{row['mode']} on {where}"


def statements(board: Board, order: str = "time") -> list[Statement]:
    """Return what moved between the last two samples, most first, without the agent's own."""
    movement = board.movement
    if not movement.seconds:
        return []
    moved = [one for one in movement.moved if one.queryid not in board.own]
    total = sum(one.ms for one in moved) or 1.0
    names = {row["datid"]: row["datname"] for row in board.rows("database")}
    return [
        Statement(
            queryid=one.queryid,
            database=names.get(one.key[1]),
            share=one.ms / total,
            calls=one.calls,
            calls_per_s=one.calls / movement.seconds,
            mean_ms=one.ms / one.calls if one.calls else one.ms,
            ms=one.ms,
            rows=one.rows,
            query=board.texts.get(one.queryid),
        )
        for one in sorted(moved, key=ORDERS[order], reverse=True)
    ]


def without_text(shown: Sequence[Statement]) -> tuple[str, ...]:
    """Return the ids of statements that are shown without their text."""
    return tuple(dict.fromkeys(one.queryid for one in shown if one.query is None))


def wait(row: Row) -> str | None:
    """Return what a session waits for: `Lock/transactionid`."""
    kind, event = row["wait_event_type"], row["wait_event"]
    return f"{kind}/{event}" if kind is not None else None


def most(values: Iterable[float | None]) -> float | None:
    """Return the greatest that is known."""
    return max((one for one in values if one is not None), default=None)
