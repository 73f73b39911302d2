"""`pgc names`: the tokens of lines that were sampled at level full, turned back into names."""

import json
import re
from pathlib import Path

import pytest
import yaml

from pg_collector import control
from pg_collector.cli.options import loaded
from pg_collector.errors import CollectorError
from pg_collector.masking import FILE, as_configured, installation_secret
from pg_collector.pg import catalog_names
from pg_collector.pg.session import Session
from tests.fault.test_control import _python_for_all, pgc
from tests.support.daemon import Daemon
from tests.support.process import as_owner
from tests.support.sampling import sampling, target
from tests.support.scratch import new_directory
from tests.support.until import until

TOKEN = re.compile(r"\bi_[0-9a-f]{8}\b")
NAMES = {
    "database": "shop_base", "schema": "Shop Schema", "table": "orders", "column": "credit_limit",
    "index": "orders_by_limit", "role": "shop_clerk", "application": "till 7",
    "sequence": "orders_id_seq", "slot": "shop_slot", "view": "big_orders", "function": "add_vat",
    "parameter": "net_price", "type": "vat_kind", "constraint": "limit_is_sane",
    "trigger": "watch_orders", "statistics": "orders_together", "publication": "shop_news",
}  # fmt: skip


@pytest.fixture(scope="module")
def shop(lab):
    """A database in which everything has a name of its own, and a session at work in it."""
    server = lab.newest()
    server.query("create role shop_clerk login superuser")
    server.query("create database shop_base owner shop_clerk")
    with server.connect("shop_base", user="shop_clerk", application_name="till 7") as session:
        for sql in (
            'create schema "Shop Schema"',
            'set search_path to "Shop Schema"',
            "create table orders (id serial primary key, credit_limit int,"
            " constraint limit_is_sane check (credit_limit < 1000000))",
            "create index orders_by_limit on orders (credit_limit)",
            "create view big_orders as select credit_limit from orders where credit_limit > 9",
            "create type vat_kind as enum ('full', 'none')",
            "create function add_vat(net_price int) returns int language sql as 'select $1'",
            "create function watching() returns trigger language plpgsql"
            " as 'begin return new; end'",
            "create trigger watch_orders before insert on orders for each row"
            " execute function watching()",
            "create statistics orders_together on id, credit_limit from orders",
            "create publication shop_news for table orders",
            "insert into orders (credit_limit) select n from generate_series(1, 3000) n",
            "analyze",
            "select pg_create_physical_replication_slot('shop_slot', true)",
        ):
            session.execute(sql)
    with server.connect("shop_base", user="shop_clerk", application_name="till 7") as session:
        session.autocommit = False
        session.execute('set search_path to "Shop Schema"')
        session.execute("select credit_limit from orders where credit_limit = 7 for update")
        yield server
        session.rollback()
        session.autocommit = True
        session.execute("select pg_drop_replication_slot('shop_slot')")
    server.database("shop_base").drop()
    server.query("drop role shop_clerk")


def configured(home: Path, dsn: str) -> Path:
    """Write a configuration at level full with a state directory and its key; return its file."""
    installation_secret(home / "state")
    keys = {
        "state_dir": str(home / "state"),
        "databases": [{"name": "prod", "postgres": {"conn_string": f"{dsn} sslmode=disable"}}],
        "security": {"query_masking_level": "full"},
    }
    file = home / "config.yaml"
    file.write_text(yaml.safe_dump(keys))
    return file


def named(stdout: str) -> dict[str, str]:
    return {one["token"]: one["name"] for one in json.loads(stdout)}


def test_the_tokens_of_a_line_are_turned_back_into_their_names(shop, tmp_path):
    dsn = shop.dsn("pgcollector", "shop_base")
    file = configured(tmp_path, dsn)
    config = loaded(file).config
    with sampling(dsn, masker=as_configured(config, tmp_path / "state")) as there:
        rows = there.rows("activity", "activity.sessions") + there.rows("slots")
        tables = until(lambda: there.rows("vacuum", "vacuum.tables"), what="it is counted")
        indexes = until(lambda: there.rows("statio", "statio.indexes"), what="it is counted")
    rows += tables + indexes
    mine = next(row for row in rows if str(row.get("query", "")).endswith("for update"))
    tokens = sorted({token for row in rows for token in TOKEN.findall(str(row))})
    assert len(tokens) >= 8
    assert not [name for name in NAMES.values() if name in str(rows)]

    done = pgc("names", *tokens, "--json", "--config", file, home=tmp_path)
    assert done.returncode == 0, done.stderr
    names = named(done.stdout)
    assert sorted(names) == tokens
    shown = [
        {key: TOKEN.sub(lambda found: names[found[0]], str(row[key])) for key in row}
        for row in rows
    ]
    (session,) = [row for row in shown if row.get("pid") == str(mine["pid"])]
    assert session["query"] == "select credit_limit from orders where credit_limit = ? for update"
    assert [session[key] for key in ("datname", "usename", "application_name")] == [
        "shop_base", "shop_clerk", "till 7"
    ]  # fmt: skip
    assert {"schemaname": "Shop Schema", "relname": "orders"}.items() <= next(
        row for row in shown if row.get("relname") == "orders"
    ).items()
    assert "orders_by_limit" in {row.get("indexrelname") for row in shown}
    assert "shop_slot" in {row.get("slot_name") for row in shown}


def test_without_a_token_every_kind_of_name_is_listed(shop, tmp_path):
    file = configured(tmp_path, shop.dsn("pgcollector", "shop_base"))
    done = pgc("names", "--json", "--config", file, home=tmp_path)
    assert done.returncode == 0, done.stderr
    found = {one["name"]: one["kinds"] for one in json.loads(done.stdout)}
    for kind, name in NAMES.items():
        assert kind in found[name], (kind, name)
    text = pgc("names", "--config", file, home=tmp_path).stdout
    assert re.search(r"^i_[0-9a-f]{8}  till 7 +application$", text, re.MULTILINE)
    with_alias = pgc("names", "--name", "an_alias", "--config", file, home=tmp_path)
    assert re.search(r"^i_[0-9a-f]{8}  an_alias +given$", with_alias.stdout, re.MULTILINE)


def test_a_token_that_is_nobodys_is_told_and_ends_with_1(shop, tmp_path):
    file = configured(tmp_path, shop.dsn("pgcollector", "shop_base"))
    done = pgc("names", "i_00000000", "--config", file, home=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "i_00000000: none of the names" in done.stderr
    assert "--name" in done.stderr


def test_every_kind_can_be_read_by_the_monitoring_role_on_each_version(database):
    session = Session.open(target(database.dsn()), relations=frozenset())
    try:
        found = {kind: list(catalog_names.read(session, kind)) for kind in catalog_names.KINDS}
    finally:
        session.close()
    assert database.name in found["database"]
    assert "pgcollector" in found["role"]
    assert all(len(set(names)) == len(names) for names in found.values())


def test_an_agent_at_work_is_asked_so_that_no_third_session_is_opened(shop, tmp_path):
    daemon = Daemon(
        tmp_path,
        {"prod": shop.dsn("pgcollector", "shop_base")},  # which may have two sessions
        security={"query_masking_level": "full"},
    )
    with daemon:
        daemon.sampled()
        held = "select count(*) from pg_stat_activity where usename = 'pgcollector'"
        until(lambda: shop.query(held) == [(2,)], what="it has both of its sessions")
        done = daemon.pgc("names", "--json", "--set", f"state_dir={tmp_path / 'state'}")
        assert done.returncode == 0, done.stderr
        assert set(NAMES.values()) <= set(named(done.stdout).values())
        assert shop.query(held) == [(2,)]
        lines = (tmp_path / "output").rglob("*.jsonl")
        sampled = "".join(path.read_text() for path in lines)
    tokens = {name: token for token, name in named(done.stdout).items()}
    assert tokens["orders"] in sampled
    assert "orders" not in sampled.replace("autovacuum", "")


def test_an_agent_lends_no_names_of_a_kind_that_is_none(shop, tmp_path):
    daemon = Daemon(tmp_path, {"prod": shop.dsn("pgcollector", "shop_base")})
    with daemon:
        daemon.sampled()
        (database,) = loaded(daemon.file).config.databases
        request = control.NamesRequest(
            target="prod", connection=control.fingerprint(database), kind="password"
        )
        with pytest.raises(CollectorError, match="no kind of names"):
            control.ask(request, daemon.run / "pgc.sock")


@pytest.mark.root
def test_a_key_that_one_may_not_read_is_told_with_who_may(newest_server):
    home = new_directory("names")
    home.chmod(0o777)
    configured(home, newest_server.dsn("pgcollector"))
    assert (home / "state" / FILE).stat().st_mode & 0o777 == 0o600
    done = pgc(
        "names", "--config", home / "config.yaml",
        home=home, python=_python_for_all(), wrap=as_owner,
    )  # fmt: skip
    assert done.returncode == 77, done.stderr
    assert "sudo -u pg-collector pgc names" in done.stderr
    assert "Traceback" not in done.stderr
