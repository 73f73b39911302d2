"""Sessions in words: the longest query, what sessions wait for, who holds up whom. Pure functions.

The rows are those of the sample `activity.sessions`, masked already.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from pg_collector.demo.feed import Row

_OURSELVES: Final = "pg-collector"
_PREPARED: Final = 0  # pg_blocking_pids() says so of a prepared transaction

_LOCKS: Final = {
    "transactionid": "a row lock",
    "tuple": "a row lock",
    "relation": "a table lock",
    "advisory": "an advisory lock",
    "virtualxid": "another transaction to end",
    "extend": "a table to grow",
}
_TYPES: Final = {
    "IO": "disk",
    "Client": "their client",
    "IPC": "another server process",
    "LWLock": "a lock inside the server",
    "BufferPin": "a page in use",
    "Extension": "an extension",
    "Activity": "work",
}
_STATES: Final = {
    "active": "runs a query",
    "idle": "is idle",
    "idle in transaction": "is idle in transaction",
    "idle in transaction (aborted)": "sits in a failed transaction",
}


class Longest(NamedTuple):
    """The query that runs longest."""

    seconds: float
    who: str
    query: str


def longest(rows: Iterable[Row]) -> Longest | None:
    """Return the running query of a client that began first, or None where nothing runs."""
    running = [
        row
        for row in rows
        if row.get("state") == "active"
        and row.get("backend_type") == "client backend"
        and row.get("application_name") != _OURSELVES
    ]
    if not running:
        return None
    row = max(running, key=_query_age)
    return Longest(_query_age(row), _who(row), one_line(row.get("query") or "(no text)"))


def waits(rows: Iterable[Row]) -> list[str]:
    """Return what sessions do instead of working, most frequent first."""
    found = Counter(kind for row in rows if (kind := _wait(row)) is not None)
    return [_counted(kind, count) for kind, count in found.most_common()]


def blocking(rows: Sequence[Row]) -> list[tuple[int, str]]:
    """Return a sentence per session that waits for another, with its depth in the tree.

    A session stands below the one that it waits for; of several, below the first.
    """
    by_pid = {row["pid"]: row for row in rows}
    waiting = {row["pid"]: list(row["blocking_pids"]) for row in rows if row.get("blocking_pids")}
    below: dict[int, list[int]] = {}
    for pid, blockers in waiting.items():
        below.setdefault(blockers[0], []).append(pid)
    said: set[int] = set()
    roots = [pid for pid in below if pid not in waiting]
    tree = list(_walk(roots, below, said))
    # What is left goes round in a circle: a deadlock that the server has not found yet.
    circles = [(0, pid) for pid in waiting if pid not in said]
    return [
        (depth, _sentence(by_pid[pid], waiting[pid], by_pid, waiting))
        for depth, pid in (*tree, *circles)
    ]


def one_line(text: str) -> str:
    """Return a text without line breaks and control characters, so that it can be printed."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _walk(
    roots: Iterable[int], below: dict[int, list[int]], said: set[int]
) -> Iterator[tuple[int, int]]:
    """Yield (depth, pid) of the sessions that wait, those that are waited for first."""
    stack = [(0, pid) for root in roots for pid in below[root]][::-1]
    while stack:
        depth, pid = stack.pop()
        said.add(pid)
        yield depth, pid
        stack += [(depth + 1, child) for child in reversed(below.get(pid, ())) if child not in said]


def _sentence(
    row: Row, blockers: Sequence[int], by_pid: dict[int, Row], waiting: dict[int, Any]
) -> str:
    first = blockers[0]
    others = f" and {len(blockers) - 1} more" if len(blockers) > 1 else ""
    return (
        f"{_who(row)} waits {_query_age(row):.1f} s for "
        f"{_blocker(first, by_pid.get(first), first in waiting)}{others}"
    )


def _blocker(pid: int, row: Row | None, waits_itself: bool) -> str:  # noqa: FBT001
    if pid == _PREPARED:
        return "a prepared transaction"
    if row is None:
        return f"pid {pid}"
    if waits_itself:
        return f"{_who(row)}, which waits itself"
    return f"{_who(row)}, which {_STATES.get(row.get('state') or '', 'holds the lock')}"


def _who(row: Row) -> str:
    name = one_line(row.get("application_name") or row.get("usename") or "")
    return f"pid {row['pid']} ({name})" if name else f"pid {row['pid']}"


def _query_age(row: Row) -> float:
    return float(row.get("query_age_seconds") or 0.0)


def _wait(row: Row) -> str | None:
    """Return a word for what a session does while it does nothing; None where it works."""
    if row.get("application_name") == _OURSELVES:
        return None
    state = row.get("state") or ""
    if state.startswith("idle in transaction"):
        return "idle in transaction"
    kind, event = row.get("wait_event_type"), row.get("wait_event")
    if state != "active" or kind is None:
        return None
    if kind == "Timeout":
        return "sleep" if event == "PgSleep" else "a timer"
    if kind == "Lock":
        return _LOCKS.get(str(event), "a lock")
    return _TYPES.get(str(kind), str(event or kind))


def _counted(kind: str, count: int) -> str:
    sessions = "1 session" if count == 1 else f"{count} sessions"
    if kind == "idle in transaction":
        return f"{sessions} {'sits' if count == 1 else 'sit'} idle in transaction"
    if kind == "sleep":
        return f"{sessions} {'sleeps' if count == 1 else 'sleep'}"
    return f"{sessions} {'waits' if count == 1 else 'wait'} for {kind}"
