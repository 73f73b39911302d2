"""`pgc check` among files of several owners: what it advises takes nothing from anybody.

Each remedy is done as root; then the agent's user has what it needs, and all others have what they
had before.
"""

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from pg_collector.checkup import disk, secrets
from pg_collector.checkup.asked import Asked
from pg_collector.checkup.finding import Finding, Level, Part
from pg_collector.cli.options import Source
from pg_collector.config import rights
from pg_collector.errors import ConfigurationError
from tests.support import process
from tests.support.pki import Pki
from tests.support.rights import as_account
from tests.support.scratch import new_directory
from tests.support.volumes import memory_volume

pytestmark = pytest.mark.root


class Host:
    """Directories of root's, a configuration in one of them, and the check of it as nobody."""

    def __init__(self) -> None:
        self.home = new_directory("owners")
        self.home.chmod(0o755)
        self.etc = self.folder("etc")
        self.file = self.etc / "config.yaml"
        self.state = process.give(self.folder("state"), 0o700)
        self.keys: dict[str, Any] = {
            "databases": [{"name": "prod", "postgres": {"conn_string": "host=/nowhere"}}],
            "state_dir": str(self.state),
        }

    def folder(self, name: str, mode: int = 0o755) -> Path:
        path = self.home / name
        path.mkdir(parents=True)
        path.chmod(mode)
        return path

    def written(self, name: str, mode: int, text: str = "secret") -> Path:
        path = self.home / name
        path.write_text(f"{text}\n")
        path.chmod(mode)
        return path

    def write(self) -> None:
        if not self.file.exists():
            self.file.touch()
            self.file.chmod(0o644)
        self.file.write_text(yaml.safe_dump(self.keys))

    def asked(self) -> Asked:
        loaded = Source(self.file, ()).load()
        return Asked(loaded, {"HOME": str(self.state)}, frozenset(Part), time.monotonic() + 30)

    def bad(self, section: Any) -> list[Finding]:
        self.write()
        with as_account():
            found = [*section.findings(self.asked())]
        return [one for one in found if one.level is not Level.OK]

    def told(self) -> ConfigurationError:
        self.write()
        with as_account(), pytest.raises(ConfigurationError) as caught:
            self.asked()
        return caught.value

    def shell(self, remedy: str) -> None:
        """Do what a remedy says; no directory that is there may change by it."""
        before = self.standing()
        subprocess.run(["/bin/sh", "-ec", remedy], check=True, timeout=30, cwd="/")
        after = self.standing()
        assert {path: after[path] for path in before} == before

    def standing(self) -> dict[Path, tuple[int, int, int]]:
        known = [self.home, *(path for path in self.home.rglob("*") if path.is_dir())]
        return {path: (s.st_uid, s.st_gid, s.st_mode) for path in known for s in [path.stat()]}


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host()
    monkeypatch.setattr(rights, "OWN", host.etc)
    return host


def named(remedy: str, key: str) -> str:
    """Return what a remedy wants a key to be."""
    return remedy.partition(f"; then {key}: ")[2]


# --- places


@pytest.mark.parametrize("key", ["log.file", "security.audit_log_path"])
def test_a_file_of_the_agent_in_a_directory_of_root_is_well(host: Host, key: str) -> None:
    log = host.folder("log") / "pgc.log"
    log.touch()
    process.give(log, 0o640)
    section, _, name = key.partition(".")
    host.keys[section] = {name: str(log)}
    if section == "security":
        host.keys[section]["audit_logging"] = True
    assert host.bad(disk) == []


def test_an_audit_log_of_another_user_is_told_before_the_start(host: Host) -> None:
    log = host.folder("log") / "audit.log"
    log.touch()
    log.chmod(0o666)
    host.keys["security"] = {"audit_logging": True, "audit_log_path": str(log)}
    (found,) = host.bad(disk)
    assert "belongs to root" in found.found
    host.shell(found.remedy)
    host.keys["security"]["audit_log_path"] = named(found.remedy, "security.audit_log_path")
    assert host.bad(disk) == []


def test_an_audit_log_in_a_directory_of_root_gets_one_of_its_own(host: Host) -> None:
    log = host.folder("log") / "audit.log"
    host.keys["security"] = {"audit_logging": True, "audit_log_path": str(log)}
    (found,) = host.bad(disk)
    assert "Permission denied" in found.found
    host.shell(found.remedy)
    host.keys["security"]["audit_log_path"] = named(found.remedy, "security.audit_log_path")
    assert host.bad(disk) == []


@pytest.mark.parametrize(
    ("mode", "mine", "said"),
    [
        (0o755, False, "cannot be written by"),
        (0o777, False, "belongs to root, not to"),
        (0o777, True, "can be written to by others"),
    ],
)
def test_a_buffer_gets_a_directory_of_its_own_in_one_of_others(
    host: Host,
    mode: int,
    mine: bool,  # noqa: FBT001  # a case
    said: str,
) -> None:
    data = host.folder("data", mode)
    if mine:
        process.give(data)
    host.keys["buffers"] = {"disk_path": str(data)}
    (found,) = host.bad(disk)
    assert said in found.found
    host.shell(found.remedy)
    host.keys["buffers"]["disk_path"] = named(found.remedy, "buffers.disk_path")
    assert host.bad(disk) == []


@pytest.mark.parametrize("ours", [True, False])
def test_only_a_buffer_that_an_agent_made_is_taken_back(
    host: Host,
    ours: bool,  # noqa: FBT001  # a case
) -> None:
    buffer = host.folder("state/buffer")
    if ours:
        (buffer / "format").write_text("1\n")
    (found,) = host.bad(disk)
    assert found.remedy.startswith("chown -R nobody " if ours else "install -d -o nobody ")


def test_a_state_directory_that_may_not_be_looked_at_is_told(host: Host) -> None:
    host.folder("closed", 0o700)
    host.keys |= {"state_dir": str(host.home / "closed" / "state"), "buffers": {}}
    found = host.bad(disk)
    assert all("Permission denied" in one.found for one in found)
    assert named(found[0].remedy, "state_dir") == "/var/lib/pg-collector"
    assert str(host.home) not in found[0].remedy


def test_a_state_directory_of_a_third_user_is_told(host: Host) -> None:
    state = host.folder("other", 0o777)
    os.chown(state, 1, 1)
    host.keys |= {"state_dir": str(state), "buffers": {"durability": "memory"}}
    (found,) = host.bad(disk)
    assert "belongs to daemon, not to nobody" in found.found
    host.shell(found.remedy)
    host.keys["state_dir"] = named(found.remedy, "state_dir")
    assert host.bad(disk) == []


def test_of_a_read_only_volume_the_mount_point_is_named(host: Host) -> None:
    with memory_volume(16 * 2**20) as volume:
        state = process.give(volume.path)
        mounted = state.parent
        host.keys |= {"state_dir": str(state), "buffers": {"durability": "memory"}}
        subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
        (found,) = host.bad(disk)
        assert "Read-only file system" in found.found
        assert found.remedy.startswith(f"mount -o remount,rw {mounted} ")
        host.shell(found.remedy)
        assert host.bad(disk) == []


# --- secrets


def test_a_password_that_everybody_reads_stays_readable_for_the_agent_and_is_told_once(
    host: Host,
) -> None:
    password = host.written("etc/password", 0o644)
    one = {"conn_string": "host=/nowhere", "password_file": str(password)}
    host.keys["databases"] = [{"name": name, "postgres": one} for name in ("a", "b")]
    (found,) = host.bad(secrets)
    host.shell(found.remedy)
    assert password.stat().st_mode & 0o077 == 0
    with as_account():
        assert password.read_text() == "secret\n"
    assert host.bad(secrets) == []


def test_a_configuration_that_everybody_reads_stays_readable_for_the_agent(host: Host) -> None:
    host.keys["http"] = {"token_file": str(host.written("etc/token", 0o644))}
    key = f"pgc_pro_{'A1b2' * 8}"
    host.keys |= {"api_key": key, "platform": {"url": "https://127.0.0.1:9"}}
    found = host.bad(secrets)
    assert len(found) == 2
    for one in found:
        host.shell(one.remedy)
    assert host.bad(secrets) == []
    assert host.file.stat().st_mode & 0o777 == 0o640
    assert host.file.stat().st_uid == 0


def test_a_secret_of_others_is_copied_and_left_to_them(host: Host) -> None:
    shared = host.folder("ssl/private", 0o700)
    token = host.written("ssl/private/token", 0o640)
    host.keys["http"] = {"token_file": str(token)}
    for refused in (str(host.told()), host.told().remedy):
        assert "chgrp" not in refused
    remedy = str(host.told()).partition("; ")[2]
    host.shell(remedy)
    host.keys["http"]["token_file"] = str(host.etc / "token")
    assert host.bad(secrets) == []
    assert (token.stat().st_gid, shared.stat().st_gid) == (0, 0)


def test_a_key_that_libpq_refuses_is_copied_where_it_is_of_others(host: Host, pki: Pki) -> None:
    host.folder("ssl")
    certificate = host.home / "ssl" / "own.crt"
    certificate.write_bytes(pki.client.certificate.read_bytes())
    key = host.home / "ssl" / "own.key"
    key.write_bytes(pki.client.key.read_bytes())
    key.chmod(0o644)
    tls = {"cert_file": str(certificate), "key_file": str(key)}
    host.keys["databases"][0]["postgres"]["tls"] = tls
    refused = str(host.told())
    assert "which libpq refuses" in refused
    host.shell(refused.rpartition("; ")[2])
    tls["key_file"] = str(host.etc / "own.key")
    assert host.bad(secrets) == []
    assert key.stat().st_mode & 0o777 == 0o644


def test_root_is_told_what_the_service_needs(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rights, "SERVICE", process.ACCOUNT)
    password = host.written("etc/password", 0o644)
    host.keys["databases"][0]["postgres"]["password_file"] = str(password)
    host.write()
    (warning,) = host.asked().loaded.warnings
    host.shell(warning.rpartition("(mode 0644): ")[2])
    assert password.stat().st_mode & 0o777 == 0o640
    with as_account():
        assert password.read_text() == "secret\n"


@pytest.mark.parametrize("name", ["syslog", "etc/pgc.log"])
def test_a_log_of_others_stays_theirs(host: Host, name: str) -> None:
    log = host.written(name, 0o640)
    host.keys["log"] = {"file": str(log)}
    told = str(host.told())
    assert "may not be written by nobody" in told
    assert ("chown" in told) == (log.parent == host.etc)
