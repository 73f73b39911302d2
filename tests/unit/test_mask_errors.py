"""Error texts and log lines lose credentials and values, and stay readable."""

import pytest

from pg_collector.errors import USER_RAISED
from pg_collector.privacy.mask import Masker
from pg_collector.privacy.scrub import scrub, scrub_error

LOG_LINES = [
    (
        "connect to postgresql://bob:hunter2@db.example.com:5432/app",
        "postgresql://?@db.example.com:5432/app",
    ),
    ("invalid URI postgres://bob:hun@ter/2@h/d", "invalid URI postgres://?@h/d"),
    ("cut off postgres://bob:hunter2", "cut off postgres://?"),
    ("http://localhost:8080: refused", "http://localhost:8080: refused"),
    ("GET https://[::1]:8080/v1 and https://api.example.com/v1", "https://[::1]:8080/v1"),
    ("host=h user=u password=hunter2 dbname=d", "host=h user=u password=? dbname=d"),
    ("password = 'hunter2 \\' x' dbname=d", "password = ? dbname=d"),
    ("sslpassword=hunter2", "sslpassword=?"),
    ("scram_client_key=hunter2 scram_server_key=hunter2", "scram_client_key=? scram_server_key=?"),
    (r"password=a\ hunter2\ hunter2 user=u", "password=? user=u"),
    (r"password=\hunter2", "password=?"),
    ("conninfo 'host=h password=''hunter2''' x", "conninfo 'host=h password=? x"),
    ("password='', user='u'", "password=?, user='u'"),
    ("Cookie: a=hunter2; b=hunter2\nnext: 1", "Cookie: ?\nnext: 1"),
    ("X-IDENTITY-HEADER: hunter2", "X-IDENTITY-HEADER: ?"),
    ('{"api_key": "hunter2", "a": 1}', '{"api_key": ?, "a": 1}'),
    ("url /v1?token=hunter2&x=1", "url /v1?token=?"),
    ("client_secret: hunter2", "client_secret: ?"),
    ("access_token=hunter2", "access_token=?"),
    ("Authorization: Bearer hunter2.abc", "Authorization: ?"),
    ("sent Bearer hunter2.abc to h", "sent Bearer ? to h"),
    ("sent Basic aHVudGVyMg== to h", "sent Basic ? to h"),
    ("X-Amz-Signature=hunter2", "X-Amz-Signature=?"),
    ("token eyJhbGciOiJIUzI1NiJ9.eyJhIjoxfQ.hunter2 bad", "token ? bad"),
    ("it said pgc_a-plan_hunter2Hunter2hunter2Hunter2hunt then", "it said ? then"),
    ("it said pgr_hunter2-Hunter2_hunter2 then", "it said ? then"),
    ("it said pga_hunter2-Hunter2_hunter2 then", "it said ? then"),
    ("alter role x password 'hunter2'", "alter role x password ?"),
    ("-----BEGIN RSA PRIVATE KEY-----\nhunter2", "?"),
    (
        "duplicate key\nDETAIL:  Key (a)=(hunter2) already exists.\n more hunter2\n\nnext",
        "duplicate key\n\nnext",
    ),
    ("syntax error\nLINE 1: select hunter2\n               ^", "syntax error\n"),
    ("doppelt\nZEILE 1: select hunter2\n     ^\nTIPP:  hunter2", "doppelt\n"),
    ("erreur\nD\xc9TAIL : Key (a)=(hunter2)\nLIGNE 1\xa0: select hunter2\n\nfin", "erreur\n\nfin"),
    (
        "\u043e\u0448\u0438\u0431\u043a\u0430\n\u0421\u0422\u0420\u041e\u041a\u0410 1: hunter2",
        "\u043e\u0448\u0438\u0431\u043a\u0430\n",
    ),
    ("bad\n\u8a73\u7d30: hunter2\n\u884c 1: hunter2", "bad\n"),
    ("bad\n\u7b2c1\u884cselect hunter2", "bad\n"),
    ("api_key: pgc_pro_hunter2", "api_key: ?"),
    ("password_hash: hunter2", "password_hash: ?"),
    ("token_filex: hunter2", "token_filex: ?"),
    ("Authorization: hunter2", "Authorization: ?"),
    ("Set-Cookie: a=hunter2", "Set-Cookie: ?"),
    ("PASSPHRASE=hunter2", "PASSPHRASE=?"),
    ("pwd=hunter2", "pwd=?"),
    ("Passwd: hunter2", "Passwd: ?"),
    ("credential=hunter2", "credential=?"),
    ("private-key=hunter2, access_key=hunter2", "private-key=? access_key=?"),
    ("identified  by 'hunter2'", "identified  by ?"),
    ("it used AKIAHUNTER2HUNTER2 there", "it used ? there"),
    ("it used ASIAHUNTER2HUNTER2 there", "it used ? there"),
]

PLAIN = [
    'connection to server at "10.0.0.1", port 5432 failed: FATAL:  no password for user "bob"',
    "sampler activity took 12 ms, 34 rows",
    "pgc_platform_request_seconds_bucket of pga_hba, pgc_pro_",
    'relation "pg_stat_statements" does not exist',
    "the basic level is used, no token was given",
    "password_file: /etc/pgc/password is empty",
    "http.token_file: /etc/pgc/token cannot be read",
    '{"api_key_file": "/etc/pgc/key"}',
    "several hosts failed\nERROR: the first\nFATAL:  the second\nHost: h",
]

ERRORS = [
    (
        "22P02",
        'invalid input syntax for type integer: "hunter2"',
        'invalid input syntax for type integer: "?"',
    ),
    (
        "22P02",
        'invalid input value for enum mood: "a "hunter2" b"',
        'invalid input value for enum mood: "?"',
    ),
    (
        "22P02",
        'invalid input syntax for type json: "hunter2\nx',
        'invalid input syntax for type json: "?"',
    ),
    (
        "22P02",
        "Ung\xfcltige Eingabesyntax f\xfcr Typ integer: \xbbhunter2\xab",
        'Ung\xfcltige Eingabesyntax f\xfcr Typ integer: "?"',
    ),
    ("22P02", "syntaxe invalide : \xab hunter2 \xbb", 'syntaxe invalide : "?"'),
    ("22P02", "invalid: \u300chunter2\u300d", 'invalid: "?"'),
    ("22P02", "invalid: \u2039hunter2\u203a", 'invalid: "?"'),
    (
        "42P01",
        "Relation \xbbt\xab existiert nicht\nZEILE 1: select hunter2",
        "Relation \xbbt\xab existiert nicht",
    ),
    ("42P01", "Fehler ZEILE 1: select hunter2", "Fehler"),
    ("42P01", "erreur D\xc9TAIL : hunter2", "erreur"),
    ("22007", "ung\xfcltige Syntax: \u201ehunter2\u201c", 'ung\xfcltige Syntax: "?"'),
    (
        "22023",
        'invalid value for parameter "work_mem": "hunter2"',
        'invalid value for parameter "work_mem": "?"',
    ),
    (
        "23505",
        'duplicate key value violates unique constraint "users_email_key"\nDETAIL: (a)=(hunter2)',
        'duplicate key value violates unique constraint "users_email_key"',
    ),
    (
        "23502",
        'null value in column "a" of relation "t" violates not-null constraint',
        'null value in column "a" of relation "t" violates not-null constraint',
    ),
    ("23505", "x Key (email)=(hunter2) already exists", "x Key (email)=(?)"),
    ("42601", 'syntax error at or near "hunter2"', 'syntax error at or near "?"'),
    ("42P01", 'relation "t" does not exist\nLINE 1: select hunter2', 'relation "t" does not exist'),
    (
        "28P01",
        'password authentication failed for user "bob"',
        'password authentication failed for user "bob"',
    ),
    ("08006", "could not connect to postgres://u:hunter2@h/d", "could not connect to postgres://?"),
    ("P0001", "hunter2 is wrong", USER_RAISED),
    ("P0004", "hunter2", USER_RAISED),
    ("MY001", "hunter2", USER_RAISED),
    (None, 'something near "hunter2"', 'something near "?"'),
    (None, "", ""),
]


@pytest.mark.parametrize(("text", "expected"), LOG_LINES)
def test_a_log_line_loses_its_credentials(text: str, expected: str) -> None:
    scrubbed = scrub(text)
    assert "hunter2" not in scrubbed
    assert expected in scrubbed


@pytest.mark.parametrize("text", PLAIN)
def test_an_ordinary_log_line_is_kept(text: str) -> None:
    assert scrub(text) == text


def test_scrubbing_a_traceback_keeps_its_frames() -> None:
    text = (
        "Traceback (most recent call last):\n"
        '  File "a.py", line 1, in f\n'
        "psycopg.errors.UniqueViolation: duplicate key\n"
        "DETAIL:  Key (email)=(hunter2) exists.\n\n"
        "During handling of the above exception, another exception occurred:\n"
        '  File "b.py", line 2, in g\n'
    )
    scrubbed = scrub(text)
    assert "hunter2" not in scrubbed
    assert scrubbed.count("File") == 2


@pytest.mark.parametrize(("sqlstate", "message", "expected"), ERRORS)
def test_a_servers_message_loses_its_values(
    sqlstate: str | None, message: str, expected: str
) -> None:
    assert scrub_error(sqlstate, message) == expected


def test_the_masker_scrubs_errors_by_the_strictest_rules() -> None:
    masker = Masker()
    assert masker.mask('bad value "hunter2"\nDETAIL: hunter2', "error") == 'bad value "?"'
    assert masker.mask("select 1", "error") == "select 1"
