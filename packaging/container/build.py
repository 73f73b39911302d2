"""Build the agent's image from dist/pgc without a registry: dist/pg-collector-image.tar.

    python packaging/container/build.py [--output FILE]

Needs root, mmdebstrap, buildah, and what `make binary` left. The C library, zlib, certificates and
time zones are extracted from Debian's packages; root.py chooses the files. User, command, health
check and labels are those of the Dockerfile's last stage, which buildah runs here as it stands.

The archive is an OCI layout that `docker load` reads, too. The same packages and the same dist/pgc
give the same bytes.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import archive  # noqa: E402  # beside this file, which is a program
import root  # noqa: E402

PROJECT = HERE.parents[1]
PROGRAM = PROJECT / "dist" / "pgc"
DOCKERFILE = HERE / "Dockerfile"
OUTPUT = PROJECT / "dist" / "pg-collector-image.tar"
SUITE = "bookworm"  # as in the Dockerfile
NAME = "pg-collector"
LARGEST = 40 * 2**20  # bytes of the archive, which is compressed
EPOCH = os.environ.get("SOURCE_DATE_EPOCH", "1")  # when all is said to have been made
TOOLS = {"mmdebstrap": "mmdebstrap", "buildah": "buildah"}


class Unbuildable(Exception):
    """The image cannot be built here; the message names the remedy."""


def main() -> int:
    """Build it; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="FILE")
    output = parser.parse_args().output
    try:
        version = _ready()
        with tempfile.TemporaryDirectory(prefix="pgc-image-") as place:
            digest = build(Path(place), output, version)
    except (Unbuildable, FileNotFoundError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    size = output.stat().st_size
    sys.stdout.write(f"{output} {size / 2**20:.1f} MB {digest}\n")
    if size > LARGEST:
        sys.stderr.write(f"that is more than {LARGEST >> 20} MB: look at what came into dist/pgc\n")
        return 1
    return 0


def _ready() -> str:
    """Return the version that is built; raises Unbuildable where something is missing."""
    if os.geteuid() != 0:
        raise Unbuildable("root is needed: files of the image belong to others")
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            raise Unbuildable(f"{tool} is missing: apt-get install {package}")
    if not (PROGRAM / "pgc").exists():
        raise Unbuildable(f"{PROGRAM} is missing: make binary")
    said = subprocess.run(
        [PROGRAM / "pgc", "--version"], check=True, capture_output=True, text=True
    )
    return said.stdout.split()[-1]


def build(place: Path, output: Path, version: str) -> str:
    """Build in an empty directory, write the archive; return the image's digest."""
    debian, image, state = (place / name for name in ("debian", "root/image", "root/state"))
    sys.stderr.write(f"extracting {', '.join(root.PACKAGES)} of {SUITE}\n")
    include = f"--include={','.join(root.PACKAGES)}"
    _run("mmdebstrap", "--quiet", "--variant=extract", include, SUITE, debian)
    root.lay_out(debian, PROGRAM, image)
    root.state(state)
    _runs(image)
    sys.stderr.write("building the image\n")
    dockerfile = place / "Dockerfile"
    dockerfile.write_text(last_stage(DOCKERFILE.read_text()))
    buildah = [
        "buildah", "--root", place / "storage", "--runroot", place / "run",
        "--storage-driver", "vfs",
    ]  # fmt: skip
    _run(
        *buildah, "build", "--quiet", "--isolation", "chroot", "--format", "docker",
        "--identity-label=false", "--timestamp", EPOCH, "--build-context", f"root={place / 'root'}",
        "--build-arg", f"VERSION={version}", "--file", dockerfile, "--tag", NAME, place / "root",
    )  # fmt: skip
    plain = place / "image.tar"
    _run(*buildah, "push", "--quiet", NAME, f"docker-archive:{plain}:{NAME}:{version}")
    output.parent.mkdir(parents=True, exist_ok=True)
    return archive.compress(plain, output, f"{NAME}:{version}", platform.machine())


def last_stage(dockerfile: str) -> str:
    """Return what follows the last FROM, with its FROM: nothing there needs a registry."""
    return "FROM " + dockerfile.rpartition("\nFROM ")[2]


def _runs(image: Path) -> None:
    """See that the program runs on this C library. Raises Unbuildable."""
    done = subprocess.run(
        ["/usr/sbin/chroot", image, "/usr/bin/pgc", "--version"],
        capture_output=True, text=True, check=False, env={"LANG": "C.UTF-8"},
    )  # fmt: skip
    if done.returncode != 0:
        raise Unbuildable(
            f"dist/pgc does not run on the C library of {SUITE}: {done.stderr.strip()[-500:]}\n"
            "Build it with make binary-portable, or on such a system."
        )


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unbuildable(f"{command[0]} failed: {done.stderr.strip()[-2000:]}")


if __name__ == "__main__":
    raise SystemExit(main())
