"""The wheels that a binary is made of: gathered here, so that it is built without a network."""

import os
import platform
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILDER = Path(__file__).with_name("builder.txt")
EXTRAS = "aws,azure,gcp"


def gather(
    target: Path, work: Path, *, wheel: Path | None = None, glibc: int | None = None
) -> None:
    """Put the agent, what it needs and what builds it below `target`, as wheels.

    wheel: the agent's own; made from the checkout where there is none. glibc: for Python 3.11 on a
    C library 2.N; for this Python on this system where it is None.
    """
    venv.create(work / "pip", with_pip=True)
    pip = [str(work / "pip" / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    target.mkdir()
    if wheel is None:
        command = [*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(target), str(ROOT)]
        subprocess.run(command, check=True, env={**os.environ, "SOURCE_DATE_EPOCH": moment()})
        (wheel,) = target.glob("pg_collector-*.whl")
    subprocess.run(
        [
            *pip, "download", "--quiet", "--only-binary=:all:", "--dest", target,
            "--constraint", ROOT / "constraints.txt", *_for(glibc),
            "--requirement", BUILDER, f"{wheel}[{EXTRAS}]",
        ],
        check=True,
    )  # fmt: skip


def moment() -> str:
    """Return the second of the last commit, which is what SOURCE_DATE_EPOCH is to be.

    Where there is no repository, the variable itself, or a fixed one.
    """
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return given
    told = ""
    if shutil.which("git") is not None:
        told = subprocess.run(
            ["git", "log", "-1", "--format=%ct"],
            cwd=ROOT, check=False, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip
    return told or "1580601600"


def _for(glibc: int | None) -> list[str]:
    """Return the options for another system than this one."""
    if glibc is None:
        return []
    if sys.version_info[:2] != (3, 11):
        # pip looks at conditions such as python_version with the Python that it runs on.
        raise RuntimeError("the portable binary is gathered by Python 3.11: make PYTHON=python3.11")
    machine = platform.machine()
    names = [f"manylinux_2_{minor}_{machine}" for minor in range(glibc, 4, -1)]
    names += [f"manylinux{old}_{machine}" for old in ("2014", "2010", "1")]
    options = ["--implementation", "cp", "--python-version", "3.11", "--abi", "cp311"]
    return [*options, *(word for name in names for word in ("--platform", name))]
