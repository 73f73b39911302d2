"""The picture for machines: everything that is shown, in one JSON object. Pure."""

from typing import Any

import msgspec

from pg_collector.cli.live import header, server, sessions
from pg_collector.cli.live.shown import Shown


def told(shown: Shown) -> dict[str, Any]:
    """Return the object; figures are those of `figures`, `ages_s` those of each sampler."""
    board, watched = shown.board, shown.watched
    found = {
        "target": board.target,
        "at": header.moment(shown),
        "down": watched.troubles.get("") if watched is not None else None,
        "totals": server.totals(board),
        "activity": sessions.waits(board),
        "sessions": sessions.sessions(board),
        "blocking": sessions.blocking(board),
        "statements_over_s": board.movement.seconds,
        "statements": sessions.statements(board, shown.order)[:MOST_STATEMENTS],
        "databases": server.databases(board),
        "standbys": server.standbys(board),
        "receiver": server.receiver(board),
        "slots": server.slots(board),
        "vacuums": server.vacuums(board),
        "ages_s": {
            name: round(shown.now - sample.came, 3) for name, sample in board.samples.items()
        },
        "states": list(board.states.values()),
        "status": shown.status,
    }
    return {name: msgspec.to_builtins(one) for name, one in found.items()}


MOST_STATEMENTS = 50
