"""The shop's clients: threads with sessions of their own, which think more than they work."""

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Final

import psycopg

from pg_collector.demo import shop
from pg_collector.demo.conflicts import Chain, Deadlock
from pg_collector.demo.server import Server
from pg_collector.demo.shop import Pause, Session

log = logging.getLogger(__name__)

Act = Callable[[Session, random.Random, Pause], None]

# Name, act, and the seconds of thought before each.
_CLIENTS: Final[tuple[tuple[str, Act, tuple[float, float]], ...]] = (
    ("orders-1", shop.take_order, (0.3, 1.2)),
    ("orders-2", shop.take_order, (0.3, 1.2)),
    ("orders-3", shop.take_order, (0.5, 2.0)),
    ("reports", shop.report, (1.0, 4.0)),
    ("batch", shop.sort_on_disk, (4.0, 9.0)),
    ("retention", shop.tidy_up, (20.0, 40.0)),
    ("back-office", shop.phone_call, (3.0, 6.0)),
)
_CHAIN_EVERY: Final = (2.0, 4.0)
_DEADLOCK_EVERY: Final = (6.0, 16.0)
_AFTER_TROUBLE: Final = 1.0  # seconds
_ENDS_WITHIN: Final = 5.0


class Workload:
    """All clients. `end` tells them, the end of their sessions sets them free, `join` waits."""

    def __init__(self, server: Server, seed: int | None = None) -> None:
        """`seed` makes the dice fall the same way every time."""
        self._server = server
        self._password = ""
        self._ending = threading.Event()
        self._dice = random.Random(seed)  # noqa: S311  # nothing secret
        self._threads: list[threading.Thread] = []

    def start(self, password: str) -> None:
        """Start a thread per client; `password` is that of the shop's role."""
        self._password = password
        for name, act, think in _CLIENTS:
            self._add(name, self._client, name, act, think)
        chain = Chain(self._connect, self._own_dice(), self._ending.wait)
        self._add("chain", self._repeat, "chain", chain, _CHAIN_EVERY)
        deadlock = Deadlock(self._connect)
        self._add("deadlock", self._repeat, "deadlock", deadlock, _DEADLOCK_EVERY)

    def end(self) -> None:
        """Tell every client to end. What it just does, it ends with its session."""
        self._ending.set()

    def join(self) -> None:
        """Wait until all threads have ended, five seconds at most."""
        deadline = time.monotonic() + _ENDS_WITHIN
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                log.error("the thread %s of the demo did not end", thread.name)

    def _add(self, name: str, work: Callable[..., None], *args: object) -> None:
        # A daemon: `join` is bounded, and the process must end in any case.
        thread = threading.Thread(target=work, args=args, name=f"demo-{name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _own_dice(self) -> random.Random:
        return random.Random(self._dice.random())  # noqa: S311

    def _connect(self, name: str) -> Session:
        return self._server.connect(
            name, dbname=shop.DATABASE, user=shop.OWNER, password=self._password
        )

    def _client(self, name: str, act: Act, think: tuple[float, float]) -> None:
        """Be a client with one session: think, act, think again."""
        dice = self._own_dice()

        def sitting() -> None:
            with self._connect(name) as session:
                while not self._ending.wait(dice.uniform(*think)):
                    act(session, dice, self._ending.wait)

        self._on_and_on(name, sitting)

    def _repeat(self, name: str, work: Callable[[], None], think: tuple[float, float]) -> None:
        """Be a thread whose work opens sessions by itself."""
        dice = self._own_dice()

        def sitting() -> None:
            while not self._ending.wait(dice.uniform(*think)):
                work()

        self._on_and_on(name, sitting)

    def _on_and_on(self, name: str, sitting: Callable[[], None]) -> None:
        while not self._ending.is_set():
            try:
                sitting()
            except (psycopg.Error, TimeoutError) as error:
                if self._ending.is_set():
                    return
                # Not its text, which may quote a customer.
                what = getattr(error, "sqlstate", None) or type(error).__name__
                log.info("the demo's client %s begins anew (%s)", name, what)
                self._ending.wait(_AFTER_TROUBLE)
