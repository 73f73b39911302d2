"""Where the binary begins."""

import os
import signal
from types import FrameType


def _end(number: int, _: FrameType | None) -> None:
    os._exit(128 + number)


# The kernel withholds SIGTERM from the first process of a container until it handles it, and the
# agent does so once it is loaded: whoever stops it sooner would wait in vain until SIGKILL.
if os.getpid() == 1:
    signal.signal(signal.SIGTERM, _end)

from pg_collector.cli import main  # noqa: E402  # after that, because it takes a while

# The loader named the libraries that are in here, for this process; what it starts, as journalctl,
# is to find the system's own.
before = os.environ.pop("LD_LIBRARY_PATH_ORIG", None)
os.environ.pop("LD_LIBRARY_PATH", None)
if before is not None:
    os.environ["LD_LIBRARY_PATH"] = before

main()
