"""The verbs of the control socket that concern the device: requests, and the agent's answers."""

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pg_collector import control
from pg_collector.control import Reply, Request

if TYPE_CHECKING:
    from pg_collector.activation.identity import Identity


class DeviceRequest(Request, frozen=True, kw_only=True, tag="device"):
    """How the device of a state directory, links resolved, stands: the result is a `Told`."""

    directory: str


class DeactivateRequest(Request, frozen=True, kw_only=True, tag="deactivate"):
    """Forget the activation; the platform is told first, unless `tell` is false."""

    directory: str
    tell: bool = True


class DeviceVerbs:
    """Answers them."""

    def __init__(self, identity: "Identity", directory: Path) -> None:
        self._identity = identity
        self._directory = str(directory.resolve())

    @staticmethod
    def of_nobody() -> control.Answers:
        """Return the answers of an agent without a device: who asks has another one in mind."""
        return dict.fromkeys((DeviceRequest, DeactivateRequest), lambda _request: control.STRANGER)

    @property
    def answers(self) -> control.Answers:
        """What answers each verb."""
        return {DeviceRequest: self.device, DeactivateRequest: self.deactivate}

    def device(self, request: DeviceRequest) -> Reply:
        """Say how the device stands."""
        if request.directory != self._directory:
            return control.STRANGER
        return Reply(result=msgspec.to_builtins(self._identity.told()))

    def deactivate(self, request: DeactivateRequest) -> Reply:
        """Deactivate it. Raises AgentUnreachable where the platform cannot be told."""
        if request.directory != self._directory:
            return control.STRANGER
        self._identity.call(lambda: self._identity.deactivate(tell=request.tell))
        return Reply(result=msgspec.to_builtins(self._identity.told()))
