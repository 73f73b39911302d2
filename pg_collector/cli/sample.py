"""`pgc sample`: look at what a sampler sees, masked as it would be sent."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import typer

from pg_collector import control, spot
from pg_collector.cli import EXIT_PERMISSION
from pg_collector.cli.options import ConfigOption, JsonOption, SetOption, loaded, no_database
from pg_collector.cli.printable import printable, printable_json
from pg_collector.config.conninfo import has_password
from pg_collector.config.model import Database, Postgres
from pg_collector.errors import Reason
from pg_collector.masking import as_configured
from pg_collector.pg.session import Session
from pg_collector.privacy.mask import Masker
from pg_collector.privacy.pii import Detector
from pg_collector.sample import address
from pg_collector.samplers import discover
from pg_collector.secret import Secret

CELL_MAX = 60  # characters of a cell
_AS_IT_IS = {Reason.VERSION, Reason.ROLE}


def sample(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help="Samplers to run; all without a name.",
            autocompletion=lambda: list(discover()),
        ),
    ] = None,
    dsn: Annotated[
        str | None,
        typer.Option(
            metavar="DSN", help="Connect there; no configuration file is read.", show_default=False
        ),
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            "--database", "-d", metavar="NAME", help="Target of the configuration to ask."
        ),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print the SQL for this server and ask nothing.")
    ] = False,
    limit: Annotated[
        int, typer.Option(metavar="ROWS", min=1, help="Rows to print of each set.")
    ] = 20,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    r"""Run samplers once and print their masked rows.

    \b
      pgc sample activity --dsn "host=db1 user=pgcollector dbname=postgres"
      pgc sample statements --json | jq .set

    While an agent samples the same target it is asked, so that no third session is opened.

    Exit codes: 1 a sampler says that something is missing, 69 the server or the agent does not
    answer, 77 an agent runs that this user may not ask, 78 the configuration is invalid.
    """
    wanted = tuple(names or ())
    if dsn is not None:
        if has_password(dsn):
            print(
                "pgc: a password on the command line is seen by everyone on this host;"
                " use PGPASSFILE, a service file or PGPASSWORD",
                file=sys.stderr,
            )
        target = Database(name="dsn", postgres=Postgres(conn_string=Secret(dsn)))
        lines = _directly(target, wanted, Masker(detector=Detector("full")), explain=explain)
    else:
        found = loaded(config, overrides).config
        target = _chosen(found.databases, database)
        asked = _through_an_agent(target, wanted, found.state_dir, explain=explain)
        if asked is None:
            state_dir = found.state_dir or control.state_directory(os.environ)
            masker = as_configured(found, state_dir)
            asked = _directly(target, wanted, masker, explain=explain)
        lines = asked
    if explain:
        print(printable("\n\n".join(line.decode() for line in lines), keep="\n\t"))
        return
    _print(lines, None if as_json else limit)
    if any(_trouble(line) for line in lines):
        raise typer.Exit(1)


def _trouble(line: bytes) -> bool:
    """Whether a line tells of something to mend; what a version or a standby lacks is not."""
    if address(line).set != "sampler_state":
        return False
    told = msgspec.json.decode(line)
    states = (dict(zip(told["c"], row, strict=True)) for row in told["r"])
    return any(one["remedy"] or one["reason"] not in _AS_IT_IS for one in states)


def _print(lines: list[bytes], limit: int | None) -> None:
    """Print lines as tables of so many rows, or as they are."""
    if limit is None:
        for line in lines:
            sys.stdout.buffer.write(printable_json(line.decode()).encode() + b"\n")
    else:
        for text in _tables(lines, limit):
            print(printable(text))


def _through_an_agent(
    target: Database, wanted: tuple[str, ...], state_dir: Path | None, *, explain: bool
) -> list[bytes] | None:
    """Ask the running agent that samples this target; return None where there is none."""
    request = control.SampleRequest(
        samplers=wanted,
        target=target.name,
        connection=control.fingerprint(target),
        explain=explain,
    )
    forbidden: list[Path] = []
    for path in control.candidates(os.environ, state_dir):
        try:
            reply = control.ask(request, path)
        except PermissionError:
            forbidden.append(path)
        else:
            if reply is not None:
                return [line.encode() for line in reply.lines]
    if forbidden:
        _refuse(forbidden[0])
    return None


def _refuse(path: Path) -> NoReturn:
    """End: whether the agent behind this socket samples the target, only it could say."""
    found = path.stat()
    print(
        f"pgc: {printable(str(path))}: an agent listens there, and you may not ask it. "
        f"Run pgc as its user (uid {found.st_uid}) or as a member of its group "
        f"(gid {found.st_gid}); or use --dsn, which opens a session of its own",
        file=sys.stderr,
    )
    raise typer.Exit(EXIT_PERMISSION)


def _directly(
    target: Database, wanted: tuple[str, ...], masker: Masker, *, explain: bool
) -> list[bytes]:
    samplers = discover()
    chosen = spot.chosen(samplers, wanted)
    relations = frozenset(name for one in samplers.values() for name in one.relations)
    session = Session.open(target, relations=relations)
    try:
        taken = [
            spot.take(one, target.name, session, masker=masker, explain=explain) for one in chosen
        ]
        return [line for lines in taken for line in lines]
    finally:
        session.close()


def _chosen(databases: tuple[Database, ...], name: str | None) -> Database:
    """Return the target of this name, or the first that is enabled."""
    for database in databases:
        if database.name == name or (name is None and database.enabled):
            return database
    raise no_database(name, databases)


def _tables(lines: list[bytes], limit: int) -> Iterator[str]:
    """Yield a heading and a table for each set, the parts of a set together."""
    sets: dict[str, dict[str, Any]] = {}
    for line in lines:
        decoded = msgspec.json.decode(line)
        known = sets.setdefault(decoded["set"], decoded)
        known["bytes"] = known.get("bytes", 0) + len(line)
        if known is not decoded:
            known["r"] += decoded["r"]
    for name, one in sets.items():
        rows, columns = one["r"], one["c"]
        if name == "sampler_state":
            yield from _states(rows, columns)
            continue
        total = one.get("total_rows", len(rows))
        yield f"{name}: {total} rows, {one['took_ms']:.1f} ms, {one['bytes']} bytes"
        holes: dict[str, list[str]] = {}
        for missing in one.get("unavailable", ()):
            holes.setdefault(missing["reason"], []).append(missing["field"])
        for reason, fields in holes.items():
            yield f"  unavailable ({reason}): {', '.join(fields)}"
        yield from _table(columns, rows[:limit])
        if len(rows) > limit:
            yield f"  … {len(rows) - limit} more (--limit)"
        yield ""


def _states(rows: list[list[Any]], columns: list[str]) -> Iterator[str]:
    for row in rows:
        told = dict(zip(columns, row, strict=True))
        yield f"{told['set'] or told['sampler']}: {told['state']}: {told['message']}"
        if told["remedy"]:
            yield f"  remedy: {told['remedy']}"
    yield ""


def _table(columns: list[str], rows: list[list[Any]]) -> Iterator[str]:
    """Yield aligned rows, or a block for each row where they would be too wide.

    Columns that are empty in all rows are left out.
    """
    kept = [i for i in range(len(columns)) if any(row[i] is not None for row in rows)]
    cells = [[_cell(row[i]) for i in kept] for row in rows]
    names = [columns[i] for i in kept]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    if not rows:
        return
    if sum(widths) + 2 * len(widths) <= shutil.get_terminal_size((120, 24)).columns:
        for row in (names, *cells):
            line = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
            yield f"  {line}".rstrip()
        return
    longest = max(map(len, names))
    for number, row in enumerate(cells, 1):
        yield f"  row {number}"
        pairs = zip(names, row, strict=True)
        yield from (f"    {name.ljust(longest)}  {text}" for name, text in pairs if text)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    text = " ".join(str(value).split())
    return text if len(text) <= CELL_MAX else text[: CELL_MAX - 1] + "…"
