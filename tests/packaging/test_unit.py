"""The unit under a real systemd: READY, peer authentication, credentials, watchdog, reload."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.packaged import CONFIG, ROOT, UNIT, Host, Packages
from tests.support.ports import free_port
from tests.support.reference_platform import ReferencePlatform
from tests.support.until import until

pytestmark = [pytest.mark.long, pytest.mark.root, pytest.mark.timeout(900)]

DROP_IN = f"/etc/systemd/system/{UNIT}.d/watchdog.conf"


def test_systemd_has_nothing_against_it_and_scores_it_as_promised(packages: Packages, alone: Host):
    alone.install(packages.of("deb"))
    done = alone.run("systemd-analyze", "verify", "--man=no", UNIT, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    unit = ROOT / "packaging" / "linux" / UNIT
    offline = ("systemd-analyze", "security", "--offline=true", "--threshold=12", unit)
    scored = subprocess.run(offline, capture_output=True, text=True, check=False)
    assert scored.returncode == 0, scored.stdout


def test_it_runs_under_the_unit_and_samples_arrive(
    packages: Packages, networked: Host, tmp_path: Path
):
    host = networked
    with ReferencePlatform(tmp_path) as platform:
        configured(host, packages.of("deb"), platform)
        host.run("systemctl", "start", UNIT)
        assert host.active(), "READY=1 was said"
        until(lambda: platform.metric("lines_stored_total") > 0, 60.0, "samples arrive")
        host.until_ready()
        assert host.status()["device"]["state"] == "ACTIVE"
        only_the_unit_has_the_key(host)
        a_changed_interval_holds_after_a_reload(host)
        who_hangs_is_killed_and_comes_back(host, platform)
        host.run("systemctl", "stop", UNIT)
        assert host.shown(UNIT, "Result") == "success"
        nothing_is_missing(platform)


def test_a_volume_that_is_absent_is_a_warning_and_a_stop_writes_down_what_waits(
    packages: Packages, networked: Host, tmp_path: Path
):
    """Fault 50, as far as it is the unit's."""
    host = networked
    with ReferencePlatform(tmp_path) as platform:
        configured(host, packages.of("deb"), platform, buffers={"disk_path": "/mnt/absent/buffer"})
        host.run("systemctl", "start", UNIT)
        part = until(
            lambda: [one for one in [host.page("/healthz")["parts"]["buffer"]]
                     if one["state"] != "ok"],
            30.0, "the volume is missed",
        )[0]  # fmt: skip
        assert part["state"] == "degraded"
        assert "lines are in memory only" in part["reason"]
        until(lambda: platform.metric("lines_stored_total") > 0, 60.0, "samples arrive")
        platform.kill()
        settings(host, platform)
        host.run("systemctl", "restart", UNIT)
        until(lambda: host.status()["buffer"]["lines"] > 20, 60.0, "lines wait")
        host.run("systemctl", "stop", UNIT, seconds=10.0)
        assert host.shown(UNIT, "Result") == "success"
        platform.start()
        host.run("systemctl", "start", UNIT)
        until(lambda: host.status()["buffer"]["lines"] < 10, 90.0, "what waited is delivered")
        host.run("systemctl", "stop", UNIT)
        nothing_is_missing(platform)


def configured(host: Host, package: Path, platform: ReferencePlatform, **keys: Any) -> None:
    """Install it, and do what the package says comes next."""
    host.install(package)
    host.listen_at(f"127.0.0.1:{free_port()}")
    host.role()
    host.credential("api_key", platform.new_key("bench"))
    settings(host, platform, **keys)


def settings(host: Host, platform: ReferencePlatform, every: str = "2s", **keys: Any) -> None:
    host.configure(
        databases=[{"name": "here", "postgres": {"conn_string": "postgresql:///postgres"}}],
        sampling={"activity": every, "database": "2s"},
        platform={"url": platform.url, "resume_delay_max": "1s", "drain_rate_max": "100MB"},
        **keys,
    )


def only_the_unit_has_the_key(host: Host) -> None:
    """The key is from systemd; nobody but root can read its file, nor does a process show it."""
    key = host.said("cat", "/etc/pg-collector/credentials/api_key")
    refused = host.run("runuser", "-u", "pg-collector", "--", "cat",
                       "/etc/pg-collector/credentials/api_key", check=False)  # fmt: skip
    assert refused.returncode != 0
    shown = host.said("sh", "-c", f"cat /proc/{host.shown(UNIT, 'MainPID')}/environ | tr '\\0' ' '")
    assert key not in shown + host.said("journalctl", "-u", UNIT, "-o", "cat", "--no-pager")
    done = host.run("pgc", "check", "--offline", check=False)
    assert "api_key from credential api_key" in done.stdout, done.stdout + done.stderr
    assert key not in done.stdout + done.stderr


def a_changed_interval_holds_after_a_reload(host: Host) -> None:
    pid = host.shown(UNIT, "MainPID")
    text = (host.root / CONFIG.lstrip("/")).read_text()
    (host.root / CONFIG.lstrip("/")).write_text(
        text.replace('"activity": "2s"', '"activity": "4s"')
    )
    host.run("systemctl", "reload", UNIT)

    def interval() -> float:
        (target,) = host.status()["targets"]
        (every,) = (one["every_s"] for one in target["samplers"] if one["name"] == "activity")
        return float(every)

    until(lambda: interval() == 4.0, 30.0, "the interval is the new one")
    assert host.shown(UNIT, "MainPID") == pid
    assert host.active()


def who_hangs_is_killed_and_comes_back(host: Host, platform: ReferencePlatform) -> None:
    host.write(DROP_IN, "[Service]\nWatchdogSec=4\n")
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "restart", UNIT)
    pid = host.shown(UNIT, "MainPID")
    host.run("kill", "-STOP", pid)
    until(lambda: host.shown(UNIT, "NRestarts") == "1", 60.0, "systemd ends and restarts it")
    until(host.active, 30.0, "it is ready again")
    assert host.shown(UNIT, "MainPID") != pid
    assert "watchdog" in host.said("journalctl", "-u", UNIT, "-o", "cat", "--no-pager").lower()
    before = platform.metric("lines_stored_total")
    until(lambda: platform.metric("lines_stored_total") > before, 60.0, "samples arrive again")


def nothing_is_missing(platform: ReferencePlatform) -> None:
    """Every line of every stream was stored once: no gap, no hole."""
    numbers: dict[str, list[int]] = {}
    for entry in platform.arrivals():
        assert entry.line is not None, f"a gap: {entry}"
        numbers.setdefault(entry.stream, []).append(entry.first)
    assert numbers
    for stream, found in numbers.items():
        assert sorted(found) == [*range(1, len(found) + 1)], stream
