"""Delivery over TLS that is not as it should be, and through proxies (faults 34 and 37)."""

import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pg_collector.clock import SystemClock
from pg_collector.config.model import ClientCert, Platform
from pg_collector.errors import ConfigurationError
from pg_collector.secret import Secret
from pg_collector.web import Web
from tests.support.delivery import QUICK, Delivery
from tests.support.far_side import Answer, FarSide
from tests.support.http_proxy import HttpProxy
from tests.support.pki import Leaf, Pki

WRONG = {
    "expired": ("TLS: its certificate has expired", "clock"),
    "not yet valid": ("TLS: its certificate is not valid yet", "clock"),
    "another name": ("TLS: its certificate is not for this address", "platform.url"),
    "another authority": (
        "TLS: its certificate is signed by an authority that is not trusted here",
        "platform.ca_file",
    ),
}


def wrong_leaf(pki: Pki, wrong: str) -> Leaf:
    if wrong == "not yet valid":
        return pki.issue("early", "localhost", ("localhost", "127.0.0.1"), days=(1, 9))
    if wrong == "another authority":
        return pki.other.server
    return {"expired": pki.expired_server, "another name": pki.wrong_name_server}[wrong]


@pytest.mark.parametrize("wrong", WRONG)
def test_34_a_wrong_certificate_gets_nothing_and_is_named(pki: Pki, wrong: str):
    with FarSide(tls=wrong_leaf(pki, wrong)) as far:
        delivery = Delivery(far, ca_file=str(pki.ca))
        delivery.put(10)
        assert delivery.step() > 0
        said, remedy = WRONG[wrong]
        assert delivery.message.endswith(said)
        assert delivery.sender.trouble is not None
        assert remedy in delivery.sender.trouble.remedy
        assert far.seen == [], "nothing was sent"
        assert delivery.errors("unreachable") == 1
        far.present(pki.server)
        delivery.oracle()
        delivery.close()


def test_34_an_authority_that_was_replaced_holds_until_its_file_is(pki: Pki, tmp_path: Path):
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(pki.ca.read_bytes())
    with FarSide(tls=pki.server) as far:
        delivery = Delivery(far, ca_file=str(bundle))
        delivery.put(10)
        delivery.work()
        far.present(pki.other.server)
        far.cut()
        delivery.put(10)
        assert delivery.step() > 0
        assert "an authority that is not trusted here" in delivery.message
        bundle.write_bytes(pki.other.ca.read_bytes())
        delivery.oracle()
        delivery.close()


def test_34_an_authority_of_the_environment_is_not_trusted(
    pki: Pki, monkeypatch: pytest.MonkeyPatch
):
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, str(pki.other.ca))
    with FarSide(tls=pki.other.server) as far:
        delivery = Delivery(far, ca_file=str(pki.ca))
        delivery.put(1)
        assert delivery.step() > 0
        assert far.seen == []
        far.present(pki.server)
        delivery.oracle()
        delivery.close()


def test_34_a_peer_without_tls_is_named(pki: Pki):
    with FarSide() as far:
        delivery = Delivery(far, url=far.url.replace("http:", "https:"), ca_file=str(pki.ca))
        delivery.put(1)
        assert delivery.step() > 0
        assert delivery.message.endswith("TLS: it does not speak TLS")
        delivery.close()


def test_34_a_file_of_authorities_that_is_gone_or_empty_is_named(pki: Pki, tmp_path: Path):
    bundle = tmp_path / "ca.pem"
    with FarSide(tls=pki.server) as far:
        delivery = Delivery(far, ca_file=str(bundle))
        delivery.put(1)
        assert delivery.step() > 0
        assert delivery.message.endswith(f"the file {bundle} is missing")
        bundle.write_text("nothing")
        assert delivery.step() > 0
        assert delivery.message.endswith("TLS: there is no certificate in platform.ca_file")
        bundle.write_bytes(pki.ca.read_bytes())
        delivery.oracle()
        delivery.close()


def test_34_a_far_side_whose_certificate_was_revoked_gets_nothing(pki: Pki, tmp_path: Path):
    revoked = pki.issue("stolen", "localhost", ("localhost", "127.0.0.1"))
    crl = tmp_path / "ca.crl"
    crl.write_bytes(pki.revocations(revoked).read_bytes())
    with FarSide(tls=revoked) as far:
        delivery = Delivery(far, ca_file=str(pki.ca), crl_file=crl)
        delivery.put(10)
        assert delivery.step() > 0
        assert delivery.message.endswith("TLS: its certificate was revoked")
        assert far.seen == [], "nothing was sent"
        far.present(pki.server)
        delivery.oracle()
        # Revoked while a connection stands: the list is looked at before the next exchange.
        crl.write_bytes(pki.revocations(pki.server).read_bytes())
        seen = len(far.seen)
        delivery.put(10)
        assert delivery.step() > 0
        assert delivery.message.endswith("TLS: its certificate was revoked")
        assert len(far.seen) == seen
        crl.write_bytes(pki.revocations().read_bytes())
        delivery.oracle()
        delivery.close()


@pytest.mark.parametrize("content", [None, b"", b"no list", b"CA"])
def test_34_a_list_of_revoked_certificates_that_cannot_be_used_is_named(
    pki: Pki, tmp_path: Path, content: bytes | None
):
    crl = tmp_path / "ca.crl"
    if content == b"CA":  # its certificates would be trusted from then on
        content = pki.revocations().read_bytes() + pki.other.ca.read_bytes()
    if content is not None:
        crl.write_bytes(content)
    with FarSide(tls=pki.server) as far:
        delivery = Delivery(far, ca_file=str(pki.ca), crl_file=crl)
        delivery.put(1)
        assert delivery.step() > 0
        assert str(crl) in delivery.message
        assert delivery.message.endswith("is missing" if content is None else "cannot be used")
        assert far.seen == []
        crl.write_bytes(pki.revocations().read_bytes())
        delivery.oracle()
        delivery.close()


OWN = {
    "none": "TLS: it wants a client certificate",
    "expired": "TLS: it says that our client certificate has expired",
    "another authority": "TLS: it does not know our client certificate's authority",
    "revoked": "TLS: it says that our client certificate was revoked",
    "missing": "is missing",
}


@pytest.mark.parametrize("own", OWN)
def test_34_a_client_certificate_that_is_refused_is_named_and_well_once_it_is_replaced(
    pki: Pki, own: str, tmp_path: Path
):
    revoked = pki.issue("lost", "agent", client=True)
    leaf = {
        "expired": pki.expired_client, "another authority": pki.other.client, "revoked": revoked,
    }.get(own)  # fmt: skip
    files = tmp_path / "client.crt", tmp_path / "client.key"

    def put(leaf: Leaf) -> None:
        for source, file in zip((leaf.certificate, leaf.key), files, strict=True):
            Path(shutil.copy(source, tmp_path / "new")).replace(file)

    if leaf is not None:
        put(leaf)
    pair = ClientCert() if own == "none" else ClientCert(cert_file=files[0], key_file=files[1])
    crl = pki.revocations(revoked)
    with FarSide(tls=pki.server, client_ca=pki.ca, client_crl=crl) as far:
        delivery = Delivery(far, ca_file=str(pki.ca), client_cert=pair)
        delivery.put(1)
        assert delivery.step() > 0
        assert delivery.message.endswith(OWN[own])
        assert far.seen == []
        if own != "none":  # that one is another configuration, not another file
            put(pki.client)
            delivery.oracle()
        delivery.close()


def test_34_a_client_certificate_that_was_renewed_is_shown_without_a_restart(
    pki: Pki, tmp_path: Path
):
    files = tmp_path / "client.crt", tmp_path / "client.key"
    for source, file in zip((pki.client.certificate, pki.client.key), files, strict=True):
        shutil.copy(source, file)
    pair = ClientCert(cert_file=files[0], key_file=files[1])
    with FarSide(tls=pki.server, client_ca=pki.ca) as far:
        delivery = Delivery(far, ca_file=str(pki.ca), client_cert=pair)
        delivery.put(10)
        delivery.work()
        connections = {one.client for one in far.seen}
        assert len(connections) == 1
        renewed = pki.issue("renewed", "agent", client=True)
        for source, file in zip((renewed.certificate, renewed.key), files, strict=True):
            Path(shutil.copy(source, tmp_path / "new")).replace(file)
        delivery.put(10)
        delivery.oracle()
        assert len({one.client for one in far.seen}) == 2, "on a connection of its own"
        delivery.close()


def test_a_client_certificate_is_shown(pki: Pki):
    pair = ClientCert(cert_file=pki.client.certificate, key_file=pki.client.key)
    with FarSide(tls=pki.server, client_ca=pki.ca) as far:
        delivery = Delivery(far, ca_file=str(pki.ca), client_cert=pair)
        delivery.put(20)
        delivery.oracle()
        delivery.close()


def test_a_client_certificate_with_another_ones_key_is_named(pki: Pki):
    pair = ClientCert(cert_file=pki.client.certificate, key_file=pki.server.key)
    with FarSide(tls=pki.server, client_ca=pki.ca) as far:
        delivery = Delivery(far, ca_file=str(pki.ca), client_cert=pair)
        delivery.put(1)
        assert delivery.step() > 0
        assert delivery.message.endswith("certificate and its key do not belong together")
        delivery.close()


@pytest.fixture
def far(pki: Pki) -> Iterator[FarSide]:
    with FarSide(tls=pki.server) as far:
        yield far


def behind(proxy: HttpProxy, far: FarSide, pki: Pki, url: str = "") -> Delivery:
    return Delivery(far, ca_file=str(pki.ca), proxy=Secret(url or proxy.url))


def test_37_a_proxy_with_a_login_is_used(far: FarSide, pki: Pki):
    with HttpProxy(login="user:hunter2") as proxy:
        delivery = behind(proxy, far, pki)
        delivery.put(50)
        delivery.oracle()
        assert proxy.asked == [f"127.0.0.1:{far.port}"]
        assert "hunter2" not in str(far.seen)
        delivery.close()


def test_37_a_proxy_that_wants_another_login_holds_delivery_and_shows_no_password(
    far: FarSide, pki: Pki, caplog: pytest.LogCaptureFixture
):
    with HttpProxy(login="user:right") as proxy:
        url = proxy.url.replace("right", "hunter2")
        delivery = behind(proxy, far, pki, url)
        delivery.put(5)
        with caplog.at_level(logging.DEBUG, "pg_collector"):
            assert delivery.step() > 0
        assert f"by the proxy 127.0.0.1:{proxy.port}: the proxy wants a login" in delivery.message
        assert "hunter2" not in caplog.text
        assert "dXNlcjpodW50ZXIy" not in caplog.text  # the same in base64
        proxy.login = "user:hunter2"
        delivery.oracle()
        delivery.close()


@pytest.mark.parametrize("status", [403, 407, 502, 503])
def test_37_a_proxy_that_refuses_holds_delivery(far: FarSide, pki: Pki, status: int):
    with HttpProxy(status=status) as proxy:
        delivery = behind(proxy, far, pki)
        delivery.put(5)
        assert delivery.step() > 0
        assert str(status) in delivery.message
        assert delivery.errors("unreachable") == 1
        assert delivery.buffer.account().buffered == 5
        proxy.status = 0
        delivery.oracle()
        delivery.close()


def test_37_a_proxy_that_dies_under_way_holds_delivery(far: FarSide, pki: Pki):
    with HttpProxy() as proxy:
        delivery = behind(proxy, far, pki)
        delivery.put(5)
        delivery.work()
        proxy.die()
        delivery.put(5)
        assert delivery.step() > 0
        assert "Connection refused" in delivery.message
        assert delivery.buffer.account().buffered == 5
        delivery.close()


def test_37_a_proxy_for_plain_http_is_used_and_asked_for_a_login(pki: Pki):
    with FarSide() as far, HttpProxy(login="user:hunter2") as proxy:
        wrong = behind(proxy, far, pki, proxy.url.replace("hunter2", "no"))
        wrong.put(1)
        assert wrong.step() > 0
        assert "the proxy wants a login (407)" in wrong.message
        wrong.close()
        delivery = behind(proxy, far, pki)
        delivery.put(5)
        delivery.oracle()
        delivery.close()


def test_a_proxy_behind_tls_is_verified_and_used(pki: Pki):
    """TLS in TLS; the far side here plays the proxy, and answers CONNECT with 501."""
    with FarSide(tls=pki.server) as far:
        delivery = Delivery(
            far, url="https://platform.example.test", ca_file=str(pki.ca), proxy=Secret(far.url)
        )
        delivery.put(1)
        assert delivery.step() > 0
        assert "the proxy does not connect to it (501)" in delivery.message
        delivery.close()
        stranger = Delivery(
            far, url="https://platform.example.test", ca_file=str(pki.other.ca),
            proxy=Secret(far.url),
        )  # fmt: skip
        stranger.put(1)
        assert stranger.step() > 0
        assert "an authority that is not trusted here" in stranger.message
        stranger.close()


CHOICES = [
    ({}, {}, None),
    ({}, {"HTTPS_PROXY": "http://p:3128"}, "p:3128"),
    ({}, {"https_proxy": "p:3128"}, "p:3128"),
    ({}, {"HTTPS_PROXY": "http://p:3128", "NO_PROXY": "example.test"}, None),
    ({}, {"HTTPS_PROXY": "http://p:3128", "no_proxy": ".example.test, x"}, None),
    ({}, {"HTTPS_PROXY": "http://p:3128", "NO_PROXY": "*"}, None),
    ({}, {"HTTPS_PROXY": "http://p:3128", "NO_PROXY": "other.test"}, "p:3128"),
    ({}, {"HTTP_PROXY": "http://p:3128", "ALL_PROXY": "http://p:1"}, None),
    ({"proxy": "http://q"}, {"HTTPS_PROXY": "http://p:3128"}, "q:80"),
    ({"proxy": "http://u:s@q:1"}, {"NO_PROXY": "in.example.test"}, None),
    ({"proxy": "http://u:s@q:1", "no_proxy": ""}, {"NO_PROXY": "*"}, "q:1"),
    ({"proxy": "https://q", "no_proxy": "in.example.test:444"}, {}, "q:443"),
    ({"proxy": "https://q", "no_proxy": "in.example.test:443"}, {}, None),
]


@pytest.mark.parametrize(("keys", "environ", "proxy"), CHOICES)
def test_the_proxy_is_the_configured_one_or_the_environments(
    keys: dict[str, str], environ: dict[str, str], proxy: str | None, pki: Pki
):
    secret = Secret(keys["proxy"]) if "proxy" in keys else None
    platform = Platform(
        url="https://in.example.test", ca_file=str(pki.ca), proxy=secret,
        no_proxy=keys.get("no_proxy"),
    )  # fmt: skip
    web = Web(platform, SystemClock(), environ)
    place = f" by the proxy {proxy}" if proxy else ""
    assert web._place == f"in.example.test:443{place}"


def test_an_address_is_found_in_a_network_of_no_proxy(pki: Pki):
    environ = {"HTTPS_PROXY": "http://p:3128", "NO_PROXY": "x, 10.1.0.0/16"}
    platform = Platform(url="https://10.1.2.3", ca_file=str(pki.ca))
    assert "proxy" not in Web(platform, SystemClock(), environ)._place
    platform = Platform(url="https://10.2.2.3", ca_file=str(pki.ca))
    assert "proxy" in Web(platform, SystemClock(), environ)._place


@pytest.mark.parametrize("proxy", ["socks5://q:1080", "ftp://q", "http://", "http://:3128"])
def test_a_proxy_that_cannot_be_used_is_a_configuration_error(proxy: str, pki: Pki):
    platform = Platform(url="https://a.test", ca_file=str(pki.ca), proxy=Secret(proxy))
    with pytest.raises(ConfigurationError, match="not an address"):
        Web(platform, SystemClock(), {})


def test_a_stalled_handshake_with_a_proxy_ends_with_the_bound_of_connecting(pki: Pki):
    with FarSide() as silent:
        silent.silent = True
        delivery = Delivery(
            silent, url="https://a.test", ca_file=str(pki.ca), proxy=Secret(silent.url)
        )
        delivery.put(1)
        began = time.monotonic()
        assert delivery.step() > 0
        assert time.monotonic() - began < QUICK.connect + 0.5
        assert "no connection within 0.4 s" in delivery.message
        delivery.close()


def test_a_child_process_opens_a_connection_of_its_own(far: FarSide, pki: Pki):
    delivery = Delivery(far, ca_file=str(pki.ca))
    delivery.put(1)
    delivery.work()
    child = os.fork()
    if child == 0:
        far.answer(Answer())
        try:
            delivery.outlet._web.request("GET", "/-/", {})
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    delivery.oracle()
    assert len({one.client for one in far.seen}) == 1, "the parent's connection is untouched"
    delivery.close()
