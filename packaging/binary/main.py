"""Where the binary begins."""

import os

from pg_collector.cli import main

# The loader named the libraries that are in here, for this process; what it starts, as journalctl,
# is to find the system's own.
before = os.environ.pop("LD_LIBRARY_PATH_ORIG", None)
os.environ.pop("LD_LIBRARY_PATH", None)
if before is not None:
    os.environ["LD_LIBRARY_PATH"] = before

main()
