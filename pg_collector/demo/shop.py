"""A small shop: its tables, its roles, and what its clients do all day.

Every literal that stands for a person ends up in a query text, as it does in real life; in the
agent's output none of them may appear.
"""

import random
import secrets
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import sql

from pg_collector.demo.server import Server
from pg_collector.errors import StateError
from pg_collector.pg import role

DATABASE: Final = "shop"
OWNER: Final = "shop"
MONITOR: Final = "pgcollector"
SLOT: Final = "replica_that_left"

CUSTOMERS: Final = 2_000
PRODUCTS: Final = 200
ORDERS_KEPT: Final = 20_000
EVENTS_KEPT: Final = 30_000

FIRST_NAMES: Final = ("Marlene", "Joaquin", "Siobhan", "Thandiwe", "Aurelio", "Ingeborg")
LAST_NAMES: Final = ("Oppenheim", "Villalobos", "Gallagher", "Nkosana", "Fontanelli", "Lindqvist")
CARDS: Final = ("4111 1111 1111 1111", "5500 0055 5555 5559", "3400 0099 9999 991")
IBAN: Final = "DE89 3704 0044 0532 0130 00"

# Rows that the conflicts are about; orders leave them alone.
CONTESTED: Final = 10

Session = psycopg.Connection[Any]
Pause = Callable[[float], bool]  # waits so many seconds; True when it is time to end

_TABLES: Final = (
    "CREATE TABLE customers (id int PRIMARY KEY, name text, email text UNIQUE, phone text,"
    " city text)",
    "CREATE TABLE products (id int PRIMARY KEY, name text, price numeric(8,2), stock int)",
    "CREATE TABLE orders (id bigserial PRIMARY KEY, customer_id int REFERENCES customers,"
    " product_id int, total numeric(8,2), note text, created_at timestamptz DEFAULT now())",
    "CREATE TABLE events (id bigserial PRIMARY KEY, customer_id int, payload jsonb,"
    " at timestamptz DEFAULT now())",
)
_ROWS: Final = (
    "INSERT INTO products SELECT n, 'product ' || n, 1 + mod(n, 90), 1000000"
    " FROM generate_series(1, %(products)s) AS n",
    "INSERT INTO orders (customer_id, product_id, total, created_at)"
    " SELECT 1 + mod(n, %(customers)s), 1 + mod(n, %(products)s), 5 + mod(n, 200),"
    " now() - n * interval '1 min' FROM generate_series(1, %(orders)s) AS n",
    "INSERT INTO events (customer_id, payload)"
    " SELECT 1 + mod(n, %(customers)s), jsonb_build_object('page', '/p/' || mod(n, 97), 'n', n)"
    " FROM generate_series(1, %(events)s) AS n",
)
_COUNTS: Final = {
    "customers": CUSTOMERS,
    "products": PRODUCTS,
    "orders": ORDERS_KEPT // 2,
    "events": EVENTS_KEPT // 2,
}


def person(number: int) -> tuple[str, str, str]:
    """Return name, e-mail and phone of a customer who does not exist."""
    first = FIRST_NAMES[number % len(FIRST_NAMES)]
    last = LAST_NAMES[number // 7 % len(LAST_NAMES)]
    mail = f"{first}.{last}.{number}@example.com".lower()
    return f"{first} {last}", mail, f"+49 170 {5_550_000 + number}"


class Passwords(NamedTuple):
    """Of the two roles that log in."""

    owner: str
    monitor: str


def build(server: Server) -> Passwords:
    """Make roles, database, tables and the slot.

    The monitoring role is made by what `pgc setup sql` prints. Raises StateError where the server
    cannot do it: its volume may be full.
    """
    passwords = Passwords(secrets.token_urlsafe(18), secrets.token_urlsafe(18))
    try:
        _make_roles(server, passwords)
        _make_tables(server, passwords.owner)
    except psycopg.Error as error:
        raise StateError(
            f"the demo's database cannot be made: {error.diag.message_primary or error}",
            remedy="Set TMPDIR to another volume, and try again.",
        ) from error
    return passwords


def _make_roles(server: Server, passwords: Passwords) -> None:
    with server.connect("setup") as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(OWNER)))
        _set_password(admin, OWNER, passwords.owner)
        admin.execute(f"CREATE DATABASE {DATABASE} OWNER {OWNER}")
        admin.execute("SELECT pg_create_physical_replication_slot(%s, true)", [SLOT])
    with server.connect("setup", dbname=DATABASE) as admin:
        admin.execute("\n".join(role.script(MONITOR, "password", 2, [DATABASE])).encode())
        admin.execute("\n".join(role.column_statistics_script(MONITOR)).encode())
        may_read = "ALTER DEFAULT PRIVILEGES FOR ROLE {} GRANT SELECT ON SEQUENCES TO {}"
        owner, monitor = sql.Identifier(OWNER), sql.Identifier(MONITOR)
        admin.execute(sql.SQL(may_read).format(owner, monitor))
        _set_password(admin, MONITOR, passwords.monitor)


def _make_tables(server: Server, password: str) -> None:
    with server.connect("setup", dbname=DATABASE, user=OWNER, password=password) as shop:
        for statement in _TABLES:
            shop.execute(statement)
        with shop.cursor().copy("COPY customers FROM STDIN") as copy:
            for number in range(1, CUSTOMERS + 1):
                copy.write_row((number, *person(number), f"city {number % 40}"))
        for statement in _ROWS:
            shop.execute(statement, _COUNTS)
    with server.connect("setup", dbname=DATABASE) as admin:
        # What initdb and this function did is no part of the show.
        admin.execute("SELECT pg_stat_statements_reset()")


def _set_password(admin: Session, user: str, password: str) -> None:
    """Give a role its password as psql does it: the server sees the verifier only."""
    verifier = admin.pgconn.encrypt_password(password.encode(), user.encode(), b"scram-sha-256")
    admin.execute(
        sql.SQL("ALTER ROLE {} PASSWORD {}").format(
            sql.Identifier(user), sql.Literal(verifier.decode())
        )
    )


def take_order(session: Session, dice: random.Random, _pause: Pause) -> None:
    """Be a customer who orders something: four short statements in a transaction."""
    name, mail, phone = person(dice.randint(1, CUSTOMERS))
    product = dice.randint(CONTESTED + 1, PRODUCTS)
    with session.transaction():
        found = session.execute("SELECT id FROM customers WHERE email = %s", [mail]).fetchone()
        customer = found[0] if found is not None else None
        session.execute(
            "INSERT INTO orders (customer_id, product_id, total, note) VALUES (%s, %s, %s, %s)",
            [customer, product, dice.randint(5, 200), f"card {dice.choice(CARDS)}, ring {phone}"],
        )
        session.execute("UPDATE products SET stock = stock - 1 WHERE id = %s", [product])
        session.execute(
            "INSERT INTO events (customer_id, payload) VALUES (%s, %s::jsonb)",
            [customer, f'{{"page": "/thanks", "name": "{name}", "iban": "{IBAN}"}}'],
        )


def report(session: Session, dice: random.Random, _pause: Pause) -> None:
    """Be a report that takes seconds: mostly asleep, so that the machine is left in peace."""
    _, mail, _ = person(dice.randint(1, CUSTOMERS))
    session.execute(
        "SELECT c.city, count(*), sum(o.total), pg_sleep(0.1) FROM orders AS o"
        " JOIN customers AS c ON c.id = o.customer_id"
        " WHERE c.email <> %s AND o.created_at > now() - interval '30 days'"
        " GROUP BY c.city ORDER BY sum(o.total) DESC",
        [mail],
    )


def sort_on_disk(session: Session, dice: random.Random, _pause: Pause) -> None:
    """Sort more than fits into work_mem, so that it spills into temporary files."""
    session.execute("SET work_mem = '64kB'")
    session.execute(
        "SELECT count(DISTINCT md5(payload::text)) FROM events WHERE payload->>'name' IS DISTINCT"
        " FROM %s",
        [person(dice.randint(1, CUSTOMERS))[0]],
    )


def tidy_up(session: Session, _dice: random.Random, _pause: Pause) -> None:
    """Delete what is old, so that the tables do not grow for ever."""
    for table, kept in (("orders", ORDERS_KEPT), ("events", EVENTS_KEPT)):
        session.execute(
            sql.SQL("DELETE FROM {0} WHERE id < (SELECT max(id) - {1} FROM {0})").format(
                sql.Identifier(table), sql.Literal(kept)
            )
        )


def phone_call(session: Session, dice: random.Random, pause: Pause) -> None:
    """Look somebody up and leave the transaction open: the clerk is on the phone."""
    _, _, phone = person(dice.randint(1, CUSTOMERS))
    with session.transaction():
        session.execute("SELECT * FROM customers WHERE phone = %s", [phone])
        pause(dice.uniform(5.0, 9.0))
