"""How verbs reach the agent that runs here: by the first control socket that answers."""

import os
import sys
from pathlib import Path
from typing import NamedTuple, NoReturn

import msgspec
import typer

from pg_collector import control
from pg_collector.cli import EXIT_PERMISSION
from pg_collector.cli.options import loaded
from pg_collector.cli.printable import printable
from pg_collector.config.model import Config
from pg_collector.errors import AgentUnreachable, ConfigurationError


class Meant(NamedTuple):
    """Which agent is meant: that of a configuration, or, where it is invalid, the one that runs.

    The running agent may see it otherwise: its variables and flags are its own.
    """

    config: Config | None
    invalid: ConfigurationError | None

    @property
    def state_dir(self) -> Path | None:
        """The directory that the configuration names."""
        return self.config.state_dir if self.config is not None else None


def meant(config: Path | None, overrides: list[str] | None) -> Meant:
    """Return which agent the options of a verb mean."""
    try:
        return Meant(loaded(config, overrides).config, None)
    except ConfigurationError as error:
        return Meant(None, error)


def ask(
    request: control.Request, state_dir: Path | None, timeout: float = control.TIMEOUT
) -> control.Reply | None:
    """Ask the first agent that takes the request; None where none runs.

    With a configured `state_dir` no other agent than that directory's is meant.

    Raises PermissionError, with the socket as its filename, where one runs that may not be asked
    and no other answers; else as `control.ask` does.
    """
    if state_dir is not None and isinstance(request, control.AgentRequest):
        request = msgspec.structs.replace(request, state_dir=str(state_dir.resolve()))
    forbidden: Path | None = None
    for path in control.candidates(os.environ, state_dir):
        try:
            reply = control.ask(request, path, timeout)
        except PermissionError:
            forbidden = forbidden or path
            continue
        if reply is not None:
            return reply
    if forbidden is not None:
        raise PermissionError(0, "you may not ask the agent", str(forbidden))
    return None


def refuse(error: PermissionError) -> NoReturn:
    """Say that an agent may not be asked, and end with 77."""
    print(
        f"pgc: {printable(str(error.filename))}: an agent listens there, and you may not ask it. "
        "Run pgc as its user or as a member of its group",
        file=sys.stderr,
    )
    raise typer.Exit(EXIT_PERMISSION) from None


def nobody() -> AgentUnreachable:
    """Return the error that says that no agent runs."""
    return AgentUnreachable(
        "no agent runs here",
        remedy="Start it: pgc start. An agent with a state_dir of its own is found with --config.",
    )
