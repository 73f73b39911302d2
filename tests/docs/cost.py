"""Measures what each set costs a server, for the table in docs/samplers.md.

Run: python -m tests.docs.cost (or `make cost`), then `python -m tests.docs.generated`.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from pg_collector.pg.role import column_statistics_script
from tests.support.conditions.crowd import many_sessions, many_tables
from tests.support.conditions.locks import blocked_chain
from tests.support.conditions.statements import run_distinct
from tests.support.lab.replication import start_pair
from tests.support.lab.server import Database, Server
from tests.support.sampling import SAMPLERS, Sampling, sampling

PLACE = Path(__file__).with_name("cost.json")
VERSIONS = (12, 18)
TURNS = 7
TABLES = 10_000
FILLED = 500  # of them, with 1,500 rows each
READ = 300  # of those, before each turn
STATEMENTS = 5_000
RUN_AGAIN = 500  # of them, before each turn
SESSIONS = 200
IN_PARTS = {
    query.set for one in SAMPLERS.values() for query in one.queries if query.rotate is not None
}
SETTINGS = {"pg_stat_statements.max": "10000", "shared_buffers": "128MB"}

METHOD = f"""\
Milliseconds from the question to the last row, masking and encoding included: the median of
{TURNS} turns, agent and server on one machine ({{machine}}). *Small* is a database with next to
nothing in it; `locks.blocking` is asked there about three sessions of which two wait,
`wal_receiver` on its standby. *Large* is a database with {TABLES:,} tables with two indexes each,
{FILLED:,} of them filled, {STATEMENTS:,} statements and {SESSIONS} idle sessions; before each turn
{READ} tables are read and {RUN_AGAIN} statements run. The turn before those measured warms caches
and sends every row. `query_text` is the first look-up of an agent, of 5,000 texts at most; later
ones come only with new statements. `database.size` measures some of the databases each turn: its
figure is the turn with the largest.

A `SELECT 1` took {{floors}} in the same run: read the figures as multiples of that, and not as
promises. Half of the figures had no turn slower than {{typical:g}} times the figure, the worst had
one of {{worst:g}} times. `make cost` measures again. A set without a figure had nothing to answer
there.
"""

Times = dict[str, list[float]]


class Measured(msgspec.Struct, frozen=True):
    """What a run gave: by version the floor, and by set the milliseconds in both databases.

    `spread` is the slowest turn divided by the figure: of the typical figure, and of the worst.
    """

    machine: str
    floor_ms: dict[str, float]
    small_ms: dict[str, dict[str, float]]
    large_ms: dict[str, dict[str, float]]
    spread: tuple[float, float]

    def of_version(self, version: str) -> tuple[Mapping[str, float], Mapping[str, float]]:
        """Return the times in the small and in the large database."""
        return self.small_ms[version], self.large_ms[version]


def read() -> Measured:
    """Return what the last run gave."""
    return msgspec.json.decode(PLACE.read_bytes(), type=Measured)


def measure() -> Measured:
    """Build the databases and take the turns; takes minutes."""
    load = os.getloadavg()[0]
    floors: dict[str, float] = {}
    small: dict[str, Times] = {}
    large: dict[str, Times] = {}
    for version in map(str, VERSIONS):
        with Server(int(version), settings=SETTINGS) as server:
            database = server.database()
            with sampling(database.dsn()) as there:
                floors[version] = _floor(there)
            small[version] = _standby(int(version)) | _small(database)
            large[version] = _large(database)
    spreads = [
        max(times) / _figure(name, times)
        for size in (small, large)
        for of in size.values()
        for name, times in of.items()
    ]
    return Measured(
        f"{_machine()}, load {load:.1f} before and {os.getloadavg()[0]:.1f} after",
        floors,
        small_ms=_figures(small),
        large_ms=_figures(large),
        spread=(round(statistics.median(spreads), 1), round(max(spreads), 1)),
    )


def _machine() -> str:
    system = f"{platform.system()} on {platform.machine()}, {os.cpu_count()} processors"
    return f"{system}, Python {platform.python_version()}"


def _floor(there: Sampling) -> float:
    times = []
    for _ in range(50):
        started = time.perf_counter()
        there.session.fetch("SELECT 1")
        times.append((time.perf_counter() - started) * 1000)
    return round(statistics.median(times), 2)


def _small(database: Database) -> Times:
    with sampling(database.dsn()) as there:
        found = _turns(there, SAMPLERS) | _look_ups(there)
        with blocked_chain(database):
            return found | _only(_turns(there, ["locks"]), "locks.blocking")


def _standby(major: int) -> Times:
    with start_pair(major, settings=SETTINGS) as pair:
        pair.caught_up()
        with sampling(pair.standby.dsn("pgcollector")) as there:
            return _turns(there, ["wal_receiver"])


def _large(database: Database) -> Times:
    with _crowd(database), sampling(database.dsn()) as there:
        found = _turns(there, SAMPLERS, lambda: _work(database))
        return found | _look_ups(there)


@contextmanager
def _crowd(database: Database) -> Iterator[None]:
    with many_tables(database, TABLES), many_sessions(database.server, SESSIONS):
        database.query("\n".join(column_statistics_script("pgcollector")))
        with database.connect() as session:
            for number in range(1, FILLED + 1):
                session.execute(
                    f"insert into crowd.t{number}"
                    " select g, g % 100, md5(g::text) from generate_series(1, 1500) as g"
                )
        database.query("vacuum analyze")
        run_distinct(database, STATEMENTS)
        yield


def _work(database: Database) -> None:
    """Have something to tell: tables that were read, statements that ran."""
    with database.connect() as session, session.pipeline():
        for number in range(1, READ + 1):
            session.execute(f"table crowd.t{number}", prepare=False)
    run_distinct(database, RUN_AGAIN)


def _turns(
    there: Sampling, names: Iterable[str], before_each: Callable[[], object] = lambda: None
) -> Times:
    taken: Times = {}
    for number in range(TURNS + 1):
        there.clock.ahead += 7_200  # every set is due
        before_each()
        for name in names:
            for lines in there.take(name).values():
                if number:
                    taken.setdefault(lines[0].set, []).append(lines[0].head["took_ms"])
    for told_at_times in ("sampler_state", "query_text"):
        taken.pop(told_at_times, None)
    return taken


def _look_ups(there: Sampling) -> Times:
    """Ask for texts as an agent does that knows none."""
    found: list[float] = []
    for _ in range(TURNS):
        lines = Sampling(there.session).take("statements")["query_text"]
        found.append(lines[0].head["took_ms"])
    return {"query_text": found}


def _only(found: Times, name: str) -> Times:
    return {name: found[name]}


def _figures(found: Mapping[str, Times]) -> dict[str, dict[str, float]]:
    return {
        version: {name: round(_figure(name, taken), 1) for name, taken in times.items()}
        for version, times in found.items()
    }


def _figure(name: str, taken: list[float]) -> float:
    """Return what stands for the turns; where each has another part, most of them cost nothing."""
    return max(taken) if name in IN_PARTS else statistics.median(taken)


if __name__ == "__main__":
    PLACE.write_bytes(msgspec.json.format(msgspec.json.encode(measure()), indent=1) + b"\n")
