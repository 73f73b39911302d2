"""What the platform has stored, asked at the end of the demo."""

import datetime as dt
import itertools
import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pg_collector.demo.far import Far

log = logging.getLogger(__name__)

_SHOWN: Final = 12  # moments
_BAR: Final = 30  # characters


def ask(far: Far, target: str, database: str) -> list[str]:
    """Return what the platform says, line by line; why it does not, where it does not."""
    try:
        devices = far.ask("/v1/devices")["devices"]
        rows = far.ask("/v1/series", set="database", target=target)["rows"]
    except (OSError, ValueError, LookupError) as error:
        log.error("the demo's platform does not answer: %s", error)
        return []
    return [*_ledger(devices), *commits(rows, database)]


def _ledger(devices: Iterable[Mapping[str, Any]]) -> list[str]:
    found = []
    for one in devices:
        for stream in one["streams"]:
            gaps = len(stream["gaps"])
            whole = "no number missing" if not gaps else f"{gaps} gaps"
            found.append(
                f"\nStored by the platform: {stream['lines']} lines, numbers 1 to "
                f"{stream['ack_through']}, {whole}"
            )
    return found


def commits(rows: Iterable[Mapping[str, Any]], database: str) -> list[str]:
    """Return the transactions a second of a database over time, as the stored samples tell."""
    seen = [
        (dt.datetime.fromisoformat(row["at"]), int(row["row"]["xact_commit"]))
        for row in rows
        if row["row"].get("datname") == database and row["row"].get("xact_commit") is not None
    ]
    rates = [
        (later, (after - before) / (later - earlier).total_seconds())
        for (earlier, before), (later, after) in itertools.pairwise(seen)
        if later > earlier and after >= before
    ]
    if not rates:
        return []
    highest = max(rate for _, rate in rates) or 1.0
    found = [f"\nTransactions a second of the database {database}, read back from it:"]
    for at, rate in rates[-_SHOWN:]:
        bar = "#" * round(_BAR * rate / highest)
        found.append(f"  {at:%H:%M:%S} {rate:8.1f}  {bar}")
    return found
