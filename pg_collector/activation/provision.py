"""Builds the device of an agent that talks to a platform."""

import socket
from pathlib import Path

from pg_collector.activation.client import Client
from pg_collector.activation.device import Device
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
    made = Identity(
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
    _show(made.device, clock, metrics)
    return made


def _show(device: Device, clock: Clock, metrics: Metrics) -> None:
    """Let the metrics ask a device how old is what the platform said, and how long it holds."""

    def ago(age: float | None) -> float:
        return 0.0 if age is None else clock.now().timestamp() - age

    def left() -> float:
        told = device.told()
        if told.policy is None or told.policy_age_s is None:
            return 0.0
        return max(0.0, told.policy.life - told.policy_age_s)

    def whole() -> float:
        policy = device.told().policy
        return 0.0 if policy is None else policy.grace_s

    metrics.policy_received_timestamp_seconds.set_function(lambda: ago(device.told().policy_age_s))
    metrics.platform_last_contact_timestamp_seconds.set_function(
        lambda: ago(device.told().contact_age_s)
    )
    metrics.grace_seconds_remaining.set_function(left)
    metrics.grace_seconds.set_function(whole)


def client(config: Config, clock: Clock) -> Client:
    """Return what calls the platform of a configuration. Raises ConfigurationError likewise."""
    return Client(Web(config.platform, clock), clock)
