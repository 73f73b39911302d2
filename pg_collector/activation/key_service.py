"""What the device says to its key service: one call at a time, each when it is due."""

import contextlib
import logging
import threading
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from pg_collector import __version__
from pg_collector.activation.client import Client
from pg_collector.activation.device import Device
from pg_collector.activation.elapsed import Moments
from pg_collector.activation.inbox import Inbox
from pg_collector.activation.signed import KeySet, Kind, UnknownKey, Untrusted, verified
from pg_collector.activation.state import Kept, fingerprint
from pg_collector.clock import Clock
from pg_collector.errors import Held
from pg_collector.metrics import Metrics
from pg_collector.pacing import Uniform
from pg_collector.secret import Secret

log = logging.getLogger(__name__)
audit = logging.getLogger("pg_collector.audit")

KEYS_EVERY: Final = 60.0  # seconds between two questions for new keys
AGAIN_EVERY: Final = 10.0  # seconds between two attempts with a token that was refused twice
LEFT: Final = (0.2, 0.3)  # of a token's life when it is renewed
EARLY: Final = (0.9, 1.0)  # of the heartbeat's interval


class KeyService:
    """The far side of a device. For one thread; what is wanted, others say by the events."""

    def __init__(
        self,
        client: Client,
        device: Device,
        clock: Clock,
        metrics: Metrics,
        *,
        hostname: str,
        moments: Moments,
        uniform: Uniform,
    ) -> None:
        """Nothing is sent before `work`."""
        self.client = client
        self.device = device
        self.inbox = Inbox(device, clock, renew=self.renew, rotate=self._rotated)
        self.on_change: Callable[[], None] = lambda: None  # the grant is another one
        self.on_token: Callable[[], None] = lambda: None  # there is one, after there was none
        self.policy_wanted = threading.Event()
        self.commands_wanted = threading.Event()
        self.refused = threading.Event()  # delivery is held for a token
        self._clock = clock
        self._metrics = metrics
        self._hostname = hostname
        self._moments = moments
        self._uniform = uniform
        self._renew_at = 0.0  # on the monotonic clock, like those below
        self._heartbeat_at = 0.0
        self._obey_at = 0.0
        self._keys_asked_at = -KEYS_EVERY
        self._tried_again_at = -AGAIN_EVERY

    def exchange(self, client: Client) -> None:
        """Go another way from now on."""
        client.on_call = self.client.on_call
        self.client.close()
        self.client = client

    def take_leave(self) -> None:
        """Give the device's place back. Raises a DeliveryError, StateError."""
        if not self.device.access_token:
            self.renew()
        self._authorized(lambda: self.client.deactivate(self.device.access_token))

    def work(self, api_key: Secret | None) -> None:
        """Do what is due; a device that is not activated is, with the key if there is one.

        Raises a DeliveryError, Untrusted, StateError.
        """
        if self.device.kept is None and api_key is not None:
            self._activate(api_key)
        kept = self.device.kept
        if kept is None or not kept.refresh_token:  # its tokens have ended: that is its owner's
            return
        if not self.device.access_token or self._clock.monotonic() >= self._renew_at:
            self.renew()
        if self.policy_wanted.is_set() or self._clock.monotonic() >= self._heartbeat_at:
            self._wanted(self.policy_wanted, self._heartbeat)
        obeys = self.inbox.perform is not None and self._clock.monotonic() >= self._obey_at
        if obeys and self.commands_wanted.is_set():
            self._wanted(self.commands_wanted, self._obey)

    def _wanted(self, flag: threading.Event, work: Callable[[], None]) -> None:
        """Do what is wanted, again with another token where one is refused; it stays wanted."""
        flag.clear()
        try:
            self._authorized(work)
        except BaseException:
            flag.set()
            raise

    def _authorized(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Held as error:
            if error.status != HTTPStatus.UNAUTHORIZED:
                raise
            self.renew()
            work()

    def _activate(self, api_key: Secret) -> None:
        try:
            found = self.client.activate(
                api_key=api_key.reveal(),
                device_id=self.device.id,
                hostname=self._hostname,
                version=__version__,
            )
        except Held as error:
            audit.error("the activation was refused: %s", error)
            raise
        keys = found.jwks.check()
        policy = self.device.believed(found.policy, keys, 0)
        kept = Kept(
            device_id=self.device.id,
            key_sha256=fingerprint(api_key.reveal()),
            refresh_token=found.refresh_token,
            keys=keys,
            policy=found.policy,
            policy_version=policy.version,
            seen=self._moments(),
        )
        self.device.activated(kept, policy)
        self._take(found.access_token, found.expires_in)
        self.policy_wanted.set()  # its answer has the ETag
        told = {"device_id": self.device.id, "plan": policy.plan}
        log.info("device activated: plan %s", policy.plan, extra=told)
        audit.warning("device %s activated, plan %s", self.device.id, policy.plan)

    def renew(self) -> None:
        """Exchange the refresh token for new tokens. Raises a DeliveryError, StateError."""
        kept = self.device.kept
        if kept is None:
            return
        found = self.client.refresh(kept.device_id, kept.refresh_token)
        # It is used only once it is on disk: until then the platform takes the one before, too.
        try:
            self.device.keep(refresh_token=found.refresh_token)
        finally:
            self._take(found.access_token, found.expires_in)

    def _take(self, token: str, expires_in: float) -> None:
        usable = self.device.usable
        self.device.take(token, expires_in)
        if not usable:
            self.on_token()
        share = 1.0 - self._uniform(*LEFT)
        self._renew_at = self._clock.monotonic() + expires_in * share
        expires_at = self._clock.now().timestamp() + expires_in
        self._metrics.token_expiry_timestamp_seconds.set(expires_at)

    def _heartbeat(self) -> None:
        kept = self.device.kept
        if kept is None:
            return
        fetched = self.client.policy(self.device.access_token)
        try:
            policy = self.device.believed(fetched.token, kept.keys, kept.policy_version)
        except UnknownKey:
            keys = self._rotated(kept.keys)
            policy = self.device.believed(fetched.token, keys, kept.policy_version)
        if fetched.commands_pending:
            self.commands_wanted.set()
        now = self._clock.monotonic()
        if self.refused.is_set() and now - self._tried_again_at >= AGAIN_EVERY:
            self.refused.clear()
            self._tried_again_at = now
            self.on_token()
        self._heartbeat_at = self._clock.monotonic() + policy.heartbeat_s * self._uniform(*EARLY)
        if self.device.accept(policy, fetched.token, fetched.etag):
            log.info("policy %d is in force: plan %s", policy.version, policy.plan)
            audit.warning("policy %d is in force: plan %s", policy.version, policy.plan)
            self.on_change()

    def _rotated(self, pinned: KeySet) -> KeySet:
        """Take the platform's new keys, where a pinned one vouches for them. Raises Untrusted."""
        now = self._clock.monotonic()
        if now - self._keys_asked_at >= KEYS_EVERY:
            self._keys_asked_at = now
            for token in self.client.signed_keys():
                with contextlib.suppress(UnknownKey):
                    keys = verified(token, pinned, Kind.KEYS, KeySet).check()
                    if keys.version > pinned.version:
                        self.device.keep_now(keys=keys)
                        audit.warning("the platform's keys are those of version %d", keys.version)
                        return keys
        raise Untrusted(
            "signed by a key that no pinned key vouches for",
            remedy="Is platform.url right? If the platform was set up anew: "
            "pgc deactivate --local-only, then activate the device again.",
        )

    def _obey(self) -> None:
        """Do what the platform asks; what is not settled comes again at the next heartbeat."""
        if not self.inbox.empty(self.client):
            self._obey_at = self._heartbeat_at
