"""Host names to addresses within a bound.

`getaddrinfo` obeys no timeout of ours (a silent name server takes 10 to 20 s) and cannot be
interrupted, so it runs in a daemon thread of its own, at most one per name; who waits gives up at
the deadline. A name that has been resolved before keeps its last good addresses for such days.
"""

import socket
import threading
import time
from collections.abc import Iterable

from pg_collector.wire import Wire

_Address = str


class _LookUp:
    """One look-up under way. The thread ends with the C library's own limits."""

    def __init__(self, host: str, moved: threading.Event) -> None:
        self.host = host
        self.done = False
        self.addresses: tuple[_Address, ...] = ()
        self.error: OSError | None = None
        self.moved = moved
        threading.Thread(target=self._run, name=f"resolve {host}", daemon=True).start()

    def _run(self) -> None:
        try:
            found = socket.getaddrinfo(self.host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            self.error = error if isinstance(error, OSError) else OSError(str(error))
        else:
            self.addresses = tuple(dict.fromkeys(str(one[4][0]) for one in found))
        self.done = True
        self.moved.set()


class Resolver:
    """Resolves names for one lane: used by one thread at a time."""

    def __init__(self) -> None:
        self._good: dict[str, tuple[_Address, ...]] = {}
        self._under_way: dict[str, _LookUp] = {}

    def addresses(
        self, hosts: Iterable[str], seconds: float, wire: Wire
    ) -> dict[str, tuple[_Address, ...] | OSError]:
        """Resolve all `hosts` at once, within `seconds` altogether.

        A name without an answer by then gets its last good addresses, or the error. Raises
        `WireCut` when the wire is cut meanwhile.
        """
        moved = threading.Event()
        wanted = {host: self._start(host, moved) for host in dict.fromkeys(hosts)}
        deadline = time.monotonic() + seconds
        with wire.waking(moved.set):
            while not all(one.done for one in wanted.values()) and not wire.is_cut:
                if not moved.wait(deadline - time.monotonic()):
                    break
                moved.clear()
        return {host: self._answer(one, seconds) for host, one in wanted.items()}

    def _start(self, host: str, moved: threading.Event) -> _LookUp:
        one = self._under_way.get(host)
        if one is None:
            one = self._under_way[host] = _LookUp(host, moved)
        else:  # still under way since an earlier attempt: wait for that one
            one.moved = moved
            if one.done:
                moved.set()
        return one

    def _answer(self, one: _LookUp, seconds: float) -> tuple[_Address, ...] | OSError:
        if one.done:
            del self._under_way[one.host]
            if one.addresses:
                self._good[one.host] = one.addresses
                return one.addresses
        if one.host in self._good:
            return self._good[one.host]
        return one.error or TimeoutError(f"no answer from the name servers within {seconds:.1f} s")
