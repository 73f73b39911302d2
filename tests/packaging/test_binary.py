"""The binary: every verb of the agent runs from it, and it shows what it holds."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
from pathlib import Path

import pytest

from pg_collector.samplers import discover
from tests.support import built, roots
from tests.support.daemon import Daemon
from tests.support.lab.server import Server
from tests.support.managed import managed
from tests.support.until import until

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
FORMS = ["directory", "single"]


class Agent(Daemon):
    """`pgc start` of the binary, as long as the block."""

    def __init__(self, program: Path, *words: object, **keys: object) -> None:
        self.program = program
        super().__init__(*words, **keys)  # type: ignore[arg-type]
        del self.environment["PYTHONPATH"]

    def __enter__(self) -> "Agent":
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [self.program, "start", "--config", self.file],
                env=self.environment, cwd=self.home, stderr=log, start_new_session=True,
            )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):  # the one file is two processes
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def pgc(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return run(self.program, *words, "--config", self.file, environment=self.environment)


def run(program, *words, environment=None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [program, *words], check=False, capture_output=True, text=True, timeout=120,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"} | (environment or {}),
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.fixture(scope="module")
def binary():
    return built.binary()


@pytest.fixture(scope="module", params=FORMS)
def program(request, binary):
    return getattr(binary, request.param)


def test_what_needs_no_agent_runs_from_the_binary(program, newest_server, tmp_path):
    dsn = newest_server.dsn("pgcollector", sslmode="disable")
    assert json.loads(run(program, "version", "--json").stdout)["psycopg"]
    told = json.loads(run(program, "samplers", "--json").stdout)
    assert {one["name"] for one in told} == set(discover())
    for sampler in discover():
        done = run(program, "sample", sampler, "--dsn", dsn, "--json")
        assert done.returncode == 0, done.stderr
    file = tmp_path / "config.yaml"
    assert run(program, "config", "init", file).returncode == 0
    settings = ("--set", f"databases=[{{name: prod, postgres: {{conn_string: '{dsn}'}}}}]")
    assert run(program, "config", "check", "--config", file).returncode in {0, 78}
    for shell in ("bash", "zsh", "fish"):
        assert "_PGC_COMPLETE" in run(program, "completion", shell).stdout
    completed = {"_PGC_COMPLETE": "complete_bash", "COMP_WORDS": "pgc sample ac", "COMP_CWORD": "2"}
    assert run(program, environment=completed).stdout.split() == ["activity"]
    checked = run(program, "check", "--config", file, *settings, "--json")
    assert json.loads(checked.stdout), checked.stderr
    assert "pgcollector" in run(program, "setup", "sql").stdout


def test_no_library_looks_into_folders_of_where_it_was_built(binary):
    for path in binary.directory.parent.rglob("*.so*"):
        told = subprocess.run(
            ["readelf", "--dynamic", path], check=True, capture_output=True, text=True
        ).stdout
        for places in re.findall(r"\(R(?:UN)?PATH\).*\[(.*)\]", told):
            assert all(one.startswith("$ORIGIN") for one in places.split(":")), (path, places)


def test_a_running_agent_answers_every_verb(program, newest_server, tmp_path):
    dsns = {"prod": newest_server.dsn("pgcollector")}
    with Agent(program, tmp_path, dsns) as agent:
        until(lambda: agent.turns() > 0, 30, "it samples")
        assert agent.pgc("config", "check").returncode == 0
        status = json.loads(agent.pgc("status", "--json").stdout)
        assert status["targets"], status
        assert agent.pgc("health").returncode == 0
        assert "pg_collector_samples_total" in agent.pgc("metrics").stdout
        assert agent.pgc("check", "--json").returncode in {0, 1, 3}
        top = agent.pgc("top", "--once")
        assert top.returncode == 0, top.stderr
        assert "prod" in top.stdout
        assert agent.pgc("buffer", "status").returncode == 0
        assert agent.pgc("reload").returncode == 0
        bundle = tmp_path / "bundle.tar.gz"
        done = agent.pgc("bundle", "--output", str(bundle))
        assert done.returncode == 0, done.stderr
        with tarfile.open(bundle) as archive:
            names = [name for name in archive.getnames() if name.endswith("versions.json")]
            file = archive.extractfile(names[0])
            assert file is not None
            libraries = json.load(file)["libraries"]
        assert {"psycopg", "diskcache", "azure-identity", "botocore"} <= set(libraries)
        agent.signal(signal.SIGTERM)
        assert agent.ended()[0] == 0


def test_what_it_starts_finds_the_libraries_of_the_system(program, tmp_path):
    seen = tmp_path / "seen"
    journal = tmp_path / "bin" / "journalctl"
    journal.parent.mkdir()
    journal.write_text(f'#!/bin/sh\necho "libraries=$LD_LIBRARY_PATH" > {seen}\n')
    journal.chmod(0o755)
    for own, expected in ((None, ""), ("/opt/own", "/opt/own")):
        environment = {"PATH": f"{journal.parent}:{os.environ['PATH']}"}
        environment |= {"LD_LIBRARY_PATH": own} if own else {}
        done = run(program, "bundle", "-o", tmp_path / f"{own is None}.tar.gz",
                   environment=environment)  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert seen.read_text() == f"libraries={expected}\n"


@pytest.mark.parametrize(
    "words", [("demo",), ("platform", "start", "x"), ("platform", "init", "x")]
)
def test_a_verb_that_is_not_in_it_says_so(program, words):
    done = run(program, *words)
    assert (done.returncode, done.stdout) == (78, "")
    (line,) = done.stderr.splitlines()
    assert f"`pgc {words[0]}` is not in this build" in line
    assert f"pip install 'pg-collector[{words[0]}]'" in line
    assert run(program, *words, "--help").returncode == 0


def mapped(pid: int) -> str:
    """Return the files that a process and its children have in memory."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return "".join(Path(f"/proc/{one}/maps").read_text() for one in (pid, *children))


@pytest.mark.parametrize("method", ["password", "aws_iam", "gcp_iam", "azure_ad"])
def test_a_login_with_a_clouds_token_is_in_it_and_loaded_when_used(
    program, newest_server, pki, tmp_path, method
):
    with managed(newest_server, method, pki, tmp_path) as there:
        databases = [{"name": "prod", "postgres": there.postgres}]
        agent = Agent(program, tmp_path, {}, databases=databases)
        agent.environment |= there.environment
        with agent:
            until(lambda: agent.turns() > 0, 40, f"it samples: {agent.log.read_text()}")
            assert {one.fault for one in there.front.tried} == {None}
            loaded = "cryptography" in mapped(agent.process.pid)
            assert loaded == (method in {"gcp_iam", "azure_ad"})


def test_every_licence_is_beside_it(binary):
    licences = binary.dist / "pgc" / "licenses"
    for package in ("psycopg", "psycopg-binary"):
        assert (
            "GNU LESSER GENERAL PUBLIC LICENSE" in (licences / package / "LICENSE.txt").read_text()
        )
    lines = (licences / "README").read_text().partition("\n\n")[2].splitlines()
    told = {line.split()[0].rstrip(",") for line in lines}
    assert {"pg-collector", "python", "openssl", "pyinstaller"} <= told
    assert {one.name for one in licences.iterdir() if one.is_dir()} <= told


def test_the_checksums_are_those_of_the_files(binary):
    subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=binary.dist, check=True,
        capture_output=True,
    )  # fmt: skip


def contents(dist: Path) -> dict[str, bytes | str]:
    return {
        str(path.relative_to(dist)): str(path.readlink())
        if path.is_symlink()
        else path.read_bytes()
        for path in sorted(dist.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def test_the_same_sources_give_the_same_bytes(binary, tmp_path):
    built.build("build.py", tmp_path / "again")
    once, again = contents(binary.dist), contents(tmp_path / "again")
    assert once.keys() == again.keys()
    assert not [name for name in once if once[name] != again[name]]


# --- for others


@pytest.fixture(scope="module")
def portable():
    return built.binary("portable.py")


@pytest.fixture(scope="module", params=["bullseye", "bookworm"])
def bare(request, portable):
    """A Debian without Python, with the portable binary in /opt."""
    base = roots.base(request.param)
    assert not list(base.glob("usr/bin/python*"))
    with roots.layer(base) as root:
        shutil.copytree(portable.dist / "pgc", root / "opt" / "pgc", symlinks=True)
        shutil.copy(portable.single, root / "opt" / "pg-collector")
        yield root


def inside(root: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    prefix = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    return subprocess.run(
        [*prefix, f"--root={root}", "--mount-proc", *command],
        check=False, capture_output=True, text=True, timeout=120, cwd="/",
        env={"PATH": "/usr/bin:/bin", "HOME": "/root"},
    )  # fmt: skip


@pytest.mark.root
@pytest.mark.parametrize("path", ["/opt/pgc/pgc", "/opt/pg-collector"])
def test_it_runs_on_debian_without_python_and_takes_samples(bare, newest_server, path):
    done = inside(bare, path, "version")
    assert done.returncode == 0, done.stderr
    output = f"/root/{Path(path).name}"
    done = inside(
        bare, path, "start", "--once", "--local", output, "--http", "off",
        "--set", "state_dir=/root/state", "--set",
        "databases=[{name: prod, postgres: {conn_string: "
        f"'{newest_server.dsn('pgcollector', sslmode='disable')}'}}}}]",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = list((bare / output[1:]).rglob("activity/*.jsonl"))
    assert lines
    first = json.loads(lines[0].read_text().splitlines()[0])
    assert first["set"].startswith("activity")


BUNDLES = ["etc/ssl/certs/ca-certificates.crt", "etc/pki/tls/certs/ca-bundle.crt", ""]


@pytest.mark.root
@pytest.mark.parametrize("bundle", BUNDLES)
def test_the_systems_authorities_are_found_wherever_they_lie(bare, pki, bundle):
    with Server(17, tls=pki, hba=["hostssl all all 127.0.0.1/32 trust"]) as server:
        dsn = (
            f"host=localhost hostaddr=127.0.0.1 port={server.port} user=pgcollector dbname=postgres"
        )
        sample = ("/opt/pgc/pgc", "sample", "activity", "--json", "--dsn", dsn)
        done = inside(bare, *sample)  # with certifi's list
        assert (done.returncode, "not trusted here" in done.stderr) == (69, True), done.stderr
        if bundle:
            place = bare / bundle
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(pki.ca, place)
            done = inside(bare, *sample)
            place.unlink()
            assert done.returncode == 0, done.stderr


def test_it_needs_no_newer_glibc_and_has_openssl_3(portable):
    glibc = built.PROGRAMS / "glibc.py"
    done = run("python3", glibc, portable.dist, "--floor", "2.30")
    assert done.returncode == 0, done.stderr
    assert (portable.dist / "pgc" / "_internal" / "libssl.so.3").exists()
    readme = (portable.dist / "pgc" / "licenses" / "README").read_text()
    assert "was not at hand" not in readme
