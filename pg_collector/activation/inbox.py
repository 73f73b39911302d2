"""Commands of the platform: fetched, believed, done once each, answered."""

import logging
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from pg_collector.activation.client import Client
from pg_collector.activation.device import Device
from pg_collector.activation.signed import KeySet, Kind, UnknownKey, Untrusted, verified
from pg_collector.activation.state import COMMANDS_KEPT
from pg_collector.activation.stops import stop_for
from pg_collector.clock import Clock, rfc3339
from pg_collector.errors import CollectorError, Held, OrderRefused, Refused

log = logging.getLogger(__name__)
audit = logging.getLogger("pg_collector.audit")

Perform = Callable[[str, Mapping[str, Any]], str]

DETAIL: Final = 1000  # characters of a report
_UNAUTHORIZED: Final = 401


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """What the platform asks for."""

    sub: str
    id: Annotated[str, Meta(pattern="^[0-9a-zA-Z-]{1,64}$")]
    command: str
    arguments: dict[str, Any] = {}
    iat: float
    exp: float


class Inbox:
    """For the thread `identity`. `perform` carries a command out, and returns a sentence.

    While it is None nothing is to be fetched: nobody is there who could do it.
    """

    def __init__(
        self,
        device: Device,
        clock: Clock,
        *,
        renew: Callable[[], None],
        rotate: Callable[[KeySet], KeySet],
    ) -> None:
        self.perform: Perform | None = None
        self._device = device
        self._clock = clock
        self._renew = renew
        self._rotate = rotate
        self._outcomes: dict[str, tuple[str, str]] = {}  # of commands that are not reported yet

    def empty(self, client: Client) -> bool:
        """Do what the platform asks, once each; return whether that is settled.

        It is not where a command could not be believed, or what came of it was refused: to ask at
        once would lead to the same. Raises a DeliveryError, StateError.
        """
        settled = True
        seen: set[str] = set()
        fetched = client.commands(self._device.access_token)
        arrived = self._clock.monotonic()
        for signed in fetched:
            try:
                command = self._believed(signed)
            except Untrusted as error:
                audit.error("a command was refused: %s", error)
                settled = False
                continue
            seen.add(command.id)
            new = command.id not in self._outcomes
            status, detail = self._outcome(command, arrived)
            if new:
                audit.warning("command %s %s: %s", command.command, status, detail)
            settled = self._reported(client, command, status, detail) and settled
        self._outcomes = {one: told for one, told in self._outcomes.items() if one in seen}
        return settled

    def _believed(self, signed: str) -> Command:
        """Return what a command says. Raises Untrusted."""
        kept = self._device.kept
        if kept is None:
            raise Untrusted("there is no activation")
        try:
            return verified(signed, kept.keys, Kind.COMMAND, Command)
        except UnknownKey:
            return verified(signed, self._rotate(kept.keys), Kind.COMMAND, Command)

    def _reported(self, client: Client, command: Command, status: str, detail: str) -> bool:
        """Say what came of a command; return whether that was taken.

        Those behind it do not suffer where it is refused, unless the device itself is.
        """
        at = rfc3339(self._clock.now())
        try:
            client.report(self._device.access_token, command.id, status, detail[:DETAIL], at)
        except Refused as error:
            refused: Refused | Held = error
        except Held as error:
            if error.status == _UNAUTHORIZED or stop_for(error) is not None:
                raise
            refused = error
        else:
            self._outcomes.pop(command.id, None)
            return True
        log.warning("the platform does not take what came of %s: %s", command.command, refused)
        return False

    def _outcome(self, command: Command, arrived: float) -> tuple[str, str]:
        """Do one command; return its status and a sentence."""
        if command.id in self._outcomes:  # its report did not arrive
            return self._outcomes[command.id]
        done = self._device.kept.commands_done if self._device.kept is not None else ()
        if command.id in done:
            return "failed", "it was begun before; whether it was done is not known"
        self._device.keep(commands_done=(*done, command.id)[-COMMANDS_KEPT:])
        try:
            outcome = "done", self._done(command, arrived)
        except OrderRefused as error:
            outcome = "refused", str(error)
        except CollectorError as error:
            outcome = "failed", str(error)
        self._outcomes[command.id] = outcome
        return outcome

    def _done(self, command: Command, arrived: float) -> str:
        if command.sub != self._device.id:
            raise OrderRefused("it is for another device")
        if self._clock.monotonic() - arrived >= command.exp - command.iat:
            raise OrderRefused("it has expired")
        if command.command == "rotate_token":
            self._renew()
            return "both tokens are new"
        if self.perform is None:
            raise OrderRefused(f"nobody here can do {command.command[:40]!r}")
        return self.perform(command.command, command.arguments)
