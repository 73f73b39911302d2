"""Kinds of statement that hold a secret, and what has to be there before them.

In the templates CANARY is the word of the kind's place, HEX and ESCAPED are that word in other
forms, NUMBER, BITS, ADDRESS and CARD are the same in all (`Canary.fill`).

Left out is what level basic shows on purpose (docs/specs/masking.md, residual risks): names of
tables, columns, roles, databases, slots, channels, cursors, prepared statements and savepoints of
at most 63 characters, quoted or not, and the name of a transaction that stays prepared.
"""

from typing import Final, NamedTuple

ALWAYS: Final = 99


class Kind(NamedTuple):
    """One kind of statement.

    shown: the last version whose pg_stat_statements holds it as it is; 0 where none does, or where
    the statement fails.
    alone: it fails in a transaction, so that it is run outside as well, and after it `after`.
    before: what it needs. held: its session can keep a transaction open behind it.
    """

    sql: str
    shown: int = 0
    since: int = 12
    alone: bool = False
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    held: bool = True


SETUP: Final = """
create table t (id serial primary key, a text, b numeric, c text default 'x');
insert into t (a, b) select 'CANARY', NUMBER from generate_series(1, 3000);
create index t_a on t (a);
create table u (id int primary key, a text);
insert into u values (1, ''), (2, '');
create table locked (id int primary key, a text);
insert into locked values (1, ''), (2, '');
create table altered (a text);
create table checked (a text);
create table indexed (a text);
create table expressed (a text);
create table ruled (a text);
create table triggered (a text);
create table policed (a text);
create table published (a text);
create table parts (a text) partition by list (a);
create table ranges (a bigint) partition by range (a);
create view seen as select 1 as one;
create type mood as enum ('fine');
create function f(text) returns text language sql as 'select $1';
create procedure p(text) language plpgsql as 'begin end';
create role r;
create role limited connection limit 7;
create foreign data wrapper w;
create server s foreign data wrapper w options (host 'h');
create server s2 foreign data wrapper w;
create user mapping for r server s options (password 'x');
create subscription sub connection 'dbname=nowhere' publication none with (connect = false);
select pg_create_logical_replication_slot('decoder', 'pgoutput');
analyze;
"""  # rows that hold secrets, too: column statistics stay on the server

_PLANNED: Final = (
    Kind("select 'CANARY' as a, 1"),
    Kind("select 'it''s CANARY', '' || 'CANARY'"),
    Kind(r"select E'a\'CANARY\\', e'\n''CANARY'"),
    Kind("select U&'ESCAPED', u&'!0041CANARY' uescape '!'"),
    Kind("select $$CANARY$$, $$it's CANARY$$"),
    Kind("select $a_1$CANARY$$ CANARY$a_1$"),
    Kind("select N'CANARY', n'it''s CANARY'"),
    Kind("select B'BITS', b'1'"),
    Kind("select X'HEX', x'0'"),
    Kind(r"select '\xHEX'::bytea, convert_from('\xHEX', 'UTF8')"),
    Kind("select 'a'\n  'CANARY', E'b'\n -- x\n '\\'CANARY'"),
    Kind("select NUMBER, -NUMBER, .NUMBER, NUMBER.5, NUMBER.NUMBER, NUMBERe0"),
    Kind("select 1 where 'a' in ('CANARY', 'b', 'CANARY') or NUMBER in (1, NUMBER, 2)"),
    Kind("""select '{"k": ["CANARY", NUMBER]}'::jsonb -> 'CANARY', '["CANARY"]'::json"""),
    Kind("select array['CANARY', 'b'], '{CANARY,NUMBER}'::text[], array[NUMBER]"),
    Kind("select interval '1' day, timestamp '2001-02-03', 'CANARY' || now()"),
    Kind("select cast('CANARY' as text), 'CANARY'::varchar(80), text 'CANARY', name 'CANARY'"),
    Kind("insert into u values (101, 'CANARY'), (102, 'CANARY') on conflict do nothing"),
    Kind("update t set a = 'CANARY', b = NUMBER where id = 11 and c = 'x' returning a || 'CANARY'"),
    Kind("delete from t where id = 12 and a between 'CANARY' and 'CANARY'"),
    Kind(
        "merge into t using (values (13, 'CANARY')) as v (id, a) on t.id = v.id"
        " when matched then update set a = v.a || 'CANARY'",
        since=15,
    ),
    Kind("with x as (select 'CANARY'::text as n) select * from x where n like 'CANARY%'"),
    Kind("values ('CANARY', NUMBER), ('CANARY', NUMBER)"),
    Kind(
        "select case when a = 'CANARY' then NUMBER else 0 end from t order by a = 'CANARY' limit 1"
    ),
    Kind("select a from t where a ~ 'CANARY' limit NUMBER offset NUMBER"),
    Kind("select set_config('app.a', 'CANARY', false), current_setting('app.a')"),
    Kind("select 'CANARY'; select 'CANARY' || 'CANARY', 2"),
    Kind(f"select '{'CANARY ' * 90}' as a"),  # cut by track_activity_query_size
    Kind(
        'select pg_catalog.format(\'%s\', \'CANARY\') as "a b", "c".n from (select 1 as n) as "c"'
    ),
)
_COMMENTED: Final = (
    Kind("select 1 /* CANARY NUMBER */ + 2", ALWAYS),
    Kind("select 1.5 -- CANARY NUMBER\n, 3", ALWAYS),
    Kind("select 'x', 1 /* a /* CANARY */ b */ + 4", ALWAYS),
    # What stands before or behind a statement the server takes for none of it.
    Kind("/* CANARY */ select 'CANARY', 5 /*app='CANARY',traceparent='00-CANARY'*/ -- CANARY"),
)
_ROLES: Final = (
    Kind("create role r1 login password 'CANARY'", ALWAYS),
    Kind("alter role r with encrypted password 'CANARY' valid until '2099-01-01'", ALWAYS),
    Kind("create user r2 in role r password E'CANARY'", ALWAYS),
    Kind("alter role limited set search_path = 'CANARY'", 17),
    Kind("alter role r in database postgres set app.tenant = CANARY", 17),
    Kind("alter database postgres set app.token to CANARY", 17),
)
_FOREIGN: Final = (
    Kind(
        "create user mapping for public server s options (user 'CANARY', password 'CANARY')", ALWAYS
    ),
    Kind("alter user mapping for r server s options (set password 'CANARY')", ALWAYS),
    Kind("create server s3 foreign data wrapper w options (host 'CANARY', port 'NUMBER')", ALWAYS),
    Kind("alter server s2 version 'CANARY' options (add token 'CANARY')", ALWAYS),
    Kind(
        "create foreign table ft (a text options (x 'CANARY')) server s options (t 'CANARY')",
        ALWAYS,
    ),
    Kind("create foreign data wrapper w2 options (secret 'CANARY')", ALWAYS),
    Kind(
        "create subscription sub2 connection 'host=CANARY password=CANARY' publication none"
        " with (connect = false)",
        ALWAYS,
    ),
    Kind("alter subscription sub connection 'host=h user=u password=CANARY'", ALWAYS),
)
_BODIES: Final = (
    Kind(
        "do $do$ declare a text := 'CANARY'; begin perform a || 'CANARY', NUMBER; end $do$", ALWAYS
    ),
    Kind("do 'begin raise notice ''CANARY %'', NUMBER; end'", ALWAYS),
    Kind("create function f1() returns text language sql as 'select ''CANARY'''", ALWAYS),
    Kind(
        "create function f2() returns text language plpgsql set app.key = CANARY as"
        " $f$ begin return 'CANARY'; end $f$",
        ALWAYS,
    ),
    Kind(
        "create function f3() returns text begin atomic select 'CANARY'; select 'CANARY'; end",
        ALWAYS,
        since=14,
    ),
    Kind(
        "create procedure p1(a text default 'CANARY') language sql as $$select 'CANARY'$$", ALWAYS
    ),
    Kind("alter function f(text) set app.key to 'CANARY'", 17),
    Kind("create rule deny as on insert to ruled do instead select 'CANARY'", ALWAYS),
    Kind("create aggregate agg(text) (sfunc = textcat, stype = text, initcond = 'CANARY')", ALWAYS),
)
_DEFINITIONS: Final = (
    Kind("comment on table t is 'CANARY'", ALWAYS),
    Kind("comment on role limited is $$CANARY$$", ALWAYS),
    Kind("create type mood2 as enum ('CANARY', 'b')", ALWAYS),
    Kind("alter type mood add value 'CANARY'", ALWAYS),
    Kind("create table made (a text default 'CANARY', b numeric check (b <> NUMBER))", ALWAYS),
    Kind("alter table altered alter a set default 'CANARY'", ALWAYS),
    Kind("alter table checked add constraint nine check (a <> 'CANARY')", ALWAYS),
    Kind("create table parts_1 partition of parts for values in ('CANARY')", ALWAYS),
    Kind("create table ranges_1 partition of ranges for values from (1) to (NUMBER)", ALWAYS),
    Kind("create domain code as text default 'CANARY' check (value <> 'CANARY')", ALWAYS),
    Kind("create view v1 as select 'CANARY'::text as a, NUMBER as b", ALWAYS),
    Kind("create index part on indexed (a) where a = 'CANARY'", ALWAYS),
    Kind("create index expr on expressed ((a || 'CANARY'))", ALWAYS),
    Kind("create policy rows on policed using (a = 'CANARY') with check (a <> 'CANARY')", ALWAYS),
    Kind(
        "create trigger on_made before insert on triggered for each row when (new.a = 'CANARY')"
        " execute function suppress_redundant_updates_trigger('CANARY')",
        ALWAYS,
    ),
    Kind("create publication pub for table published where (a = 'CANARY')", ALWAYS, since=15),
    Kind("create materialized view m1 as select 'CANARY'::text as a", 15),
    Kind("create table made2 as select 'CANARY'::text as a, NUMBER as b", 15),
    Kind("select 'CANARY'::text as a into made3", 15),
)
_SESSION: Final = (
    Kind("copy (select 'CANARY') to '/dev/null'", ALWAYS),
    Kind("copy (select 1) to program 'cat > /dev/null # CANARY'", ALWAYS),
    Kind("copy u (a) from program 'printf \"\" # CANARY' with (null 'CANARY')", ALWAYS),
    Kind("notify ch, 'CANARY'", ALWAYS),
    Kind("declare c cursor for select 'CANARY', NUMBER", 15),
    Kind("prepare ready(text) as select $1, 'CANARY'"),
    Kind("explain execute made('CANARY')", ALWAYS, before=("prepare made(text) as select $1",)),
    Kind("execute once('CANARY')", before=("prepare once(text) as select $1",)),
    Kind("set app.token = 'CANARY'", 17),
    Kind("set local app.tenant to CANARY", 17),
    Kind("set application_name = 'ADDRESS paid with CARD'", 17),
    Kind("call p('CANARY')", 16),
    Kind("explain select 'CANARY', NUMBER", 15),
    Kind("explain (analyze, costs off) select a from t where a = 'CANARY'", 15),
    Kind(f'savepoint "CANARY{"x" * 60}"', 16),
    Kind("alter system set log_line_prefix = 'CANARY'", 17, alone=True),
    Kind(
        "prepare transaction 'CANARY'",
        16,
        alone=True,
        before=("begin", "insert into u values (9, '')"),
        after=("rollback prepared 'CANARY'",),
        held=False,
    ),
)
_FAILING: Final = (
    Kind("select 'CANARY'::int"),
    Kind("insert into u values (1, 'CANARY')"),
    Kind("do $$ begin raise exception 'CANARY' using detail = 'CANARY', hint = 'CANARY'; end $$"),
    Kind("select 1/0, 'CANARY'"),
    Kind("select interval 'NUMBER microseconds', interval 'NUMBER' second"),
    Kind("create database d1 template 'CANARY'"),
    Kind("select * frm t where a = 'CANARY'"),
    Kind("selct 'CANARY' from t"),
    Kind('create user r3 password "CANARY"'),
    Kind("alter role r password CANARY"),
    Kind("alter user r identified by CANARY"),
    Kind("create user mapping for r server s2 options (password CANARY)"),
    Kind("create subscription sub3 connection CANARY publication none"),
    Kind("select a from t where a = \u2018CANARY\u2019 and b = \u201cCANARY\u201d"),
    Kind(f'select a from t where a = "CANARY{"x" * 60}"'),
    Kind("select a from t where a = 'don't say CANARY' and b = 'CANARY'"),
    Kind("select a from t where a = 'CANARY"),
    Kind("select $$CANARY"),
    Kind("select 1 /* CANARY"),
    Kind("copy u from stdin;\n1\tCANARY\n2\tCANARY\n\\."),
    Kind("copy u from stdin with (format csv)\n3,CANARY,NUMBER"),
    Kind("set session authorization 'CANARY'"),
    Kind("set time zone 'CANARY'"),
    Kind("load 'CANARY'"),
    Kind("import foreign schema x from server s into public options (password 'CANARY')"),
    Kind("select * from dblink('host=h password=CANARY', 'select ''CANARY''') as d(a int)"),
    Kind("create tablespace space location '/CANARY'"),
    Kind("CANARY"),
    Kind("my password is CANARY-NUMBER, thanks"),
    Kind(r"\connect postgres://u:CANARY@h/CANARY"),
    Kind("psql -h h -U u -W CANARY"),
    Kind("postgres://u:CANARY@h/d?x=CANARY"),
    Kind('{"password": "CANARY", "n": NUMBER}'),
    Kind("NUMBER,CANARY,CANARY"),
    Kind("select 1; CANARY is my CANARY"),
    Kind(f"{'CANARY ' * 90}"),
)

KINDS: Final = (
    *_PLANNED, *_COMMENTED, *_ROLES, *_FOREIGN, *_BODIES, *_DEFINITIONS, *_SESSION, *_FAILING,
)  # fmt: skip
