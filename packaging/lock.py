"""Renew constraints.txt: install the project with all extras afresh, and note what came."""

import subprocess
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAD = "# What a fresh install gets, now and later: made by `make lock`, checked by the tests.\n"


def main() -> None:
    """Write constraints.txt."""
    with tempfile.TemporaryDirectory() as directory:
        venv.create(directory, with_pip=True)
        pip = [f"{directory}/bin/python", "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--quiet", f"{ROOT}[dev]"], check=True)
        frozen = subprocess.run(
            [*pip, "freeze", "--exclude", "pg-collector"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    pins = sorted((line for line in frozen.splitlines() if "==" in line), key=str.lower)
    (ROOT / "constraints.txt").write_text(HEAD + "\n".join(pins) + "\n")


if __name__ == "__main__":
    main()
