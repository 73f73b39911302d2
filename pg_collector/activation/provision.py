"""Builds the device of an agent that talks to a platform."""

import socket
from pathlib import Path

from pg_collector.activation.client import Client
from pg_collector.activation.identity import Identity
from pg_collector.activation.state import DeviceStore
from pg_collector.breaker import Breaker
from pg_collector.clock import Clock
from pg_collector.config.model import Config
from pg_collector.errors import Unreachable
from pg_collector.metrics import Metrics
from pg_collector.web import Web


def identity(config: Config, state_dir: Path, clock: Clock, metrics: Metrics) -> Identity:
    """Return the device of a directory. Raises ConfigurationError as `Web` does."""
    limits = config.breakers.identity
    return Identity(
        client(config, clock),
        DeviceStore(state_dir),
        api_key=config.api_key,
        hostname=socket.gethostname(),
        breaker=Breaker(
            "identity",
            failures=limits.failures,
            reset=limits.reset,
            counts=(Unreachable,),
            metrics=metrics,
            clock=clock,
        ),
        clock=clock,
        metrics=metrics,
        renew_within=config.platform.timeout.total,
    )


def client(config: Config, clock: Clock) -> Client:
    """Return what calls the platform of a configuration. Raises ConfigurationError likewise."""
    return Client(Web(config.platform, clock), clock)
