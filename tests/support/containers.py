"""The image in containers: real ones, of podman and runc. Root only.

Images and containers lie in a directory of the test, so that those of the machine stay untouched.
What is here for this kind of machine: runc, because crun wants control groups that are not mixed,
and limits that a root without CAP_SYS_RESOURCE may set.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.image_recipe import ROOT

TOOLS = {
    "podman": "podman", "runc": "runc", "conmon": "conmon", "buildah": "buildah",
    "mmdebstrap": "mmdebstrap", "readelf": "binutils",
}  # fmt: skip
# As the README wants it to be run. The file systems in memory that podman adds are left out.
POWERLESS = (
    "--read-only", "--read-only-tmpfs=false", "--cap-drop=all",
    "--security-opt=no-new-privileges",
)  # fmt: skip
HERE = ("--network=host", "--ulimit=nofile=1024:1024", "--ulimit=nproc=512:512")


def tools() -> None:
    """Fail with the name of the package where a program is missing."""
    for program, package in TOOLS.items():
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/usr/bin") is None:
            raise FileNotFoundError(f"{program} is missing: apt-get install {package}")
    if not (ROOT / "dist" / "pgc" / "pgc").exists():
        raise FileNotFoundError("dist/pgc is missing: make binary")


class Podman:
    """podman with a storage of its own in a directory."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._command = [
            "podman", "--root", str(place / "storage"), "--runroot", str(place / "run"),
            "--tmpdir", str(place / "tmp"), "--storage-driver", "vfs", "--runtime", "runc",
            "--cgroup-manager", "cgroupfs", "--events-backend", "file",
        ]  # fmt: skip

    def __call__(self, *words: str | Path, seconds: float = 120.0) -> str:
        """Run a command of podman; return what it prints. Fails where it does."""
        done = self.tried(*words, seconds=seconds)
        assert done.returncode == 0, f"podman {words[0]}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def tried(
        self, *words: str | Path, seconds: float = 120.0
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command of podman, whatever becomes of it."""
        return subprocess.run(
            [*self._command, *words], capture_output=True, text=True, timeout=seconds, check=False,
            cwd=self._place,
        )  # fmt: skip

    def described(self, name: str) -> dict[str, Any]:
        """Return what podman knows of an image or a container."""
        (found,) = json.loads(self("inspect", name))
        return dict(found)

    def load(self, archive: Path) -> str:
        """Load an image; return its name."""
        return self("load", "--quiet", "--input", archive).rpartition(" ")[2]


class Container:
    """A container of the image, as powerless as the README says, in this machine's network."""

    def __init__(
        self,
        podman: Podman,
        image: str,
        name: str,
        environment: Mapping[str, str],
        volume: Path,
        *,
        memory: str = "128m",
        options: Sequence[str] = (),
        arguments: Sequence[str] = (),
    ) -> None:
        self.podman = podman
        self.name = name
        words = [word for pair in environment.items() for word in ("--env", "=".join(pair))]
        podman(
            "run", "--detach", "--name", name, *POWERLESS, *HERE, f"--memory={memory}",
            "--volume", f"{volume}:/var/lib/pg-collector", *words, *options, image, *arguments,
        )  # fmt: skip

    def state(self) -> dict[str, Any]:
        """Return podman's view of it."""
        return dict(self.podman.described(self.name)["State"])

    @property
    def pid(self) -> int:
        """What this machine calls its first process."""
        return int(self.state()["Pid"])

    def log(self) -> str:
        """Return all that it has written."""
        done = self.podman.tried("logs", self.name)
        return done.stdout + done.stderr

    def pgc(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run a verb beside the agent."""
        return self.podman.tried("exec", self.name, "pgc", *words)

    def healthy(self) -> bool:
        """Run the image's health check, as a timer would."""
        return self.podman.tried("healthcheck", "run", self.name).returncode == 0

    def ended(self, seconds: float) -> int:
        """Wait for its end; return its exit code."""
        return int(self.podman("wait", self.name, seconds=seconds))

    def processes(self) -> dict[int, dict[str, str]]:
        """Return /proc/…/status of every process in its namespace, by the number it has there."""
        inside = Path(f"/proc/{self.pid}/ns/pid").readlink()
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if (folder / "ns" / "pid").readlink() != inside:
                    continue
                lines = (folder / "status").read_text().splitlines()
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # it has ended meanwhile, or is the machine's own
            said = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
            found[int(said["NSpid"].split()[-1])] = said
        return found

    def memory(self, file: str) -> str:
        """Return a file of its control group for memory, by its name in the first version."""
        lines = Path(f"/proc/{self.pid}/cgroup").read_text().splitlines()
        paths = {entry.split(":")[1]: entry.split(":")[2] for entry in lines}
        return (Path("/sys/fs/cgroup/memory") / paths["memory"].lstrip("/") / file).read_text()
