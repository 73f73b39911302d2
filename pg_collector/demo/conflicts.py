"""Sessions that get in one another's way: a blocked chain of three, and a deadlock."""

import contextlib
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import psycopg
from psycopg.errors import DeadlockDetected

from pg_collector.demo.shop import Pause, Session, person

_HELD: Final = 4.5  # seconds that the head of the chain sits on its lock
_LONGEST: Final = 20.0  # seconds; the server ends a statement after 15

Connect = Callable[[str], Session]

_TAKE: Final = "UPDATE products SET stock = stock - 1, name = 'product 1 for ' || %s WHERE id = %s"
_NAMES: Final = ("stock-sync", "orders-4", "orders-5")


class Chain:
    """The third waits for the second, the second for the first, which is idle in transaction."""

    def __init__(self, connect: Connect, dice: random.Random, pause: Pause) -> None:
        self._connect = connect
        self._dice = dice
        self._pause = pause

    def __call__(self) -> None:
        """Build it, hold it a few seconds, let it go. Raises psycopg.Error."""
        with contextlib.ExitStack() as stack:
            first, second, third = (
                stack.enter_context(contextlib.closing(self._connect(name))) for name in _NAMES
            )
            # Entered last: its threads end before the sessions are closed.
            pool = stack.enter_context(ThreadPoolExecutor(2, thread_name_prefix="demo-chain"))
            for session in (first, second, third):
                session.autocommit = False
            self._update(first, 1)
            self._update(second, 2)
            waits = [pool.submit(self._update, second, 1), pool.submit(self._update, third, 2)]
            self._pause(_HELD)
            first.commit()
            waits[0].result(_LONGEST)
            second.commit()
            waits[1].result(_LONGEST)
            third.commit()

    def _update(self, session: Session, product: int) -> None:
        name, _, _ = person(self._dice.randint(1, 1000))
        session.execute(_TAKE, [name, product])


class Deadlock:
    """Two transactions that take two rows in opposite order; PostgreSQL ends one of them."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect

    def __call__(self) -> None:
        """Run into it once. Raises psycopg.Error for any other trouble."""
        with contextlib.ExitStack() as stack:
            one, other = (
                stack.enter_context(contextlib.closing(self._connect(name)))
                for name in ("prices-1", "prices-2")
            )
            pool = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="demo-deadlock"))
            for session, product in ((one, 3), (other, 4)):
                session.autocommit = False
                _reprice(session, product)
            crossed = pool.submit(_reprice_or_lose, one, 4)
            _reprice_or_lose(other, 3)
            crossed.result(_LONGEST)


def _reprice(session: Session, product: int) -> None:
    session.execute("UPDATE products SET price = price + 0.01 WHERE id = %s", [product])


def _reprice_or_lose(session: Session, product: int) -> None:
    """Take the second row; the loser and the winner both give up what they hold."""
    try:
        _reprice(session, product)
    except DeadlockDetected:
        pass
    finally:
        with contextlib.suppress(psycopg.Error):  # the server may have gone meanwhile
            session.rollback()
