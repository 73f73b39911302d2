"""The states of a device, and the clock that they are told by."""

import uuid

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_collector.activation.elapsed import Moment, now
from pg_collector.activation.standing import Stop, standing
from pg_collector.activation.stops import ENDED, STOPS, stop_for
from pg_collector.errors import Held
from pg_collector.plan import DeviceState, Policy
from tests.support.signing import policy

POLICY = msgspec.convert(policy(str(uuid.uuid4())), Policy)  # heartbeat 10 s, grace 100 s


def state(since_policy, since_contact, stop=None):
    return standing(POLICY, since_policy=since_policy, since_contact=since_contact, stop=stop)


@pytest.mark.parametrize(
    ("since_policy", "since_contact", "expected"),
    [
        (0, 0, DeviceState.ACTIVE),
        (29.9, 29.9, DeviceState.ACTIVE),
        (30, 30, DeviceState.GRACE),
        (100, 5, DeviceState.ACTIVE),  # samples arrive, though no policy comes
        (129.9, 129.9, DeviceState.GRACE),
        (130, 130, DeviceState.STOPPED),
        (130, 0, DeviceState.STOPPED),
    ],
)
def test_silence_leads_through_grace_to_a_stop(since_policy, since_contact, expected):
    found = state(since_policy, since_contact)
    assert found.state is expected
    assert found.collects is (expected is not DeviceState.STOPPED)
    if expected is DeviceState.GRACE:
        assert found.grace_left == pytest.approx(130 - since_policy)
    if expected is not DeviceState.ACTIVE:
        assert found.remedy


def test_a_stop_comes_before_everything_and_no_policy_means_no_plan():
    stop = Stop("key revoked", "Get another.")
    assert state(0, 0, stop)[:3] == (DeviceState.STOPPED, "key revoked", "Get another.")
    found = standing(None, since_policy=0, since_contact=0, stop=None)
    assert (found.state, found.collects) == (DeviceState.UNPROVISIONED, False)


@pytest.mark.parametrize("problem", STOPS)
def test_the_platforms_words_stop_a_device(problem):
    assert stop_for(Held("no", problem=problem, status=403)) is STOPS[problem]


def test_other_answers_stop_nothing():
    assert stop_for(Held("no", problem="token-invalid", status=401)) is None
    assert stop_for(Held("no", status=403)) is None
    assert stop_for(Held("no", status=402)) is STOPS["subscription-cancelled"]
    assert stop_for(Held("no", problem="refresh-token-reused", status=401)) is ENDED


WALL = st.floats(-1e9, 4e9)


@given(WALL, WALL, st.floats(0, 1e8), st.floats(0, 1e8))
def test_within_a_boot_the_wall_clock_does_not_matter(before, after, up, passed):
    first, later = Moment("a", up, before), Moment("a", up + passed, after)
    assert first.until(later) == pytest.approx(passed, abs=1e-3)


def test_over_a_reboot_time_goes_by_the_wall_clock_and_never_back():
    first = Moment("a", 5000.0, 1000.0)
    assert first.until(Moment("b", 10.0, 1600.0)) == 600.0
    assert first.until(Moment("b", 10.0, 400.0)) == 0.0
    assert first.until(Moment("", 10.0, 1001.0)) == 1.0


def test_the_present_moment_goes_forward():
    first = now()
    assert 0 <= first.until(now()) < 60
    assert first.boot
