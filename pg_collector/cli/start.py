"""`pgc start`: run the agent."""

import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from pg_collector import agent, checks, control, logs
from pg_collector.cli.options import ConfigOption, SetOption, Source, source
from pg_collector.config.model import Config, Durability
from pg_collector.outlets.console import ConsoleOutlet
from pg_collector.plan import GrantSource, LocalGrant, NoGrant
from pg_collector.privacy.scrub import scrub

log = logging.getLogger("pg_collector")


def start(
    once: Annotated[
        bool, typer.Option("--once", help="Take one turn of every sampler, deliver, exit.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the masked lines; send nothing.")
    ] = False,
    local: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write samples as JSON lines into DIR, as local.enabled does.",
            show_default=False,
        ),
    ] = None,
    http: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS|off", help="Address of /healthz and /metrics."),
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    r"""Run the agent in the foreground, until SIGTERM or Ctrl-C; SIGHUP reloads.

    \b
      pgc start --config /etc/pg-collector/config.yaml
      PG_CONN_STRING=postgresql:///postgres pgc start --local ./output
      pgc start --once --dry-run | jq .

    A second signal ends it without waiting for what is still to be delivered.

    Exit codes: 0 stopped in order, 1 a part died, the stop itself hung, or a target did not answer
    (--once), 73 an address or a path cannot be used, 78 the configuration is invalid or there is no
    plan (--once).
    """
    extra = list(overrides or ())
    if local is not None:
        extra += ["local.enabled=true", f"local.path={local}"]
    if http is not None:
        extra.append(f"http.address={http}")
    origin = source(config, extra)
    found = origin.load()
    logs.setup(found.config.log, scrub=scrub)
    logs.catch_uncaught()
    _warn(found.warnings)
    code = _run(found.config, origin, once=once, dry_run=dry_run)
    logs.close()
    with contextlib.suppress(BrokenPipeError):  # whoever read a dry run has seen enough
        sys.stdout.flush()
    sys.stderr.flush()
    # A turn that hangs in the kernel must not keep a stopped agent alive: pool threads are joined
    # at a normal exit. Everything that matters was closed in order before.
    os._exit(code)


def _warn(warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        log.warning(warning)


def _in_memory(config: Config) -> Config:
    """Return the configuration of a dry run: nothing is sent, so nothing is kept for later."""
    memory = msgspec.structs.replace(config.buffers, durability=Durability.MEMORY)
    return msgspec.structs.replace(config, buffers=memory)


def _grants(config: Config, state_dir: Path, *, dry_run: bool) -> GrantSource | None:
    """Return who says what may be collected; None where the platform does."""
    if dry_run or config.local.enabled:
        return LocalGrant()
    if config.platform.url is None:
        return NoGrant()
    from pg_collector.activation.state import DeviceStore

    activated = DeviceStore(state_dir).activated()
    return None if activated or config.api_key is not None else NoGrant()


def _run(config: Config, origin: Source, *, once: bool, dry_run: bool) -> int:
    config = _in_memory(config) if dry_run else config
    state_dir = config.state_dir or control.state_directory(os.environ)
    grants = _grants(config, state_dir, dry_run=dry_run)
    console = ConsoleOutlet() if dry_run else None
    outlet = None if console is None else (lambda _clock, _metrics: console)
    if once:
        return 0 if agent.Agent(config, grants, outlet, state_dir=state_dir).once() else 1
    if isinstance(grants, NoGrant):
        vital = checks.plan(grants.standing(), config)
        log.error(vital.reason, extra={"remedy": vital.remedy})

    def on_start(running: agent.Agent) -> None:
        if console is not None:
            console.when_closed(lambda: running.end("nobody reads standard output"))

    def reload() -> Config:
        found = origin.load()
        _warn(found.warnings)
        return _in_memory(found.config) if dry_run else found.config

    sockets = control.candidates(os.environ, config.state_dir)
    return agent.run(
        config,
        grants,
        outlet,
        sockets=sockets,
        state_dir=state_dir,
        reload=reload,
        on_start=on_start,
    )
