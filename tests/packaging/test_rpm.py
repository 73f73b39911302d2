"""The .rpm, with rpm itself, in a booted system: install, upgrade, verify, erase.

The system is Debian's, which has no rpm database: what the package depends on is not looked up.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.packaged import CONFIG, UNIT, Host, Packages
from tests.support.until import until

pytestmark = [pytest.mark.long, pytest.mark.root, pytest.mark.timeout(600)]

OUTPUT = "/var/lib/pg-collector/output"


def test_what_it_says_of_itself(packages: Packages):
    if shutil.which("rpm") is None:
        pytest.fail("rpm is missing: apt-get install rpm", pytrace=False)

    def asked(*words: str) -> list[str]:
        done = subprocess.run(["rpm", "-qp", *words, packages.of("rpm")],
                              capture_output=True, text=True, check=True)  # fmt: skip
        return done.stdout.splitlines()

    assert asked("--queryformat", "%{NAME} %{VERSION} %{RELEASE} %{LICENSE}") == [
        "pg-collector 0.1.0 1 Apache-2.0"
    ]
    assert set(asked("--configfiles")) == {
        CONFIG, "/etc/sysconfig/pg-collector", "/etc/logrotate.d/pg-collector"
    }  # fmt: skip
    needed = asked("--requires")
    assert any(one.startswith("glibc >= 2.") for one in needed)
    assert not [one for one in needed if "PayloadIsZstd" in one], "older ones read gzip only"


def test_from_its_installation_to_its_end(packages: Packages, rpm_host: Host):
    host = rpm_host
    said = rpm(host, "--install", packages.of("rpm"))
    assert "Three steps" in said
    assert host.shown(UNIT, "ActiveState") == "inactive"
    host.run("systemctl", "start", UNIT)
    assert host.active()
    assert host.page("/healthz")["parts"]["activation"]["reason"].startswith("UNPROVISIONED")
    found = host.said("stat", "-c", "%a %U:%G", CONFIG, "/etc/pg-collector/credentials")
    assert found.splitlines() == ["640 root:pg-collector", "700 root:root"]
    collects(host)
    upgraded_and_back(host, packages)
    erased(host)


def rpm(host: Host, *words: str | Path) -> str:
    """Run rpm; a package is copied into the system first."""
    placed = [host.given(one) if isinstance(one, Path) else one for one in words]
    done = host.run("rpm", "--nodeps", *placed)
    return done.stdout + done.stderr


def collects(host: Host) -> None:
    """Over the local socket, into files."""
    host.role()
    host.configure(
        databases=[{"name": "here", "postgres": {"conn_string": "postgresql:///postgres"}}],
        local={"enabled": True, "path": OUTPUT},
    )
    host.run("systemctl", "restart", UNIT)
    host.until_ready()
    until(
        lambda: host.run("sh", "-c", f"cat {OUTPUT}/here/*/*.jsonl", check=False).stdout,
        120.0, "samples are written",
    )  # fmt: skip


def upgraded_and_back(host: Host, packages: Packages) -> None:
    """What runs is running again; what was edited stays, and is all that `rpm --verify` tells."""
    kept = (host.root / CONFIG.lstrip("/")).read_text()
    for options, package in (
        (("--upgrade",), packages.of("rpm", "0.1.1")),
        (("--upgrade", "--oldpackage"), packages.of("rpm")),
    ):
        pid = host.shown(UNIT, "MainPID")
        assert "Three steps" not in rpm(host, *options, package)
        assert host.active()
        assert host.shown(UNIT, "MainPID") != pid
        assert (host.root / CONFIG.lstrip("/")).read_text() == kept
    told = host.run("rpm", "--verify", "--nodeps", "pg-collector", check=False).stdout
    changed = [line.split()[-1] for line in told.splitlines()]
    assert changed == [CONFIG], told


def erased(host: Host) -> None:
    """State and output stay, and the edited configuration, under another name."""
    rpm(host, "--erase", "pg-collector")
    assert host.run("systemctl", "is-active", UNIT, check=False).stdout.strip() != "active"
    host.run("test", "!", "-e", "/usr/bin/pgc")
    host.run("test", "!", "-e", "/usr/lib/pg-collector")
    host.run("test", "-e", f"{CONFIG}.rpmsave")
    host.run("test", "-e", f"{OUTPUT}/here")
    assert host.said("getent", "passwd", "pg-collector").startswith("pg-collector:")
