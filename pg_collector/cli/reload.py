"""`pgc reload`: have the running agent read its configuration anew."""

from pathlib import Path
from typing import Any

import msgspec

from pg_collector import control
from pg_collector.cli import agent_access
from pg_collector.cli.options import ConfigOption, JsonOption, SetOption, loaded
from pg_collector.cli.printable import printable, printable_json
from pg_collector.errors import ConfigurationError


def reload(
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    r"""Have the running agent read its configuration anew, and say what changed.

    \b
      pgc reload
      pgc reload --json | jq .refused

    The agent reads the file, the variables and the flags that it was started with. An invalid
    configuration changes nothing. What only a restart can change is named and left as it was.

    Exit codes: 0 reloaded, 69 no agent runs or it does not answer, 77 an agent runs that this user
    may not ask, 78 the configuration is invalid and the one before stays in force.
    """
    state_dir: Path | None = None
    invalid: ConfigurationError | None = None
    try:
        state_dir = loaded(config, overrides).config.state_dir
    except ConfigurationError as error:
        invalid = error  # the agent may see it otherwise: its variables and flags are its own
    told = _asked(state_dir, invalid)
    if as_json:
        print(printable_json(msgspec.json.encode(told).decode()))
        return
    for key in told["accepted"]:
        print(printable(f"changed          {key}"))
    for key in told["refused"]:
        print(printable(f"needs a restart  {key}"))
    if not told["accepted"] and not told["refused"]:
        print("nothing changed")


def _asked(state_dir: Path | None, invalid: ConfigurationError | None) -> dict[str, Any]:
    """Return what the agent says."""
    try:
        reply = agent_access.ask(control.ReloadRequest(), state_dir)
    except PermissionError as error:
        agent_access.refuse(error)
    if reply is not None:
        return dict(reply.result or {})
    raise invalid or agent_access.nobody()
