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

from pg_collector.activation import elapsed
from pg_collector.activation.client import Client
from pg_collector.activation.device import Device, Told
from pg_collector.activation.elapsed import Moments
from pg_collector.activation.key_service import KeyService
from pg_collector.activation.signed import Untrusted
from pg_collector.activation.state import DeviceStore, fingerprint
from pg_collector.activation.stops import ENDED, shut_out, stop_for
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

LOOK_EVERY: Final = 15.0  # seconds between two looks at the clock
LEAST: Final = 0.05  # seconds between two looks
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
        self.beat: Callable[[float], None] = lambda _within: None
        self.key_service = KeyService(
            client,
            self.device,
            clock,
            metrics,
            hostname=hostname,
            moments=moments,
            uniform=uniform,
        )
        self._store = store
        self._api_key = api_key
        self._breaker = breaker
        self._clock = clock
        self._metrics = metrics
        self._renew_within = renew_within
        self._backoff = Backoff(uniform=uniform)
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._asked: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._held = contextlib.ExitStack()
        self._tried = threading.Condition()  # guards the next one
        self._attempts = 0
        # What follows is used in the thread, or before it starts.
        self._failures = 0
        self._retry_at = 0.0  # on the monotonic clock
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

    @property
    def asked(self) -> bool:
        """Whether the key service has been asked, with or without an answer."""
        return self._attempts > 0

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
        if self._thread is None:  # then they ask for it themselves
            self.key_service.client.interrupt()
        with self._tried:
            self._tried.notify_all()

    def acknowledged(self, receipt: Receipt) -> None:
        """Hear that the platform took something: that is a contact, and may bring news."""
        service = self.key_service
        if self.device.contact(receipt):
            service.policy_wanted.set()
        if receipt.commands_pending:
            service.commands_wanted.set()
        wanted = service.policy_wanted.is_set() or service.commands_wanted.is_set()
        if wanted or self._shown.state is not DeviceState.ACTIVE:
            self._wake.set()

    def held(self, error: Held) -> None:
        """Hear that the platform takes nothing from this device: whether it may go on is asked.

        A token that was refused twice is tried again once the policy has come, but not too often.
        """
        refused = error.status == HTTPStatus.UNAUTHORIZED
        if refused:
            self.key_service.refused.set()
        if refused or stop_for(error) is not None:
            self.key_service.policy_wanted.set()
            self._wake.set()

    # The life of the thread.

    def open(self) -> None:
        """Take the device of this directory. Raises StateError where it cannot be had."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._store.held())
            self.device.load()
            self._held = stack.pop_all()
        self.key_service.policy_wanted.set()
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
        self.key_service.client.on_call = lambda seconds: self.beat(seconds + SPARE)
        while not self._stopping.is_set():
            pause = self.step()
            self.beat(pause + SPARE)
            self._wake.wait(pause)
            self._wake.clear()

    def stop(self, deadline: float) -> bool:
        """End the thread; return whether it did within the seconds."""
        self._stopping.set()
        self._wake.set()
        self.key_service.client.interrupt()
        if self._thread is not None:
            self._thread.join(deadline)
            if self._thread.is_alive():
                return False
        self.device.checkpoint(now=True)
        self.key_service.client.close()
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
                f"the platform did not answer within {CALL_WITHIN:g} s; what was asked for may be "
                "done all the same",
                remedy="Look with pgc device, and try again. To forget the activation here alone: "
                "stop the agent, then pgc deactivate --local-only.",
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
                self.key_service.work(None if self._deactivated else self._api_key)
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
            if stop is ENDED:
                self._metrics.token_expiry_timestamp_seconds.set(0)

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

    def adjust(self, *, failures: int, reset: float) -> None:
        """Take other limits of the breaker from now on. From any thread."""
        self._breaker.adjust(failures=failures, reset=reset)

    def exchange(self, client: Client, *, renew_within: float) -> None:
        """Go to the key service another way from now on. From any thread."""
        self._renew_within = renew_within

        def follow() -> None:
            self.key_service.exchange(client)
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
                self.key_service.take_leave()
            except DeliveryError as error:
                if not shut_out(error):
                    raise AgentUnreachable(
                        f"the platform cannot be told: {error}",
                        remedy="Try again, or forget it here alone: pgc deactivate --local-only.",
                    ) from error
        self.device.forget()
        self._deactivated = True
        self._metrics.token_expiry_timestamp_seconds.set(0)
        audit.warning("device %s deactivated", self.device.id)
        self._tell()

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
        self.key_service.on_change()
        if before.state is DeviceState.STOPPED:
            self.key_service.on_token()  # it is given out again
