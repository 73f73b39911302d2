"""What is to be checked, for whom, and until when."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from pg_collector import control
from pg_collector.checkup.finding import Part
from pg_collector.checkup.unit import Given
from pg_collector.config.load import Loaded
from pg_collector.config.model import Config, Database
from pg_collector.control import Reply, Request

LEAST: Final = 0.1  # seconds: 0 would mean not to wait


class Asked(NamedTuple):
    """A valid configuration, and how to check it. `until` is a moment of `time.monotonic`."""

    loaded: Loaded
    environ: Mapping[str, str]
    parts: frozenset[Part]
    until: float
    database: str | None = None
    network: bool = True  # may be used
    typed_by: str = ""  # the account of who asks, where the checks have another one's rights
    unit: Given = Given()  # what of the agent's is from its unit

    @property
    def config(self) -> Config:
        """The configuration."""
        return self.loaded.config

    @property
    def state_dir(self) -> Path:
        """The directory for what outlasts a run."""
        return self.config.state_dir or control.state_directory(self.environ)

    @property
    def sockets(self) -> list[Path]:
        """Where an agent may listen."""
        return control.candidates(self.environ, self.config.state_dir)

    @property
    def targets(self) -> list[Database]:
        """The databases to look at."""
        return [
            one
            for one in self.config.databases
            if (one.enabled if self.database is None else one.name == self.database)
        ]

    def ask(self, request: Request, socket: Path) -> Reply | None:
        """Ask the agent behind a socket, as `control.ask` does, within what is left."""
        return control.ask(request, socket, max(LEAST, min(control.TIMEOUT, self.left())))

    def left(self) -> float:
        """Return the seconds that are left."""
        return max(0.0, self.until - time.monotonic())
