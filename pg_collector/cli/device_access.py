"""How the verbs about the device get at it: through the running agent, or in its place."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pg_collector import control
from pg_collector.cli import agent_access
from pg_collector.cli.options import loaded
from pg_collector.clock import SystemClock
from pg_collector.config.model import Config
from pg_collector.errors import ConfigurationError
from pg_collector.metrics import Metrics

if TYPE_CHECKING:
    from pg_collector.activation.device import Told
    from pg_collector.activation.identity import Identity


class Place:
    """Where the device of a configuration lies."""

    def __init__(self, config: Path | None, overrides: list[str] | None) -> None:
        """Read the configuration. Raises ConfigurationError."""
        self.config: Config = loaded(config, overrides).config
        self.directory = self.config.state_dir or control.state_directory(os.environ)

    def asked(self, request: control.Request) -> "Told | None":
        """Ask the agent that has the device; None where none runs. Ends with 77 where forbidden."""
        from pg_collector.activation.device import Told

        try:
            reply = agent_access.ask(request, self.config.state_dir)
        except PermissionError as error:
            agent_access.refuse(error)
        return control.told(reply, Told) if reply is not None else None

    @contextmanager
    def opened(self) -> Iterator["Identity"]:
        """Be the device, in the place of an agent that does not run.

        Raises StateError where one runs, or the directory cannot be used, ConfigurationError
        without a platform.
        """
        if self.config.platform.url is None:
            raise ConfigurationError(
                "no platform is configured", remedy="Set platform.url, and api_key."
            )
        from pg_collector.activation import provision

        clock = SystemClock()
        identity = provision.identity(self.config, self.directory, clock, Metrics(clock))
        identity.open()
        try:
            yield identity
        finally:
            identity.stop(0.0)

    def read(self) -> "Told":
        """Return what is on disk, of a device that no agent has. Changes nothing."""
        return read(self.directory)


def read(directory: Path) -> "Told":
    """Return the device that lies in a state directory, and that no agent has. Changes nothing."""
    from pg_collector.activation import elapsed
    from pg_collector.activation.device import Device
    from pg_collector.activation.state import DeviceStore

    device = Device(DeviceStore(directory), SystemClock(), elapsed.now)
    device.look()
    return device.told()
