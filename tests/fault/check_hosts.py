"""Faults of a host's files and of the platform, for `test_check`."""

import time
from email.utils import formatdate

import pytest

from pg_collector.checkup.finding import Level, Part
from tests.fault.check_cases import PASSWORD, Case, Cases, with_certificate, with_password
from tests.support.checkup import Bench, bad
from tests.support.far_side import Answer, FarSide
from tests.support.http_proxy import HttpProxy
from tests.support.volumes import memory_volume

CASES = Cases()
case = CASES.case
MIB = 1024 * 1024
KEY = f"pgc_pro_{'A1b2' * 8}"


# --- files


@case("secrets", Level.WARN, "others can read it; mode 0600 is needed")
def everybody_may_read_the_password(bench: Bench) -> Case:
    with_password(bench, PASSWORD)
    path = bench.home / "password"
    path.chmod(0o644)
    found = yield
    bench.shell(found.remedy)
    assert path.stat().st_mode & 0o777 == 0o600


@case("secrets", Level.FAIL, "which it passes over while others can read it")
def libpq_passes_over_its_password_file(bench: Bench) -> Case:
    with_password(bench, PASSWORD)
    del bench.postgres["password_file"]
    path = bench.secret(f"*:*:*:secret:{PASSWORD}", "pgpass", 0o644)
    bench.dsn("secret", passfile=str(path))
    assert "password" in bad(bench.check(Part.POSTGRES), "login")[0].found
    found = yield
    bench.shell(found.remedy)
    assert not bad(bench.check(Part.POSTGRES), "login")


@case("secrets", Level.FAIL, "which libpq refuses while others can read it")
def everybody_may_read_the_key(bench: Bench) -> Case:
    cert = with_certificate(bench, bench.pki.client)
    key = cert.with_suffix(".key")
    bench.postgres["tls"] = {"ca_file": str(bench.pki.ca)}
    bench.dsn(
        "pgcollector", sslmode=None, host="localhost", hostaddr="127.0.0.1",
        sslcert=str(cert), sslkey=str(key),
    )  # fmt: skip
    key.chmod(0o644)
    found = yield
    bench.shell(found.remedy)


@case("secrets", Level.WARN, "every user of this host may read it (mode 0644)")
def everybody_may_read_the_api_key(bench: Bench) -> Case:
    _with_platform(bench, "https://127.0.0.1:9")
    bench.write()
    bench.file.chmod(0o644)
    found = yield
    bench.shell(found.remedy)


@case("secrets", Level.WARN, "does not read as one")
def the_api_key_is_a_placeholder(bench: Bench) -> Case:
    _with_platform(bench, "https://127.0.0.1:9")
    bench.keys["api_key"] = "your-key-here"
    found = yield
    assert "Copy it again" in found.remedy
    bench.keys["api_key"] = KEY


@case("config", Level.FAIL, "does not exist")
def the_password_file_is_missing(bench: Bench) -> Case:
    with_password(bench, PASSWORD)
    path = bench.home / "password"
    path.unlink()
    found = yield
    assert str(path) in found.found
    bench.secret(PASSWORD)


@case("config", Level.FAIL, "unknown key 'query_timout'")
def a_key_is_misspelled(bench: Bench) -> Case:
    bench.postgres["query_timout"] = "3s"
    found = yield
    assert "did you mean 'query_timeout'?" in f"{found.found} {found.remedy}"
    bench.postgres["query_timeout"] = bench.postgres.pop("query_timout")


@case("disk", Level.FAIL, "nothing can be buffered")
def the_volume_is_full(bench: Bench) -> Case:
    volume = bench.stack.enter_context(memory_volume(64 * MIB))
    bench.keys["buffers"] = {"disk_path": str(volume.path), "disk_max": "16MB"}
    volume.fill(2 * MIB)
    found = yield
    assert "16 MB" not in found.found
    volume.free()


@case("disk", Level.WARN, "not the cap of 500 MB")
def the_volume_is_smaller_than_the_cap(bench: Bench) -> Case:
    volume = bench.stack.enter_context(memory_volume(64 * MIB))
    bench.keys["buffers"] = {"disk_path": str(volume.path)}
    found = yield
    told = found.measured
    assert told["usable_bytes"] == told["free_bytes"] - told["floor_bytes"]
    named, _, value = found.remedy.partition("buffers.disk_max: ")
    assert named
    bench.keys["buffers"]["disk_max"] = value


# --- the platform and the clocks


@case("platform", Level.FAIL, "no connection: Connection refused")
def the_platform_is_down(bench: Bench) -> Case:
    far = _far_side(bench)
    far.down()
    found = yield
    assert found.unreachable
    far.up()


@case("platform", Level.FAIL, "something else answers: 200, text/html")
def a_portal_answers(bench: Bench) -> Case:
    far = _far_side(bench)
    page = b"<html>Accept the terms of this network</html>"
    far.always = Answer(status=200, body=page, headers={"Content-Type": "text/html"})
    found = yield
    assert not found.unreachable
    far.always = None


@case("platform", Level.FAIL, "unexpected answer: 302")
def a_portal_leads_elsewhere(bench: Bench) -> Case:
    far = _far_side(bench)
    far.always = Answer(status=302, headers={"Location": "http://portal.example/"})
    found = yield
    assert "platform.url" in found.remedy
    far.always = None


@case("platform", Level.FAIL, "401 token invalid")
def something_wants_a_login(bench: Bench) -> Case:
    far = _far_side(bench)
    far.always = Answer(status=401, problem="token-invalid")
    _ = yield
    far.always = None


@case("platform", Level.FAIL, "signed by an authority that is not trusted here")
def the_platform_has_an_authority_of_its_own(bench: Bench) -> Case:
    _far_side(bench)
    bench.keys["platform"]["ca_file"] = str(bench.pki.other.ca)
    found = yield
    assert "platform.ca_file" in found.remedy
    bench.keys["platform"]["ca_file"] = str(bench.pki.ca)


@case("platform", Level.FAIL, "by the proxy 127.0.0.1:")
def the_proxy_is_dead(bench: Bench) -> Case:
    _far_side(bench)
    proxy = bench.stack.enter_context(HttpProxy())
    bench.keys["platform"] |= {"proxy": proxy.url}
    well = bench.check(Part.PLATFORM)
    assert any(f"via proxy 127.0.0.1:{proxy.port}, CA {bench.pki.ca}" in one.found for one in well)
    proxy.die()
    _ = yield
    bench.keys["platform"]["proxy"] = bench.stack.enter_context(HttpProxy()).url


@case("platform", Level.FAIL, "the proxy wants a login (407)")
def the_proxy_wants_a_login(bench: Bench) -> Case:
    _far_side(bench)
    proxy = bench.stack.enter_context(HttpProxy(login="me:pass"))
    bench.keys["platform"] |= {"proxy": f"http://127.0.0.1:{proxy.port}"}
    found = yield
    assert "http://user:password@host:port" in found.remedy
    bench.keys["platform"]["proxy"] = proxy.url


@case("clock", Level.WARN, "clocks differ: ")
def the_clocks_differ(bench: Bench) -> Case:
    far = _far_side(bench)
    far.always = Answer(headers={"Date": _later(600)})
    found = yield
    assert found.measured["skew_s"]["platform"] == pytest.approx(600, abs=2)
    assert "timedatectl set-ntp true" in found.remedy
    far.always = None


def _with_platform(bench: Bench, url: str) -> None:
    bench.keys |= {"api_key": KEY, "platform": {"url": url, "ca_file": str(bench.pki.ca)}}


def _far_side(bench: Bench) -> FarSide:
    far = bench.stack.enter_context(FarSide(tls=bench.pki.server))
    _with_platform(bench, far.url)
    return far


def _later(seconds: float) -> str:
    return formatdate(time.time() + seconds, usegmt=True)
