"""Lay out what is in the one file: run by the Python that has PyInstaller.

python unpack.py FILE DIRECTORY
"""

import sys
from pathlib import Path

from PyInstaller.archive.readers import CArchiveReader


def main(single: Path, directory: Path) -> None:
    """Write its libraries and data below the directory."""
    archive = CArchiveReader(str(single))
    for name, entry in archive.toc.items():
        if entry[-1] in {"b", "x"}:  # a library, a file
            target = directory / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.extract(name))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
