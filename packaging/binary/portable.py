"""Build the binary for others: on Debian 11, so that it runs wherever glibc is 2.30 or newer.

    sudo make binary-portable
    python packaging/binary/portable.py --help

That is Debian 11, Ubuntu 20.04, Red Hat Enterprise Linux 9, Amazon Linux 2023, and what came later.
It needs mmdebstrap, root, Python 3.11 and a network; the first time takes a quarter of an hour, for
Python and OpenSSL are compiled (see debian.py). What is in dist afterwards is as `make binary` has
it; it fails where a program or a library needs more of glibc, or a licence is missing.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import debian
import wheels
from build import DIST, HERE

FLOOR = (2, 30)


def main() -> int:
    """Build both; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="portable.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--dist", type=Path, default=DIST, metavar="DIR", help="where to")
    parser.add_argument("--wheel", type=Path, metavar="FILE", help="the agent, as a wheel")
    parser.add_argument(
        "--fresh", action="store_true",
        help="make the root anew: for a release, with Debian's newest Python and OpenSSL",
    )  # fmt: skip
    options = parser.parse_args()
    try:
        root = debian.ready(fresh=options.fresh)
        _build(root, options.dist, options.wheel)
    except (OSError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        return error.returncode
    for line in debian.compiled(root):
        print(line)
    return 0


def _build(root: Path, dist: Path, wheel: Path | None) -> None:
    """Build in the root, from wheels that are gathered here, and put the outcome into `dist`."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        wheels.gather(place / "wheels", place, wheel=wheel, glibc=FLOOR[1])
        shutil.copytree(HERE, place / "binary")
        command = [
            debian.PYTHON, "/build/binary/build.py", "--wheels", "/build/wheels",
            "--dist", "/build/dist", "--floor", ".".join(map(str, FLOOR)),
            "--texts", debian.TEXTS,
        ]  # fmt: skip
        environment = {"SOURCE_DATE_EPOCH": wheels.moment()}
        subprocess.run(debian.inside(root, command, place, environment), check=True)
        shutil.rmtree(dist / "pgc", ignore_errors=True)
        shutil.copytree(place / "dist", dist, symlinks=True, dirs_exist_ok=True)


if __name__ == "__main__":
    sys.exit(main())
