"""The way up of an agent: the outlet that its configuration asks for, and the device behind it.

What belongs to the platform is imported only where there is one.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pg_collector import checks
from pg_collector.clock import Clock
from pg_collector.config.model import Config
from pg_collector.delivery import Delivery
from pg_collector.errors import ConfigurationError
from pg_collector.health.vitals import Vitals
from pg_collector.lifetime import Ending, Lifetime
from pg_collector.metrics import Metrics
from pg_collector.outlets import Outlet, RemoteOutlet
from pg_collector.outlets.file import FileOutlet

if TYPE_CHECKING:  # 9 MB that an agent without a platform does not need
    from pg_collector.activation.client import Client
    from pg_collector.activation.identity import Identity
    from pg_collector.activation.inbox import Perform

log = logging.getLogger(__name__)

STOP_WITHIN = 1.0  # seconds for a call to the key service to end


class Ways(NamedTuple):
    """What a configuration changes: another outlet, another client of the key service; or None."""

    outlet: Outlet | None
    client: "Client | None"


class Uplink:
    """The outlet by a configuration, and the device: `identity` is None where nobody asks for it.

    `token` gives the platform's access token in the place of a device. The platform's outlet is
    used by way of what `around` makes of it.
    """

    def __init__(
        self,
        clock: Clock,
        metrics: Metrics,
        *,
        token: Callable[[], str] | None = None,
        around: Callable[[Outlet], Outlet] = lambda outlet: outlet,
    ) -> None:
        self.identity: Identity | None = None
        self._clock = clock
        self._metrics = metrics
        self._token = token
        self._around = around

    def device(self, config: Config, state_dir: Path | None) -> "Identity":
        """Have a device, and return it. Raises ConfigurationError where there can be none."""
        if state_dir is None:
            raise ConfigurationError("a device needs a state_dir", remedy="Set state_dir.")
        from pg_collector.activation import provision  # noqa: PLC0415  # 9 MB

        self.identity = provision.identity(config, state_dir, self._clock, self._metrics)
        return self.identity

    def outlet(self, config: Config) -> Outlet | None:
        """Return the outlet that a configuration asks for; None without any.

        Raises ConfigurationError, StateError where it cannot be used.
        """
        if config.local.enabled:
            return FileOutlet(config.local, self._clock, self._metrics)
        if config.platform.url is None:
            return None
        from pg_collector.outlets.platform import PlatformOutlet  # noqa: PLC0415  # 7 MB

        make = partial(PlatformOutlet, config.platform, self._clock, self._metrics)
        if self._token is not None:
            return self._around(make(token=self._token))
        if self.identity is None:
            return None
        outlet = make(
            token=self.identity.token,
            unauthorized=self.identity.unauthorized,
            abandon=self.identity.abandon,
            acknowledged=self.identity.acknowledged,
            held=self.identity.held,
        )
        return self._around(outlet)

    def others(self, before: Config, after: Config, outlet: Outlet | None) -> Ways:
        """Return what has to be exchanged where a configuration follows another one.

        Nothing has changed yet. Raises ConfigurationError where it cannot be used.
        """
        moved = before.platform != after.platform
        another: Outlet | None = None
        if isinstance(outlet, RemoteOutlet) and (
            moved or before.breakers.platform != after.breakers.platform
        ):
            another = self.outlet(after)
        if self.identity is None or not moved:
            return Ways(another, None)
        from pg_collector.activation import provision  # noqa: PLC0415

        return Ways(another, provision.client(after, self._clock))

    def follow(self, config: Config, client: "Client | None") -> None:
        """Let the device keep to a configuration, and to another client if there is one."""
        if self.identity is None:
            return
        if client is not None:
            self.identity.exchange(client, renew_within=config.platform.timeout.total)
        limits = config.breakers.identity
        self.identity.adjust(failures=limits.failures, reset=limits.reset)

    @contextlib.contextmanager
    def asked(self) -> Iterator[None]:
        """Ask the platform this once; the device is had as long as the block lasts."""
        if self.identity is None:
            yield
            return
        self.identity.open()
        try:
            self.identity.step()
            yield
        finally:
            self.identity.stop(0.0)

    @contextlib.contextmanager
    def at_work(
        self,
        perform: "Perform",
        on_change: Callable[[], None],
        *,
        delivery: Delivery,
        vitals: Vitals,
        life: Lifetime,
        ending: Ending,
    ) -> Iterator[None]:
        """Keep the device's plan and tokens current as long as the block lasts.

        `perform` carries out what the platform asks for, `on_change` hears of another grant. Raises
        StateError where the device cannot be had.
        """
        identity = self.identity
        if identity is None:
            yield
            return
        service = identity.key_service
        service.inbox.perform = perform
        identity.open()
        service.on_change = on_change
        service.on_token = delivery.hurry
        identity.beat = vitals.heart("identity").beat
        vitals.register("activation", partial(checks.activation, identity))
        identity.start(life.essential)
        try:
            yield
        finally:
            if not ending.wait(identity.stop, STOP_WITHIN):
                log.error("the key service hangs; what it says comes too late")
