"""Signal handlers for as long as somebody is there who answers them."""

import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping
from types import FrameType

Handler = Callable[[int, FrameType | None], None]


@contextlib.contextmanager
def handled(handlers: Mapping[signal.Signals, Handler], rope: int = -1) -> Iterator[None]:
    """Let these handlers answer their signals in the `with` block; in the main thread only.

    Each signal writes a byte to `rope`, a file descriptor that does not block. Python notes a
    signal that another thread was given, as one may be that changes its signal mask like libpq's,
    and wakes nobody: who waits for the other end in the main thread hears it all the same.

    A SIGHUP that is ignored stays so: nohup(1) asks for it.
    """
    wanted = dict(handlers)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        wanted.pop(signal.SIGHUP, None)
    rope_before = signal.set_wakeup_fd(rope, warn_on_full_buffer=False)
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
        signal.set_wakeup_fd(rope_before)
