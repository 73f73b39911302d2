"""The command `pgc`: one verb a file. Each imports what it needs when it runs."""

import codecs
import io
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from pg_collector import __version__
from pg_collector.cli.verbs import Verbs
from pg_collector.errors import (
    AgentUnreachable,
    CollectorError,
    ConfigurationError,
    StateError,
    TargetError,
)

EXIT_PROBLEM = 1
EXIT_USAGE = 2
EXIT_WARNING = 3  # with --strict
EXIT_UNREACHABLE = 69  # EX_UNAVAILABLE
EXIT_STATE = 73  # EX_CANTCREAT
EXIT_PERMISSION = 77  # EX_NOPERM
EXIT_CONFIGURATION = 78  # EX_CONFIG
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="pgc",
    cls=Verbs,
    help="PG Collector samples PostgreSQL's statistics views and streams the samples away.\n\n"
    "\b\n"
    "  pgc demo                                  watch it work on a throw-away PostgreSQL\n"
    "  pgc sample activity --dsn DSN             look at a server of yours, once\n"
    "  pgc setup sql | sudo -u postgres psql     make the monitoring role\n"
    "  pgc config init && pgc start              run the agent",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"pgc {__version__}")
        raise typer.Exit


@app.callback()
def _before_the_verb(
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", help="Configuration file."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override one key. Repeatable."),
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(metavar="LEVEL", help="debug, info, warning or error.")
    ] = None,
    log_format: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="json or console.")
    ] = None,
    no_color: Annotated[bool, typer.Option("--no-color", help="Print without colours.")] = False,
    _version_wanted: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    from pg_collector.cli.options import BEFORE_THE_VERB, Globals

    if no_color:
        os.environ["NO_COLOR"] = "1"
    extra = [f"log.level={log_level}"] if log_level else []
    extra += [f"log.format={log_format}"] if log_format else []
    BEFORE_THE_VERB.set(Globals(config, (*(overrides or ()), *extra)))


def main() -> None:
    """Run `pgc`; end with the exit code that the documentation promises for each kind of error."""
    from pg_collector.cli.printable import printable
    from pg_collector.lifetime import leave_no_core

    leave_no_core()
    _fill_standard_streams()
    _print_anything()
    try:
        _run()
    except CollectorError as error:
        for line in error.sentence().splitlines():
            print(f"pgc: {printable(line)}", file=sys.stderr)
        raise SystemExit(_exit_code(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(EXIT_INTERRUPTED) from None
    except BrokenPipeError:
        # Whoever read our output went away, as `head` does; say nothing more.
        _let_output_go()
        raise SystemExit(EXIT_PROBLEM) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        print(f"pgc: {printable(where + (error.strerror or str(error)))}", file=sys.stderr)
        _let_output_go()
        denied = isinstance(error, PermissionError)
        raise SystemExit(EXIT_PERMISSION if denied else EXIT_PROBLEM) from None


def _run() -> None:
    """Run the verb; what it printed has been written afterwards, or OSError says why not."""
    try:
        app(prog_name="pgc")
    except ModuleNotFoundError as error:
        raise _left_out(error) from None
    finally:
        sys.stdout.flush()


def _left_out(error: ModuleNotFoundError) -> Exception:
    """Return what to say of a verb that a build such as the binary does not hold."""
    package, _, verb = (error.name or "").partition(".")
    if package != "pg_collector" or verb not in {"demo", "platform"}:
        return error
    return ConfigurationError(
        f"`pgc {verb}` is not in this build of PG Collector, which holds the agent alone",
        remedy=f"Install it into an environment of Python: pip install 'pg-collector[{verb}]'",
    )


def _let_output_go() -> None:
    """Send what is still to be written nowhere: the interpreter's end would trip over it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fill_standard_streams() -> None:
    """Put /dev/null where a stream was closed: else the next file or socket takes its number."""
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            setattr(sys, name, os.fdopen(fd, mode, closefd=False))


def _print_anything() -> None:
    r"""Have what the locale's encoding lacks printed as \uXXXX, which holds in JSON, too."""

    def escaped(error: UnicodeError) -> tuple[str, int]:
        import json

        if not isinstance(error, UnicodeEncodeError):
            raise error
        return json.dumps(error.object[error.start : error.end])[1:-1], error.end

    codecs.register_error("pgc-escaped", escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="pgc-escaped")


def _exit_code(error: CollectorError) -> int:
    if isinstance(error, ConfigurationError):
        return EXIT_CONFIGURATION
    if isinstance(error, StateError):
        return EXIT_STATE
    if isinstance(error, TargetError | AgentUnreachable):
        return EXIT_UNREACHABLE
    return EXIT_PROBLEM
