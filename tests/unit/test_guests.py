"""Who is let in: addresses, networks, and what a proxy says."""

import pytest

from pg_collector.config.model import Http, IpAllowlist
from pg_collector.health.guests import Guests, read

PROXY = "10.0.0.5"


def guests(*allowed: str, proxies: tuple[str, ...] = ("10.0.0.0/24", "fd00::/64")) -> Guests:
    return Guests(
        Http(trusted_proxies=proxies), IpAllowlist(enabled=bool(allowed), allowlist=allowed)
    )


def test_without_a_list_everybody_is_let_in():
    assert guests().may_knock("203.0.113.9")
    assert guests().may_enter("203.0.113.9", ["nonsense"])


def test_a_list_that_is_switched_on_and_empty_lets_nobody_in():
    nobody = Guests(Http(), IpAllowlist(enabled=True))
    assert not nobody.may_knock("127.0.0.1")
    assert not nobody.may_enter("127.0.0.1", [])


@pytest.mark.parametrize(
    ("peer", "enters"),
    [
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("198.51.100.200", True),
        ("2001:db8::1", True),
        ("2001:db8:1::1", False),
        ("::ffff:192.0.2.7", True),
        ("::ffff:192.0.2.8", False),
        ("fe80::1%eth0", True),
        ("", False),
        ("unix", False),
    ],
)
def test_addresses_and_networks(peer, enters):
    listed = guests("192.0.2.7", "198.51.100.0/24", "2001:db8::/48", "fe80::/64")
    assert listed.may_enter(peer, []) is enters
    assert listed.may_knock(peer) is enters


@pytest.mark.parametrize("written", ["::ffff:192.0.2.7", "::ffff:192.0.2.0/120", "::ffff:c000:207"])
def test_a_list_may_wrap_addresses_of_ipv4(written):
    assert guests(written).may_enter("192.0.2.7", [])
    assert guests(written).may_enter("::ffff:192.0.2.7", [])
    assert not guests(written).may_enter("192.0.3.7", [])


@pytest.mark.parametrize(
    ("forwarded", "enters"),
    [
        (["192.0.2.7"], True),
        (["192.0.2.7:4711"], True),
        (["[::ffff:192.0.2.7]:4711"], True),
        (["203.0.113.9"], False),
        (["192.0.2.7, 203.0.113.9"], False),  # what stands before is the client's own word
        (["203.0.113.9, 192.0.2.7"], True),
        (["192.0.2.7, 10.0.0.9"], True),  # two of our proxies, one behind the other
        (["192.0.2.7", "203.0.113.9"], False),  # two headers are one list
        (["192.0.2.7, nonsense"], False),
        (["192.0.2.7, "], False),
        ([""], False),
        ([], False),  # the proxy asks for itself
        (["192.0.2.7" + ", 10.0.0.9" * 40], False),
    ],
)
def test_a_named_proxy_is_believed_from_the_end_of_the_list(forwarded, enters):
    listed = guests("192.0.2.7")
    assert listed.may_knock(PROXY)
    assert listed.may_enter(PROXY, forwarded) is enters


def test_nobody_else_is_believed():
    listed = guests("192.0.2.7")
    assert not listed.may_knock("203.0.113.9")
    assert not listed.may_enter("203.0.113.9", ["192.0.2.7"])
    assert not guests("192.0.2.7", proxies=()).may_enter(PROXY, ["192.0.2.7"])


def test_a_proxy_that_is_listed_may_ask_for_itself():
    assert guests(PROXY).may_enter(PROXY, [])


@pytest.mark.parametrize("text", ["1.2.3", "[::1", "a:b:c", "1.2.3.4.5", "0x7f.1", "::1::"])
def test_what_is_no_address(text):
    assert read(text) is None or text == "[::1"
