"""What is believed of what was signed: exactly one form, and nothing else."""

import uuid

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pg_collector.activation.signed import KeySet, Kind, UnknownKey, Untrusted, verified
from pg_collector.plan import Policy
from tests.support.signing import Signer, encoded, key_set, policy

DEVICE = str(uuid.uuid4())
PLATFORM, STRANGER = Signer(), Signer()
KEYS = key_set(PLATFORM)
TOKEN = PLATFORM.sign(policy(DEVICE))


def read(token):
    return verified(token, KEYS, Kind.POLICY, Policy)


def test_a_policy_that_a_pinned_key_signed_is_believed():
    found = read(PLATFORM.sign(policy(DEVICE)))
    assert (found.sub, found.plan, found.life) == (DEVICE, "pro", 130.0)
    grant = found.granted()
    assert grant.limit("activity").min_interval == 10
    assert grant.limit("locks") is None


def test_members_that_this_agent_does_not_know_are_ignored():
    assert read(PLATFORM.sign(policy(DEVICE, novelty=1))).sub == DEVICE


HEADERS = {
    "another algorithm": {"alg": "HS256"},
    "none": {"alg": "none"},
    "an algorithm in other letters": {"alg": "eddsa"},
    "another type": {"typ": "at+jwt"},
    "a command": {"typ": "command+jwt"},
    "no type": {"typ": None},
    "critical members": {"crit": ["exp"]},
    "a key of its own": {"jwk": {"kty": "OKP"}},
    "where to find a key": {"jku": "https://example.test/keys"},
    "an unknown member": {"cty": "json"},
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_a_header_that_is_not_exactly_what_it_should_be_is_refused(header):
    with pytest.raises(Untrusted):
        read(PLATFORM.sign(policy(DEVICE), **header))


def test_a_strangers_key_is_unknown_even_under_a_pinned_name():
    with pytest.raises(UnknownKey):
        read(STRANGER.sign(policy(DEVICE)))
    with pytest.raises(Untrusted, match="altered"):
        read(STRANGER.sign(policy(DEVICE), kid=PLATFORM.public.kid))


def test_what_is_signed_and_makes_no_sense_is_refused():
    for payload in (b"", b"[]", b"{}", b"\xff", policy(DEVICE, grace_s=-1)):
        with pytest.raises(Untrusted, match="signed, but"):
            read(PLATFORM.sign(payload))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_one_altered_character_is_enough(data):
    at = data.draw(st.integers(0, len(TOKEN) - 1))
    other = data.draw(st.characters(codec="ascii").filter(lambda c: c != TOKEN[at]))
    with pytest.raises(Untrusted):
        read(TOKEN[:at] + other + TOKEN[at + 1 :])


@given(st.text(max_size=200))
def test_no_text_does_more_than_be_refused(text):
    with pytest.raises(Untrusted):
        read(text)


def test_a_key_has_the_name_of_its_thumbprint():
    other = msgspec.structs.replace(PLATFORM.public, kid=STRANGER.public.kid)
    with pytest.raises(Untrusted, match="not what its name says"):
        KeySet(keys=(other,), version=1).check()
    assert KEYS.check() is KEYS


def test_a_long_token_is_not_read():
    with pytest.raises(Untrusted, match="too long"):
        read(f"{'a' * 300_000}.b.{encoded(b'c')}")
