"""The image as a user runs it: read-only, not root, powerless, small, on real servers.

`make packages-test`; needs root, dist/pgc (`make binary`), and the programs of `containers.TOOLS`.
"""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from pg_collector import __version__
from tests.packaging.test_image_recipe import program
from tests.support import containers
from tests.support.containers import Container, Podman
from tests.support.image_recipe import CONTAINER, stages
from tests.support.lab.server import Server
from tests.support.ports import free_port
from tests.support.reference_platform import ReferencePlatform
from tests.support.until import until

pytestmark = [pytest.mark.long, pytest.mark.root, pytest.mark.timeout(600)]

PASSWORD = "zyx-Pa55word-of-the-role"  # noqa: S105  # to be looked for
SECRETS = {"API_KEY": "api_key", "PG_PASSWORD": "password"}
USER = program("root").USER
LARGEST = 40 << 20  # bytes, compressed: the bound
STOP = 10.0  # seconds: docs/specs/lifecycle.md
QUICK = {f"PGC__SAMPLING__{name}": "1s" for name in ("ACTIVITY", "DATABASE", "WAL", "LOCKS")}


def built(target: Path) -> Path:
    """Build the image, as `make image` does."""
    command = [sys.executable, str(CONTAINER / "build.py"), "--output", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    containers.tools()
    return built(tmp_path_factory.mktemp("image") / "image.tar")


@pytest.fixture(scope="module")
def podman(tmp_path_factory) -> Iterator[Podman]:
    podman = Podman(tmp_path_factory.mktemp("podman"))
    yield podman
    podman("rm", "--all", "--force", "--time", "0")


@pytest.fixture(scope="module")
def image(podman, archive):
    return podman.load(archive)


def directory(path: Path, owner: int = USER) -> Path:
    """Make a directory that the image's user may use as its volume."""
    path.mkdir(mode=0o700)
    subprocess.run(["chown", f"{owner}:{owner}", path], check=True)
    return path


@dataclass
class Site:
    """A server, a platform, and what an agent is to be told of them."""

    podman: Podman
    image: str
    server: Server
    platform: ReferencePlatform
    place: Path

    def environment(self, role: str, port: int, **more: str) -> dict[str, str]:
        """Return what an agent is told that logs in as a role of its own, made here."""
        self.server.query(f"create role {role} login connection limit 2 in role pg_monitor")
        return {
            "PG_CONN_STRING": self.server.dsn(role, sslmode="disable"),
            "PG_NAME": "prod",
            "PGC__PLATFORM__URL": self.platform.url,
            "PGC__PLATFORM__LINGER": "0s",
            "PGC__PLATFORM__RESUME_DELAY_MAX": "0s",
            "HTTP_ADDRESS": f"127.0.0.1:{port}",
            **QUICK,
            **more,
        }


@pytest.fixture(scope="module")
def site(podman, image, lab, tmp_path_factory) -> Iterator[Site]:
    place = tmp_path_factory.mktemp("site")
    with ReferencePlatform(place) as platform:
        yield Site(podman, image, lab.newest(), platform, place)


class Page:
    """The agent's HTTP pages, on its port."""

    def __init__(self) -> None:
        self.port = free_port()

    def get(self, path: str) -> requests.Response:
        return requests.get(f"http://127.0.0.1:{self.port}{path}", timeout=5)

    def answers(self, path: str) -> bool:
        """Whether a probe of that page is content."""
        try:
            return self.get(path).ok
        except requests.ConnectionError:
            return False

    def metric(self, series: str) -> float:
        try:
            lines = self.get("/metrics").text.splitlines()
        except requests.ConnectionError:
            return -1.0
        for line in lines:
            if line.startswith(f"pg_collector_{series} "):
                return float(line.rsplit(" ", 1)[1])
        return -1.0


@dataclass
class Running:
    container: Container
    page: Page
    key: str


@pytest.fixture(scope="module")
def agent(site) -> Running:
    """One agent, by its environment alone; it is there for all tests that do not end it."""
    page, key = Page(), site.platform.new_key()
    volume = directory(site.place / "state")
    told = site.environment("of_agent", page.port, API_KEY=key)
    told["PG_CONN_STRING"] += f" password={PASSWORD}"
    container = Container(site.podman, site.image, "agent", told, volume)
    before = site.platform.metric("lines_stored_total")
    until(
        lambda: site.platform.metric("lines_stored_total") > before + 20,
        deadline=60,
        what=f"samples arrive: {container.log()}",
    )
    return Running(container, page, key)


def test_it_is_small_and_the_same_each_time(archive, tmp_path):
    assert archive.stat().st_size <= LARGEST
    assert built(tmp_path / "again.tar").read_bytes() == archive.read_bytes()


def test_it_says_what_the_dockerfile_says(podman, image):
    said = stages()[-1]
    found = podman.described(image)
    config = found["Config"]
    assert config["User"] == said.one("USER")
    assert config["Entrypoint"] == ["pgc"]
    assert config["Cmd"] == ["start"]
    assert config["Volumes"] == {said.one("VOLUME"): {}}
    assert config["ExposedPorts"] == {f"{said.one('EXPOSE')}/tcp": {}}
    assert dict(one.split("=", 1) for one in config["Env"]) == said.environment()
    assert found["Healthcheck"]["Test"] == ["CMD", *said.health()]
    labels = re.findall(r'(org\.[\w.]+)="([^"]*)"', said.one("LABEL"))
    assert config["Labels"] == {
        name: value.replace("$VERSION", __version__) for name, value in labels
    }


@pytest.fixture(scope="module")
def files(podman, image, tmp_path_factory):
    """The image's files, laid out."""
    place = tmp_path_factory.mktemp("files")
    podman("create", "--name", "files", image)
    podman("export", "--output", place / "files.tar", "files")
    subprocess.run(["tar", "-C", place, "-xf", place / "files.tar"], check=True)
    (place / "files.tar").unlink()
    return place


def test_nothing_in_it_can_be_run_but_the_program(files, site):
    shell = ("--rm", "--entrypoint", "/bin/sh", site.image, "-c", "true")
    done = site.podman.tried("run", *containers.HERE, *shell)
    assert done.returncode == 127
    assert "no such file" in done.stderr
    regular = [path for path in files.rglob("*") if path.is_file() and not path.is_symlink()]
    programs = {
        path.relative_to(files).as_posix()
        for path in regular
        if path.stat().st_mode & 0o111 and ".so" not in path.name
    }
    assert programs == {"usr/lib/pg-collector/pgc"}
    assert not [path for path in regular if path.stat().st_mode & 0o6022]  # set-id, others write
    owned = [path for path in files.rglob("*") if path.lstat().st_uid]
    assert [path.relative_to(files).as_posix() for path in owned] == ["var/lib/pg-collector"]
    assert owned[0].stat().st_mode & 0o777 == 0o700


def test_its_libraries_find_all_that_they_ask_for(files):
    there = {path.name for path in files.rglob("*.so*")}
    asked: set[str] = set()
    for path in [*files.rglob("*.so*"), files / "usr/lib/pg-collector/pgc"]:
        if path.is_symlink() or path.suffix == ".zip":
            continue
        said = subprocess.run(
            ["readelf", "--dynamic", path], capture_output=True, text=True, check=True
        )
        asked |= set(re.findall(r"\(NEEDED\).*\[(.+)\]", said.stdout))
    assert "libc.so.6" in asked
    assert asked - there == set()
    assert (files / "etc/ssl/certs/ca-certificates.crt").read_text().count("BEGIN CERT") > 100


def test_the_environment_alone_is_enough_and_samples_arrive(agent, site):
    until(lambda: agent.page.get("/readyz").status_code == 200, deadline=30, what="it is ready")
    device = (site.place / "state" / "device_id").read_text().strip()
    known = {one["device_id"]: one for one in site.platform.get("/v1/devices")["devices"]}
    assert known[device]["streams"]
    assert agent.container.pgc("status").returncode == 0
    assert agent.container.pgc("check", "--only", "config,disk").returncode == 0


def test_it_is_the_first_process_not_root_and_powerless(agent):
    first = agent.container.processes()[1]
    assert first["Name"] == "pgc"
    assert set(first["Uid"].split()) == set(first["Gid"].split()) == {str(USER)}
    assert {int(first[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")} == {0}
    assert first["NoNewPrivs"] == "1"
    assert first["Seccomp"] == "2"


def test_the_health_check_is_well_while_it_lives_and_not_while_it_is_stopped(agent, site):
    until(agent.container.healthy, deadline=30, what="it is healthy")
    assert agent.container.state()["Health"]["Status"] == "healthy"
    site.podman("kill", "--signal", "STOP", agent.container.name)
    try:
        assert not agent.container.healthy()
        last = agent.container.state()["Health"]["Log"][-1]
        assert last["ExitCode"] != 0
    finally:
        site.podman("kill", "--signal", "CONT", agent.container.name)
    until(agent.container.healthy, deadline=60, what="it is healthy again")


def test_it_stays_within_its_memory_and_leaves_no_zombies(agent):
    for _ in range(3):
        assert agent.container.pgc("health").returncode == 0
    assert [one for one in agent.container.processes().values() if one["State"][0] == "Z"] == []
    assert "oom_kill 0" in agent.container.memory("memory.oom_control")


def test_its_log_holds_no_secret(agent):
    said = agent.container.log()
    assert '"msg"' in said
    assert PASSWORD not in said
    assert agent.key not in said
    assert agent.key[:12] not in said


def test_it_ends_in_order_and_the_volume_is_gone_on_with(site, tmp_path):
    """SIGTERM to the first process, the platform away; secrets are files this time."""
    page, volume = Page(), directory(tmp_path / "state")
    secrets = directory(tmp_path / "secrets")
    for name, value in zip(SECRETS.values(), (site.platform.new_key(), PASSWORD), strict=True):
        (secrets / name).write_text(value)
        subprocess.run(["chown", f"{USER}:{USER}", secrets / name], check=True)
    files = {f"{key}_FILE": f"/run/secrets/{name}" for key, name in SECRETS.items()}
    told = site.environment("of_first", page.port, **files)
    options = [f"--volume={secrets}:/run/secrets:ro"]
    first = Container(site.podman, site.image, "first", told, volume, options=options)
    until(lambda: page.metric("lines_delivered_total") > 5, deadline=60, what="lines arrive")
    site.platform.kill()
    until(lambda: page.metric("lines_buffered") > 20, deadline=60, what="lines wait")
    began = time.monotonic()
    site.podman("kill", "--signal", "TERM", first.name)
    assert first.ended(30) == 0
    assert time.monotonic() - began < STOP
    assert "stopping: SIGTERM" in first.log()
    assert PASSWORD not in first.log()
    site.platform.start()
    second = Container(site.podman, site.image, "second", told, volume, options=options)
    # A new process counts from nothing: what waited is delivered, and then what it made itself.
    until(lambda: page.metric("lines_delivered_total") > 20, deadline=60, what="it goes on")
    until(lambda: page.metric("lines_buffered") == 0, deadline=60, what="nothing waits")
    site.podman("kill", "--signal", "TERM", second.name)
    assert second.ended(30) == 0
    device = (volume / "device_id").read_text().strip()
    streams = {stream for stream, owner in streams_of(site.platform) if owner == device}
    entries = [one for one in site.platform.arrivals() if one.stream in streams]
    site.platform.start()
    assert len(streams) == 1
    assert not [one for one in entries if one.line is None], "no gap"
    assert [one.first for one in entries] == list(range(entries[0].first, entries[-1].last + 1))


def streams_of(platform: ReferencePlatform) -> list[tuple[str, str]]:
    """Return each stream with its device."""
    found = platform.get("/v1/devices")["devices"]
    return [(stream["stream"], one["device_id"]) for one in found for stream in one["streams"]]


@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_a_volume_that_cannot_be_used_is_named(site, tmp_path, mode):
    role = f"of_refused_{mode:o}"
    told = site.environment(role, free_port(), API_KEY="pgc_bench_0123456789abcdef")
    volume = directory(tmp_path / "state", owner=0)
    volume.chmod(mode)
    refused = Container(site.podman, site.image, role, told, volume)
    assert refused.ended(30) == 73
    (sentence,) = (line for line in refused.log().splitlines() if line.startswith("pgc: "))
    assert re.match(r"pgc: /var/lib/pg-collector/[\w.]+: Permission denied", sentence)
    assert "has to be a directory that the agent's user can write to" in sentence


def test_it_does_its_work_within_the_64_mib_that_are_asked_for(site, tmp_path):
    """What Kubernetes requests for it: nothing is run beside it there."""
    page, volume = Page(), directory(tmp_path / "state")
    told = site.environment("of_small", page.port, API_KEY=site.platform.new_key())
    small = Container(site.podman, site.image, "small", told, volume, memory="64m")
    until(lambda: page.metric("lines_delivered_total") > 100, deadline=90, what="lines arrive")
    assert "oom_kill 0" in small.memory("memory.oom_control")
    site.podman("kill", "--signal", signal.SIGTERM.name, small.name)
    assert small.ended(30) == 0
