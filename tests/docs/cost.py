"""Measures what each set costs a server, for the table in docs/samplers.md.

Run: python -m tests.docs.cost (or `make cost`), then `python -m tests.docs.generated`.
"""

import platform
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from tests.support.conditions.crowd import many_sessions, many_tables
from tests.support.conditions.statements import run_distinct
from tests.support.lab.server import Server
from tests.support.sampling import Sampling, sampling

PLACE = Path(__file__).with_name("cost.json")
VERSIONS = (12, 18)
TURNS = 7
TABLES = 10_000
STATEMENTS = 5_000
SESSIONS = 200

METHOD = f"""\
Milliseconds from the question to the last row, decoding and encoding included: the median of
{TURNS} turns on {{machine}}. *Small* is an empty database, *large* one with {TABLES:,} tables with
two indexes each, {STATEMENTS:,} statements and {SESSIONS} sessions. A `SELECT 1` took {{floors}} in
the same run: read the figures as multiples of that. `make cost` measures again. A set without a
figure had nothing to answer there."""


class Measured(msgspec.Struct, frozen=True):
    """What a run gave: by version the floor, and by set the milliseconds in both databases."""

    machine: str
    floor_ms: dict[str, float]
    small_ms: dict[str, dict[str, float]]
    large_ms: dict[str, dict[str, float]]

    def of_version(self, version: str) -> tuple[Mapping[str, float], Mapping[str, float]]:
        """Return the times in the small and in the large database."""
        return self.small_ms[version], self.large_ms[version]


def read() -> Measured:
    """Return what the last run gave."""
    return msgspec.json.decode(PLACE.read_bytes(), type=Measured)


def measure() -> Measured:
    """Build the databases and take the turns; takes minutes."""
    found = Measured(f"{platform.machine()}, {platform.system()}", {}, {}, {})
    for major in VERSIONS:
        with Server(major, settings={"pg_stat_statements.max": "10000"}) as server:
            database = server.database()
            with sampling(database.dsn()) as there:
                found.floor_ms[str(major)] = _floor(there)
                found.small_ms[str(major)] = _turns(there)
            with many_tables(database, TABLES), many_sessions(server, SESSIONS):
                run_distinct(database, STATEMENTS)
                database.query("analyze")
                with sampling(database.dsn()) as there:
                    found.large_ms[str(major)] = _turns(there)
    return found


def _floor(there: Sampling) -> float:
    times = []
    for _ in range(50):
        started = time.perf_counter()
        there.session.fetch("SELECT 1")
        times.append((time.perf_counter() - started) * 1000)
    return round(statistics.median(times), 2)


def _turns(there: Sampling) -> dict[str, float]:
    taken: dict[str, list[float]] = {}
    for _ in range(TURNS):
        there.clock.ahead += 7_200  # every set is due
        for name in there.turns:
            for lines in there.take(name).values():
                for line in lines[:1]:
                    taken.setdefault(line.set, []).append(line.head["took_ms"])
    taken.pop("sampler_state", None)
    return {name: round(statistics.median(times), 1) for name, times in taken.items()}


if __name__ == "__main__":
    PLACE.write_bytes(msgspec.json.format(msgspec.json.encode(measure()), indent=1) + b"\n")
