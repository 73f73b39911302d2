"""What is shown, as tables: a panel for each subject. Pure."""

from collections.abc import Callable
from typing import Final, NamedTuple

from pg_collector.cli.live import server, sessions
from pg_collector.cli.live.board import Board
from pg_collector.cli.live.figures import Blocked
from pg_collector.cli.live.grid import Cell, Column, Row, Span
from pg_collector.cli.live.words import UNKNOWN, age, ms, number, or_unknown, percent, size

_LOST: Final = ("lost", "unreserved")  # what wal_status says of a slot in trouble


class Panel(NamedTuple):
    """A table with its title, or the words that stand for an empty one."""

    title: str
    sampler: str
    columns: tuple[Column, ...]
    rows: list[Row]
    empty: str
    note: str = ""
    loud: bool = False  # its rows are trouble


def _c(title: str, drop: int = 0, most: int = 40) -> Column:
    return Column(title, drop=drop, most=most)


def _n(title: str, drop: int = 0) -> Column:
    return Column(title, right=True, drop=drop)


def activity(board: Board) -> Panel:
    """Show what sessions do and wait for."""
    rows: list[Row] = []
    for one in sessions.waits(board):
        style = _wait_style(one.state, one.wait)
        rows.append(
            (
                Span(or_unknown(one.state), style),
                Span(or_unknown(one.wait), style),
                str(one.sessions),
                age(one.longest_s),
                age(one.longest_xact_s),
            )
        )
    columns = (
        _c("state"),
        Column("wait", rest=True),
        _n("sessions"),
        _n("longest"),
        _n("transaction", 1),
    )
    return Panel("Activity by wait", "activity", columns, rows, "no session")


def at_work(board: Board) -> Panel:
    """Show the sessions one by one."""
    rows: list[Row] = [
        (
            str(one.pid),
            age(one.xact_s),
            age(one.state_s),
            or_unknown(one.user),
            or_unknown(one.database),
            or_unknown(one.application),
            or_unknown(one.client),
            Span(or_unknown(one.state), _wait_style(one.state, one.wait)),
            Span(or_unknown(one.wait), _wait_style(one.state, one.wait)),
            or_unknown(one.query),
        )
        for one in sessions.sessions(board)
    ]
    columns = (
        *(_n("pid"), _n("transaction"), _n("in state"), _c("user", 3, 20), _c("database", 4, 20)),
        *(_c("application", 5, 20), _c("client", 6), _c("state", 2), _c("wait")),
        Column("query", rest=True),
    )
    return Panel("Sessions at work", "activity", columns, rows, "none")


def _wait_style(state: str | None, wait: str | None) -> str:
    if (wait or "").startswith("Lock/"):
        return "bad"
    if (state or "").startswith("idle in transaction"):
        return "warn"
    return "plain" if state == "active" else "dim"


def blocking(board: Board) -> Panel:
    """Show who blocks whom, as trees."""
    found = sessions.blocking(board)
    rows: list[Row] = [
        (
            Span(_branch(one), "bad" if one.depth or one.wait_s is not None else "warn"),
            age(one.wait_s) if one.wait_s is not None else UNKNOWN,
            str(one.blocks) if one.blocks else "",
            Span(_holds(one), "warn" if not one.depth else "plain"),
            or_unknown(one.user),
            or_unknown(one.database),
            or_unknown(one.application),
            or_unknown(one.query),
        )
        for one in found
    ]
    columns = (
        *(_c("pid"), _n("waits"), _n("blocks"), _c("state, or lock wanted", 2, 30)),
        *(_c("user", 4, 16), _c("database", 5, 16), _c("application", 3, 16)),
        Column("query", rest=True),
    )
    # Without a sample of locks, sessions tell who waits for whom.
    sampler = "activity" if board.sampler("locks") is None else "locks"
    note = _waiting(board)
    hidden = any(
        one == sampler and row["reason"] == "privilege" for (one, _), row in board.states.items()
    )
    empty = "nobody that this role may see" if hidden else "nobody"
    return Panel("Blocked", sampler, columns, rows, f"{empty} waits for a lock", note, loud=True)


def _waiting(board: Board) -> str:
    waiting = board.row("locks").get("waiting") or 0
    return "" if not waiting else f"{waiting} wait" if waiting > 1 else "1 waits"


def _branch(one: Blocked) -> str:
    who = "prepared transaction" if one.pid == sessions.PREPARED else str(one.pid)
    return who if not one.depth else "  " * (one.depth - 1) + "└ " + who


def _holds(one: Blocked) -> str:
    """Return what a session waits for; of one that waits for nobody, what it does."""
    signs = (
        " (in a circle)" if one.in_circle else " (holds up a queue)" if one.holds_up_queue else ""
    )
    if one.lock is not None:
        return one.lock + signs
    return f"{or_unknown(one.state)} {age(one.state_s)}{signs}"


def statements(board: Board, order: str = "time") -> Panel:
    """Show the statements that took most since the sample before."""
    seconds = board.movement.seconds
    rows: list[Row] = [
        (
            percent(one.share),
            number(one.calls),
            ms(one.mean_ms),
            number(one.rows),
            or_unknown(one.database),
            one.query if one.query is not None else Span(f"query id {one.queryid}", "dim"),
        )
        for one in sessions.statements(board, order)
    ]
    columns = (
        *(_n("time"), _n("calls"), _n("mean ms"), _n("rows", 1), _c("database", 2, 16)),
        Column("statement", rest=True),
    )
    note = f"by {order}" if not seconds else f"by {order}, over {age(seconds)}"
    empty = "none ended since the sample before"
    if seconds is None and board.sampler("statements") is not None:
        empty = "counted from now on, the next sample tells"
    return Panel("Statements", "statements", columns, rows, empty, note)


def databases(board: Board) -> Panel:
    """Show what each database did since the sample before."""
    rows: list[Row] = [
        (
            one.name,
            number(one.sessions),
            number(one.commits_per_s),
            Span(number(one.rollbacks_per_s), "warn" if one.rollbacks_per_s else "plain"),
            percent(one.hit_ratio),
            number(one.read_blocks_per_s),
            number(one.rows_written_per_s),
            _rate(one.temp_bytes_per_s),
            _count(one.deadlocks),
            _count(one.conflicts),
        )
        for one in server.databases(board)
    ]
    columns = (
        *(Column("database", rest=True), _n("sessions", 4), _n("commits/s"), _n("rollbacks/s")),
        *(_n("hit"), _n("blocks read/s", 3), _n("rows written/s", 5), _n("temp/s")),
        *(_n("deadlocks"), _n("conflicts", 6)),
    )
    before, now = board.before.get("database"), board.samples.get("database")
    note = ""
    if before is not None and now is not None:
        note = f"over {age((now.at - before.at).total_seconds())}"
    return Panel("Databases", "database", columns, rows, "none", note)


def _rate(value: float | None) -> Cell:
    return Span(size(value), "warn" if value else "plain")


def _count(value: int | None) -> Cell:
    return Span(number(value), "bad" if value else "plain")


def replication(board: Board) -> Panel:
    """Show who receives WAL, how far behind."""
    rows: list[Row] = [
        (
            or_unknown(one.name),
            or_unknown(one.client),
            Span(or_unknown(one.state), "plain" if one.state == "streaming" else "warn"),
            or_unknown(one.sync),
            or_unknown(one.slot),
            size(one.replay_lag_bytes),
            age(one.replay_lag_s),
        )
        for one in server.standbys(board)
    ]
    found = server.receiver(board)
    if found is not None:
        state = found.status or "nothing streams"
        if found.paused:
            state += ", replay is paused"
        rows.append(
            (
                "this standby",
                or_unknown(found.sender),
                Span(
                    state, "plain" if found.status == "streaming" and not found.paused else "warn"
                ),
                UNKNOWN,
                UNKNOWN,
                size(found.replay_lag_bytes),
                "caught up" if found.caught_up else age(found.replay_age_s),
            )
        )
    columns = (
        *(Column("receiver", rest=True), _c("client", 3), _c("state"), _c("sync", 2)),
        *(_c("slot", 1, 24), _n("behind"), _n("lag")),
    )
    return Panel("Replication", "replication", columns, rows, "no standby is connected")


def slots(board: Board) -> Panel:
    """Show the slots, and the WAL that they hold back."""
    rows: list[Row] = [
        (
            one.name,
            one.kind,
            Span(
                "active" if one.active else f"inactive {age(one.inactive_s)}",
                "plain" if one.active else "warn",
            ),
            Span(or_unknown(one.status), "bad" if one.status in _LOST else "plain"),
            size(one.retained_bytes),
        )
        for one in server.slots(board)
    ]
    columns = (Column("slot", rest=True), _c("kind"), _c("activity"), _c("WAL"), _n("held back"))
    return Panel("Slots", "slots", columns, rows, "no slot")


def vacuum(board: Board) -> Panel:
    """Show the vacuums that run."""
    rows: list[Row] = [
        (
            str(one.pid),
            or_unknown(one.database),
            or_unknown(one.table),
            or_unknown(one.phase),
            percent(one.done),
            age(one.running_s),
            Span(_why(one.automatic, one.wraparound), "warn" if one.wraparound else "plain"),
            or_unknown(one.wait),
        )
        for one in server.vacuums(board)
    ]
    columns = (
        *(_n("pid"), _c("database", 3, 16), Column("table", rest=True), _c("phase")),
        *(_n("scanned"), _n("running"), _c("started", 2), _c("wait", 4)),
    )
    return Panel("Vacuum", "vacuum", columns, rows, "no vacuum runs")


def _why(automatic: bool | None, wraparound: bool | None) -> str:
    if wraparound:
        return "to prevent wraparound"
    return UNKNOWN if automatic is None else "automatically" if automatic else "by hand"


# By key: what it shows small, and what else where it has the whole screen.
SUBJECTS: Final[dict[str, tuple[Callable[[Board], Panel], ...]]] = {
    "a": (activity, at_work),
    "b": (blocking,),
    "s": (statements,),
    "d": (databases,),
    "r": (replication, slots),
    "v": (vacuum,),
}
