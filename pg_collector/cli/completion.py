"""`pgc completion`: what a shell needs to complete verbs, options and names."""

import contextlib
import enum
import io
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

    script = io.StringIO()
    os.environ["_PGC_COMPLETE"] = f"source_{shell.value}"
    with contextlib.redirect_stdout(script), contextlib.suppress(SystemExit):
        app(prog_name="pgc", args=[])
    print(readable(script.getvalue(), shell), end="")


def readable(script: str, shell: Shell) -> str:
    """Return a script so that the shell finds what it looks for.

    zsh takes a file from `fpath` only if its first line has the tag. It reads the file when TAB is
    pressed for the first time, as the function of that name: that has to answer, too.
    """
    script = script.strip() + "\n"
    if shell is not Shell.ZSH:
        return script
    register = "compdef _pgc_completion pgc"
    answer = f"[[ $funcstack[1] == _pgc ]] && _pgc_completion || {register}"
    return script.replace(f"\n{register}\n", f"\n{answer}\n")
