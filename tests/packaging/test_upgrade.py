"""Fault 49: to a newer build and back with 100 MB that wait, while the platform is away."""

import os
from pathlib import Path

import pytest

from pg_collector.buffer.spool import Limits
from tests.fault.buffer_rig import MB, FarSide, Rig
from tests.packaging.test_unit import configured, nothing_is_missing
from tests.support.lines import check
from tests.support.packaged import CONFIG, UNIT, Host, Packages
from tests.support.reference_platform import ReferencePlatform
from tests.support.until import until

pytestmark = [pytest.mark.long, pytest.mark.root, pytest.mark.timeout(1500)]

PAD = 50_000  # bytes of a line
LINES = 100 * MB // PAD
TARGET = "prod"  # of the planted lines
NEWER = "0.1.1"
FEW = 40  # lines that are on their way at any time


def test_49_nothing_is_lost_on_the_way_to_a_newer_build_and_back(
    packages: Packages, networked: Host, tmp_path: Path
):
    host = networked
    with ReferencePlatform(tmp_path) as platform:
        configured(host, packages.of("deb"), platform)
        host.run("systemctl", "start", UNIT)
        until(lambda: platform.metric("lines_stored_total") > 0, 60.0, "samples arrive")
        planted = FarSide()  # only for its counters
        for version, package in ((NEWER, packages.of("deb", NEWER)), ("0.1.0", packages.of("deb"))):
            platform.kill()
            waits(host, planted)
            kept = (host.root / CONFIG.lstrip("/")).read_text()
            exchanged(host, package, version)
            assert (host.root / CONFIG.lstrip("/")).read_text() == kept
            platform.start()
            arrived(host)
        platform.kill()
        waits(host, planted, lines=100)
        removed_and_installed_again(host, packages.of("deb"))
        platform.start()
        arrived(host)
        host.run("systemctl", "stop", UNIT)
        nothing_is_missing(platform)
        lines = platform.query("SELECT line FROM samples WHERE target = ?", [TARGET])
        assert sorted(check(line.encode()) for (line,) in lines) == planted.put.put


def waits(host: Host, planted: FarSide, lines: int = LINES) -> None:
    """Have so many lines wait on the disk of a running agent whose platform is away."""
    host.run("systemctl", "stop", UNIT)
    buffer = host.root / "var/lib/pg-collector/buffer"
    owner = buffer.stat()
    given(buffer, 0, 0)
    with Rig(buffer, planted, limits=Limits(), memory_max=8 * MB) as rig:
        for done in range(lines):
            rig.put_one(PAD)
            if done % 50 == 0:
                rig.written()
        rig.written()
    given(buffer, owner.st_uid, owner.st_gid)
    host.run("systemctl", "start", UNIT)
    assert waiting(host) >= lines


def given(place: Path, uid: int, gid: int) -> None:
    for path in (place, *place.rglob("*")):
        os.chown(path, uid, gid)


def waiting(host: Host) -> int:
    found: int = host.status()["buffer"]["lines"]
    return found


def exchanged(host: Host, package: Path, version: str) -> None:
    """Install another build while the agent runs: it runs again afterwards, with what waits."""
    before, pid = waiting(host), host.shown(UNIT, "MainPID")
    said = host.install(package)
    assert "Three steps" not in said, "its owner knows them"
    assert host.said("dpkg-query", "-W", "-f", "${Version}", "pg-collector") == f"{version}-1"
    assert host.active()
    assert host.shown(UNIT, "MainPID") != pid
    assert host.shown(UNIT, "Result") == "success"
    assert waiting(host) >= before
    host.run("test", "!", "-e", "/run/pg-collector.restart")


def removed_and_installed_again(host: Host, package: Path) -> None:
    """What waits outlasts the package; nothing starts by itself then."""
    before = waiting(host)
    host.apt("remove", "pg-collector")
    host.install(package)
    assert not host.active()
    assert host.said("systemctl", "is-enabled", UNIT) == "enabled"
    host.run("systemctl", "start", UNIT)
    assert waiting(host) >= before


def arrived(host: Host) -> None:
    """Wait until what waited is delivered; the agent asks for a token every minute at least."""
    try:
        until(lambda: waiting(host) < FEW, 180.0, "what waited is delivered")
    except AssertionError as error:
        found = host.status()
        raise AssertionError(f"{error}: {found['output']}, {found['device']}") from error
