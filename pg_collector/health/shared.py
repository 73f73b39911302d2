"""Work that those who ask at the same time share, so that many cost little more than two."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """Does work for one at a time; each gets what was begun after it had asked.

    Who waited while others were served takes what the last of them got, if the key is the same.
    Nothing is kept for later.
    """

    def __init__(self, work: Callable[[str], T]) -> None:
        """`work` makes something of a key."""
        self._work = work
        self._at_work = threading.Lock()
        self._lock = threading.Lock()  # guards what follows
        self._begun = 0
        self._asking = 0
        self._last: tuple[int, str, T] | None = None

    def get(self, key: str) -> T:
        """Return what the work makes of a key. Raises what it raises."""
        with self._lock:
            asked = self._begun
            self._asking += 1
        try:
            with self._at_work:
                return self._done(key, asked)
        finally:
            with self._lock:
                self._asking -= 1
                if not self._asking:
                    self._last = None

    def _done(self, key: str, asked: int) -> T:
        with self._lock:
            last = self._last
            if last is not None and last[0] > asked and last[1] == key:
                return last[2]
            self._begun += 1
            number = self._begun
        done = self._work(key)
        with self._lock:
            self._last = number, key, done
        return done
