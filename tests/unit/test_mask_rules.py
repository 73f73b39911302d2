"""Level basic beyond literals: what PostgreSQL's views really hold, statement by statement."""

import pytest

from pg_collector.privacy.mask import Masker, Source
from pg_collector.privacy.statements import COMMANDS, leading_command

# What leaks through pg_stat_statements (12 to 18) and pg_stat_activity, with its masked form.
STATEMENTS = [
    ("CREATE ROLE r PASSWORD 'hunter2'", "CREATE ROLE r PASSWORD '?'"),
    ("ALTER ROLE r WITH ENCRYPTED PASSWORD 'hunter2'", "ALTER ROLE r WITH ENCRYPTED PASSWORD '?'"),
    ('ALTER USER z PASSWORD "hunter2"', "ALTER USER z PASSWORD '?'"),
    # Unquoted it is no valid statement, and where the password ends is unknown.
    ("alter user z password hunter2 valid until 'x'", "alter user z password '?'"),
    (
        "alter user z password 'x'valid until 'y' in role w; select a",
        "alter user z password '?'valid until '?' in role w; select a",
    ),
    ("alter user z password 'x' NOLOGIN", "alter user z password '?' NOLOGIN"),
    ("alter user z password 'x' val", "alter user z password '?' val"),
    ("alter user z password 'it's hunter2'", "alter user z password '?'"),
    ("alter user z password 'my dogs' bowl hunter2' nologin", "alter user z password '?'"),
    (
        "alter user z set a to b; update u set password = c where d",
        "alter user z set a to '?'; update u set password = c where d",
    ),
    # apostrophes that nobody escaped
    ("SELECT * FROM c WHERE name = 'O'Hunter2'", "SELECT * FROM c WHERE name = '?'"),
    (
        "UPDATE t SET note = 'don't tell hunter2' WHERE id = 5",
        "UPDATE t SET note = '?'",
    ),
    ("insert into t values ('don't', ' hunter2', a)", "insert into t values ('?'"),
    ("select '6'2 tall hunter2', a", "select '?'"),
    ("select E'it's \\' hunter2' from t", "select '?' from t"),
    ("select 'x'and b='y', 'a'::text from t", "select '?'and b='?', '?'::text from t"),
    ("select $$a$$language, 'b'as c from t", "select '?'language, '?'as c from t"),
    ("alter user z password hunter2!a-1", "alter user z password '?'"),
    ("alter user z password 'ab'hunter2'", "alter user z password '?'"),
    ("alter user z password = hunter2; select 1", "alter user z password = '?'; select ?"),
    ("alter user z password/*c*/hunter2", "alter user z password '?'"),
    ("create user z identified by hunter2", "create user z identified by '?'"),
    ("alter role z password null", "alter role z password null"),
    ("alter role z rename to password", "alter role z rename to password"),
    (
        "CREATE USER MAPPING FOR u SERVER s OPTIONS (user 'a', password 'hunter2')",
        "CREATE USER MAPPING FOR u SERVER s OPTIONS (user '?', password '?')",
    ),
    (
        "ALTER SERVER s OPTIONS (SET password 'hunter2')",
        "ALTER SERVER s OPTIONS (SET password '?')",
    ),
    (
        "CREATE SUBSCRIPTION s CONNECTION 'host=h password=hunter2' PUBLICATION p",
        "CREATE SUBSCRIPTION s CONNECTION '?' PUBLICATION p",
    ),
    (
        'CREATE SUBSCRIPTION s CONNECTION "host=x password=hunter2" PUBLICATION p; select a',
        "CREATE SUBSCRIPTION s CONNECTION '?'; select a",
    ),
    ("ALTER SUBSCRIPTION s CONNECTION hunter2", "ALTER SUBSCRIPTION s CONNECTION '?'"),
    ("ALTER SUBSCRIPTION connection ENABLE", "ALTER SUBSCRIPTION connection ENABLE"),
    (
        "CREATE SERVER s FOREIGN DATA WRAPPER w OPTIONS (password hunter2)",
        "CREATE SERVER s FOREIGN DATA WRAPPER w OPTIONS (password '?')",
    ),
    (
        "CREATE USER MAPPING FOR u SERVER s OPTIONS (user 'a', password hunt)er2); select a",
        "CREATE USER MAPPING FOR u SERVER s OPTIONS (user '?', password '?'); select a",
    ),
    (
        "ALTER USER MAPPING FOR u SERVER s OPTIONS (DROP password, SET api_token = hunter2)",
        "ALTER USER MAPPING FOR u SERVER s OPTIONS (DROP password, SET api_token = '?')",
    ),
    (
        "CREATE FOREIGN TABLE t (a int OPTIONS (x 'y'), password text) SERVER s OPTIONS (key 'z')",
        "CREATE FOREIGN TABLE t (a int OPTIONS (x '?'), password text) SERVER s OPTIONS (key '?')",
    ),
    ("DO $$begin perform 'hunter2'; end$$", "DO '?'"),
    (
        "CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $f$ select 'hunter2' $f$",
        "CREATE FUNCTION f() RETURNS text LANGUAGE sql AS '?'",
    ),
    (
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC; SELECT case a when 1 then 'hunter2' end;"
        " UPDATE t SET a = b; END; SELECT 2",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC; SELECT case a when ? then '?' end;"
        " UPDATE t SET a = b; END; SELECT ?",
    ),
    ("COMMENT ON TABLE t IS 'hunter2'", "COMMENT ON TABLE t IS '?'"),
    ("CREATE TYPE m AS ENUM ('hunter2', 'x')", "CREATE TYPE m AS ENUM ('?')"),
    ("CREATE TABLE t (a text DEFAULT 'hunter2')", "CREATE TABLE t (a text DEFAULT '?')"),
    (
        "CREATE TABLE p PARTITION OF t FOR VALUES FROM ('hunter2') TO ('x')",
        "CREATE TABLE p PARTITION OF t FOR VALUES FROM ('?') TO ('?')",
    ),
    ("CREATE VIEW v AS SELECT 'hunter2'", "CREATE VIEW v AS SELECT '?'"),
    ("CREATE INDEX ON t (a) WHERE b = 'hunter2'", "CREATE INDEX ON t (a) WHERE b = '?'"),
    ("CREATE POLICY p ON t USING (a = 'hunter2')", "CREATE POLICY p ON t USING (a = '?')"),
    (
        "ALTER TABLE t ALTER a SET DEFAULT 'hunter2'",
        "ALTER TABLE t ALTER a SET DEFAULT '?'",
    ),
    ("COPY (SELECT 'hunter2') TO PROGRAM 'curl x'", "COPY (SELECT '?') TO PROGRAM '?'"),
    ("NOTIFY ch, 'hunter2'", "NOTIFY ch, '?'"),
    ("DECLARE c CURSOR FOR SELECT 'hunter2'", "DECLARE c CURSOR FOR SELECT '?'"),
    ("EXECUTE p('hunter2')", "EXECUTE p('?')"),
    ("SELECT a /* hunter2 */ FROM t", "SELECT a   FROM t"),
    ("CALL p('hunter2', 42)", "CALL p('?')"),
    ("EXPLAIN SELECT 'hunter2'", "EXPLAIN SELECT '?'"),
    ("CREATE TABLE t AS SELECT 'hunter2'", "CREATE TABLE t AS SELECT '?'"),
    ("PREPARE TRANSACTION 'hunter2'", "PREPARE TRANSACTION '?'"),
    ("SAVEPOINT sp", "SAVEPOINT sp"),
    ("SELECT a FROM t ORDER BY 1, 2", "SELECT a FROM t ORDER BY ?"),
    ("FETCH 10 FROM c", "FETCH ? FROM c"),
    # settings
    ("SET app.token = 'hunter2'", "SET app.token = '?'"),
    ("SET app.token = hunter2", "SET app.token = '?'"),
    ("SET my-app.token = hunter2", "SET my-app.token = '?'"),
    ("SET my.1x = hunter2", "SET my? = '?'"),
    ("set local my-app.token to hunter2; select a", "set local my-app.token to '?'; select a"),
    ('set "a=b" to hunter2', "set \"a=b\" to '?'"),
    ("alter role r set my-app.token = hunter2", "alter role r set my-app.token = '?'"),
    ("set time zone interval '1' hour to minute", "set time zone interval '?' hour to minute"),
    (
        "create function f() returns int set my-app.key = hunter2 language sql as 'x'",
        "create function f() returns int set my-app.key = '?' language sql as '?'",
    ),
    ('set app.token to hunter2.abc-def, "x;y" ; select 1', "set app.token to '?' ; select ?"),
    ('set local "app.token" = hunter2', "set local \"app.token\" = '?'"),
    ("set session authorization bob", "set session authorization bob"),
    ("begin; set local app.tenant = hunter2; commit", "begin; set local app.tenant = '?'; commit"),
    ("set work_mem = 64", "set work_mem = ?"),
    ("set jit = off; set x to default", "set jit = off; set x to default"),
    ("set role bob; set schema 'x'", "set role bob; set schema '?'"),
    ("set time zone utc", "set time zone utc"),
    (
        "set transaction isolation level serializable",
        "set transaction isolation level serializable",
    ),
    ("set password for bob = hunter2", "set password for bob = '?'"),
    (
        "alter role r in database d set app.key = hunter2",
        "alter role r in database d set app.key = '?'",
    ),
    (
        'alter database "a;b" set search_path to hunter2',
        "alter database \"a;b\" set search_path to '?'",
    ),
    (
        "alter system set primary_conninfo = 'password=hunter2'",
        "alter system set primary_conninfo = '?'",
    ),
    ("alter table t set (fillfactor = 70)", "alter table t set (fillfactor = ?)"),
    ("alter table t set schema s", "alter table t set schema s"),
    (
        "create function f() returns int set app.key = hunter2 language sql as 'x'",
        "create function f() returns int set app.key = '?' language sql as '?'",
    ),
    ("update t set a = b, c = 5 where d = 'x'", "update t set a = b, c = ? where d = '?'"),
    # COPY
    ("copy t from stdin;\n1\thunter2\tit's\n\\.", "copy t from stdin;<inline copy data>"),
    (
        "copy t (a) from stdin with (format csv);\nhunter2",
        "copy t (a) from stdin with (format csv);<inline copy data>",
    ),
    ("copy t from stdin\nhunter2", "copy t from stdin;<inline copy data>"),
    ("copy t from stdout\nhunter2", "copy t from stdout;<inline copy data>"),
    ("copy t to stdout csv; copy u to stdout", "copy t to stdout csv; copy u to stdout"),
    ("copy t from stdin csv;", "copy t from stdin csv;"),
    (
        "COPY t FROM STDIN WITH CSV HEADER\nhunter2,foo",
        "COPY t FROM STDIN WITH CSV HEADER;<inline copy data>",
    ),
    (
        "COPY t FROM STDIN (FORMAT csv)\nhunter2",
        "COPY t FROM STDIN (FORMAT csv);<inline copy data>",
    ),
    (
        "copy t from stdin delimiter ','\nhunter2,b",
        "copy t from stdin delimiter '?';<inline copy data>",
    ),
    ("copy t from stdin csv hunter2,foo", "copy t from stdin csv;<inline copy data>"),
    (
        'copy t from stdin with (format csv,\n force_null (a, "B"),\n header true)',
        'copy t from stdin with (format csv,\n force_null (a, "B"),\n header true)',
    ),
    (
        "copy t from stdin csv force not null a, b where a > 1\n and b < 2",
        "copy t from stdin csv force not null a, b where a > ?\n and b < ?",
    ),
    ("copy t from stdin where a > 1\nhunter2", "copy t from stdin where a > ?;<inline copy data>"),
    ("copy t from stdin with delim", "copy t from stdin with delim"),
    ("copy t from stdin where a > 1", "copy t from stdin where a > ?"),
    # lists
    ("select * from t where a in (1, 2, 3)", "select * from t where a in (?)"),
    ("insert into t values (1, 'a'), (2, 'b'),\n(3, 'c')", "insert into t values (?)"),
    (
        "insert into t values (1, now(), $1), (2, now(), $1)",
        "insert into t values (?, now(), $1), (?, now(), $1)",
    ),
    ("select array[1, -2, +3], f(a, 1, 2)", "select array[?], f(a, ?)"),
    ("select 1, 2 from t", "select ? from t"),
    ("select 1, 2 + a", "select ?, ? + a"),
    ("select a + 1, 2", "select a + ?, ?"),
    ("select a in ($1, $2)", "select a in ($1, $2)"),
]

# Texts of pg_stat_activity that are no statements at all.
TYPED = [
    ("hunter2", "<unrecognized statement>"),
    ("hunter2; select 1", "<unrecognized statement>"),
    ("select 1; hunter2 select", "select ?; <unrecognized statement>"),
    ("\\connect postgres://u:hunter2@h/d", "<unrecognized statement>"),
    ("psql -W hunter2", "<unrecognized statement>"),
    ("postgres://u:hunter2@h/d", "<unrecognized statement>"),
    ('{"password": "hunter2"}', "<unrecognized statement>"),
    ("bob,hunter2,x", "<unrecognized statement>"),
    ("(hunter2)", "<unrecognized statement>"),
    ("selecthunter2", "<unrecognized statement>"),
    ("sel", "<unrecognized statement>"),
]

SERVER_TEXTS = [
    "autovacuum: VACUUM public.t (to prevent wraparound)",
    "autovacuum: ANALYZE public.t",
    "autovacuum: VACUUM ANALYZE public.t",
    "START_REPLICATION SLOT \"s\" LOGICAL ?/? (proto_version '?')",
    "IDENTIFY_SYSTEM",
    "<insufficient privilege>",
    "<backend information not available>",
    "<command string not enabled>",
    "<FASTPATH> function call",
    "",
    " ;; ",
]

EXPRESSIONS = [
    ("va := va + (select 5 from t)", "va := va + (select ? from t)"),
    ("(select count(*) from t)>$2", "(select count(*) from t)>$2"),
    ("$1", "$1"),
]


def mask(text: str, source: Source) -> str:
    return Masker(cache_bytes=0).mask(text, source)


@pytest.mark.parametrize(("text", "expected"), STATEMENTS)
@pytest.mark.parametrize("source", ["activity", "statements"])
def test_what_the_views_hold_is_masked(text: str, expected: str, source: Source) -> None:
    assert mask(text, source) == expected


@pytest.mark.parametrize(("text", "expected"), TYPED)
def test_activity_that_is_no_statement_is_not_shown(text: str, expected: str) -> None:
    assert mask(text, "activity") == expected


@pytest.mark.parametrize("text", SERVER_TEXTS)
def test_what_the_server_itself_writes_is_kept(text: str) -> None:
    assert mask(text, "activity") == text


@pytest.mark.parametrize(("text", "expected"), EXPRESSIONS)
def test_expressions_of_functions_are_kept_in_statements(text: str, expected: str) -> None:
    assert mask(text, "statements") == expected


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_is_recognized(command: str) -> None:
    assert mask(f"{command} x", "activity") == f"{command} x"
    assert leading_command(f"  (({command.title()} x") == command.upper()


@pytest.mark.parametrize(
    "text",
    [
        "create rule r as on insert to t do also (delete from a; delete from b); select 1",
        "create function f() begin atomic select case when a then b end; table c; end; table t",
        'select "a;b" from t; with x as (table t) values (a)',
        "( (select a) union select b)",
    ],
)
def test_inner_semicolons_do_not_hide_what_follows(text: str) -> None:
    assert mask(text, "activity") == text.replace("1", "?")


def test_a_word_of_the_text_is_never_taken_for_a_command() -> None:
    assert [
        leading_command(t) for t in ("hunter2", "", "'select'", "\u017felect 1", "1 select")
    ] == [""] * 5
