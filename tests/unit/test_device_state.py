"""The files of a device: who it is, for life, and what is not believed of them."""

import os
import stat
import uuid

import msgspec
import pytest

from pg_collector.activation import provision
from pg_collector.activation.device import Device
from pg_collector.activation.elapsed import Moment
from pg_collector.activation.signed import Untrusted
from pg_collector.activation.standing import Stop
from pg_collector.activation.state import Damaged, DeviceStore, Kept, fingerprint
from pg_collector.errors import Deferred, Held, StateError
from pg_collector.metrics import PREFIX, Metrics
from pg_collector.outlets import Receipt
from pg_collector.plan import DeviceState
from tests.support.hand_clock import HandClock
from tests.support.rights import as_account
from tests.support.scratch import new_directory
from tests.support.signing import Signer, key_set, policy

KEY = "pgc_pro_0123456789abcdef0123456789abcdef"
SECRET = "a-refresh-token-nobody-may-see"  # noqa: S105
PLATFORM = Signer()


class Bench:
    """A state directory, a device on it, and clocks moved by hand."""

    def __init__(self, path):
        self.store = DeviceStore(path / "state")
        self.clock = HandClock()
        self.boot = "boot-1"
        self.wall = 1e9
        self.device = self.fresh()

    def fresh(self):
        """Be the device after a restart."""
        device = Device(self.store, self.clock, self.moment)
        device.load()
        return device

    def moment(self):
        return Moment(self.boot, self.clock.monotonic(), self.wall)

    def advance(self, seconds):
        self.clock.advance(seconds)

    def activate(self, **changes):
        token = PLATFORM.sign(policy(self.device.id, **changes))
        keys = key_set(PLATFORM)
        kept = Kept(
            device_id=self.device.id,
            key_sha256=fingerprint(KEY),
            refresh_token=SECRET,
            keys=keys,
            policy=token,
            policy_version=1,
            seen=self.moment(),
        )
        self.device.activated(kept, self.device.believed(token, keys, 0))

    def accept(self, version, **changes):
        token = PLATFORM.sign(policy(self.device.id, version, **changes))
        found = self.device.believed(token, self.device.kept.keys, self.device.kept.policy_version)
        return self.device.accept(found, token, f'"{version}"')


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def test_the_id_is_made_once_and_kept_for_life(bench):
    assert str(uuid.UUID(bench.device.id)) == bench.device.id
    assert bench.fresh().id == bench.device.id
    bench.activate()
    bench.device.forget()
    assert bench.fresh().id == bench.device.id
    assert bench.fresh().kept is None


@pytest.mark.parametrize("content", [None, "damaged", "9b2f6a4e-6c1f-4b8e-8d6e-0a7c5d1e2f30\n"])
def test_a_lost_or_altered_id_is_that_of_the_activation_again(bench, content):
    bench.activate()
    before = bench.device.id
    path = bench.store.directory / "device_id"
    path.unlink()
    if content is not None:
        path.write_text(content)
    found = bench.fresh()
    assert found.id == before
    assert found.grant() is not None, "its policy is believed still"
    assert path.read_text().strip() == before


def test_files_and_directory_are_nobody_elses(bench):
    bench.activate()
    with bench.store.held():
        modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in bench.store.directory.iterdir()}
    assert modes == {"device_id": 0o600, "device.json": 0o600, "device.lock": 0o600}
    assert stat.S_IMODE(bench.store.directory.stat().st_mode) == 0o700


@pytest.mark.root
def test_a_directory_of_another_user_is_left_alone_and_one_that_root_lends_is_not():
    directory = new_directory("device") / "state"
    directory.mkdir()
    os.chown(directory, 65534, 65534)
    held = DeviceStore(directory).held()
    with pytest.raises(StateError, match="belongs to user 65534, not to 0") as caught, held:
        pass
    assert "sudo -u '#65534' pgc" in caught.value.remedy
    assert list(directory.iterdir()) == []
    os.chown(directory, 0, 65534)
    directory.chmod(0o770)
    with as_account(), DeviceStore(directory).held():
        pass
    assert (directory / "device.lock").stat().st_uid == 65534


def test_the_api_key_is_kept_as_its_hash_only(bench):
    bench.activate()
    assert KEY.encode() not in b"".join(
        path.read_bytes() for path in bench.store.directory.iterdir()
    )
    assert bench.fresh().kept.key_sha256 == fingerprint(KEY)


def test_a_mode_that_lets_others_read_is_mended(bench, caplog):
    bench.activate()
    bench.store.path.chmod(0o644)
    assert bench.fresh().kept is not None
    assert stat.S_IMODE(bench.store.path.stat().st_mode) == 0o600
    assert "could be read by others" in caplog.text


def test_a_second_process_is_kept_off(bench):
    with bench.store.held(), pytest.raises(StateError, match="another process"):
        DeviceStore(bench.store.directory).held().__enter__()


def test_every_damaged_byte_is_noticed_and_set_aside(bench, caplog):
    bench.activate()
    content = bench.store.path.read_bytes()
    for at in range(0, len(content), 7):
        altered = content[:at] + bytes((content[at] ^ 1,)) + content[at + 1 :]
        bench.store.path.write_bytes(altered)
        with pytest.raises((Damaged, StateError)):
            bench.store.read()
    bench.store.path.write_bytes(content[: len(content) // 2])
    caplog.clear()
    found = bench.fresh()
    assert (found.kept, found.standing().state) == (None, DeviceState.UNPROVISIONED)
    assert not bench.store.path.exists()
    assert (bench.store.directory / "device.json.damaged-1").exists()
    assert "is damaged" in caplog.text
    assert "state was damaged" in "".join(
        one.message for one in caplog.records if one.name == "pg_collector.audit"
    )
    assert SECRET not in caplog.text


def test_a_newer_agents_file_is_left_alone(bench):
    bench.activate()
    content = bench.store.path.read_bytes()
    bench.store.path.write_bytes(content.replace(b'"format":1', b'"format":2', 1))
    with pytest.raises(StateError, match="format 2"):
        bench.fresh()
    assert bench.store.path.exists()


def test_a_policy_on_disk_that_was_altered_is_not_believed(bench, caplog):
    bench.activate()
    forged = Signer().sign(policy(bench.device.id, plan="enterprise", max_databases=None))
    bench.store.save(msgspec.structs.replace(bench.device.kept, policy=forged))
    found = bench.fresh()
    assert found.grant() is None
    assert found.standing().state is DeviceState.UNPROVISIONED
    assert found.kept.refresh_token == SECRET, "the platform can still be asked for another"
    assert "the policy on disk was refused" in caplog.text


def test_a_directory_that_cannot_be_used_is_told_with_its_remedy(bench):
    elsewhere = DeviceStore(bench.store.directory / "device_id" / "no-directory")
    with pytest.raises(StateError, match="Not a directory") as caught:
        elsewhere.device_id(None)
    assert "state_dir" in caught.value.remedy


@pytest.mark.root
def test_whether_there_is_a_device_cannot_be_told_of_a_directory_that_is_shut():
    directory = new_directory("device") / "state"
    directory.mkdir(mode=0o700)
    assert not DeviceStore(directory).activated()
    with pytest.raises(StateError, match="Permission denied") as caught, as_account():
        DeviceStore(directory).activated()
    assert "state_dir" in caught.value.remedy


def test_grace_goes_on_over_restarts_whatever_the_wall_clock_does(bench):
    bench.activate()
    bench.advance(40)
    bench.device.checkpoint(now=True)
    assert bench.device.standing().state is DeviceState.GRACE
    bench.wall -= 86400
    bench.device = bench.fresh()
    assert bench.device.standing().grace_left == pytest.approx(90)
    bench.advance(60)
    bench.wall += 40 * 86400
    assert bench.device.standing().grace_left == pytest.approx(30)
    bench.device.checkpoint(now=True)
    bench.boot, bench.wall = "boot-2", bench.wall - 86400
    bench.device = bench.fresh()
    assert bench.device.standing().grace_left == pytest.approx(30)
    bench.advance(31)
    bench.device.checkpoint(now=True)
    bench.device = bench.fresh()
    assert bench.device.standing()[:2] == (DeviceState.STOPPED, "grace period expired")
    assert bench.device.grant() is None
    with pytest.raises(Held, match="grace period expired"):
        bench.device.token()


def test_the_metrics_tell_the_grace_period_and_what_is_left_of_it(bench):
    metrics = Metrics(bench.clock)
    provision._show(bench.device, bench.clock, metrics)

    def grace():
        names = ("grace_seconds", "grace_seconds_remaining")
        return [metrics.registry.get_sample_value(f"{PREFIX}_{name}") for name in names]

    assert grace() == [0, 0]
    bench.activate()
    bench.advance(30)
    assert bench.device.standing().state is DeviceState.GRACE
    assert grace() == pytest.approx([100, 100]), "grace begins: all of it is left"
    bench.advance(75)
    assert grace() == pytest.approx([100, 25])


def test_what_the_platform_says_is_told_without_credentials(bench):
    bench.device.trouble = Held("403 password=hunter22 is wrong", remedy="See.")
    assert bench.device.told().trouble == "403 password=? is wrong"


def test_what_arrives_is_a_contact_and_a_policy_renews(bench):
    bench.activate()
    bench.advance(40)
    assert not bench.device.contact(Receipt(1))
    assert bench.device.standing().state is DeviceState.ACTIVE
    bench.advance(95)
    assert bench.device.contact(Receipt(2)), "the platform is there: its policy is asked for"
    assert bench.device.standing().state is DeviceState.STOPPED
    assert not bench.accept(1)
    assert bench.device.standing().state is DeviceState.ACTIVE
    assert bench.device.contact(Receipt(3, policy_etag="2"))
    assert bench.accept(2, plan="business")
    assert bench.device.grant().plan == "business"


def test_an_older_policy_and_another_devices_are_refused(bench):
    bench.activate()
    bench.accept(7)
    with pytest.raises(Untrusted, match="old policy"):
        bench.accept(6)
    token = PLATFORM.sign(policy(str(uuid.uuid4()), 8))
    with pytest.raises(Untrusted, match="another device"):
        bench.device.believed(token, bench.device.kept.keys, 7)


def test_tokens_are_given_out_while_they_are_good(bench):
    with pytest.raises(Deferred, match="no access token"):
        bench.device.token()
    bench.activate()
    bench.device.take("one", 100)
    assert bench.device.token() == "one"
    assert not bench.device.refused("another")
    assert bench.device.token() == "one"
    bench.advance(101)
    with pytest.raises(Deferred):
        bench.device.token()
    bench.device.take("two", 100)
    assert bench.device.refused("two")
    with pytest.raises(Deferred):
        bench.device.token()


def test_a_stop_outlasts_a_restart_and_ends_with_a_policy(bench):
    bench.activate()
    bench.device.halt(Stop("key revoked", "Get another."))
    bench.device = bench.fresh()
    assert bench.device.standing()[:2] == (DeviceState.STOPPED, "key revoked")
    bench.accept(2)
    assert bench.fresh().standing().state is DeviceState.ACTIVE
    bench.device.halt(Stop("ended", "Activate again."), ended=True)
    assert bench.fresh().kept.refresh_token == ""


def test_nothing_that_is_told_holds_a_secret(bench):
    bench.activate()
    bench.device.take("an-access-token", 100)
    text = msgspec.json.encode(bench.device.told()).decode()
    assert SECRET not in text
    assert "an-access-token" not in text
    assert os.fspath(bench.store.directory) not in text


def test_nothing_that_is_told_holds_credentials(bench):
    bench.device.trouble = StateError("https://joe:hunter2@proxy refuses us")
    assert bench.device.told().state == DeviceState.UNPROVISIONED
    assert "proxy refuses us" in bench.device.told().reason
    assert "hunter2" not in repr(bench.device.told())
