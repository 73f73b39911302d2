"""The device at work: the thread `identity` keeps plan and tokens current.

Everything that goes to the key service goes through that thread, one call at a time, behind a
breaker of its own. The sender asks for tokens and waits for a new one at most `renew_within`
seconds; whoever lays out jobs asks for the grant; both get what is known at that moment.
"""

import concurrent.futures
import contextlib
import hmac
import logging
import queue
import random
import threading
from collections.abc import Callable
from http import HTTPStatus
from typing import Final, TypeVar

from pg_collector import __version__
from pg_collector.activation import elapsed
from pg_collector.activation.client import Client
from pg_collector.activation.device import Device, Told
from pg_collector.activation.elapsed import Moments
from pg_collector.activation.inbox import Inbox
from pg_collector.activation.signed import KeySet, Kind, UnknownKey, Untrusted, verified
from pg_collector.activation.state import DeviceStore, Kept, fingerprint
from pg_collector.activation.stops import ENDED, stop_for
from pg_collector.breaker import Breaker
from pg_collector.clock import Clock
from pg_collector.errors import (
    AgentUnreachable,
    BreakerOpen,
    CollectorError,
    Deferred,
    DeliveryError,
    Held,
)
from pg_collector.metrics import Metrics
from pg_collector.outlets import Receipt
from pg_collector.pacing import Backoff, Uniform
from pg_collector.plan import UNPROVISIONED, DeviceState, Grant, Standing
from pg_collector.secret import Secret

log = logging.getLogger(__name__)
audit = logging.getLogger("pg_collector.audit")

T = TypeVar("T")

LOOK_EVERY: Final = 5.0  # seconds between two looks at the clock
LEAST: Final = 0.05  # seconds between two looks
KEYS_EVERY: Final = 60.0  # seconds between two questions for new keys
AGAIN_EVERY: Final = 10.0  # seconds between two attempts with a token that was refused twice
LEFT: Final = (0.2, 0.3)  # of a token's life when it is renewed
EARLY: Final = (0.9, 1.0)  # of the heartbeat's interval
CALL_WITHIN: Final = 15.0  # seconds that a command of the owner waits for this thread
SPARE: Final = 30.0  # seconds that a step may take beside its calls, orders above all

_MISMATCH: Final = "API key mismatch: the device is activated with another key"
_MISMATCH_REMEDY: Final = "Run pgc deactivate first, or put the former api_key back."


class Identity:
    """A `GrantSource`, and the tokens of the platform outlet."""

    def __init__(
        self,
        client: Client,
        store: DeviceStore,
        *,
        api_key: Secret | None,
        hostname: str,
        breaker: Breaker,
        clock: Clock,
        metrics: Metrics,
        renew_within: float,
        moments: Moments = elapsed.now,
        uniform: Uniform = random.uniform,
    ) -> None:
        """Nothing is read or sent before `open`."""
        self.device = Device(store, clock, moments)
        self.on_change: Callable[[], None] = lambda: None  # the grant is another one
        self.on_token: Callable[[], None] = lambda: None  # there is one, after there was none
        self.beat: Callable[[float], None] = lambda _within: None
        self.inbox = Inbox(self.device, clock, renew=self._renew, rotate=self._rotated)
        self._client = client
        self._store = store
        self._api_key = api_key
        self._hostname = hostname
        self._breaker = breaker
        self._clock = clock
        self._metrics = metrics
        self._renew_within = renew_within
        self._moments = moments
        self._uniform = uniform
        self._backoff = Backoff(uniform=uniform)
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._policy_wanted = threading.Event()
        self._commands_wanted = threading.Event()
        self._refused = threading.Event()  # delivery is held for a token
        self._asked: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._held = contextlib.ExitStack()
        self._tried = threading.Condition()  # guards the next one
        self._attempts = 0
        # What follows is used in the thread, or before it starts.
        self._failures = 0
        self._retry_at = 0.0  # on the monotonic clock, like those below
        self._renew_at = 0.0
        self._heartbeat_at = 0.0
        self._obey_at = 0.0
        self._keys_asked_at = -KEYS_EVERY
        self._tried_again_at = -AGAIN_EVERY
        self._shown = UNPROVISIONED
        self._deactivated = False
        self._mismatch = False  # the configuration has another key, and that was told

    # What everybody asks.

    def standing(self) -> Standing:
        """Return the state of the device now."""
        return self.device.standing()

    def grant(self) -> Grant | None:
        """Return what the policy allows now; None where nothing may be collected."""
        return self.device.grant()

    @property
    def trouble(self) -> CollectorError | None:
        """What stands between the device and its key service; None where all is well."""
        return self.device.trouble

    def told(self) -> Told:
        """Return what can be told of the device."""
        return self.device.told()

    # What the outlet calls, in the sender's thread.

    def token(self) -> str:
        """Return the access token. Raises Held, Deferred: see `Device.token`."""
        return self.device.token()

    def unauthorized(self, token: str, gave_up: Callable[[], bool] = lambda: False) -> None:
        """Hear that a token was refused: have it renewed, and wait for that, within bounds.

        `gave_up` says whether the caller is wanted elsewhere; `abandon` has it asked.
        """
        if not self.device.refused(token):
            return
        with self._tried:
            attempts = self._attempts
        if self._thread is None:
            self.step()
            return
        self._asked.put(self._hurry)
        self._wake.set()
        with self._tried:
            self._tried.wait_for(
                lambda: bool(self.device.access_token) or self._attempts > attempts or gave_up(),
                self._renew_within,
            )

    def abandon(self) -> None:
        """Let those who wait for a token look whether they gave up. From any thread."""
        with self._tried:
            self._tried.notify_all()

    def acknowledged(self, receipt: Receipt) -> None:
        """Hear that the platform took something: that is a contact, and may bring news."""
        if self.device.contact(receipt):
            self._policy_wanted.set()
        if receipt.commands_pending:
            self._commands_wanted.set()
        wanted = self._policy_wanted.is_set() or self._commands_wanted.is_set()
        if wanted or self._shown.state is not DeviceState.ACTIVE:
            self._wake.set()

    def held(self, error: Held) -> None:
        """Hear that the platform takes nothing from this device: whether it may go on is asked.

        A token that was refused twice is tried again once the policy has come, but not too often.
        """
        refused = error.status == HTTPStatus.UNAUTHORIZED
        if refused:
            self._refused.set()
        if refused or stop_for(error) is not None:
            self._policy_wanted.set()
            self._wake.set()

    # The life of the thread.

    def open(self) -> None:
        """Take the device of this directory. Raises StateError where it cannot be had."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._store.held())
            self.device.load()
            self._held = stack.pop_all()
        self._policy_wanted.set()
        self._compare_keys()
        self._tell()

    def start(self, essential: Callable[[Callable[[], None]], object]) -> None:
        """Start the thread; `essential` runs its work."""
        self._thread = threading.Thread(
            target=essential, args=(self.run,), name="identity", daemon=True
        )
        self._thread.start()

    def run(self) -> None:
        """Be the thread, until `stop`."""
        self._client.on_call = lambda seconds: self.beat(seconds + SPARE)
        while not self._stopping.is_set():
            pause = self.step()
            self.beat(pause + SPARE)
            self._wake.wait(pause)
            self._wake.clear()

    def stop(self, deadline: float) -> bool:
        """End the thread; return whether it did within the seconds."""
        self._stopping.set()
        self._wake.set()
        self._client.interrupt()
        if self._thread is not None:
            self._thread.join(deadline)
            if self._thread.is_alive():
                return False
        self.device.checkpoint(now=True)
        self._client.close()
        self._held.close()
        return True

    def call(self, work: Callable[[], T]) -> T:
        """Have something done in the thread and return what it returns; from any other thread.

        Raises what it raises, and AgentUnreachable where that takes too long.
        """
        if self._thread is None:
            return work()
        answer: concurrent.futures.Future[T] = concurrent.futures.Future()

        def run() -> None:
            if answer.set_running_or_notify_cancel():
                try:
                    answer.set_result(work())
                except CollectorError as error:
                    answer.set_exception(error)

        self._asked.put(run)
        self._wake.set()
        try:
            return answer.result(CALL_WITHIN)
        except concurrent.futures.TimeoutError:
            answer.cancel()
            raise AgentUnreachable(
                f"the key service did not answer within {CALL_WITHIN:g} s", remedy="Try again."
            ) from None

    def step(self) -> float:
        """Do what is due; return the seconds until the next look."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._asked.get_nowait()()
        if self._clock.monotonic() >= self._retry_at:
            pause = self._attempt()
            self._retry_at = self._clock.monotonic() + pause if pause else 0.0
        with self._tried:
            self._attempts += 1
            self._tried.notify_all()
        self._tell()
        self.device.checkpoint()
        policy = self.device.policy
        longest = LOOK_EVERY if policy is None else min(LOOK_EVERY, policy.heartbeat_s / 2)
        if not self._retry_at:
            return longest
        return min(longest, max(LEAST, self._retry_at - self._clock.monotonic()))

    # What follows happens in the thread.

    def _hurry(self) -> None:
        self._retry_at = 0.0

    def _attempt(self) -> float:
        """Do what is due with the key service; return the pause after a failure, else 0."""
        try:
            with self._breaker.guard():
                self._work()
        except BreakerOpen as error:
            return error.retry_in
        except CollectorError as error:
            return self._failed(error)
        except Exception as error:
            # A fault of ours: the plan and the token that are there go on to hold.
            log.exception("a look at the key service failed")
            self._metrics.panics_recovered_total.labels(component="identity").inc()
            return self._failed(CollectorError(f"a fault of the agent: {type(error).__name__}"))
        self._failures = 0
        self.device.trouble = None
        self._compare_keys()
        return 0.0

    def _failed(self, error: CollectorError) -> float:
        """Note a failure; return the pause, which is not longer than the heartbeat's interval."""
        self._failures += 1
        asked = error.retry_after if isinstance(error, Deferred) else None
        if isinstance(error, Held | Untrusted):
            pause = self._backoff.held(asked)
        else:
            pause = self._backoff.pause(self._failures, asked)
        if isinstance(error, Held):
            self._judge(error)
        if isinstance(error, Untrusted):
            audit.error("refused: %s", error)
        before, self.device.trouble = self.device.trouble, error
        if str(before) != str(error):
            log.warning("the key service: %s", error, extra={"remedy": error.remedy})
        policy = self.device.policy
        return pause if policy is None else min(pause, policy.heartbeat_s)

    def _judge(self, error: Held) -> None:
        """Stop the device where the platform says so."""
        stop = stop_for(error)
        if stop is not None:
            self.device.halt(stop, ended=stop is ENDED)

    def _compare_keys(self) -> None:
        """Refuse a key in the configuration that is not the one of the activation."""
        kept, key = self.device.kept, self._api_key
        if kept is None or key is None:
            return
        if not hmac.compare_digest(fingerprint(key.reveal()), kept.key_sha256):
            if not self._mismatch:
                self._mismatch = True
                log.error("%s", _MISMATCH, extra={"remedy": _MISMATCH_REMEDY})
                audit.error(_MISMATCH)
            self.device.trouble = CollectorError(_MISMATCH, remedy=_MISMATCH_REMEDY)

    def _work(self) -> None:
        if self.device.kept is None and self._api_key is not None and not self._deactivated:
            self._activate(self._api_key)
        kept = self.device.kept
        if kept is None or not kept.refresh_token:  # its tokens have ended: that is its owner's
            return
        if not self.device.access_token or self._clock.monotonic() >= self._renew_at:
            self._renew()
        if self._policy_wanted.is_set() or self._clock.monotonic() >= self._heartbeat_at:
            self._wanted(self._policy_wanted, self._heartbeat)
        obeys = self.inbox.perform is not None and self._clock.monotonic() >= self._obey_at
        if obeys and self._commands_wanted.is_set():
            self._wanted(self._commands_wanted, self._obey)

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
            self._renew()
            work()

    def _activate(self, api_key: Secret) -> None:
        try:
            found = self._client.activate(
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
        self._policy_wanted.set()  # its answer has the ETag
        told = {"device_id": self.device.id, "plan": policy.plan}
        log.info("device activated: plan %s", policy.plan, extra=told)
        audit.warning("device %s activated, plan %s", self.device.id, policy.plan)

    def _renew(self) -> None:
        kept = self.device.kept
        if kept is None:
            return
        found = self._client.refresh(kept.device_id, kept.refresh_token)
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
        fetched = self._client.policy(self.device.access_token)
        try:
            policy = self.device.believed(fetched.token, kept.keys, kept.policy_version)
        except UnknownKey:
            keys = self._rotated(kept.keys)
            policy = self.device.believed(fetched.token, keys, kept.policy_version)
        if fetched.commands_pending:
            self._commands_wanted.set()
        now = self._clock.monotonic()
        if self._refused.is_set() and now - self._tried_again_at >= AGAIN_EVERY:
            self._refused.clear()
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
            for token in self._client.signed_keys():
                with contextlib.suppress(UnknownKey):
                    keys = verified(token, pinned, Kind.KEYS, KeySet).check()
                    if keys.version > pinned.version:
                        self.device.keep(keys=keys)
                        audit.warning("the platform's keys are those of version %d", keys.version)
                        return keys
        raise Untrusted(
            "signed by a key that no pinned key vouches for",
            remedy="Is platform.url right? If the platform was set up anew: pgc deactivate, then "
            "activate the device again.",
        )

    def _obey(self) -> None:
        """Do what the platform asks; one that is not believed comes again at the next heartbeat."""
        if not self.inbox.empty(self._client):
            self._obey_at = self._heartbeat_at

    def adjust(self, *, failures: int, reset: float) -> None:
        """Take other limits of the breaker from now on. From any thread."""
        self._breaker.adjust(failures=failures, reset=reset)

    def exchange(self, client: Client, *, renew_within: float) -> None:
        """Go to the key service another way from now on. From any thread."""
        self._renew_within = renew_within

        def follow() -> None:
            client.on_call = self._client.on_call
            self._client.close()
            self._client = client
            self._hurry()

        self._asked.put(follow)
        self._wake.set()

    def deactivate(self, *, tell: bool = True) -> None:
        """Forget the activation; the platform is told first, so that the place is free.

        A platform that has shut the device out need not be told. Raises AgentUnreachable where it
        cannot be told otherwise, and StateError; with `tell` false it is not told.
        """
        kept = self.device.kept
        if tell and kept is not None and kept.refresh_token:
            try:
                self._take_leave()
            except DeliveryError as error:
                if not isinstance(error, Held) or stop_for(error) is None:
                    raise AgentUnreachable(
                        f"the platform cannot be told: {error}",
                        remedy="Try again, or forget it here alone: pgc deactivate --local-only.",
                    ) from error
        self.device.forget()
        self._deactivated = True
        audit.warning("device %s deactivated", self.device.id)
        self._tell()

    def _take_leave(self) -> None:
        if not self.device.access_token:
            self._renew()
        self._authorized(lambda: self._client.deactivate(self.device.access_token))

    def _tell(self) -> None:
        """Say what has changed, and have the jobs laid out anew."""
        now, before = self.standing(), self._shown
        self._shown = now
        if now.state is before.state and (
            now.state is not DeviceState.STOPPED or now.reason == before.reason
        ):
            return
        told = {"remedy": now.remedy} if now.remedy else {}
        if now.state is DeviceState.GRACE:
            log.warning(
                "entering grace mode: %s; it lasts %.0f s more", now.reason, now.grace_left or 0.0,
                extra=told,
            )  # fmt: skip
        elif now.state is DeviceState.STOPPED:
            log.error("the device is STOPPED: %s", now.reason, extra=told)
        elif now.state is DeviceState.ACTIVE and before.state is not DeviceState.UNPROVISIONED:
            log.info("the device is ACTIVE again")
        self._metrics.set_device_state(now.state)
        self.on_change()
        if before.state is DeviceState.STOPPED:
            self.on_token()  # it is given out again
