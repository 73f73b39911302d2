"""Samplers asked by hand: one session, one runner, lines decoded."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from pg_collector.clock import SystemClock
from pg_collector.config.model import Database as Target
from pg_collector.config.model import Postgres, Tls, TlsMode
from pg_collector.metrics import Metrics
from pg_collector.pg.session import Session
from pg_collector.privacy.mask import Masker
from pg_collector.runner import Runner
from pg_collector.samplers import discover
from pg_collector.samplers._sampler import Query, Sampler
from pg_collector.secret import Secret
from pg_collector.spot import Tray
from pg_collector.states import States
from pg_collector.turn import Turn

SAMPLERS = discover()
RELATIONS = frozenset(name for one in SAMPLERS.values() for name in one.relations)


class Line:
    """A decoded line: its head, and its rows by name."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.head: dict[str, Any] = msgspec.json.decode(raw)
        self.set: str = self.head["set"]
        self.rows = [dict(zip(self.head["c"], row, strict=True)) for row in self.head["r"]]


class Sampling:
    """Turns on one session, as the agent would take them, one after the other."""

    def __init__(
        self,
        session: Session,
        clock: "MovableClock | None" = None,
        masker: Masker | None = None,
    ) -> None:
        """`clock` is that of the session, where it is to be moved as well."""
        target = "prod"
        self.session = session
        self.tray = Tray()
        self.clock = clock or MovableClock()
        masks = masker or Masker()
        self.states = States(target, self.tray, lambda: masks)
        self.runner = Runner(self.tray, masks, Metrics(self.clock), self.clock)
        self.turns = {
            name: Turn(sampler, target, sampler.every, self.states)
            for name, sampler in SAMPLERS.items()
        }

    def take(self, name: str) -> dict[str, list[Line]]:
        """Take a turn; return its lines by set."""
        self.tray.lines.clear()
        turn = self.turns[name]
        self.clock.ahead += turn.every
        self.runner.take(turn, self.session)
        found: dict[str, list[Line]] = {}
        for raw in self.tray.lines:
            line = Line(raw)
            found.setdefault(line.set, []).append(line)
        return found

    def rows(self, name: str, set_name: str | None = None) -> list[dict[str, Any]]:
        """Take a turn; return the rows of one set."""
        return [row for line in self.take(name).get(set_name or name, []) for row in line.rows]


class MovableClock(SystemClock):
    """This machine's clock, some seconds ahead: the next turn is due when the test says so."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        """Return the monotonic clock, moved."""
        return super().monotonic() + self.ahead


def strictly(query: Query, line: Line) -> None:
    """The columns are the declared ones in their order, and every value has the declared type."""
    fields = query.row.__struct_fields__
    columns = line.head["c"]
    assert columns == [name for name in fields if name in columns]
    for row in line.rows:
        msgspec.convert(row, query.row, strict=True)
    missing = {one["field"] for one in line.head.get("unavailable", ())}
    assert set(columns) | missing == set(fields)


def told(lines: dict[str, list[Line]]) -> dict[str | None, dict[str, Any]]:
    """Return the states of a turn, by set."""
    return {row["set"]: row for line in lines.get("sampler_state", ()) for row in line.rows}


def target(dsn: str, **postgres: Any) -> Target:
    """Return a configured database behind a connection string."""
    tls = postgres.pop("tls", Tls(mode=TlsMode.DISABLE))
    return Target(name="prod", postgres=Postgres(conn_string=Secret(dsn), tls=tls, **postgres))


@contextmanager
def sampling(dsn: str, *, masker: Masker | None = None, **postgres: Any) -> Iterator[Sampling]:
    """Open a session there, as the agent does, and close it at the end."""
    clock = MovableClock()
    session = Session.open(target(dsn, **postgres), relations=RELATIONS, clock=clock)
    try:
        yield Sampling(session, clock, masker)
    finally:
        session.close()


def every_sampler() -> list[Sampler]:
    """Return all samplers."""
    return list(SAMPLERS.values())
