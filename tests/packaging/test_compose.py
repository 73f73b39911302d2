"""The example for compose, as far as it runs without a registry: its scripts, and the agent's image
with the environment that it says, over TLS and with a password, on real servers.

What stands in for containers of the others: their scripts run here, with their places.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pg_collector import __version__
from tests.packaging.test_image import USER, Page, archive, directory, image, podman
from tests.support.containers import Container
from tests.support.image_recipe import CONTAINER
from tests.support.lab.server import Server
from tests.support.ports import free_port
from tests.support.reference_platform import _PGC
from tests.support.until import until

__all__ = ["archive", "image", "podman"]  # fixtures
pytestmark = [pytest.mark.long, pytest.mark.root, pytest.mark.timeout(600)]

PASSWORDS = {"postgres": "of-the-super-user", "pgcollector": "zyx-Pa55word-of-the-role"}
HBA = (
    "host all postgres 127.0.0.1/32 trust",
    "host all pgcollector 127.0.0.1/32 scram-sha-256",
)


class Stack:
    """The services of compose.yaml whose work is a script, and the places that they share."""

    def __init__(self, place: Path) -> None:
        whole = yaml.safe_load((CONTAINER / "compose.yaml").read_text())
        self.services: dict[str, Any] = whole["services"]
        self.places = {
            "/setup": place / "setup", "/account": place / "account",
            "/run/secrets": place / "secrets", "/var/lib/pgc-platform": place / "platform",
        }  # fmt: skip
        for each in self.places.values():
            each.mkdir()
        for name, password in PASSWORDS.items():
            (self.places["/run/secrets"] / name).write_text(f"{password}\n")
        (place / "bin").mkdir()
        program = place / "bin" / "pgc"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m pg_collector "$@"\n')
        program.chmod(0o755)
        self.path = f"{program.parent}:{os.environ['PATH']}"

    def here(self, text: str) -> str:
        """Return a text with the places of containers as they are here."""
        for name, place in self.places.items():
            text = re.sub(rf"{name}\b", str(place), text)
        return text.replace("$$", "$")

    def run(self, service: str, **more: str) -> None:
        """Run the script of a service; fails where it does."""
        said = self.services[service]
        (script,) = said["command"]
        environment = {
            "PATH": self.path, "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "PGC_PLATFORM_DIR": str(self.places["/var/lib/pgc-platform"]),
            **said.get("environment", {}), **more,
        }  # fmt: skip
        done = subprocess.run(
            [*said["entrypoint"], self.here(script)], env=environment, capture_output=True,
            text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, f"{service}: {done.stderr}"


@pytest.fixture
def stack(tmp_path):
    for tool, package in {"psql": "postgresql-client", "openssl": "openssl"}.items():
        if shutil.which(tool) is None:
            raise FileNotFoundError(f"{tool} is missing: apt-get install {package}")
    return Stack(tmp_path)


def make_role(stack: Stack, server: Server) -> None:
    stack.run("role-sql")
    stack.run("role", PGHOST=server.host, PGPORT=str(server.port))


def test_the_role_is_made_and_brought_up_to_date_and_its_password_is_nowhere_in_plain(stack):
    with Server(18, hba=HBA) as server:
        server.query("drop role pgcollector")
        for _ in range(2):
            make_role(stack, server)
        ((limit, verifier),) = server.query(
            "select rolconnlimit, rolpassword from pg_authid where rolname = 'pgcollector'"
        )
        assert limit == 2
        assert verifier.startswith("SCRAM-SHA-256$")
        texts = server.query("select query from pg_stat_statements")
        assert not [text for (text,) in texts if PASSWORDS["pgcollector"] in text]
        assert PASSWORDS["pgcollector"] not in server.log.read_text()


def test_the_agent_in_its_image_works_with_what_the_scripts_made(stack, podman, image, tmp_path):
    port, page, account = free_port(), Page(), stack.places["/account"]
    with Server(18, hba=HBA) as server:
        make_role(stack, server)
        stack.run("platform-init")
        key = (account / "api_key").read_text()
        stack.run("platform-init")  # a second start makes nothing anew
        assert (account / "api_key").read_text() == key
        assert {path.stat().st_uid for path in account.iterdir()} == {USER}
        assert {path.name for path in account.iterdir()} == {"api_key", "platform.crt"}
        ports = {
            "PGC__PLATFORM__URL": f"https://platform:{port}",
            "PGPORT": str(server.port),
            "HTTP_ADDRESS": f"127.0.0.1:{page.port}",
        }
        listen = [
            stack.here(word).replace(":8443", f"127.0.0.1:{port}")
            for word in stack.services["platform"]["command"]
        ]
        with subprocess.Popen([*_PGC, *listen], stderr=subprocess.DEVNULL) as platform:
            try:
                agent = started(stack, podman, image, directory(tmp_path / "state"), ports)
                until(
                    lambda: page.metric("lines_delivered_total") > 5,
                    deadline=60,
                    what="samples arrive",
                )
                until(lambda: agent.pgc("health").returncode == 0, deadline=30, what="it is well")
                status = json.loads(agent.pgc("status", "--json").stdout)
                assert [target["name"] for target in status["targets"]] == ["shop"]
                assert PASSWORDS["pgcollector"] not in agent.log()
            finally:
                platform.terminate()


def started(stack: Stack, podman, image: str, state: Path, ports: dict[str, str]) -> Container:
    """Start the agent as compose.yaml says; only `ports` are others, and names lead here."""
    said = stack.services["agent"]
    told = {**said["environment"], **ports, "PGC__PLATFORM__LINGER": "0s"}
    options = ["--add-host=platform:127.0.0.1", "--add-host=postgres:127.0.0.1"]
    options += [
        f"--volume={stack.places['/run/secrets']}:/run/secrets:ro",
        f"--volume={stack.places['/account']}:/run/account:ro",
    ]
    assert image.endswith(f":{__version__}")
    return Container(podman, image, "stack", told, state, memory=said["mem_limit"], options=options)
