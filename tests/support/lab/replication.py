"""Servers that copy one another: a streaming standby, a subscription between databases."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from psycopg.conninfo import make_conninfo

from tests.support import process
from tests.support.lab.server import TRUST, Database, Server
from tests.support.until import until

SLOT = "standby"


@dataclass(frozen=True)
class Pair:
    """A primary and the standby that streams from it through the slot SLOT."""

    primary: Server
    standby: Server

    @property
    def major(self) -> int:
        return self.primary.major

    def caught_up(self, deadline: float = 20.0) -> None:
        """Wait until the standby has replayed everything that the primary has written."""
        position = self.primary.value("select pg_current_wal_lsn()")
        replayed = "select pg_last_wal_replay_lsn() >= %s::pg_lsn"
        until(lambda: self.standby.value(replayed, [position]), deadline, "the standby caught up")

    def streaming(self, deadline: float = 20.0) -> None:
        """Wait until the primary streams to the standby."""
        state = "select 1 from pg_stat_replication where state = 'streaming'"
        until(lambda: self.primary.query(state), deadline, "the standby streams")

    def promote(self, deadline: float = 30.0) -> None:
        """Make the standby a primary; the old primary goes on, alone."""
        self.standby.query("select pg_promote(false)")
        recovering = "select pg_is_in_recovery()"
        until(lambda: not self.standby.value(recovering), deadline, "the standby is promoted")

    @contextmanager
    def replay_paused(self) -> Iterator[None]:
        """Hold back replay on the standby, so that it lags by whatever is written meanwhile."""
        self.standby.query("select pg_wal_replay_pause()")
        paused = "select pg_is_wal_replay_paused()"
        until(lambda: self.standby.value(paused), what="replay is paused")
        try:
            yield
        finally:
            self.standby.query("select pg_wal_replay_resume()")


@contextmanager
def start_pair(
    major: int, *, settings: Mapping[str, str] | None = None, hba: Sequence[str] = TRUST
) -> Iterator[Pair]:
    """Start a primary and its standby; both are copies of one stopped server, so no backup runs.

    Raises LabMissing.
    """
    with ExitStack() as stack:
        primary = stack.enter_context(Server(major, settings=settings, hba=hba))
        primary.query("select pg_create_physical_replication_slot(%s, true)", [SLOT])
        standby = Server(major, settings=settings, hba=hba)
        stack.callback(standby.destroy)
        standby.settings |= {
            "hot_standby": "on",
            "primary_conninfo": make_conninfo(
                "", host=primary.host, port=primary.port, user="postgres",
                application_name="standby",
            ),
            "primary_slot_name": SLOT,
            "wal_receiver_status_interval": "1s",
            "wal_retrieve_retry_interval": "200ms",
        }  # fmt: skip
        signal_file = standby.data / "standby.signal"
        signal_file.touch()
        process.give(signal_file, 0o600)
        standby.start()
        pair = Pair(primary, standby)
        pair.streaming()
        yield pair


@dataclass(frozen=True)
class Subscription:
    """A table that flows from one database to another; all names are one word."""

    publisher: Database
    subscriber: Database
    name: str
    publication: str
    slot: str
    table: str

    def caught_up(self, deadline: float = 20.0) -> None:
        """Wait until the subscriber has as many rows as the publisher."""
        count = f"select count(*) from {self.table}"
        expected = self.publisher.value(count)
        until(lambda: self.subscriber.value(count) == expected, deadline, "the subscriber")


@contextmanager
def logical_replication(
    publisher: Database, subscriber: Database, name: str = "flow"
) -> Iterator[Subscription]:
    """Replicate a new table between two databases, of one server or two; yield when it flows."""
    flow = Subscription(publisher, subscriber, name, name, name, name)
    definition = f"create table {name} (id int primary key)"
    for database in (publisher, subscriber):
        database.query(definition)
    publisher.query(f"insert into {name} values (1)")
    publisher.query(f"create publication {name} for table {name}")
    # The slot is made first: inside one server `create subscription` would wait for itself.
    publisher.query("select pg_create_logical_replication_slot(%s, 'pgoutput')", [name])
    source = make_conninfo(
        "", host=publisher.server.host, port=publisher.server.port, user="postgres",
        dbname=publisher.name,
    )  # fmt: skip
    try:
        subscriber.query(
            f"create subscription {name} connection '{source}' publication {name} "
            f"with (create_slot = false, slot_name = {name})"
        )
        flow.caught_up()
        yield flow
    finally:
        _remove(flow)


def _remove(flow: Subscription) -> None:
    name = flow.name
    if flow.subscriber.query("select 1 from pg_subscription where subname = %s", [name]):
        for change in ("disable", "set (slot_name = none)"):
            flow.subscriber.query(f"alter subscription {name} {change}")
        flow.subscriber.query(f"drop subscription {name}")
    active = "select 1 from pg_replication_slots where slot_name = %s and active"
    until(lambda: not flow.publisher.query(active, [name]), 20.0, "the slot is free")
    flow.publisher.query("select pg_drop_replication_slot(%s)", [flow.slot])
    flow.publisher.query(f"drop publication {name}")
    for database in (flow.publisher, flow.subscriber):
        database.query(f"drop table {name}")
