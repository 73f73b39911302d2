"""Write an image as one file that everybody reads: an OCI layout with compressed layers.

`podman load`, `skopeo` and containerd read the layout, `docker load` the file manifest.json in it.
The manifest is of Docker's kind: OCI's has no place for a health check, and podman would leave it
out. https://github.com/opencontainers/image-spec/blob/main/image-layout.md
"""

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any, Final

_DOCKER: Final = "application/vnd.docker."
_MANIFEST: Final = f"{_DOCKER}distribution.manifest.v2+json"
_CONFIG: Final = f"{_DOCKER}container.image.v1+json"
_LAYER: Final = f"{_DOCKER}image.rootfs.diff.tar.gzip"
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


def compress(plain: Path, target: Path, name: str, machine: str) -> str:
    """Read a docker-archive with one image, write the layout; return the image's digest.

    `name` has a tag; `machine` is what uname calls the architecture.
    """
    blobs: dict[str, bytes] = {}

    def blob(kind: str, content: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = content
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(content)}

    with tarfile.open(plain) as source:
        (image,) = json.loads(_read(source, "manifest.json"))
        config = blob(_CONFIG, _lasting(_read(source, image["Config"])))
        layers = [
            blob(_LAYER, gzip.compress(_read(source, each), mtime=0)) for each in image["Layers"]
        ]
    content = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": config, "layers": layers}
    manifest = blob(_MANIFEST, _json(content))
    manifest["platform"] = {"architecture": _ARCHITECTURES.get(machine, machine), "os": "linux"}
    manifest["annotations"] = {"org.opencontainers.image.ref.name": name}
    files = {
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        "index.json": _json({"schemaVersion": 2, "manifests": [manifest]}),
        "manifest.json": _json(
            [{"Config": _path(config), "RepoTags": [name], "Layers": [*map(_path, layers)]}]
        ),
        **blobs,
    }
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as sink:
        for path, each in sorted(files.items()):
            entry = tarfile.TarInfo(path)  # of no time and nobody: the same bytes each time
            entry.size = len(each)
            sink.addfile(entry, io.BytesIO(each))
    return str(manifest["digest"])


def _lasting(config: bytes) -> bytes:
    """Leave out of an image's description what is of the container that it was built in."""
    found = json.loads(config)
    del found["container"], found["container_config"]
    found["config"] = {name: value for name, value in found["config"].items() if value}
    del found["config"]["Hostname"]
    return _json(found)


def _path(descriptor: dict[str, Any]) -> str:
    return "blobs/sha256/" + str(descriptor["digest"]).partition(":")[2]


def _json(content: object) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _read(source: tarfile.TarFile, name: str) -> bytes:
    file = source.extractfile(name)
    if file is None:
        raise FileNotFoundError(f"{source.name!s} has no {name}")
    return file.read()
