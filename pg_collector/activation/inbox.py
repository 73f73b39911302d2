"""Commands of the platform: fetched, believed, done once each, answered."""

import logging
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from pg_collector.activation.client import Client
from pg_collector.activation.device import Device
from pg_collector.activation.signed import Kind, Untrusted, verified
from pg_collector.activation.state import COMMANDS_KEPT
from pg_collector.clock import Clock, rfc3339
from pg_collector.errors import CollectorError, OrderRefused

audit = logging.getLogger("pg_collector.audit")

Perform = Callable[[str, Mapping[str, Any]], str]


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """What the platform asks for."""

    sub: str
    id: Annotated[str, Meta(pattern="^[0-9a-zA-Z-]{1,64}$")]
    command: str
    arguments: dict[str, Any] = {}
    iat: float
    exp: float


class Inbox:
    """For the thread `identity`. `perform` carries a command out, and returns a sentence."""

    def __init__(self, device: Device, clock: Clock, *, renew: Callable[[], None]) -> None:
        self.perform: Perform = _nothing
        self._device = device
        self._clock = clock
        self._renew = renew
        self._outcomes: dict[str, tuple[str, str]] = {}  # of commands that are not reported yet

    def empty(self, client: Client) -> None:
        """Do what the platform asks, once each. Raises a DeliveryError, StateError."""
        kept = self._device.kept
        if kept is None:
            return
        for signed in client.commands(self._device.access_token):
            try:
                command = verified(signed, kept.keys, Kind.COMMAND, Command)
            except Untrusted as error:
                audit.error("a command was refused: %s", error)
                continue
            status, detail = self._outcome(command)
            audit.warning("command %s %s: %s", command.command, status, detail)
            at = rfc3339(self._clock.now())
            client.report(self._device.access_token, command.id, status, detail, at)
            self._outcomes.pop(command.id, None)

    def _outcome(self, command: Command) -> tuple[str, str]:
        """Do one command; return its status and a sentence."""
        if command.id in self._outcomes:  # its report did not arrive
            return self._outcomes[command.id]
        done = self._device.kept.commands_done if self._device.kept is not None else ()
        if command.id in done:
            return "failed", "it was begun before; whether it was done is not known"
        self._device.keep(commands_done=(*done, command.id)[-COMMANDS_KEPT:])
        try:
            outcome = "done", self._done(command)
        except OrderRefused as error:
            outcome = "refused", str(error)
        except CollectorError as error:
            outcome = "failed", str(error)
        self._outcomes[command.id] = outcome
        return outcome

    def _done(self, command: Command) -> str:
        if command.sub != self._device.id:
            raise OrderRefused("it is for another device")
        if command.exp <= command.iat:
            raise OrderRefused("it has expired")
        if command.command == "rotate_token":
            self._renew()
            return "both tokens are new"
        return self.perform(command.command, command.arguments)


def _nothing(command: str, _arguments: Mapping[str, Any]) -> str:
    raise OrderRefused(f"this agent knows no command {command[:40]!r}")
