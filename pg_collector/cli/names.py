"""`pgc names`: which names the tokens of level full stand for, on this host only."""

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, NoReturn, Protocol

import typer

from pg_collector import control
from pg_collector.cli import EXIT_PERMISSION, EXIT_UNREACHABLE
from pg_collector.cli.options import ConfigOption, JsonOption, SetOption, loaded, no_database
from pg_collector.cli.printable import printable, printable_json
from pg_collector.config.model import Config, Database
from pg_collector.errors import (
    AgentUnreachable,
    CollectorError,
    SamplerError,
    TargetError,
)
from pg_collector.masking import FILE, kept_secret
from pg_collector.pg import catalog_names
from pg_collector.pg.session import Session
from pg_collector.privacy.mask import Masker
from pg_collector.privacy.segments import TOKEN

GIVEN: Final = "given"  # the kind of names from the command line
_CAPITALS: Final = re.compile("[A-Z]+")


class Names:
    """Names by their tokens, each with what it names."""

    def __init__(self, masker: Masker) -> None:
        """`masker` makes the tokens: at level full, with the installation's secret."""
        self._masker = masker
        self._kinds: dict[tuple[str, str], list[str]] = {}  # by token and name

    def add(self, kind: str, names: Iterable[str]) -> None:
        """Take names of one kind; those that level full shows as they are need no token."""
        for name in names:
            # What people type is looked through for credentials first.
            for token in dict.fromkeys((self._masker.name(name), self._masker.free(name))):
                if TOKEN.fullmatch(token) and token != name:
                    kinds = self._kinds.setdefault((token, name), [])
                    if kind not in kinds:
                        kinds.append(kind)

    def found(self, tokens: Iterable[str] = ()) -> list[tuple[str, str, list[str]]]:
        """Return token, name and kinds, by name: of these tokens, or of all."""
        wanted = set(tokens)
        return [
            (token, name, kinds)
            for (token, name), kinds in sorted(self._kinds.items(), key=lambda one: one[0][::-1])
            if not wanted or token in wanted
        ]


class Source(Protocol):
    """Who can be asked for names."""

    def read(self, kind: str) -> Iterable[str]:
        """Return the names of one kind. Raises CollectorError."""


class _Own:
    """A session of our own."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def read(self, kind: str) -> Iterator[str]:
        """Yield the names of one kind."""
        return catalog_names.read(self._session, kind)


class _Agent:
    """An agent that samples the database, and lends its session."""

    def __init__(self, socket: Path, database: Database) -> None:
        self._socket = socket
        self._database = database

    def read(self, kind: str) -> Iterable[str]:
        """Return the names of one kind."""
        reply = self.ask(kind)
        if reply is None:
            raise AgentUnreachable("the agent ended meanwhile", remedy="Try again.")
        return reply.lines

    def ask(self, kind: str) -> control.Reply | None:
        """Ask for one kind; None where it is no agent of this database."""
        fingerprint = control.fingerprint(self._database)
        request = control.NamesRequest(
            target=self._database.name, connection=fingerprint, kind=kind
        )
        return control.ask(request, self._socket)


def names(
    tokens: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TOKEN]...", help="Tokens to look up; all names without one."),
    ] = None,
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--name",
            metavar="NAME",
            show_default=False,
            help="Also a name that no catalog has: an alias, the value of a tag. Repeatable.",
        ),
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            "--database",
            "-d",
            metavar="NAME",
            show_default=False,
            help="Look in this database of the configuration only.",
        ),
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    r"""Say which names the tokens of masking level full stand for.

    \b
      sudo -u pg-collector pgc names i_3fb2c07e i_90d1aa42
      pgc names --json | jq -r '.[].name'
      pgc names --name monthly_total i_5c0ffee5     # an alias that only a query has

    A token cannot be turned back; so the names that can be seen now are read from the configured
    databases, and the tokens of all are made with the key in the state directory (masking.key).
    That works where the agent runs, as the agent's user, and nothing is sent anywhere. While an
    agent samples a database it is asked, so that no third session is opened.

    Names that are gone, or that only a query text has, such as aliases, are not found by
    themselves: give them with --name. Two names may have the same token; then both are printed.

    Exit codes: 1 a token was not found, 69 a database or the agent does not answer, 73 there is no
    key, 77 this user may not read it, or not ask the agent, 78 the configuration is invalid.
    """
    wanted = [_token(one) for one in tokens or ()]
    told = loaded(config, overrides).config
    directory = told.state_dir or control.state_directory(os.environ)
    known = Names(Masker("full", secret=_secret(directory)))
    for name in given or ():
        folded = _CAPITALS.sub(lambda found: found[0].lower(), name)  # as SQL without quotes
        known.add(GIVEN, dict.fromkeys((name, folded)))
    gathered = [_gather(known, one, told) for one in _chosen(told, database)]
    complete = all(gathered)
    found = known.found(wanted)
    _print(found, as_json=as_json)
    missing = [one for one in wanted if one not in {token for token, _, _ in found}]
    for one in missing:
        _complain(f"{one}: none of the names that can be seen here has this token")
    if missing and complete:
        _complain("A name that is gone, or that only queries have: try it with --name")
        raise typer.Exit(1)
    if missing or not (complete or wanted):
        raise typer.Exit(EXIT_UNREACHABLE)


def _token(text: str) -> str:
    token = text.strip('"')
    if not TOKEN.fullmatch(token):
        raise typer.BadParameter(f"{text!r} is no token, which is i_ and eight hexadecimal digits")
    return token


def _secret(directory: Path) -> bytes:
    try:
        return kept_secret(directory)
    except PermissionError:
        _complain(
            f"{directory / FILE}: only the agent's user may read the key: "
            "sudo -u pg-collector pgc names"
        )
        raise typer.Exit(EXIT_PERMISSION) from None


def _chosen(config: Config, name: str | None) -> list[Database]:
    """Return the databases to look in. Raises ConfigurationError where there is none."""
    found = [one for one in config.databases if one.enabled and name in {None, one.name}]
    if not found:
        raise no_database(name, config.databases)
    return found


def _gather(known: Names, database: Database, config: Config) -> bool:
    """Add what one database shows; say what it does not, and whether that was all."""
    complete = True
    try:
        with _opened(database, config) as source:
            for kind in catalog_names.KINDS:
                try:
                    known.add(kind, source.read(kind))
                except (TargetError, AgentUnreachable):
                    raise
                except (SamplerError, CollectorError) as error:
                    _complain(f"{database.name}: names of the kind {kind}: {error.sentence()}")
                    complete = False
    except (TargetError, AgentUnreachable) as error:
        _complain(f"{database.name}: {error.sentence()}")
        complete = False
    return complete


@contextmanager
def _opened(database: Database, config: Config) -> Iterator[Source]:
    """Open a session, or find the agent that has one already. Ends with 77 where forbidden."""
    agent = _agent(database, config)
    if agent is not None:
        yield agent
        return
    session = Session.open(database, relations=frozenset())
    try:
        yield _Own(session)
    finally:
        session.close()


def _agent(database: Database, config: Config) -> _Agent | None:
    forbidden: list[Path] = []
    for path in control.candidates(os.environ, config.state_dir):
        agent = _Agent(path, database)
        try:
            if agent.ask("database") is not None:
                return agent
        except PermissionError:
            forbidden.append(path)
    if forbidden:
        _refuse(forbidden[0])
    return None


def _refuse(path: Path) -> NoReturn:
    _complain(
        f"{path}: an agent listens there, and you may not ask it. Run pgc as its user or as a "
        "member of its group"
    )
    raise typer.Exit(EXIT_PERMISSION)


def _print(found: list[tuple[str, str, list[str]]], *, as_json: bool) -> None:
    if as_json:
        rows = [{"token": token, "name": name, "kinds": kinds} for token, name, kinds in found]
        print(printable_json(json.dumps(rows, indent=2, ensure_ascii=False)))
        return
    width = max((len(name) for _, name, _ in found), default=0)
    for token, name, kinds in found:
        print(printable(f"{token}  {name:<{width}}  {', '.join(kinds)}"))


def _complain(text: str) -> None:
    print(printable(f"pgc: {text}"), file=sys.stderr)
