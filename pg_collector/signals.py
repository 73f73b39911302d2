"""Signal handlers for as long as somebody is there who answers them."""

import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping
from types import FrameType

Handler = Callable[[int, FrameType | None], None]


@contextlib.contextmanager
def handled(handlers: Mapping[signal.Signals, Handler]) -> Iterator[None]:
    """Let these handlers answer their signals in the `with` block; in the main thread only.

    A SIGHUP that is ignored stays so: nohup(1) asks for it.
    """
    wanted = dict(handlers)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        wanted.pop(signal.SIGHUP, None)
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
