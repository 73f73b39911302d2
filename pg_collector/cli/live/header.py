"""The header: the target, the server as a whole, the agent, and what is wrong. Pure."""

import datetime as dt
import textwrap
from collections.abc import Iterator
from typing import Final

from pg_collector.cli.live.grid import Line, Span, ends, fit, line
from pg_collector.cli.live.server import totals
from pg_collector.cli.live.shown import Shown, sentence
from pg_collector.cli.live.words import age, number, percent, size
from pg_collector.cli.printable import printable
from pg_collector.status import Status

_MOST_TROUBLES: Final = 4
_STYLES: Final = {"ok": "good", "degraded": "warn"}


def lines(shown: Shown, width: int) -> list[Line]:
    """Return the lines above the panels."""
    right = [Span("paused ", "warn")] if shown.paused else []
    right.append(Span(f"{shown.wall:%H:%M:%S}Z", "dim"))
    found = [ends(line(*_target(shown)), right, width)]
    found.append(fit(line(*_server(shown)), width))
    if shown.status is not None:
        found.append(fit(line(*_agent(shown, shown.status)), width))
    told = [part for one in _troubles(shown) for part in _wrapped(one, width)]
    return found + [line(Span(one, "bad")) for one in told[:_MOST_TROUBLES]]


def _wrapped(text: str, width: int) -> list[str]:
    """Return a text in lines."""
    return textwrap.wrap(printable(text), max(width, 20), subsequent_indent="  ")


def _target(shown: Shown) -> list[Span]:
    names = shown.watched.targets if shown.watched is not None else ()
    parts = [Span(shown.board.target, "title")]
    if len(names) > 1 and shown.board.target in names:
        parts.append(Span(f" {names.index(shown.board.target) + 1}/{len(names)}", "dim"))
    version, role = _what(shown)
    if version:
        parts.append(Span(f"  PostgreSQL {version}"))
    if role:
        parts.append(Span(f" {role}"))
    if is_down(shown):
        parts.append(Span("  DOWN", "bad"))
    elif shown.target is not None:
        state = shown.target.state
        parts.append(Span(f"  {state}", _STYLES.get(state, "bad")))
    return parts


def _what(shown: Shown) -> tuple[str, str]:
    """Return version and role of the server, as far as they are known."""
    if shown.target is not None and shown.target.version is not None:
        return shown.target.version, shown.target.role or ""
    row = shown.board.row("server")
    if not row:
        return "", ""
    major, minor = divmod(row["server_version_num"], 10_000)
    return f"{major}.{minor}", "standby" if row["in_recovery"] else "primary"


def is_down(shown: Shown) -> bool:
    """Whether the target cannot be used."""
    return shown.watched is not None and "" in shown.watched.troubles


def _server(shown: Shown) -> list[Span]:
    """Return the server's figures in one line."""
    found = totals(shown.board)
    if found.sessions is None and found.transactions_per_s is None:
        return [Span("no figures yet", "dim")]
    limit = f"/{found.max_connections}" if found.max_connections is not None else ""
    idle, blocked = found.idle_in_transaction, found.blocked or 0
    return [
        Span(f"{number(found.sessions)}{limit} sessions, {found.active} active"),
        *([Span(f", {idle} idle in transaction", "warn")] if idle else []),
        *([Span(f", {blocked} blocked", "bad")] if blocked else []),
        Span(f"  {number(found.transactions_per_s)} tps"),
        Span(f"  hit {percent(found.hit_ratio)}"),
        Span(f"  oldest transaction {age(found.oldest_xact_s)}"),
    ]


def _agent(shown: Shown, status: Status) -> list[Span]:
    """Return the agent's figures in one line."""
    process, output, buffer = status.process, status.output, status.buffer
    cpu = f" cpu {percent(shown.cpu)}" if shown.cpu is not None else ""
    delivered = ""
    if output.last_delivery_age_s is not None:
        delivered = f" {age(output.last_delivery_age_s)} ago"
    return [
        Span("agent ", "dim"),
        Span(status.status, _STYLES.get(status.status, "bad")),
        Span(f" up {age(process.uptime_s)} {size(process.resident_bytes)}{cpu}"),
        Span(f"  {output.name} ", "dim"),
        Span(output.state, _STYLES.get(output.state, "bad")),
        Span(delivered),
        Span("  buffer ", "dim"),
        Span(f"{number(buffer.lines)} lines"),
        *([Span(f", oldest {age(buffer.oldest_age_s)}")] if buffer.lines else []),
        *([Span(f", lost {sum(buffer.lost.values())}", "bad")] if buffer.lost else []),
    ]


def _troubles(shown: Shown) -> Iterator[str]:
    """Yield what is wrong, in sentences: first what keeps everything from being seen."""
    if shown.trouble:
        yield shown.trouble
    down = shown.watched.troubles.get("") if shown.watched is not None else None
    if down is not None:
        yield sentence(f"{shown.board.target} is down: {down.error}", down.remedy)
    if shown.status is None:
        return
    for one in shown.status.troubles:
        of_this = one.part == f"postgres:{shown.board.target}"
        if one.part != "postgres" and not (down is not None and of_this):
            yield sentence(f"{one.part} {one.state}: {one.reason}", one.remedy)


def moment(shown: Shown) -> str:
    """Return when the picture was made, for machines."""
    return shown.wall.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
