"""The pod of the manifests, without a cluster: the image with their configuration, laid out as the
kubelet lays out ConfigMaps and Secrets, asked by their probes.
"""

import subprocess
from functools import partial
from pathlib import Path

import pytest
import yaml

from pg_collector import __version__
from tests.packaging.test_image import USER, Page, archive, directory, image, podman
from tests.support.containers import Container
from tests.support.image_recipe import KUBERNETES
from tests.support.reference_platform import ReferencePlatform
from tests.support.until import until

__all__ = ["archive", "image", "podman"]  # fixtures
pytestmark = [pytest.mark.long, pytest.mark.root, pytest.mark.timeout(600)]


def volume(path: Path, files: dict[str, str], mode: int) -> Path:
    """Lay out files as the kubelet does: of root, of the pod's group, and links to a folder of a
    date, so that all of them change at once."""
    held = path / "..2026_11_28"
    held.mkdir(parents=True)
    (path / "..data").symlink_to(held.name)
    for name, text in files.items():
        (held / name).write_text(text)
        (held / name).chmod(mode)
        (path / name).symlink_to(f"..data/{name}")
    subprocess.run(["chgrp", "-R", str(USER), path], check=True)
    return path


def test_the_pods_configuration_and_probes_work(podman, image, newest_server, tmp_path):
    deployment = yaml.safe_load((KUBERNETES / "base" / "deployment.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    page, server = Page(), newest_server
    text = (KUBERNETES / "base" / "config.yaml").read_text()
    with ReferencePlatform(tmp_path) as platform:
        for theirs, ours in (
            ("host=postgres.default.svc", f"host=127.0.0.1 port={server.port} sslmode=disable"),
            ("https://ingest.example.com", platform.url),
        ):
            assert text.count(theirs) == 1
            text = text.replace(theirs, ours)
        secrets = {"api_key": platform.new_key(), "password": "not-asked-for"}
        laid_out = {
            "config": volume(tmp_path / "config", {"config.yaml": text}, 0o644),
            "secrets": volume(tmp_path / "secrets", secrets, 0o440),
        }
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        pod = Container(
            podman, image, "pod", {"HTTP_ADDRESS": f":{page.port}"}, directory(tmp_path / "state"),
            memory=container["resources"]["limits"]["memory"].replace("Mi", "m"),
            options=[f"--volume={laid_out[name]}:{mounts[name]}:ro" for name in laid_out],
            arguments=container["args"],
        )  # fmt: skip
        for probe in ("startup", "liveness", "readiness"):
            path = container[f"{probe}Probe"]["httpGet"]["path"]
            until(partial(page.answers, path), deadline=60, what=f"{probe}: {pod.log()}")
        until(lambda: platform.metric("lines_stored_total") > 0, deadline=60, what="lines arrive")
        assert f"PG Collector {__version__} started" in pod.log()
        assert not [line for line in pod.log().splitlines() if '"level":"error"' in line]
        assert secrets["api_key"] not in pod.log()
