"""The figures that are shown: who waits for what, who blocks whom, what moved. Values only.

They are the words of `pgc top --json`: names and texts are masked as the agent masks them, what
ends in `_s` are seconds, and None is what is not known.
"""

import msgspec


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """Sessions that are in the same state and wait for the same: how many, the longest of them."""

    state: str | None
    wait: str | None  # type and event
    sessions: int
    longest_s: float | None
    longest_xact_s: float | None


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A session at work, or in a transaction."""

    pid: int
    user: str | None
    database: str | None
    application: str | None
    client: str | None
    state: str | None
    wait: str | None
    state_s: float | None
    xact_s: float | None
    query: str | None


class Blocked(msgspec.Struct, frozen=True, kw_only=True):
    """A session that waits for others, or that others wait for; `depth` in its tree."""

    pid: int
    depth: int
    blocked_by: tuple[int, ...]
    blocks: int  # all that wait for it, directly or not
    user: str | None
    database: str | None
    application: str | None
    state: str | None
    wait_s: float | None
    state_s: float | None
    xact_s: float | None
    lock: str | None  # the mode that it waits for, and on what
    in_circle: bool
    holds_up_queue: bool
    query: str | None


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """What a statement did between the last two samples."""

    queryid: str
    database: str | None
    share: float  # of the time that all statements took
    calls: int
    calls_per_s: float
    mean_ms: float
    ms: float
    rows: int
    query: str | None


class DatabaseRates(msgspec.Struct, frozen=True, kw_only=True):
    """What a database did between the last two samples; None where counting began anew."""

    name: str
    sessions: int | None
    commits_per_s: float | None
    rollbacks_per_s: float | None
    hit_ratio: float | None
    read_blocks_per_s: float | None
    rows_written_per_s: float | None
    temp_bytes_per_s: float | None
    deadlocks: int | None
    conflicts: int | None


class Standby(msgspec.Struct, frozen=True, kw_only=True):
    """A connected standby, or another receiver of WAL."""

    name: str | None
    client: str | None
    state: str | None
    sync: str | None
    slot: str | None
    replay_lag_bytes: int | None
    replay_lag_s: float | None


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """A replication slot, and the WAL that it holds back."""

    name: str
    kind: str
    active: bool
    retained_bytes: int | None
    status: str | None
    inactive_s: float | None


class Receiver(msgspec.Struct, frozen=True, kw_only=True):
    """On a standby: what it receives and replays; `status` is None where nothing streams."""

    status: str | None
    sender: str | None
    replay_lag_bytes: int | None
    replay_age_s: float | None
    caught_up: bool | None
    paused: bool | None


class Vacuum(msgspec.Struct, frozen=True, kw_only=True):
    """A vacuum that runs; `done` is the part of the table that was looked at."""

    pid: int
    database: str | None
    table: str | None
    phase: str | None
    done: float | None
    running_s: float | None
    automatic: bool | None
    wraparound: bool | None
    wait: str | None


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """The server as a whole."""

    sessions: int | None
    max_connections: int | None
    active: int
    idle_in_transaction: int
    blocked: int | None
    oldest_xact_s: float | None
    transactions_per_s: float | None
    hit_ratio: float | None
    statement_load: float | None  # seconds of statements per second
