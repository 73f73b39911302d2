"""How verbs get at a page of the agent: over its control socket, or over HTTP."""

import http.client
import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import msgspec
import typer

from pg_collector import control
from pg_collector.cli import EXIT_USAGE, agent_access
from pg_collector.config.certificates import pinned_context
from pg_collector.config.files import Unreadable, read_secret
from pg_collector.config.listening import reach
from pg_collector.config.model import Http
from pg_collector.errors import AgentUnreachable, ConfigurationError
from pg_collector.page_verbs import PageRequest, PageTold
from pg_collector.trust import system_bundle

_REMEDY: Final = (
    "See whether it runs: pgc status; under systemd, systemctl status pg-collector, too."
)
_MOST: Final = 64 * 1024 * 1024  # bytes of a page


def fetch(
    path: str, config: Path | None, overrides: list[str] | None, *, url: str | None, timeout: float
) -> PageTold:
    """Return a page of the agent at a URL, or of the one that runs here.

    That one is asked over its control socket, or at `http.address` where this user may not use the
    socket or there is none. Raises AgentUnreachable, ConfigurationError.
    """
    if url is not None:
        return _over_http(url, path, timeout, token=None, context=_public)
    agent = agent_access.meant(config, overrides)
    forbidden: PermissionError | None = None
    try:
        reply = agent_access.ask(PageRequest(path=path), agent.state_dir, timeout)
    except PermissionError as error:
        forbidden, reply = error, None
    if reply is not None:
        return control.told(reply, PageTold)
    here = agent.config.http if agent.config is not None else Http()
    if here.address == "off":
        if forbidden is not None:
            agent_access.refuse(forbidden)
        raise agent_access.nobody()
    try:
        page = _at_home(here, path, timeout)
        _refuse_another(agent.state_dir, here, timeout)
    except AgentUnreachable:
        if forbidden is not None:
            agent_access.refuse(forbidden)
        if agent.invalid is not None:
            raise agent.invalid from None
        raise
    return page


def _refuse_another(state_dir: Path | None, here: Http, timeout: float) -> None:
    """Raise AgentUnreachable where the device at our address is not that of our state directory.

    So it is where another agent had the address first, and ours could not start.
    """
    directory = state_dir or control.state_directory(os.environ)
    try:
        ours = (directory / "device_id").read_text("ascii").strip()
        status = msgspec.json.decode(_at_home(here, "/status", timeout).body, type=_Status)
    except (OSError, ValueError, msgspec.MsgspecError, AgentUnreachable):
        return  # not for this user to know, or not now: the page itself was had
    if status.device.device_id and status.device.device_id != ours:
        raise AgentUnreachable(
            f"the agent at {here.address} is another one: its device is "
            f"{status.device.device_id}, that of {directory} is {ours}",
            remedy="Give each agent an http.address of its own, then start this one: pgc start.",
        )


class _Device(msgspec.Struct, frozen=True):
    device_id: str = ""


class _Status(msgspec.Struct, frozen=True):
    device: _Device = _Device()


def _at_home(here: Http, path: str, timeout: float) -> PageTold:
    """Ask at the agent's own address, with what the configuration says of it.

    The token is shown to the certificate's owner only: without TLS anybody may listen there.
    """
    host, port = reach(here.address)
    name = f"[{host}]" if ":" in host else host
    scheme = "https" if here.tls.cert_file is not None else "http"
    try:
        token = read_secret(here.token_file) if here.token_file and scheme == "https" else None
    except Unreadable as error:
        raise ConfigurationError(f"http.token_file {error}", remedy=error.remedy) from None
    url = f"{scheme}://{name}:{port}"
    return _over_http(
        url, path, timeout, token=token, context=lambda: pinned_context(here.tls.cert_file)
    )


def _public() -> ssl.SSLContext:
    bundle = system_bundle()
    return ssl.create_default_context(cafile=str(bundle) if bundle is not None else None)


def _over_http(
    url: str, path: str, timeout: float, *, token: str | None, context: Callable[[], ssl.SSLContext]
) -> PageTold:
    there = _address(url)
    where = f"{there.scheme}://{there.host}" + (f":{there.port}" if there.port else "")
    client: http.client.HTTPConnection
    try:
        if there.scheme == "https":
            client = http.client.HTTPSConnection(
                there.host, there.port, timeout=timeout, context=context()
            )
        else:
            client = http.client.HTTPConnection(there.host, there.port, timeout=timeout)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            client.request("GET", there.base + path, headers=headers)
            reply = client.getresponse()
            body = reply.read(_MOST).decode("utf-8", "replace")
        finally:
            client.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = "no answer in time" if isinstance(error, TimeoutError) else str(error)
        raise AgentUnreachable(
            f"no agent answers at {where} ({why or type(error).__name__})", remedy=_REMEDY
        ) from None
    return PageTold(status=reply.status, body=body)


class _Address(NamedTuple):
    scheme: str
    host: str
    port: int | None
    base: str  # of all paths


def _address(url: str) -> _Address:
    """Take a URL apart; ends with 2 where it is none."""
    try:
        parts = urlsplit(url)
        if parts.scheme in {"http", "https"} and parts.hostname:
            return _Address(parts.scheme, parts.hostname, parts.port, parts.path.rstrip("/"))
    except ValueError:
        pass
    typer.echo("pgc: --url is no address: write it as http://127.0.0.1:8080", err=True)
    raise typer.Exit(EXIT_USAGE)
