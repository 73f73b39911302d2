"""A far side that repeats in its answers what it was told in confidence: nobody is to read that."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from pg_collector import checks
from pg_collector.activation import provision
from pg_collector.clock import SystemClock
from pg_collector.config.model import Config, Platform
from pg_collector.errors import AgentUnreachable, DeliveryError
from pg_collector.metrics import Metrics
from pg_collector.secret import Secret
from tests.support.daemon import Daemon
from tests.support.delivery import QUICK, Delivery
from tests.support.far_side import Answer, FarSide
from tests.support.reference_platform import COMPRESSED, ReferencePlatform
from tests.support.until import until

API_KEY = "pgc_pro_0123456789abcdefghijABCDEFGHIJ42"
STATUSES = (400, 401, 402, 403, 404, 409, 413, 422, 429, 500, 503, 599)


@pytest.fixture
def far() -> Iterator[FarSide]:
    with FarSide() as far:
        yield far


def parts(*secrets: str) -> list[str]:
    """Return what nobody may see of secrets: the beginning is enough to know them by."""
    return [secret[:24] for secret in secrets]


def test_tokens_and_key_are_not_in_what_the_device_tells(far, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    with ReferencePlatform(tmp_path, plans=COMPRESSED) as platform:
        key = platform.new_key("fast")
        config = Config(
            databases=(), api_key=Secret(key), platform=Platform(url=far.url, timeout=QUICK)
        )
        genuine = msgspec.structs.replace(config, platform=Platform(url=platform.url))
        clock = SystemClock()
        identity = provision.identity(config, tmp_path / "state", clock, Metrics(clock))
        identity.open()
        told = []

        def tell() -> None:
            health = checks.activation(identity)
            told.append(repr((identity.told(), health, identity.trouble, identity.standing())))

        for status in STATUSES:  # the key
            far.always = Answer(status, "some-problem", echo=True)
            identity._retry_at = 0.0
            identity.step()
            assert str(status) in str(identity.trouble)
            tell()
        assert far.seen
        identity.key_service.client = provision.client(genuine, clock)
        identity._retry_at = 0.0
        identity.step()
        assert identity.token()
        kept = identity.device.kept
        assert kept is not None
        secrets = [key, identity.token(), kept.refresh_token]
        identity.key_service.client = provision.client(config, clock)
        for status in STATUSES:  # the access token
            far.always = Answer(status, "some-problem", echo=True)
            with pytest.raises(DeliveryError, match=str(status)):
                identity.key_service.client.report(secrets[1], "1", "done", "", "now")
            if status != 401:
                with pytest.raises(AgentUnreachable, match=f"{status} Bearer \\?"):
                    identity.deactivate()
        for status in STATUSES:  # the refresh token
            far.always = Answer(status, "some-problem", echo=True)
            identity._retry_at = 0.0
            identity.unauthorized(identity.device.access_token)
            assert str(status) in str(identity.trouble)
            tell()
        identity.stop(0.0)
    everything = caplog.text + "".join(told)
    assert "some-problem" not in everything
    assert not [one for one in parts(*secrets) if one in everything]


@pytest.mark.parametrize("status", [401, 403, 409, 422, 500])
def test_an_access_token_is_not_in_what_delivery_tells(far, caplog, status):
    caplog.set_level(logging.DEBUG)
    delivery = Delivery(far)
    delivery.tokens.append("an-access-token-of-nobody")
    delivery.put(1)
    far.always = Answer(status, "some-problem", echo=True)
    delivery.step()
    delivery.step()
    assert f"{status} Bearer ?" in delivery.message + repr(delivery.buffer.quarantined())
    far.always = None

    def repeated(document):
        said = [{"seq": document["first"], "code": "no", "detail": delivery.tokens[-1]}]
        return {**document, "rejected": said}

    far.answer(Answer(alter=repeated))
    delivery.put(1)
    delivery.work()
    aside = delivery.buffer.quarantined()
    assert "no: ?" in caplog.text
    assert delivery.tokens[-1] not in caplog.text + delivery.message + repr(aside)
    delivery.close()


def test_a_key_is_on_no_path_out_of_an_agent(far, tmp_path):
    far.always = Answer(403, "some-problem", echo=True)
    daemon = Daemon(
        tmp_path,
        {"prod": "host=127.0.0.1 port=1 user=nobody dbname=none"},
        "device",
        api_key=API_KEY,
        local={"enabled": False},
        platform={"url": far.url},
        buffers={"durability": "wal"},
        state_dir=str(tmp_path / "state"),
        log={"level": "debug", "repeat_window": "0s"},
    )

    def part() -> str:
        text = daemon.get("/healthz")
        return json.dumps(json.loads(text)["parts"].get("activation", {})) if text else ""

    with daemon:
        until(lambda: "403" in part(), deadline=20, what="the answer is told")
        seen = daemon.get("/healthz?verbose") + daemon.get("/metrics") + daemon.get("/readyz")
        seen += daemon.get("/")
        for verb in ("device", "activate", "samplers", "deactivate"):
            done = daemon.pgc(verb)
            seen += done.stdout + done.stderr
    for verb in ("activate", "device"):
        done = daemon.pgc(verb)
        seen += done.stdout + done.stderr
    files: list[Path] = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    seen += "".join(path.read_text("utf-8", "replace") for path in (daemon.log, *files))
    assert "403" in seen
    assert parts(API_KEY)[0] not in seen
