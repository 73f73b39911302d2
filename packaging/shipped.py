"""What is shipped, and what is known of it.

`sbom` writes dist/sbom.cdx.json, a CycloneDX bill of materials of the agent and of the packages
that come with it, those of the clouds too, in the versions of constraints.txt. `audit` looks these
up in the advisory databases that pip-audit knows; it needs the network, and fails where one could
not be looked up.
"""

import argparse
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "dist" / "sbom.cdx.json"
TOOLS = {"sbom": "cyclonedx-bom>=7,<8", "audit": "pip-audit>=2.9,<3"}


def environment(place: Path, *wanted: str) -> Path:
    """Make an environment with these packages; return its Python."""
    venv.create(place, with_pip=True)
    python = place / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *wanted],
        check=True,
    )
    return python


def main() -> int:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=TOOLS)
    task = parser.parse_args().task
    with tempfile.TemporaryDirectory() as directory:
        pins = ("--constraint", str(ROOT / "constraints.txt"))
        agent = environment(Path(directory) / "agent", *pins, f"{ROOT}[aws,azure,gcp]")
        tools = environment(Path(directory) / "tools", TOOLS[task])
        if task == "audit":
            lines = subprocess.run(
                [agent, "-m", "pip", "freeze", "--exclude", "pg-collector"],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            frozen = Path(directory) / "frozen.txt"
            frozen.write_text(lines.stdout)
            command = ["-m", "pip_audit", "--strict", "--no-deps", "--requirement", str(frozen)]
            return subprocess.run([tools, *command], check=False).returncode
        # pip itself is of the environment, not of what is shipped.
        subprocess.run([agent, "-m", "pip", "uninstall", "--yes", "--quiet", "pip"], check=True)
        TARGET.parent.mkdir(exist_ok=True)
        subprocess.run(
            [tools, "-m", "cyclonedx_py", "environment", "--output-reproducible",
             "--pyproject", str(ROOT / "pyproject.toml"), "--output-file", str(TARGET), str(agent)],
            check=True,
        )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
