"""A person who follows a guide word for word gets what it says.

Each guide is followed on a system of its own; what cannot run here is marked in the guide's source,
with the reason.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pg_collector import __version__
from tests.docs.markdown import ROOT
from tests.packaging.readers import (
    Platform,
    as_docker,
    as_pgc,
    commands,
    folder_in,
    handed_over,
    network,
    network_of,
    of_server,
    reader_here,
    reader_in,
    server_in,
)
from tests.support import containers, kubernetes, roots
from tests.support.packaged import Host, Packages, system
from tests.support.until import until

pytestmark = [pytest.mark.long, pytest.mark.root, pytest.mark.timeout(900)]

UNIT = ROOT / "packaging" / "linux" / "pg-collector.service"


def test_beside_the_server_then_an_upgrade_a_downgrade_and_the_end(
    packages: Packages, tmp_path: Path
) -> None:
    older, newer = packages.of("deb"), packages.of("deb", "99.1.0")
    with alone("sudo") as host:
        platform = Platform(tmp_path, inside=network_of(host))
        account = {"PLATFORM": platform.url, "API_KEY": platform.new_key("pro")}
        with platform:
            until(
                lambda: host.run("curl", "-fsS", f"{platform.url}/healthz", check=False).stdout,
                deadline=30.0,
                what="the platform answers",
            )
            handed_over(folder_in(host), older)
            person = reader_in(host, {"DEB": f"./{older.name}", **account})
            person.follow("install/same-host.md", kind="deb")
            handed_over(folder_in(host), newer)
            person = reader_in(host, {"DEB": f"./{newer.name}"})
            person.follow("upgrade.md", kind="deb", first="Before", last=".rpm")
            assert "99.1.0" in host.said("dpkg-query", "--show", "pg-collector")
            person = reader_in(host, {"DEB": f"./{older.name}"})
            person.follow("upgrade.md", kind="deb", first="Downgrade")
            assert "99.1.0" not in host.said("dpkg-query", "--show", "pg-collector")
            reader_in(host, {}).follow("uninstall.md", kind="deb")
    assert len(platform.rows("SELECT DISTINCT device FROM samples")) == 1
    reasons = {reason for (reason,) in platform.rows("SELECT reason FROM gaps")}
    assert reasons <= {"acknowledged"}, "nothing was lost; the first lines are in files"


def test_on_a_host_of_its_own_from_the_package(packages: Packages, tmp_path: Path) -> None:
    package = packages.of("deb")
    with alone("sudo") as host, server_in(network_of(host), tmp_path) as server:
        handed_over(folder_in(host), package, server.base / "ca.crt")
        values = {"DEB": f"./{package.name}", **of_server(server)}
        reader_in(host, values).follow("install/vm.md", kind="deb")


def test_on_a_host_of_its_own_from_the_wheel(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check",
         "--constraint", ROOT / "constraints.txt", "--wheel-dir", wheels, ROOT],
        check=True,
    )  # fmt: skip
    (wheel,) = wheels.glob("pg_collector-*.whl")
    with (
        alone("sudo", "python3", "python3-venv") as host,
        server_in(network_of(host), tmp_path) as server,
    ):
        handed_over(folder_in(host), wheel, UNIT, server.base / "ca.crt")
        shutil.copytree(wheels, host.root / "var/tmp/wheels")
        host.write("/etc/pip.conf", "[global]\nno-index = true\nfind-links = /var/tmp/wheels\n")
        values = {
            "WHEEL": f"./{wheel.name}", "UNIT": f"./{UNIT.name}", "PYTHON": "python3",
            **of_server(server),
        }  # fmt: skip
        person = reader_in(host, values)
        person.follow("install/vm.md", kind="wheel")
        person.follow("upgrade.md", kind="wheel", first="Wheel", last="Downgrade")
        person.follow("uninstall.md", kind="wheel", first="Wheel", last="Container")


def test_on_a_host_of_its_own_from_the_one_file(tmp_path: Path) -> None:
    single = built(f"pg-collector-linux-{os.uname().machine}", "make binary")
    with alone("sudo") as host, server_in(network_of(host), tmp_path) as server:
        handed_over(folder_in(host), single, UNIT, server.base / "ca.crt")
        values = {"FILE": f"./{single.name}", "UNIT": f"./{UNIT.name}", **of_server(server)}
        reader_in(host, values).follow("install/vm.md", kind="file")


def test_in_a_container(tmp_path: Path) -> None:
    """podman stands for docker; root has no need of sudo."""
    archive = built("pg-collector-image.tar", "make binary image")
    containers.tools()
    programs = commands(tmp_path / "bin", docker=as_docker(), sudo='exec "$@"')
    with network() as inside, server_in(inside, tmp_path) as server:
        platform = Platform(tmp_path, inside)
        values = {
            "IMAGE": f"./{archive.name}", "AGENT": f"pg-collector:{__version__}",
            "PLATFORM": platform.url, "API_KEY": platform.new_key("pro"), **of_server(server),
        }  # fmt: skip
        place = tmp_path / "reader"
        handed_over(place, archive, server.base / "ca.crt")
        person = reader_here(inside, place, [programs, server.binaries.programs], values)
        try:
            with platform:
                person.follow("install/docker.md")
                person.follow("uninstall.md", kind="docker", first="Container", last="Kubernetes")
        finally:
            subprocess.run(
                [*inside, programs / "docker", "rm", "--force", "--all"],
                capture_output=True, check=False,
            )  # fmt: skip
    assert len(platform.rows("SELECT DISTINCT device FROM samples")) == 1


def test_in_kubernetes_as_far_as_the_manifests(tmp_path: Path) -> None:
    programs = commands(tmp_path / "bin", pgc=as_pgc(), kubectl=f'exec {kubernetes.kubectl()} "$@"')
    with network() as inside, server_in(inside, tmp_path) as server:
        place = tmp_path / "reader"
        handed_over(place, server.base / "ca.crt")
        shutil.copytree(ROOT / "packaging" / "kubernetes", place / "packaging" / "kubernetes")
        values = {
            "PLATFORM": "https://platform.example", "API_KEY": "pgc_pro_x",
            "AGENT": "registry.example/pg-collector", **of_server(server),
        }  # fmt: skip
        person = reader_here(inside, place, [programs, server.binaries.programs], values)
        person.follow("install/kubernetes.md")
        objects = kubernetes.rendered(place / "pg-collector")
        assert not kubernetes.complaints(objects)
        (deployment,) = (one for one in objects if one["kind"] == "Deployment")
        pod = deployment["spec"]["template"]["spec"]
        assert pod["containers"][0]["image"].startswith("registry.example/pg-collector:")
        named = {one["metadata"]["name"] for one in objects if one["kind"] == "Secret"}
        assert named == {one["secret"]["secretName"] for one in pod["volumes"] if "secret" in one}


@pytest.mark.parametrize("name", ["aws", "gcp", "azure"])
def test_beside_a_cloud_as_far_as_its_database(name: str, tmp_path: Path) -> None:
    """The administrator is no superuser, and finds what the cloud has laid out."""
    programs = commands(tmp_path / "bin", pgc=as_pgc())
    with network() as inside, server_in(inside, tmp_path) as server:
        server.query(
            """
            CREATE ROLE rds_iam; CREATE ROLE master LOGIN CREATEROLE;
            GRANT pg_monitor, rds_iam TO master WITH ADMIN OPTION;
            DROP OWNED BY pgcollector; DROP ROLE pgcollector;
            SET ROLE master; CREATE ROLE "pg-collector@shop.iam" LOGIN; RESET ROLE;
            CREATE FUNCTION pgaadauth_create_principal(name text, boolean, boolean) RETURNS text
            LANGUAGE plpgsql AS $$ BEGIN EXECUTE format('CREATE ROLE %I LOGIN', name);
            RETURN name; END $$;
            """
        )
        others = """ACCOUNT CLIENT_ID CLUSTER DB EC2_ROLE GROUP INSTANCE ME REGION RESOURCE SERVER
            VM ZONE"""
        values = {
            **dict.fromkeys(others.split(), "x"), **of_server(server, "master"), "PROJECT": "shop",
        }  # fmt: skip
        place = tmp_path / "reader"
        place.mkdir()
        person = reader_here(inside, place, [programs, server.binaries.programs], values)
        person.follow(f"install/{name}.md")
        assert person.did


@contextmanager
def alone(*more: str) -> Iterator[Host]:
    """Boot a system with these packages and a network of its own."""
    with roots.layer(system(*more)) as root, Host(root, own_network=True) as host:
        yield host


def built(name: str, remedy: str) -> Path:
    """Return what lies in dist/; fail where it is missing."""
    path = ROOT / "dist" / name
    if not path.exists():
        pytest.fail(f"{path} is missing: {remedy}", pytrace=False)
    return path
