"""Holds sessions until it is terminated: idle ones, a blocker with those that wait for it, a load.

sessions.py DSN SESSIONS BLOCKED TABLES
"""

import signal
import sys
import threading

import psycopg

PAUSE = 0.05  # seconds between two statements of the load
SCHEMAS = 10


def main(dsn: str, sessions: int, blocked: int, tables: int) -> None:
    """Hold them."""
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    held = []
    for number in range(sessions - blocked - 2):
        one = psycopg.connect(dsn, autocommit=True, application_name=f"app-{number % 20}")
        one.execute(f"select /* session */ {number % 7}")
        held.append(one)
    blocker = psycopg.connect(dsn, application_name="app-blocker")
    blocker.execute("update public.contended set v = v where id = 1")
    for _ in range(blocked):
        one = psycopg.connect(dsn, autocommit=True, application_name="app-blocked")
        one.pgconn.send_query(b"update public.contended set v = v where id = 1")
        held.append(one)
    worker = psycopg.connect(dsn, autocommit=True, application_name="app-load")
    number = 0
    while not stopping.wait(PAUSE):
        number += 1
        table = number % 20 % tables
        name = f"s{table % SCHEMAS}.orders_{table}"
        if number % 4:
            worker.execute(f"select * from {name} where customer = %s", (f"cust{number % 97}",))
        else:
            worker.execute(f"update {name} set amount = amount + 1 where id = %s", (number % 300,))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]))
