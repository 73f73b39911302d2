"""`pgc reload`: have the running agent read its configuration anew."""

import msgspec

from pg_collector import control
from pg_collector.cli import agent_access
from pg_collector.cli.options import ConfigOption, JsonOption, SetOption
from pg_collector.cli.printable import printable, printable_json
from pg_collector.reload import Reloaded


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
    told = _asked(agent_access.meant(config, overrides))
    if as_json:
        print(printable_json(msgspec.json.encode(told).decode()))
        return
    for key in told.accepted:
        print(printable(f"changed          {key}"))
    for key in told.refused:
        print(printable(f"needs a restart  {key}"))
    if not told.accepted and not told.refused:
        print("nothing changed")


def _asked(agent: agent_access.Meant) -> Reloaded:
    """Return what the agent says."""
    try:
        reply = agent_access.ask(control.ReloadRequest(), agent.state_dir)
    except PermissionError as error:
        agent_access.refuse(error)
    if reply is not None:
        return control.told(reply, Reloaded)
    raise agent.invalid or agent_access.nobody()
