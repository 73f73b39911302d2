"""Samples and the ledger in DuckDB: each number of a stream once, as line, gap or rejection.

One thread writes. It takes all batches that wait into one transaction, so that many agents cost one
commit; whoever brought a batch waits for that commit. What the ledger says of a stream is kept in
memory, too, and read again after a failure.
"""

import contextlib
import datetime as dt
import logging
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import duckdb

from pg_collector.errors import StateError
from pg_collector.platform.metering import Numbers
from pg_collector.platform.problems import Problem

log = logging.getLogger(__name__)

PATIENCE: Final = 30.0  # seconds that a request waits for its commit
TOGETHER: Final = 16  # batches in one transaction, at most

_GAPS_SHOWN: Final = 100
_LONGEST_REASON: Final = 100
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS streams (
    stream VARCHAR NOT NULL, device VARCHAR NOT NULL, age BIGINT NOT NULL, life VARCHAR NOT NULL,
    through BIGINT NOT NULL, lines BIGINT NOT NULL, missing BIGINT NOT NULL,
    rejected BIGINT NOT NULL, heard TIMESTAMP NOT NULL
);
CREATE TABLE IF NOT EXISTS samples (
    stream VARCHAR NOT NULL, number BIGINT NOT NULL, device VARCHAR NOT NULL,
    "set" VARCHAR NOT NULL, target VARCHAR NOT NULL, database VARCHAR,
    sampled TIMESTAMP NOT NULL, base TIMESTAMP, arrived TIMESTAMP NOT NULL, line VARCHAR NOT NULL
);
CREATE TABLE IF NOT EXISTS gaps (
    stream VARCHAR NOT NULL, first BIGINT NOT NULL, last BIGINT NOT NULL, reason VARCHAR NOT NULL,
    arrived TIMESTAMP NOT NULL
);
CREATE TABLE IF NOT EXISTS rejected (
    stream VARCHAR NOT NULL, number BIGINT NOT NULL, code VARCHAR NOT NULL,
    detail VARCHAR NOT NULL, arrived TIMESTAMP NOT NULL
);
"""


class Line(NamedTuple):
    """A line that can be stored."""

    number: int
    set: str
    target: str
    database: str | None
    sampled: dt.datetime  # UTC, without a zone: DuckDB's TIMESTAMP
    base: dt.datetime | None  # of a delta: the line that it builds on
    text: str


class Gap(NamedTuple):
    """Numbers without a line."""

    first: int
    last: int
    reason: str


class Rejected(NamedTuple):
    """A line that is not stored."""

    number: int
    code: str
    detail: str


@dataclass(frozen=True)
class Batch:
    """Consecutive numbers of a stream, `first` to `last`, from one device."""

    stream: str
    device: str
    age: int  # the start count of the agent,
    life: str  # and the name of that start
    first: int
    last: int
    lines: Sequence[Line]
    gaps: Sequence[Gap] = ()
    rejected: Sequence[Rejected] = ()


class Receipt(NamedTuple):
    """What became of a batch that is committed."""

    duplicates: int
    rejected: Sequence[Rejected]  # those of earlier times, too


@dataclass(frozen=True)
class Stream:
    """One stream: through which number all is known."""

    device: str
    age: int = 0
    life: str = ""
    through: int = 0
    lines: int = 0
    missing: int = 0
    rejected: int = 0


@dataclass
class _Group:
    """What one transaction will write."""

    streams: dict[str, Stream] = field(default_factory=dict)
    samples: list[tuple[str, str, Line]] = field(default_factory=list)  # stream, device, line
    gaps: list[tuple[str, Gap]] = field(default_factory=list)
    rejected: list[tuple[str, Rejected]] = field(default_factory=list)


class Store:
    """The database, which this process has for itself. Thread-safe."""

    def __init__(
        self,
        path: Path,
        numbers: Numbers,
        *,
        memory_limit: str = "96MB",
        retention: float | None = None,
    ) -> None:
        """Open or make the file; `retention` is in seconds. Raises StateError."""
        self._numbers = numbers
        self._retention = retention
        config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": memory_limit,
            "threads": 1,
            "temp_directory": str(path.with_name("duckdb.tmp")),
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        try:
            self._db = duckdb.connect(str(path), config=config)
            self._db.execute(_SCHEMA)
            path.chmod(0o600)
        except duckdb.Error as error:
            raise StateError(
                f"{path} cannot be opened: {str(error).splitlines()[0]}",
                remedy="Is it open elsewhere? Else restore it from a backup.",
            ) from None
        self._streams = self._read_streams()
        self._waiting: queue.SimpleQueue[tuple[Batch, Future[Receipt]] | None] = queue.SimpleQueue()
        self._swept = time.monotonic()
        self._thread = threading.Thread(target=self._write, name="store", daemon=True)
        self._thread.start()

    # --- for any thread

    def commit(self, batch: Batch) -> Receipt:
        """Store what is new of a batch; return when that is durable. Raises Problem."""
        done: Future[Receipt] = Future()
        self._waiting.put((batch, done))
        try:
            return done.result(PATIENCE)
        except TimeoutError:
            raise Problem(503, "busy", "the store does not keep up") from None

    def streams(self) -> Mapping[str, Stream]:
        """Return all streams by name."""
        return dict(self._streams)

    def gaps(self, stream: str) -> list[Gap]:
        """Return the latest gaps of a stream."""
        rows = self._read(
            "SELECT first, last, reason FROM gaps WHERE stream = ? ORDER BY first DESC LIMIT ?",
            [stream, _GAPS_SHOWN],
        )
        return [Gap(*row) for row in reversed(list(rows))]

    def lines(self, sql: str, values: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
        """Yield what a question gives, without holding all of it."""
        return self._read(sql, values)

    def alive(self) -> bool:
        """Tell whether the writing thread lives."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Commit what waits, and close."""
        self._waiting.put(None)
        self._thread.join(PATIENCE)
        with contextlib.suppress(duckdb.Error):
            self._db.execute("CHECKPOINT")
        self._db.close()

    def _read(self, sql: str, values: object) -> Iterator[tuple[Any, ...]]:
        with self._db.cursor() as cursor:
            cursor.execute(sql, values)
            while rows := cursor.fetchmany(200):
                yield from rows

    # --- the writing thread

    def _write(self) -> None:
        period = min(600.0, max(1.0, (self._retention or 6000.0) / 10))
        going = True
        while going:
            taken: list[tuple[Batch, Future[Receipt]]] = []
            try:
                first = self._waiting.get(timeout=period)
                while first is not None and len(taken) < TOGETHER - 1:
                    taken.append(first)
                    first = self._waiting.get_nowait()
                if first is not None:
                    taken.append(first)
                going = first is not None
            except queue.Empty:
                pass
            if taken:
                self._together(taken)
            if time.monotonic() - self._swept >= period:
                self._sweep()

    def _together(self, taken: list[tuple[Batch, Future[Receipt]]]) -> None:
        """Commit several batches at once, and answer all of them."""
        group = _Group()
        receipts: list[tuple[Future[Receipt], Receipt]] = []
        try:
            for batch, done in taken:
                try:
                    receipts.append((done, self._admit(batch, group)))
                except Problem as problem:
                    done.set_exception(problem)
            started = time.perf_counter()
            self._commit(group)
            self._numbers.commit_seconds.observe(time.perf_counter() - started)
        except Exception as error:
            log.exception("a commit failed")
            self._recover()
            busy = Problem(503, "busy", f"the store failed: {type(error).__name__}")
            for _, done in taken:
                if not done.done():
                    done.set_exception(busy)
            return
        self._streams.update(group.streams)
        self._numbers.commit_batches.observe(len(receipts))
        self._numbers.batches.inc(len(receipts))
        self._numbers.lines.inc(len(group.samples))
        self._numbers.rejected.inc(len(group.rejected))
        self._numbers.missing.inc(sum(gap.last - gap.first + 1 for _, gap in group.gaps))
        for done, receipt in receipts:
            self._numbers.duplicates.inc(receipt.duplicates)
            done.set_result(receipt)

    def _admit(self, batch: Batch, group: _Group) -> Receipt:
        """Add to a group what is new of a batch. Raises Problem, and adds nothing then."""
        known = group.streams.get(batch.stream) or self._streams.get(batch.stream)
        known = known or Stream(batch.device)
        older = batch.age < known.age or (batch.age == known.age and batch.life != known.life)
        if known.device != batch.device or (known.age and older):
            raise Problem(409, "stream-conflict", "another agent sends under this stream's name")
        if batch.first > known.through + 1:
            raise Problem(409, "sequence-gap", expected=known.through + 1)
        lines = [line for line in batch.lines if line.number > known.through]
        rejected = [one for one in batch.rejected if one.number > known.through]
        gaps = [
            gap._replace(
                first=max(gap.first, known.through + 1), reason=gap.reason[:_LONGEST_REASON]
            )
            for gap in batch.gaps
            if gap.last > known.through
        ]
        earlier = self._rejected(batch, known, group)
        group.samples += [(batch.stream, batch.device, line) for line in lines]
        group.gaps += [(batch.stream, gap) for gap in gaps]
        group.rejected += [(batch.stream, one) for one in rejected]
        group.streams[batch.stream] = replace(
            known,
            age=batch.age,
            life=batch.life,
            through=max(known.through, batch.last),
            lines=known.lines + len(lines),
            missing=known.missing + sum(gap.last - gap.first + 1 for gap in gaps),
            rejected=known.rejected + len(rejected),
        )
        sent = len(batch.lines) + len(batch.rejected)
        return Receipt(sent - len(lines) - len(rejected), [*earlier, *rejected])

    def _rejected(self, batch: Batch, known: Stream, group: _Group) -> list[Rejected]:
        """Return what was rejected before of the numbers of a batch."""
        if batch.first > known.through or not known.rejected:
            return []
        last = min(batch.last, known.through)
        stored = self._db.execute(
            "SELECT number, code, detail FROM rejected"
            " WHERE stream = ? AND number BETWEEN ? AND ? ORDER BY number",
            [batch.stream, batch.first, last],
        ).fetchall()
        new = [
            one
            for stream, one in group.rejected
            if stream == batch.stream and batch.first <= one.number <= last
        ]
        return [*(Rejected(*row) for row in stored), *new]

    def _commit(self, group: _Group) -> None:
        now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
        self._db.execute("BEGIN")
        for name, stream in group.streams.items():
            self._keep(name, stream, now)
        self._insert(
            "samples",
            [
                (stream, line.number, device, *line[1:6], now, line.text)
                for stream, device, line in group.samples
            ],
        )
        self._insert("gaps", [(stream, *gap, now) for stream, gap in group.gaps])
        self._insert("rejected", [(stream, *one, now) for stream, one in group.rejected])
        self._db.execute("COMMIT")

    def _keep(self, name: str, stream: Stream, now: dt.datetime) -> None:
        values = (stream.age, stream.life, stream.through, stream.lines, stream.missing)
        if name in self._streams:
            self._db.execute(
                "UPDATE streams SET age = ?, life = ?, through = ?, lines = ?, missing = ?,"
                " rejected = ?, heard = ? WHERE stream = ?",
                [*values, stream.rejected, now, name],
            )
        else:
            row = [name, stream.device, *values, stream.rejected, now]
            self._db.execute("INSERT INTO streams VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def _insert(self, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert rows as lists of their columns: several times faster than one by one."""
        if rows:
            columns = [list(column) for column in zip(*rows, strict=True)]
            lists = ", ".join(["unnest(?)"] * len(columns))
            self._db.execute(f"INSERT INTO {table} SELECT {lists}", columns)

    def _recover(self) -> None:
        """Drop what was not committed, and read the ledger again."""
        with contextlib.suppress(duckdb.Error):
            self._db.execute("ROLLBACK")
        try:
            self._streams = self._read_streams()
        except duckdb.Error:
            log.exception("the ledger cannot be read")

    def _read_streams(self) -> dict[str, Stream]:
        rows = self._db.execute(
            "SELECT stream, device, age, life, through, lines, missing, rejected FROM streams"
        ).fetchall()
        return {name: Stream(*rest) for name, *rest in rows}

    def _sweep(self) -> None:
        """Delete what is too old; the ledger itself stays."""
        self._swept = time.monotonic()
        if self._retention is None:
            return
        oldest = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=self._retention)
        try:
            (count,) = self._db.execute(
                "DELETE FROM samples WHERE arrived < ?", [oldest.replace(tzinfo=None)]
            ).fetchall()[0]
            if count:
                self._numbers.expired.inc(count)
                self._db.execute("CHECKPOINT")
        except duckdb.Error as error:
            log.warning("old samples stay for now: %s", type(error).__name__)
