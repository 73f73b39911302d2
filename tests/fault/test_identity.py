"""A device and the platform: activated once, renewed in time, stopped, in grace, and back.

The numbers are those of docs/reliability.md.
"""

import logging
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pg_collector.activation import elapsed
from pg_collector.activation.client import Client
from pg_collector.activation.identity import Identity
from pg_collector.activation.state import DeviceStore
from pg_collector.breaker import Breaker
from pg_collector.clock import SystemClock
from pg_collector.config.model import Platform, PlatformTimeout
from pg_collector.errors import (
    AgentUnreachable,
    CollectorError,
    Deferred,
    DeliveryError,
    Held,
    OrderRefused,
    Unreachable,
)
from pg_collector.metrics import Metrics
from pg_collector.outlets import Receipt
from pg_collector.outlets.platform import PlatformOutlet
from pg_collector.plan import DeviceState
from pg_collector.sample import Batch
from pg_collector.secret import Secret
from pg_collector.web import Web
from tests.support.far_side import FarSide
from tests.support.hand_clock import HandClock
from tests.support.reference_platform import COMPRESSED, ReferencePlatform
from tests.support.signing import Signer, key_set, policy
from tests.support.until import until
from tests.support.volumes import memory_volume

QUICK = PlatformTimeout(connect=1.0, total=3.0)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReferencePlatform]:
    with ReferencePlatform(tmp_path_factory.mktemp("identity"), plans=COMPRESSED) as platform:
        yield platform


@pytest.fixture
def platform(shared: ReferencePlatform) -> ReferencePlatform:
    """One platform for all, that a test may kill."""
    assert shared.process is not None
    if shared.process.poll() is not None:
        shared.start()
    return shared


class Bench:
    """A device that is stepped by hand; its clock can be moved ahead."""

    def __init__(self, platform: ReferencePlatform, home: Path, key: str | None) -> None:
        self.platform = platform
        self.store = DeviceStore(home / "state")
        self.key = key
        self.ahead = 0.0
        self.changes = 0
        self.performed: list[tuple[str, Any]] = []
        self.identity = self.fresh()

    def fresh(self) -> Identity:
        """Be the device after a start."""
        clock = HandClock()
        self.clock = clock
        metrics = Metrics(clock)
        web = Web(Platform(url=self.platform.url, timeout=QUICK), SystemClock(), {})
        identity = Identity(
            Client(web, clock),
            self.store,
            api_key=None if self.key is None else Secret(self.key),
            hostname="host",
            breaker=Breaker(
                "identity", failures=3, reset=60.0, counts=(Unreachable,), metrics=metrics,
                clock=clock,
            ),
            clock=clock,
            metrics=metrics,
            renew_within=5.0,
            moments=self.moment,
            uniform=lambda _low, high: high,
        )  # fmt: skip
        identity.key_service.inbox.perform = self.perform

        def changed() -> None:
            self.changes += 1

        identity.key_service.on_change = changed
        identity.open()
        return identity

    def moment(self) -> elapsed.Moment:
        return elapsed.Moment("a boot", 1000.0 + self.ahead, elapsed.now().wall)

    def perform(self, command: str, arguments: Any) -> str:
        if command == "pause":
            raise OrderRefused("not that one")
        self.performed.append((command, dict(arguments)))
        return "done so"

    def advance(self, seconds: float) -> None:
        """Let time pass, for the device alone."""
        self.ahead += seconds
        self.clock.advance(seconds)

    def step(self, seconds: float = 0.0) -> DeviceState:
        """Let time pass, look at what is due; return the state."""
        self.advance(seconds)
        self.identity.step()
        return self.identity.standing().state

    def restart(self) -> None:
        self.identity.stop(1.0)
        self.identity = self.fresh()

    @property
    def why(self) -> str:
        return str(self.identity.trouble or self.identity.standing().reason)


@pytest.fixture
def bench(platform: ReferencePlatform, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(platform, tmp_path, platform.new_key("fast"))
    yield bench
    bench.identity.stop(1.0)


def test_the_first_run_activates_and_the_second_does_not_send_the_key(bench, platform, caplog):
    caplog.set_level(logging.INFO)
    before = platform.metric("activations_total")
    assert bench.identity.standing().state is DeviceState.UNPROVISIONED
    assert bench.step() is DeviceState.ACTIVE
    assert "device activated: plan fast" in caplog.text
    assert bench.changes
    grant = bench.identity.grant()
    assert (grant.plan, grant.max_databases) == ("fast", 2)
    assert bench.identity.token()
    assert platform.metric("activations_total") == before + 1
    device = bench.identity.device.id
    bench.restart()
    assert bench.step() is DeviceState.ACTIVE
    assert bench.identity.device.id == device
    bench.key = None  # it may be taken out of the configuration
    bench.restart()
    assert bench.step() is DeviceState.ACTIVE
    assert platform.metric("activations_total") == before + 1


def test_a_key_nobody_knows_is_told_and_tried_slowly(platform, tmp_path):
    key = "pgc_fast_" + "x" * 32
    bench = Bench(platform, tmp_path, key)
    assert bench.step() is DeviceState.UNPROVISIONED
    assert "401" in bench.why
    assert key not in bench.why
    before = bench.platform.metric("requests_total")
    bench.step(10)
    assert bench.platform.metric("requests_total") - before <= 1  # that of the metrics
    bench.identity.stop(1.0)


def test_another_key_than_the_one_of_the_activation_is_refused_here(bench, platform, caplog):
    bench.step()
    before = platform.metric("activations_total")
    bench.key = platform.new_key("other")
    bench.restart()
    assert "API key mismatch" in caplog.text
    assert bench.step() is DeviceState.ACTIVE, "the activation holds"
    assert "API key mismatch" in bench.why
    assert platform.metric("activations_total") == before


def test_tokens_are_renewed_ahead_of_their_end_and_after_a_refusal(bench):
    bench.step()
    first = bench.identity.token()
    bench.step(3600 * 0.69)
    assert bench.identity.token() == first
    bench.step(3600 * 0.02)
    second = bench.identity.token()
    assert second != first
    bench.identity.unauthorized(first)
    assert bench.identity.token() == second, "the refused one is old news"
    bench.identity.unauthorized(second)
    assert bench.identity.token() not in {first, second}


def test_a_sender_waits_for_one_renewal_with_others(bench, platform):
    bench.step()
    token = bench.identity.token()
    before = platform.metric("requests_total", route="POST /v1/devices/refresh")
    bench.identity.start(lambda work: work())
    threads = [
        threading.Thread(target=bench.identity.unauthorized, args=(token,)) for _ in range(8)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join(10)
    assert bench.identity.token() != token
    assert platform.metric("requests_total", route="POST /v1/devices/refresh") == before + 1


def test_a_lost_reply_to_a_renewal_strands_nobody(bench):
    bench.step()
    kept = bench.identity.device.kept
    # The platform has rotated, and the device never heard of it.
    bench.identity.key_service.client.refresh(kept.device_id, kept.refresh_token)
    bench.identity.key_service.client.refresh(kept.device_id, kept.refresh_token)
    bench.identity.unauthorized(bench.identity.token())
    assert bench.identity.token()
    assert bench.step(1.0) is DeviceState.ACTIVE


def test_a_stolen_refresh_token_ends_its_family_and_its_owner_goes_on(bench, caplog):
    bench.step()
    stolen = bench.identity.device.kept
    for _ in range(2):
        bench.identity.unauthorized(bench.identity.token())
    with pytest.raises(Held, match="401"):
        bench.identity.key_service.client.refresh(stolen.device_id, stolen.refresh_token)
    bench.identity.unauthorized(bench.identity.token())
    with pytest.raises(Held, match="STOPPED"):
        bench.identity.token()
    assert bench.identity.standing().state is DeviceState.STOPPED
    assert "pgc deactivate" in bench.identity.standing().remedy
    bench.restart()
    assert bench.step(1000) is DeviceState.STOPPED
    bench.identity.deactivate()
    bench.restart()
    assert bench.step() is DeviceState.ACTIVE
    assert stolen.refresh_token not in caplog.text


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("keys", "revoke"), "key revoked"),
        (("keys", "cancel"), "subscription cancelled"),
        (("devices", "revoke"), "device revoked"),
    ],
)
def test_who_is_withdrawn_stops_and_says_why(bench, platform, words, reason):
    bench.step()
    named = bench.identity.device.id if words[0] == "devices" else bench.key
    platform.pgc(*words, named)
    assert bench.step(1.0) is DeviceState.STOPPED
    assert reason in bench.identity.standing().reason
    assert bench.identity.standing().remedy
    assert bench.identity.grant() is None
    bench.restart()
    assert bench.identity.standing().state is DeviceState.STOPPED


def test_an_upgrade_and_a_downgrade_are_in_force_at_the_next_heartbeat(bench, platform):
    bench.step()
    for plan, databases in (("other", 5), ("fast", 2)):
        platform.change_plan(bench.key, plan)
        before = bench.changes
        assert bench.step(0.6) is DeviceState.ACTIVE
        assert bench.identity.grant().max_databases == databases
        assert bench.changes == before + 1


def test_an_acknowledgement_brings_a_question_only_where_the_policy_moved(bench, platform):
    bench.step()
    etag = bench.identity.device.kept.etag.strip('"')
    before = platform.metric("requests_total", route="GET /v1/devices/policy")
    bench.identity.acknowledged(Receipt(1, policy_etag=etag))
    bench.step()
    assert platform.metric("requests_total", route="GET /v1/devices/policy") == before
    bench.identity.acknowledged(Receipt(2, policy_etag="another"))
    bench.step()
    assert platform.metric("requests_total", route="GET /v1/devices/policy") == before + 1


def test_grace_begins_ends_and_expires_over_restarts(bench, platform, caplog):
    """Fault 33: the plan fast has heartbeats of 0.5 s, and 3 s of grace."""
    bench.step()
    platform.kill()
    assert bench.step(1.0) is DeviceState.ACTIVE
    assert bench.step(0.6) is DeviceState.GRACE
    assert "entering grace mode" in caplog.text
    assert bench.identity.grant() is not None
    bench.restart()
    assert bench.identity.standing().state is DeviceState.GRACE
    assert bench.step(2.0) is DeviceState.GRACE
    bench.restart()
    assert bench.step(1.0) is DeviceState.STOPPED
    assert "grace period expired" in caplog.text
    assert bench.identity.grant() is None
    with pytest.raises(Held):
        bench.identity.token()
    platform.start()
    until(lambda: bench.step(0.5) is DeviceState.ACTIVE, what="it is resumed")
    assert bench.identity.token()


def test_the_key_service_away_is_left_alone_by_its_breaker(bench, platform):
    """Fault 48: what has a token goes on delivering with it."""
    bench.step()
    token = bench.identity.token()
    platform.kill()
    bench.identity.device.contact(Receipt(1, policy_etag="another"))
    for _ in range(5):
        bench.identity.held(Held("no", problem="key-revoked"))  # it wants to ask
        bench.step(0.5)
    assert bench.identity._breaker.state == "open"
    assert bench.identity.token() == token


def test_without_a_token_there_is_an_error_that_says_why(bench, platform):
    bench.step()
    platform.kill()
    bench.identity.unauthorized(bench.identity.token())
    with pytest.raises(Deferred, match=r"no access token \(.*refused"):
        bench.identity.token()


def test_new_signing_keys_are_believed_where_an_old_one_vouches_for_them(bench, platform):
    bench.step()
    pinned = bench.identity.device.kept.keys
    platform.pgc("keys", "rotate-signing")
    platform.restart()
    assert bench.step(1.0) is DeviceState.ACTIVE
    assert bench.identity.trouble is None
    assert bench.identity.device.kept.keys.version > pinned.version
    bench.restart()
    assert bench.step() is DeviceState.ACTIVE


def test_a_platform_set_up_anew_is_not_believed(bench, caplog):
    bench.step()
    before = bench.identity.grant()
    stranger = Signer()
    client = bench.identity.key_service.client
    genuine = client.policy

    def forged(token: str) -> Any:
        payload = policy(bench.identity.device.id, 99, plan="enterprise", max_databases=None)
        return genuine(token)._replace(token=stranger.sign(payload))

    client.policy = forged
    bench.step(1.0)
    assert "no pinned key vouches" in bench.why
    assert "pgc deactivate --local-only" in bench.identity.trouble.remedy  # tell no stranger
    assert bench.identity.grant() == before
    assert [one for one in caplog.records if one.name == "pg_collector.audit"]


def test_a_key_set_that_no_pinned_key_signed_changes_nothing(bench, caplog):
    bench.step()
    pinned = bench.identity.device.kept.keys
    stranger = Signer()
    forged = msgspec.to_builtins(key_set(stranger, version=pinned.version + 5))
    genuine = bench.identity.key_service.client.policy
    payload = policy(bench.identity.device.id, 99, plan="enterprise", max_databases=None)
    sets = [
        (stranger.sign(forged, "jwks+jwt"),),
        (stranger.sign(forged, "jwks+jwt", kid=pinned.keys[0].kid),),
        (stranger.sign(forged, "policy+jwt"), "no.signature.atall"),
        (),
    ]
    bench.identity.key_service.client.policy = lambda token: genuine(token)._replace(
        token=stranger.sign(payload)
    )
    for signed in sets:
        bench.identity.key_service.client.signed_keys = lambda signed=signed: signed
        bench.step(61)
        assert bench.identity.device.kept.keys == pinned
        assert bench.identity.trouble is not None
    assert bench.identity.device.policy.plan == "fast"
    assert "refused" in caplog.text


def test_an_outcome_that_was_not_reported_is_reported_later(bench, platform):
    bench.step()
    platform.command(bench.identity.device.id, "flush")
    report = bench.identity.key_service.client.report

    def lost(*_: Any) -> None:
        raise Unreachable("no answer")

    bench.identity.key_service.client.report = lost
    bench.step(0.6)
    assert bench.performed == [("flush", {})]
    said = []

    def heard(*told: Any) -> None:
        said.append(told[2:4])
        report(*told)

    bench.identity.key_service.client.report = heard
    for _ in range(4):
        bench.step(1.0)
    assert bench.performed == [("flush", {})]
    assert said == [("done", "done so")]


def test_commands_are_done_once_and_answered(bench, platform):
    bench.step()
    device = bench.identity.device.id
    for name, arguments in (("flush", {}), ("pause", {"sampler": "wal"}), ("rotate_token", {})):
        platform.command(device, name, arguments)
    token = bench.identity.token()
    bench.step(0.6)
    bench.step(0.6)
    assert bench.performed == [("flush", {})]
    assert bench.identity.token() != token
    assert len(bench.identity.device.kept.commands_done) == 3


def test_deactivating_frees_the_place_and_keeps_the_id(bench, platform):
    bench.step()
    device = bench.identity.device.id
    bench.identity.deactivate()
    assert bench.step(100) is DeviceState.UNPROVISIONED, "not activated again by itself"
    bench.restart()
    assert bench.step() is DeviceState.ACTIVE
    assert bench.identity.device.id == device
    platform.kill()
    with pytest.raises(AgentUnreachable, match="cannot be told") as caught:
        bench.identity.deactivate()
    assert "--local-only" in caught.value.remedy
    assert bench.identity.standing().state is DeviceState.ACTIVE
    bench.identity.deactivate(tell=False)
    assert bench.identity.standing().state is DeviceState.UNPROVISIONED


def test_who_was_shut_out_can_be_deactivated_and_activated_anew(bench, platform):
    """That is what the remedy of a revoked key says."""
    bench.step()
    platform.pgc("keys", "revoke", bench.key)
    assert bench.step(1.0) is DeviceState.STOPPED
    bench.identity.deactivate()
    assert bench.identity.standing().state is DeviceState.UNPROVISIONED
    bench.key = platform.new_key("other")
    bench.restart()
    assert bench.step() is DeviceState.ACTIVE
    assert bench.identity.grant().plan == "other"


def test_a_revoked_device_that_is_restored_goes_on_by_itself(bench, platform):
    bench.step()
    platform.pgc("devices", "revoke", bench.identity.device.id)
    assert bench.step(1.0) is DeviceState.STOPPED
    assert "restored" in bench.identity.standing().remedy
    platform.pgc("devices", "restore", bench.identity.device.id)
    assert bench.step(1.0) is DeviceState.ACTIVE


def test_a_place_is_not_given_up_unheard_while_the_subscription_rests(bench, platform):
    bench.step()
    platform.pgc("keys", "cancel", bench.key)
    assert bench.step(1.0) is DeviceState.STOPPED
    with pytest.raises(AgentUnreachable, match="cannot be told"):
        bench.identity.deactivate()
    assert bench.identity.device.kept is not None


def test_commands_stay_where_they_are_until_somebody_can_carry_them_out(bench, platform):
    bench.step()
    before = platform.metric("requests_total", route="GET /v1/commands")
    platform.command(bench.identity.device.id, "flush")
    bench.identity.key_service.inbox.perform = None
    bench.step(0.6)
    bench.step(0.6)
    assert platform.metric("requests_total", route="GET /v1/commands") == before
    bench.identity.key_service.inbox.perform = bench.perform
    bench.step(0.6)
    assert bench.performed == [("flush", {})]


def test_very_many_commands_come_in_parts(bench, platform):
    bench.step()
    device = bench.identity.device.id
    with platform._identity() as identity:
        for _ in range(180):
            identity.command(device, "set_interval", {"sampler": "é" * 170, "seconds": 60}, 3600.0)
        with pytest.raises(CollectorError, match="longer than 400 bytes"):
            identity.command(device, "pause", {"sampler": "é" * 200}, 3600.0)
    for _ in range(5):
        bench.step(0.6)
    assert len(bench.performed) == 180
    assert bench.identity.trouble is None


def test_a_report_that_is_refused_keeps_no_other_command_back(bench, platform, caplog):
    bench.step()
    device = bench.identity.device.id
    first = platform.command(device, "flush")
    platform.command(device, "resync")
    genuine = bench.identity.key_service.client.report

    def report(token: str, command: str, *told: Any) -> None:
        if command == first:
            refused.append(told[:2])
            raise Held("404 not found", problem="not-found", status=404)
        genuine(token, command, *told)

    refused: list[tuple[Any, ...]] = []
    bench.identity.key_service.client.report = report
    bench.step(0.6)
    assert bench.performed == [("flush", {}), ("resync", {})]
    assert bench.identity.trouble is None
    assert "does not take what came of flush" in caplog.text
    for _ in range(5):
        bench.identity.acknowledged(Receipt(1, commands_pending=True))
        bench.step()
    assert len(refused) == 1, "not before the next heartbeat"
    bench.step(0.6)
    bench.step()
    assert refused == [("done", "done so")] * 2
    assert len(bench.performed) == 2


def test_who_is_shut_out_amid_commands_carries_out_no_more(bench, platform):
    bench.step()
    for _ in range(3):
        platform.command(bench.identity.device.id, "flush")
    genuine = bench.identity.key_service.client.report

    def report(*told: Any) -> None:
        platform.pgc("keys", "revoke", bench.key)
        genuine(*told)

    bench.identity.key_service.client.report = report
    bench.step(0.6)
    bench.step(0.6)
    assert len(bench.performed) == 1
    assert bench.identity.standing().state is DeviceState.STOPPED


def test_a_command_is_not_carried_out_after_its_time(bench, platform):
    bench.step()
    signed = [platform.command(bench.identity.device.id, "flush") for _ in range(2)]
    assert len(set(signed)) == 2

    def late(*asked: Any) -> str:
        bench.advance(3601)
        bench.performed.append(asked)
        return "done so"

    bench.identity.key_service.inbox.perform = late
    said = []
    genuine = bench.identity.key_service.client.report

    def report(*told: Any) -> None:
        said.append(told[2:4])
        genuine(*told)

    bench.identity.key_service.client.report = report
    bench.step(0.6)
    assert len(bench.performed) == 1
    assert said[1:] == [("refused", "it has expired")]


def test_a_command_of_a_new_key_is_believed_where_an_old_one_vouches(bench, platform):
    bench.step()
    bench.identity.key_service._heartbeat_at = bench.clock.monotonic() + 1e6
    bench.identity.key_service.policy_wanted.clear()
    platform.pgc("keys", "rotate-signing")
    platform.restart()
    platform.command(bench.identity.device.id, "flush")
    bench.identity.acknowledged(Receipt(1, commands_pending=True))
    bench.step()
    assert bench.performed == [("flush", {})]


def test_a_command_that_is_not_believed_is_asked_for_at_the_heartbeats_pace(bench):
    bench.step()
    bench.step()
    asked: list[str] = []

    def commands(token: str) -> tuple[str, ...]:
        asked.append(token)
        return ("no.signature.atall",)

    bench.identity.key_service.client.commands = commands
    for _ in range(20):
        bench.identity.acknowledged(Receipt(1, commands_pending=True))
        bench.step(0.01)
    assert len(asked) == 1
    assert not bench.performed
    bench.step(0.6)
    bench.step()
    assert len(asked) == 2


def test_who_waits_for_a_token_is_let_go_when_it_is_called_away(bench, platform):
    bench.step()
    metrics = Metrics(bench.clock)
    with FarSide() as far:
        far.rules.tokens = frozenset()
        outlet = PlatformOutlet(
            Platform(url=far.url, timeout=QUICK),
            SystemClock(),
            metrics,
            token=bench.identity.token,
            unauthorized=bench.identity.unauthorized,
            abandon=bench.identity.abandon,
        )
        assert platform.process is not None
        platform.process.send_signal(signal.SIGSTOP)
        try:
            bench.identity.start(lambda work: work())
            ended: list[DeliveryError] = []

            def deliver() -> None:
                try:
                    outlet.deliver(Batch(1, 1, (b"{}",), stream="a-stream", life="1/x"))
                except DeliveryError as error:
                    ended.append(error)

            sender = threading.Thread(target=deliver)
            sender.start()
            until(lambda: not bench.identity.device.access_token, what="it waits for another")
            assert sender.is_alive()
            began = time.monotonic()
            outlet.interrupt()
            sender.join(10)
            assert time.monotonic() - began < 1.0
            assert isinstance(ended[0], Deferred)
        finally:
            platform.process.send_signal(signal.SIGCONT)
            outlet.close()


@pytest.mark.root
def test_a_full_disk_keeps_nobody_stopped_and_no_policy_back(platform, caplog):
    with memory_volume(1 << 20) as volume:
        key = platform.new_key("other")
        bench = Bench(platform, volume.path, key)
        bench.step()
        platform.pgc("keys", "cancel", key)
        assert bench.step(1.0) is DeviceState.STOPPED
        volume.fill()
        platform.pgc("keys", "renew", key)
        assert bench.step(1.0) is DeviceState.ACTIVE
        platform.change_plan(key, "fast")
        platform.pgc("keys", "rotate-signing")
        platform.restart()
        changes = bench.changes
        bench.step(1.0)
        grant = bench.identity.grant()
        assert grant is not None
        assert grant.plan == "fast"
        assert bench.changes == changes + 1
        assert "what the platform said is not on disk yet" in caplog.text
        volume.free()
        bench.restart()
        assert bench.identity.standing().state is DeviceState.ACTIVE
        assert bench.identity.grant() == grant
        bench.identity.stop(1.0)


def test_no_secret_is_in_the_log(bench, platform, caplog):
    caplog.set_level(logging.DEBUG)
    bench.step()
    kept = bench.identity.device.kept
    secrets = [bench.key, bench.identity.token(), kept.refresh_token]
    bench.step(3600)
    platform.pgc("keys", "revoke", bench.key)
    bench.step(3600)
    platform.kill()
    bench.step(3600)
    secrets += [bench.identity.device.access_token, bench.identity.device.kept.refresh_token]
    text = caplog.text + repr(bench.identity.told()) + bench.platform.log.read_text()
    assert not [one for one in secrets if one and one in text]


@pytest.mark.root
def test_a_full_disk_does_not_strand_a_device(platform, caplog):
    with memory_volume(1 << 20) as volume:
        bench = Bench(platform, volume.path, platform.new_key("other"))
        assert bench.step() is DeviceState.ACTIVE
        token = bench.identity.token()
        volume.fill()
        for _ in range(3):
            bench.identity.unauthorized(bench.identity.device.access_token)
            bench.step(1.0)
        assert bench.identity.token() != token, "it can do without having stored the other one"
        assert "No space left on device" in caplog.text
        volume.free()
        bench.restart()
        assert bench.step() is DeviceState.ACTIVE
        assert bench.identity.trouble is None
        bench.identity.stop(1.0)
