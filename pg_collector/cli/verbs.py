"""The verbs of `pgc`, each imported only when it is wanted: `pgc --help` is there at once."""

from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

# In the order of the help, with what it says of each.
VERBS: Final = {
    "start": "Run the agent, until SIGTERM or Ctrl-C",
    "status": "Show the running agent: targets, samplers, buffer, delivery",
    "health": "Ask the running agent whether all is well, in one line",
    "metrics": "Print the running agent's metrics",
    "reload": "Have the running agent read its configuration anew",
    "check": "Check the whole path, and say what mends it",
    "sample": "Run samplers once and print their masked rows",
    "names": "Say which names the tokens of level full stand for",
    "top": "Watch a target live, from what the running agent samples",
    "samplers": "List the samplers: what each one learns, how often",
    "activate": "Exchange the api_key for a plan, and show it",
    "deactivate": "Forget the activation, and free the device's place",
    "device": "Show this device: its state, its plan, what it allows",
    "demo": "Watch it work on a throw-away PostgreSQL",
    "completion": "Print what makes TAB complete, for bash, zsh or fish",
    "version": "Print the versions of pgc, Python and the libraries",
    "buffer": "Look at what waits to be delivered, deliver it",
    "bundle": "Pack what support needs, without secrets",
    "config": "Check, show, make and explain the configuration",
    "platform": "Run a platform of your own",
    "setup": "Print what the monitored PostgreSQL needs",
}


class Verbs(TyperGroup):
    """A group that finds a verb in the module of its name: a function, or an `app` of its own."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands.update(dict.fromkeys(VERBS))  # type: ignore[arg-type]  # the names are known

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002  # typer calls it so
        """Return a verb; None where there is none of that name."""
        if cmd_name not in VERBS:
            return None
        if self.commands[cmd_name] is None:
            self.commands[cmd_name] = _load(cmd_name)
        return self.commands[cmd_name]

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002  # likewise
        """Write the list of verbs."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


def _load(name: str) -> Any:
    found = _made(name)
    _keep_lines(found)
    return found


def _keep_lines(command: Any) -> None:
    r"""Let the examples in a verb's help stand in lines of their own: a \b before them says so.

    A raw string, as linters want it for a text with backslashes, holds two characters instead.
    """
    if command.help:
        command.help = command.help.replace(r"\b", "\b")
    for one in getattr(command, "commands", {}).values():
        _keep_lines(one)


def _made(name: str) -> Any:
    module = import_module(f"pg_collector.cli.{name}")
    if hasattr(module, "app"):
        return get_group(module.app)
    alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    alone.command(name)(getattr(module, name))
    return get_command(alone)
