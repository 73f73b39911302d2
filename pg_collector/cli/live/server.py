"""Databases, replication, vacuum and the server as a whole in figures, from a board. Pure."""

from collections.abc import Iterable
from typing import Final

from pg_collector.cli.live.board import Board
from pg_collector.cli.live.figures import DatabaseRates, Receiver, Slot, Standby, Totals, Vacuum
from pg_collector.cli.live.lines import Row
from pg_collector.cli.live.sessions import most, wait, waits


def databases(board: Board) -> list[DatabaseRates]:
    """Return what each database did between the last two samples, the busiest first."""
    sample, before = board.samples.get("database"), board.before.get("database")
    if sample is None:
        return []
    old = {} if before is None else {row["datid"]: row for row in before.rows}
    seconds = 0.0 if before is None else (sample.at - before.at).total_seconds()
    made = [
        _rates(row, old.get(row["datid"]), seconds)
        for row in sample.rows
        if row["datname"] is not None and row["datallowconn"] is not False
    ]
    return sorted(made, key=lambda one: (-_sum(one.commits_per_s, one.rollbacks_per_s), one.name))


def _rates(row: Row, old: Row | None, seconds: float) -> DatabaseRates:
    moved: dict[str, int] = {}
    if old is not None and seconds > 0 and old["stats_reset"] == row["stats_reset"]:
        moved = {name: row[name] - (old[name] or 0) for name in _MOVES if row[name] is not None}
        if any(one < 0 for one in moved.values()):
            moved = {}  # counting began anew

    def rate(*names: str) -> float | None:
        found = [moved[name] for name in names if name in moved]
        return sum(found) / seconds if found else None

    return DatabaseRates(
        name=row["datname"],
        sessions=row["numbackends"],
        commits_per_s=rate("xact_commit"),
        rollbacks_per_s=rate("xact_rollback"),
        hit_ratio=_ratio(moved.get("blks_hit"), moved.get("blks_read")),
        read_blocks_per_s=rate("blks_read"),
        rows_written_per_s=rate("tup_inserted", "tup_updated", "tup_deleted"),
        temp_bytes_per_s=rate("temp_bytes"),
        deadlocks=moved.get("deadlocks"),
        conflicts=moved.get("conflicts"),
    )


_MOVES: Final = (
    *("xact_commit", "xact_rollback", "blks_hit", "blks_read", "temp_bytes", "deadlocks"),
    *("tup_inserted", "tup_updated", "tup_deleted", "conflicts"),
)


def standbys(board: Board) -> list[Standby]:
    """Return who receives WAL, the furthest behind first."""
    made = [
        Standby(
            name=row["application_name"],
            client=row["client_addr"],
            state=row["state"],
            sync=row["sync_state"],
            slot=row["slot_name"],
            replay_lag_bytes=row["replay_lag_bytes"],
            replay_lag_s=row["replay_lag_seconds"],
        )
        for row in board.rows("replication")
    ]
    return sorted(made, key=lambda one: -(one.replay_lag_bytes or 0))


def slots(board: Board) -> list[Slot]:
    """Return the slots, those that hold back most WAL first."""
    made = [
        Slot(
            name=row["slot_name"],
            kind=row["slot_type"],
            active=row["active"],
            retained_bytes=row["retained_wal_bytes"],
            status=row.get("invalidation_reason") or row.get("wal_status"),
            inactive_s=row.get("inactive_seconds"),
        )
        for row in board.rows("slots")
    ]
    return sorted(made, key=lambda one: -(one.retained_bytes or 0))


def receiver(board: Board) -> Receiver | None:
    """Return how a standby receives and replays; None on a primary."""
    replay, receives = board.row("wal_receiver.replay"), board.row("wal_receiver")
    if not replay:
        return None
    return Receiver(
        status=receives.get("status"),
        sender=receives.get("sender_host"),
        replay_lag_bytes=replay["replay_lag_bytes"],
        replay_age_s=replay["last_xact_replay_age_seconds"],
        caught_up=replay["caught_up"],
        paused=replay["replay_paused"],
    )


def vacuums(board: Board) -> list[Vacuum]:
    """Return the vacuums that run, the longest first."""
    made = [
        Vacuum(
            pid=row["pid"],
            database=row["datname"],
            table=row["toast_of"] or _dotted(row["schemaname"], row["relname"]),
            phase=row["phase"],
            done=_part(row["heap_blks_scanned"], row["heap_blks_total"]),
            running_s=row["running_seconds"],
            automatic=row["is_autovacuum"],
            wraparound=row["to_prevent_wraparound"],
            wait=wait(row),
        )
        for row in board.rows("vacuum.progress")
    ]
    return sorted(made, key=lambda one: -(one.running_s or 0.0))


def totals(board: Board) -> Totals:
    """Return the server as a whole."""
    found, rates, server = waits(board), databases(board), board.row("activity.server")
    movement = board.movement
    hits = _whole_hit_ratio(board)
    commits = [one.commits_per_s for one in rates if one.commits_per_s is not None]
    rollbacks = sum(one.rollbacks_per_s or 0.0 for one in rates)
    mine = [one.ms for one in movement.moved if one.queryid not in board.own]
    return Totals(
        sessions=server.get("client_sessions"),
        max_connections=server.get("max_connections"),
        active=sum(one.sessions for one in found if one.state == "active"),
        idle_in_transaction=sum(
            one.sessions for one in found if (one.state or "").startswith("idle in transaction")
        ),
        blocked=server.get("blocked_sessions"),
        oldest_xact_s=most(one.longest_xact_s for one in found),
        transactions_per_s=sum(commits) + rollbacks if commits else None,
        hit_ratio=hits,
        statement_load=sum(mine) / 1000 / movement.seconds if movement.seconds else None,
    )


def _whole_hit_ratio(board: Board) -> float | None:
    """Return the part of all block reads that the cache answered since the sample before."""
    sample, before = board.samples.get("database"), board.before.get("database")
    if sample is None or before is None:
        return None
    hit, read = (_moved(sample.rows, before.rows, name) for name in ("blks_hit", "blks_read"))
    return _ratio(hit, read) if hit >= 0 and read >= 0 else None


def _moved(now: Iterable[Row], before: Iterable[Row], name: str) -> int:
    old = {row["datid"]: row[name] for row in before}
    return sum(row[name] - old[row["datid"]] for row in now if row["datid"] in old)


def _dotted(schema: str | None, name: str | None) -> str | None:
    return None if name is None else f"{schema}.{name}"


def _sum(*values: float | None) -> float:
    return sum(one for one in values if one is not None)


def _part(done: int | None, total: int | None) -> float | None:
    return None if done is None or not total else done / total


def _ratio(hit: int | None, read: int | None) -> float | None:
    return None if hit is None or read is None else _part(hit, hit + read)
