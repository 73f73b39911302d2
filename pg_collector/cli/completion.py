"""`pgc completion`: what a shell needs to complete verbs, options and names."""

import enum
import os
from typing import Annotated

import typer


class Shell(enum.StrEnum):
    """The shells that are known."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    shell: Annotated[Shell, typer.Argument(metavar="bash|zsh|fish", help="The shell.")],
) -> None:
    r"""Print what the shell is to read so that TAB completes verbs, options and samplers.

    \b
      pgc completion bash | sudo tee /etc/bash_completion.d/pgc >/dev/null
      pgc completion zsh > "${fpath[1]}/_pgc"
      pgc completion fish > ~/.config/fish/completions/pgc.fish

    A package may install it by itself; otherwise this is the way. Begin a new shell afterwards.

    Exit codes: 0, 2 for another shell.
    """
    from pg_collector.cli import app

    os.environ["_PGC_COMPLETE"] = f"source_{shell.value}"
    app(prog_name="pgc", args=[])
