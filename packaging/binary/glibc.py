"""Which version of the C library each program and library of a directory needs.

python packaging/binary/glibc.py DIRECTORY [--floor 2.30]
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

Version = tuple[int, ...]
_NEEDED = re.compile(r"\bGLIBC_([0-9.]+)$", re.MULTILINE)


def main() -> int:
    """Print the newest version that is needed; return 1 where it is above the floor."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--floor", type=version, metavar="VERSION", help="fail above it")
    options = parser.parse_args()
    newest, above = look(options.directory, options.floor)
    print(f"needs glibc {written(newest)}")
    for line in above:
        print(line, file=sys.stderr)
    return 1 if above else 0


def look(directory: Path, floor: Version | None) -> tuple[Version, list[str]]:
    """Return the newest version that a file needs, and a line for each that is above the floor."""
    needs = {path: needed(path) for path in programs(directory)}
    if not needs:
        raise FileNotFoundError(f"{directory}: no program or library is in it")
    above = [
        f"{path} needs glibc {written(found)}, newer than {written(floor)}"
        for path, found in needs.items()
        if floor is not None and found > floor
    ]
    return max(needs.values()), above


def programs(directory: Path) -> Iterator[Path]:
    """Yield every ELF file below a directory."""
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    yield path


def needed(path: Path) -> Version:
    """Return the newest version of glibc that a file asks for; (0,) where it asks for none."""
    # As objdump has it, under "Version References".
    told = subprocess.run(
        ["objdump", "-p", path],
        env={**os.environ, "LC_ALL": "C"}, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    return max((version(found) for found in _NEEDED.findall(told)), default=(0,))


def version(text: str) -> Version:
    """Return a version as numbers that compare."""
    return tuple(int(part) for part in text.split("."))


def written(number: Version) -> str:
    """Return a version as it is written."""
    return ".".join(map(str, number))


if __name__ == "__main__":
    sys.exit(main())
