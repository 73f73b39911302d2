"""A server with a secret in each place of its catalogs, its statements and its sessions."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from pg_collector.column_statistics import COLUMNS
from pg_collector.pg.role import column_statistics_script
from tests.support.conditions.secrets import SETTINGS
from tests.support.conditions.session import sessions
from tests.support.hoard import Hoard
from tests.support.lab.postmaster import Stop
from tests.support.lab.server import Server

HBA = ("local all postgres trust", "host all postgres 127.0.0.1/32 trust",
       "host all all 127.0.0.1/32 scram-sha-256")  # fmt: skip
WAYS = ("conn_string", "PGPASSWORD", "passfile", "service", "password_file", "file reference")
FAILING = f"""
create or replace function pgcollector.column_statistics(relids oid[])
returns table ({", ".join(f"{name} {kind}" for name, kind in COLUMNS)})
language plpgsql stable security definer as $f$
begin
  raise notice '{{a notice}}';
  if extract(epoch from clock_timestamp())::int % 2 = 0 then
    perform '{{a value quoted}}'::int;
  end if;
  raise '{{an exception}}'
    using errcode = '57000', detail = '{{its detail}}', hint = '{{its hint}}';
end $f$
"""
SCHEMA = """
create schema "{a schema}";
create table "{a schema}"."{a table}" (id int primary key, "{a column}" text);
create index "{an index}" on "{a schema}"."{a table}" ("{a column}");
insert into "{a schema}"."{a table}" select n, '{a row}' from generate_series(1, 3000) as n;
analyze;
create role "{a role}" login superuser;
create database "{a database}";
select pg_create_logical_replication_slot('{a slot}', 'pgoutput');
create foreign data wrapper w;
create server s foreign data wrapper w options (host 'h');
create user mapping for "{a role}" server s options (password '{a user mapping}');
create subscription sub connection 'dbname=x password={a subscription}' publication p
  with (connect = false);
alter role "{a role}" password '{alter role}';
do $$ begin perform '{a do block}'; end $$;
set app.tenant = '{a setting}';
notify "{a channel}", '{a notification}';
comment on table "{a schema}"."{a table}" is '{a comment on}'
"""
HELD = (
    "select '{a literal}', {a number}",
    "select 1 /* {a comment} */ -- {a line comment}",
    'select 1 as "{an address}@example.com"',
    'savepoint "{a savepoint}"',
    "selec '{a syntax error}'",
    "alter role nobody password '{a failed statement}'",
    'select * from "{a schema}"."{a table}" where "{a column}" = $${a dollar quote}$$',
)


def filled(hoard: Hoard, template: str) -> str:
    """Return a template with a secret for each place in braces."""
    for place in {one.partition("}")[0] for one in template.split("{")[1:]}:
        made = hoard.number(place) if place == "a number" else hoard.word(place)
        template = template.replace(f"{{{place}}}", made)
    return template


@contextmanager
def full_of_secrets(hoard: Hoard, major: int) -> Iterator[Server]:
    """Run a server with secrets in its catalogs, its statements and its sessions."""
    with Server(major, settings=SETTINGS, hba=HBA) as server, ExitStack() as stack:
        database = server.database()
        with database.connect() as lab:
            for sql in filled(hoard, SCHEMA).strip().split(";\n"):
                lab.execute(sql)
        for way in WAYS:
            role = way.replace(" ", "_").lower()
            database.query(f"create role {role} login in role pg_monitor")
            database.query(f"alter role {role} password '{hoard.word(way)}'")
        database.query("\n".join(column_statistics_script("conn_string")))
        database.query(filled(hoard, FAILING))
        name = filled(hoard, "{an application_name}")
        opened = stack.enter_context(sessions(database, *(name for _ in HELD)))
        for sql, session in zip(HELD, opened, strict=True):
            session.do("begin")
            session.connection.pgconn.exec_(filled(hoard, sql).encode())
        prepared = filled(hoard, "begin; select '{prepared text}'; prepare transaction '{a gid}'")
        with database.connect() as lab:
            for sql in prepared.split("; "):
                lab.execute(sql)
        yield server
        server.stop(Stop.IMMEDIATE)
