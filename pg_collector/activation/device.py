"""What is known of the device: activation, policy, access token. Thread-safe; it talks to nobody.

The thread `identity` changes it; the sender, the scheduler and the health report ask it.
"""

import logging
import threading
from typing import Any, Final

import msgspec

from pg_collector.activation.elapsed import Moments
from pg_collector.activation.signed import KeySet, Kind, Untrusted, verified
from pg_collector.activation.standing import Stop, standing
from pg_collector.activation.state import DeviceStore, Kept
from pg_collector.clock import Clock
from pg_collector.errors import CollectorError, Deferred, Held, StateError
from pg_collector.meet import meet
from pg_collector.outlets import Receipt
from pg_collector.plan import UNPROVISIONED, DeviceState, Grant, Policy, Standing
from pg_collector.privacy.scrub import without_credentials

log = logging.getLogger(__name__)
audit = logging.getLogger("pg_collector.audit")

CHECKPOINT_EVERY: Final = 60.0  # seconds after which the time that passed is on disk
CHECKPOINTS: Final = 20  # at least, within a policy's life


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What `pgc device` shows. No secret is in it."""

    state: str
    reason: str = ""
    remedy: str = ""
    device_id: str = ""
    policy: Policy | None = None
    policy_age_s: float | None = None
    contact_age_s: float | None = None
    grace_left_s: float | None = None
    token_expires_in_s: float | None = None
    trouble: str = ""


class Device:
    """The facts, and what follows from them."""

    def __init__(self, store: DeviceStore, clock: Clock, moments: Moments) -> None:
        """Know nothing yet: `load` reads what is on disk."""
        self.id = ""
        self._store = store
        self._clock = clock
        self._moments = moments
        self._saved_at = 0.0  # on the monotonic clock
        self._lock = threading.Lock()  # guards all that follows
        self._kept: Kept | None = None
        self._policy: Policy | None = None
        self._token = ""
        self._expires_at = 0.0  # on the monotonic clock
        self._trouble: CollectorError | None = None

    @property
    def kept(self) -> Kept | None:
        """What is kept on disk; None before the activation."""
        return self._kept

    @property
    def policy(self) -> Policy | None:
        """The last policy that was believed."""
        return self._policy

    @property
    def access_token(self) -> str:
        """The access token; empty where there is none."""
        return self._token

    @property
    def usable(self) -> bool:
        """Whether there is an access token that has not expired."""
        return bool(self._token) and self._clock.monotonic() < self._expires_at

    @property
    def trouble(self) -> CollectorError | None:
        """What stands between the device and its key service; None where all is well."""
        return self._trouble

    @trouble.setter
    def trouble(self, error: CollectorError | None) -> None:
        with self._lock:
            self._trouble = error

    # What others ask.

    def standing(self) -> Standing:
        """Return the state of the device now."""
        with self._lock:
            return self._standing()

    def grant(self) -> Grant | None:
        """Return what the policy allows now; None where nothing may be collected."""
        with self._lock:
            if self._policy is None or not self._standing().collects:
                return None
            return self._policy.granted()

    def told(self) -> Told:
        """Return what can be told."""
        with self._lock:
            now = self._standing()
            aged = self._kept.aged(self._moments()) if self._kept is not None else None
            left = max(0.0, self._expires_at - self._clock.monotonic())
            return Told(
                state=now.state,
                reason=without_credentials(now.reason),
                remedy=now.remedy,
                device_id=self.id,
                policy=self._policy,
                policy_age_s=aged.policy_age if aged else None,
                contact_age_s=aged.contact_age if aged else None,
                grace_left_s=now.grace_left,
                token_expires_in_s=left if self._token else None,
                trouble=without_credentials(str(self._trouble or "")),
            )

    def token(self) -> str:
        """Return the access token.

        Raises Held while the device is stopped, Deferred while there is none.
        """
        with self._lock:
            now = self._standing()
            if now.state is DeviceState.STOPPED:
                raise Held(f"the device is STOPPED: {now.reason}", remedy=now.remedy)
            if self.usable:
                return self._token
            trouble = self._trouble
            raise Deferred(
                f"no access token ({trouble or now.reason or 'it is being asked for'})",
                remedy=trouble.remedy if trouble else "",
            )

    # What the thread `identity` says.

    def load(self) -> None:
        """Go on with what is on disk, as far as it can be believed. Raises StateError."""
        kept = self._store.load()
        self.id = self._store.device_id(kept)
        if kept is not None:
            self._found(kept)

    def look(self) -> None:
        """Learn what is on disk without changing anything. Raises StateError, Damaged."""
        kept = self._store.read()
        if kept is not None:
            self.id = kept.device_id
            self._found(kept)

    def _found(self, kept: Kept) -> None:
        policy: Policy | None = None
        try:
            policy = self.believed(kept.policy, kept.keys.check(), kept.policy_version)
        except Untrusted as error:
            log.error("the policy on disk is not believed: %s", error)
            audit.error("the policy on disk was refused: %s", error)
        with self._lock:
            self._kept, self._policy = kept.aged(self._moments()), policy

    def believed(self, token: str, keys: KeySet, least: int) -> Policy:
        """Return a policy of this device, not older than version `least`. Raises Untrusted."""
        policy = verified(token, keys, Kind.POLICY, Policy)
        if policy.sub != self.id:
            raise Untrusted("it is the policy of another device")
        if policy.version < least:
            raise Untrusted(f"an old policy: version {policy.version}, after version {least}")
        return policy

    def activated(self, kept: Kept, policy: Policy) -> None:
        """Begin with this. Raises StateError where it cannot be kept."""
        self._store.save(kept)
        self._saved_at = self._clock.monotonic()
        with self._lock:
            self._kept, self._policy = kept, policy

    def accept(self, policy: Policy, token: str, etag: str) -> bool:
        """Let a policy that was believed hold; return whether it says something new."""
        before, stopped = self._policy, bool(self._kept and self._kept.stop_reason)
        moved = before is None or before.version != policy.version
        self.keep_now(
            lazily=not moved and not stopped,
            policy=token,
            policy_version=policy.version,
            etag=etag,
            policy_age=0.0,
            contact_age=0.0,
            stop_reason="",
            stop_remedy="",
        )
        with self._lock:
            self._policy = policy
        return moved

    def take(self, token: str, expires_in: float) -> None:
        """Use an access token from now on."""
        with self._lock:
            self._token = token
            self._expires_at = self._clock.monotonic() + expires_in

    def refused(self, token: str) -> bool:
        """Forget an access token that was refused; return whether another one is needed."""
        with self._lock:
            if token == self._token:
                self._token = ""
            return not self._token

    def contact(self, receipt: Receipt) -> bool:
        """Note that the platform took something; return whether its policy is another one."""
        with self._lock:
            if self._kept is None:
                return False
            kept = self._kept.aged(self._moments())
            self._kept = msgspec.structs.replace(kept, contact_age=0.0)
            moved = bool(receipt.policy_etag) and receipt.policy_etag != kept.etag.strip('"')
            return moved or not self._standing().collects

    def halt(self, stop: Stop, *, ended: bool = False) -> None:
        """Stop the device; with `ended`, its tokens are of no use any more."""
        with self._lock:
            kept = self._kept
            if ended:
                self._token = ""
        if kept is None or (kept.stop_reason == stop.reason and not ended):
            return
        audit.error("the device is stopped: %s", stop.reason)
        refresh_token = "" if ended else kept.refresh_token
        self.keep_now(stop_reason=stop.reason, stop_remedy=stop.remedy, refresh_token=refresh_token)

    def forget(self) -> None:
        """Forget the activation. Raises StateError."""
        self._store.forget()
        with self._lock:
            self._kept = self._policy = self._trouble = None
            self._token = ""

    def keep(self, *, lazily: bool = False, **changes: Any) -> None:
        """Change what is kept; `lazily`: the next checkpoint writes it.

        Raises StateError where it cannot be written: then nothing has changed.
        """
        kept = self._kept
        if kept is None:
            return
        if not lazily:
            self._store.save(msgspec.structs.replace(kept.aged(self._moments()), **changes))
            self._saved_at = self._clock.monotonic()
        with self._lock:
            kept = self._kept or kept  # a contact may have been noted meanwhile
            self._kept = msgspec.structs.replace(kept.aged(self._moments()), **changes)

    def keep_now(self, *, lazily: bool = False, **changes: Any) -> None:
        """Change what is kept, though it may not be on disk yet: the platform's word holds."""
        try:
            self.keep(lazily=lazily, **changes)
        except StateError as error:
            told = {"remedy": error.remedy}
            log.error("what the platform said is not on disk yet: %s", error, extra=told)
            self.keep(lazily=True, **changes)

    def checkpoint(self, *, now: bool = False) -> None:
        """Write the time that passed, where it is time; what fails is tried again at the next."""
        kept, policy = self._kept, self._policy
        if kept is None:
            return
        every = CHECKPOINT_EVERY
        if policy is not None:
            every = min(every, policy.life / CHECKPOINTS)
        if not now and self._clock.monotonic() - self._saved_at < every:
            return
        self._saved_at = self._clock.monotonic()
        try:
            self._store.save(kept.aged(self._moments()))
        except StateError as error:
            log.error(
                "the device's state cannot be kept: %s", error, extra={"remedy": error.remedy}
            )

    def _standing(self) -> Standing:
        kept, trouble = self._kept, self._trouble
        if kept is None:
            if trouble is None:
                return UNPROVISIONED
            return Standing(DeviceState.UNPROVISIONED, str(trouble), trouble.remedy)
        aged = kept.aged(self._moments())
        return standing(
            self._policy,
            since_policy=aged.policy_age,
            since_contact=aged.contact_age,
            stop=Stop(kept.stop_reason, kept.stop_remedy) if kept.stop_reason else None,
        )


meet(Told, Policy)  # commands read it in several threads
