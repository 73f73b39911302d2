"""The .deb in a booted Debian 12 that has no Python: from its installation to its purge."""

import hashlib
import json
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest

from tests.support import roots
from tests.support.packaged import CONFIG, UNIT, Host, Packages
from tests.support.until import until

pytestmark = [pytest.mark.long, pytest.mark.root, pytest.mark.timeout(900)]

OUTPUT = "/var/lib/pg-collector/output"
BUFFER = "/var/lib/pg-collector/buffer"


def test_lintian_has_nothing_against_it(packages: Packages):
    if shutil.which("lintian") is None:
        pytest.fail("lintian is missing: apt-get install lintian", pytrace=False)
    done = subprocess.run(
        ["lintian", "--allow-root", "--fail-on", "error,warning",
         "--tag-display-limit", "0", packages.of("deb")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, ""), done.stdout


@pytest.mark.parametrize("form", ["deb", "rpm"])
def test_the_same_inputs_give_the_same_bytes(packages: Packages, form):
    sums = {
        hashlib.sha256(one.read_bytes()).hexdigest()
        for one in (packages.of(form), packages.anew(form, folder="again"))
    }
    assert len(sums) == 1
    listed = (packages.of(form).parent / "SHA256SUMS").read_text()
    assert f"{sums.pop()}  {packages.of(form).name}\n" in listed


def test_from_its_installation_to_its_purge(packages: Packages, alone: Host):
    host = alone
    assert host.run("sh", "-c", "command -v python3 python", check=False).returncode != 0
    before = everything(host)
    said = host.install(packages.of("deb"))
    assert "Three steps" in said
    assert "systemctl enable --now pg-collector" in said
    assert host.shown(UNIT, "ActiveState") == "inactive", "nothing is started that is not set up"
    assert host.said("systemctl", "is-enabled", UNIT) == "enabled"
    what_is_where(host)
    the_first_start(host)
    an_invalid_configuration(host)
    both_ways_to_log_in(host)
    nothing_it_may_not(host)
    the_check_sees_what_the_unit_is_given(host)
    removed_then_purged(host, before)


def everything(host: Host) -> set[str]:
    """Return the names of all files, but for those of the kernel and of what merely runs."""
    found = host.said(
        "find", "/", "-xdev", "(", "-path", "/proc", "-o", "-path", "/sys", "-o", "-path", "/dev",
        "-o", "-path", "/tm*", "-o", "-path", "/var/tm*", "-o", "-path", "/var/log/journal",
        "-o", "-path", "/var/lib/postgresql", "-o", "-path", "/var/cache/apt",
        "-o", "-path", "/var/lib/systemd/catalog", ")", "-prune", "-o", "-print",
    )  # fmt: skip
    return set(found.splitlines())


def what_is_where(host: Host) -> None:
    places = {
        "/etc/pg-collector": "750 root:pg-collector",
        CONFIG: "640 root:pg-collector",
        "/etc/pg-collector/config.d": "750 root:pg-collector",
        "/etc/pg-collector/certs": "750 root:pg-collector",
        "/etc/pg-collector/credentials": "700 root:root",
        "/etc/default/pg-collector": "640 root:root",
        "/var/lib/pg-collector": "700 pg-collector:pg-collector",
        "/var/log/pg-collector": "750 pg-collector:pg-collector",
        "/usr/lib/pg-collector/pgc": "755 root:root",
    }
    found = host.said("stat", "-L", "-c", "%n %a %U:%G", *places)
    assert found.splitlines() == [f"{name} {mode}" for name, mode in places.items()]
    for command in ("pgc", "pg-collector"):
        assert host.said(command, "--version").startswith("pgc ")
    assert "pgc" in host.said(
        "bash", "-c", ". /usr/share/bash-completion/completions/pgc && complete -p pgc"
    )
    host.run("test", "-e", "/usr/share/man/man1/pgc-check.1.gz")
    host.run("test", "-e", "/usr/share/man/man5/pg-collector.yaml.5.gz")
    host.run("pgc", "config", "check")
    host.run("logrotate", "--debug", "/etc/logrotate.d/pg-collector")


def the_first_start(host: Host) -> None:
    """The file as it is shipped has no key: it stays up, and says so."""
    host.run("systemctl", "start", UNIT)
    assert host.active()
    page = host.page("/healthz")
    assert page["status"] == "degraded"
    assert page["parts"]["activation"]["reason"].startswith("UNPROVISIONED")
    assert "add api_key (and platform.url)" in page["parts"]["activation"]["remedy"]
    until(lambda: "UNPROVISIONED" in host.shown(UNIT, "StatusText"), 30.0, "systemd was told")
    assert host.shown(UNIT, "NRestarts") == "0"


def an_invalid_configuration(host: Host) -> None:
    """Exit code 78 is the end: starting again would not mend it."""
    shipped = host.said("cat", CONFIG)
    host.configure(databases=[])
    assert host.run("systemctl", "restart", UNIT, check=False).returncode != 0
    until(lambda: host.shown(UNIT, "ActiveState") == "failed", 30.0, "it has failed")
    assert host.shown(UNIT, "ExecMainStatus") == "78"
    assert host.shown(UNIT, "NRestarts") == "0"
    (host.root / CONFIG.lstrip("/")).write_text(shipped + "\n")


def both_ways_to_log_in(host: Host) -> None:
    """Peer authentication over the local socket, and a password that only the unit is given."""
    host.role()
    host.psql("ALTER ROLE \"pg-collector\" PASSWORD 'from-the-credential'")
    host.credential("postgres_password", "from-the-credential")
    by_tcp = "host=127.0.0.1 user=pg-collector dbname=postgres sslmode=disable"
    host.run("systemctl", "stop", UNIT)
    for name, conn_string in (("peer", "postgresql:///postgres"), ("tcp", by_tcp)):
        host.configure(
            databases=[{"name": name, "postgres": {"conn_string": conn_string}}],
            local={"enabled": True, "path": OUTPUT},
            sampling={"database": "10s"},
        )
        host.run("systemctl", "reload-or-restart", UNIT)
        until(partial(host.samples, f"{OUTPUT}/{name}/database"), 120.0, f"samples of {name}")
        found = host.psql(
            "SELECT DISTINCT usename, client_addr IS NULL FROM pg_stat_activity"
            " WHERE application_name = 'pg-collector'"
        )
        assert found == f"pg-collector|{'t' if name == 'peer' else 'f'}"
    host.until_ready()


def nothing_it_may_not(host: Host) -> None:
    pid = host.shown(UNIT, "MainPID")
    lines = host.said("cat", f"/proc/{pid}/status").splitlines()
    process = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    assert int(process["CapEff"], 16) == int(process["CapBnd"], 16) == 0
    assert (process["NoNewPrivs"], process["Seccomp"]) == ("1", "2")
    inside = ("nsenter", "-t", pid, "-m", "-U", "--preserve-credentials")
    for command in ("touch /etc/x", "ls /root/.", "ls /home/.", "cat /etc/shadow"):
        done = host.run(*inside, "runuser", "-u", "pg-collector", "--", *command.split(),
                        check=False)  # fmt: skip
        assert done.returncode != 0, command


def the_check_sees_what_the_unit_is_given(host: Host) -> None:
    """Root's check has the password, though the agent's account cannot read its file."""
    host.run("systemctl", "stop", UNIT)
    done = host.run("pgc", "check", "--json", check=False)
    found = json.loads(done.stdout)
    assert [one for one in found if one["level"] == "fail"] == []
    told = [one["found"] for one in found if one["section"] == "secrets"]
    assert any("gives credential postgres_password" in one for one in told), told
    assert "from-the-credential" not in done.stdout + done.stderr
    logins = {one["target"] for one in found if one["section"] == "login"}
    assert logins == {"tcp"}
    assert host.run("sh", "-c", "ls -d /dev/shm/pgc-*", check=False).returncode != 0
    host.run("systemctl", "start", UNIT)


def removed_then_purged(host: Host, before: set[str]) -> None:
    kept = (host.root / CONFIG.lstrip("/")).read_text()
    host.apt("remove", "pg-collector")
    assert host.run("systemctl", "is-active", UNIT, check=False).stdout.strip() == "inactive"
    host.run("sh", "-c", "! test -e /usr/bin/pgc")
    assert (host.root / CONFIG.lstrip("/")).read_text() == kept
    for place in ("/var/lib/pg-collector/buffer", f"{OUTPUT}/peer/database",
                  "/etc/pg-collector/credentials/postgres_password"):  # fmt: skip
        host.run("test", "-e", place)
    host.apt("purge", "pg-collector")
    left = everything(host) - before
    assert [one for one in left if "pg-collector" in Path(one).name or "pgc" in one] == []
    assert {one for one in left if one.startswith(("/usr", "/etc"))} <= {"/etc/group-",
           "/etc/passwd-", "/etc/shadow-", "/etc/gshadow-"}  # fmt: skip
    assert host.said("getent", "passwd", "pg-collector").startswith("pg-collector:")
    listed = host.run("systemctl", "list-unit-files", "pg-collector*", check=False).stdout
    assert "0 unit files listed" in listed


def test_what_was_there_before_it_is_the_services_afterwards(packages: Packages, alone: Host):
    """An account without a group of its name; state of the number that the account had before."""
    host = alone
    host.run("useradd", "--system", "--gid", "nogroup", "pg-collector")
    host.install(packages.of("deb"))
    host.run("systemctl", "start", UNIT)
    assert host.active()
    host.apt("remove", "pg-collector")
    assert host.said("stat", "-c", "%U:%G", BUFFER) == "pg-collector:pg-collector"
    host.run("chown", "-R", "4711:4711", "/var/lib/pg-collector")
    host.install(packages.of("deb"))
    found = host.said("find", "/var/lib/pg-collector", "!", "-user", "pg-collector")
    assert found == ""
    host.run("systemctl", "start", UNIT)
    assert host.active()
    host.run("systemctl", "stop", UNIT)
    host.run("mount", "-t", "tmpfs", "none", "/var/lib/pg-collector")
    host.run("touch", "/var/lib/pg-collector/what-waits")
    host.run("mount", "-o", "remount,ro", "/var/lib/pg-collector")
    assert "could not be emptied" in host.apt("purge", "pg-collector")
    host.run("mount", "-o", "remount,rw", "/var/lib/pg-collector")
    host.install(packages.of("deb"))
    assert "is empty, and stays where it is mounted" in host.apt("purge", "pg-collector")


def test_without_systemd_it_is_installed_and_its_places_are_made(packages: Packages):
    with roots.layer(roots.base("bookworm", "adduser", "procps", "zlib1g")) as root:
        shutil.copyfile(packages.of("deb"), root / "it.deb")

        def inside(*words: str) -> str:
            return subprocess.run(
                ["/usr/sbin/chroot", root, *words], capture_output=True, text=True, check=True
            ).stdout

        assert "Three steps" in inside("dpkg", "--install", "/it.deb")
        places = ("/var/lib/pg-collector", "/var/log/pg-collector")
        found = inside("stat", "-c", "%a %U:%G", *places).splitlines()
        assert found == ["700 pg-collector:pg-collector", "750 pg-collector:pg-collector"]
        inside("dpkg", "--purge", "pg-collector")
        assert not [one for one in places if (root / one.lstrip("/")).exists()]
