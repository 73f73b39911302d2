"""`pgc health`: a probe for containers, Nagios and scripts."""

import enum
from typing import Annotated

import msgspec
import typer

from pg_collector.cli import EXIT_PROBLEM, EXIT_WARNING
from pg_collector.cli.options import (
    ConfigOption,
    JsonOption,
    SetOption,
    StrictOption,
    TimeoutOption,
    UrlOption,
)
from pg_collector.cli.pages import fetch
from pg_collector.cli.printable import printable, printable_json
from pg_collector.errors import CollectorError
from pg_collector.health.vitals import State, Vital
from pg_collector.page_verbs import PageTold


class Question(enum.StrEnum):
    """What is asked; each is a path of the agent's HTTP server."""

    HEALTH = "health"
    LIVE = "live"
    READY = "ready"

    @property
    def path(self) -> str:
        """The page that answers."""
        return {"health": "/healthz", "live": "/livez", "ready": "/readyz"}[self.value]


class Found(msgspec.Struct, frozen=True):
    """What such a page says."""

    status: State
    parts: dict[str, Vital]


def health(
    question: Annotated[
        Question,
        typer.Argument(
            metavar="[health|live|ready]",
            help="health: is every part well; live: must it be restarted; ready: does it collect.",
        ),
    ] = Question.HEALTH,
    url: UrlOption = None,
    timeout: TimeoutOption = 5.0,
    strict: StrictOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    r"""Ask the running agent whether all is well, and say it in one line.

    \b
      pgc health || pgc status
      HEALTHCHECK CMD ["pgc", "health", "live"]
      pgc health --strict --url http://db1:8080

    It is asked over the control socket, or at http.address.

    Exit codes: 0 ok or degraded, 1 down, stopped or not ready, 3 degraded (--strict), 69 no agent
    runs or it does not answer, 77 an agent runs that this user may not ask, 78 the configuration is
    invalid.
    """
    page = fetch(question.path, config, overrides, url=url, timeout=timeout)
    found = _read(page)
    print(printable_json(page.body.strip()) if as_json else printable(_line(found)))
    if page.status >= 400:  # noqa: PLR2004  # HTTP
        raise typer.Exit(EXIT_PROBLEM)
    if strict and found.status is not State.OK:
        raise typer.Exit(EXIT_WARNING)


def _read(page: PageTold) -> Found:
    """Return the report of a page. Raises CollectorError where it is none."""
    try:
        return msgspec.json.decode(page.body, type=Found)
    except msgspec.DecodeError:
        first = printable(page.body.strip().partition("\n")[0][:200])
        raise CollectorError(
            f"this is no answer of an agent: {page.status} {first}",
            remedy="See that the URL is the agent's, and that it lets you in (http.token_file, "
            "security.ip_allowlist).",
        ) from None


def _line(found: Found) -> str:
    said = str(found.status)
    for name, part in found.parts.items():
        if part.state is State.OK:
            continue
        said += f"; {name} {part.state}"
        said += f": {part.reason}" if part.reason else ""
        said += f" ({part.remedy})" if part.remedy else ""
    return said
