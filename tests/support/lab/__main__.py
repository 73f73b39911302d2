"""`python -m tests.support.lab install`: get the servers that the tests run against."""

import argparse
import sys

from tests.support.lab.install import InstallError, install


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.support.lab", description=__doc__)
    parser.add_argument("verb", choices=["install"], help="install PostgreSQL 12 to 18")
    parser.parse_args()
    try:
        install()
    except (InstallError, RuntimeError, OSError) as error:
        sys.stderr.write(f"lab: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
