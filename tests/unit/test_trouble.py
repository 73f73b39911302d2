"""What PostgreSQL's complaints mean, and that no secret is in any of them."""

import socket
import threading

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_collector.errors import (
    USER_RAISED,
    LoginRefused,
    Reason,
    SamplerError,
    SamplerTimeout,
    SamplerUnavailable,
    TargetDown,
    TargetRefused,
)
from pg_collector.pg.trouble import (
    STALE,
    Peer,
    connection_failed,
    scrubber,
    statement_failed,
)

PEER = Peer("prod", "db1:5432", "watcher", "shop")


def failed(sqlstate: str, text: str = "no") -> psycopg.Error:
    return psycopg.errors.lookup(sqlstate)(text)


@pytest.mark.parametrize(
    ("sqlstate", "kind", "reason"),
    [
        ("57014", SamplerTimeout, Reason.TIMEOUT),
        ("55P03", SamplerTimeout, Reason.LOCK),
        ("42501", SamplerUnavailable, Reason.PRIVILEGE),
        ("42P01", SamplerUnavailable, Reason.VERSION),
        ("42703", SamplerUnavailable, Reason.VERSION),
        ("42883", SamplerUnavailable, Reason.VERSION),
        ("0A000", SamplerUnavailable, Reason.UNSUPPORTED),
        ("55000", SamplerUnavailable, Reason.UNSUPPORTED),
    ],
)
def test_a_refusal_has_its_reason(sqlstate: str, kind: type[SamplerError], reason: Reason):
    error = statement_failed(failed(sqlstate), alive=True, role="watcher")
    assert type(error) is kind
    assert isinstance(error, SamplerTimeout | SamplerUnavailable)
    assert (error.reason, error.sqlstate) == (reason, sqlstate)


def test_a_statement_that_took_too_long_says_what_can_be_changed():
    error = statement_failed(failed("57014"), alive=True)
    assert "query_timeout" in error.remedy


@pytest.mark.parametrize("sqlstate", ["57P01", "57P02", "57P03", "08006", "08003"])
def test_a_lost_session_is_an_outage(sqlstate: str):
    assert type(statement_failed(failed(sqlstate), alive=True)) is TargetDown


def test_whatever_happens_to_a_dead_connection_is_an_outage():
    assert type(statement_failed(failed("22012"), alive=False)) is TargetDown
    assert type(statement_failed(psycopg.OperationalError("gone"), alive=False)) is TargetDown


@pytest.mark.parametrize(
    ("error", "setting"),
    [
        (failed("57P05"), "idle_session_timeout"),
        (failed("25P04"), "transaction_timeout"),
        # It had ended before we asked: libpq hands on the server's words alone.
        (
            psycopg.OperationalError(
                "consuming input failed: terminating connection due to idle-session timeout"
            ),
            "idle_session_timeout",
        ),
    ],
)
def test_a_session_that_a_setting_ended_names_it(error, setting):
    assert f"{setting} ended it: ALTER ROLE" in statement_failed(error, alive=False).remedy


def test_a_library_that_is_not_loaded_is_recognised_in_any_language():
    text = "pg_stat_statements muss über »shared_preload_libraries« geladen werden"
    error = statement_failed(failed("55000", text), alive=True)
    assert isinstance(error, SamplerUnavailable)
    assert error.reason is Reason.SETTING
    assert "shared_preload_libraries" in error.remedy


def test_a_missing_privilege_comes_with_the_grant_for_this_role():
    error = statement_failed(failed("42501"), alive=True, role="Odd Name")
    assert error.remedy == 'GRANT pg_monitor TO "Odd Name";'


@pytest.mark.parametrize("sqlstate", ["25006", "42601", "22012"])
def test_a_mistake_of_ours_is_called_one(sqlstate: str):
    error = statement_failed(failed(sqlstate), alive=True)
    assert type(error) is SamplerError
    assert "defect of the collector" in error.remedy


def test_errors_that_show_another_shape_make_the_facts_stale():
    assert {"42703", "42P01", "42883", "0A000"} == STALE


@pytest.mark.parametrize(
    ("text", "kind", "remedy"),
    [
        ("FATAL:  28P01: Passwort-Authentifizierung fehlgeschlagen", LoginRefused, "password of"),
        ("FATAL:  28000: kein Eintrag in pg_hba.conf", LoginRefused, "CREATE ROLE"),
        ("FATAL:  28000: no pg_hba.conf entry for host", LoginRefused, "hostssl shop watcher"),
        ("FATAL:  28000: Peer authentication failed", LoginRefused, "pg_ident"),
        ("FATAL:  3D000: Datenbank existiert nicht", TargetRefused, "shop does not"),
        ("FATAL:  42501: keine Berechtigung", TargetRefused, "GRANT CONNECT ON DATABASE shop"),
        ("FATAL:  53300: zu viele Verbindungen", TargetDown, "CONNECTION LIMIT"),
        ("FATAL:  57P03: das Datenbanksystem startet", TargetDown, "starts or recovers"),
        ("FATAL:  55P03: Anweisung wird abgebrochen", TargetDown, "holds a catalog of shop"),
        ("FATAL:  55000: nimmt keine Verbindungen an", TargetRefused, "shop"),
        ("FATAL:  25006: kann INSERT nicht ausführen", TargetDown, "event trigger on login"),
        ("FATAL:  08P01: unsupported startup parameter: options", TargetRefused, "directly"),
        ("FATAL: password authentication failed for user", LoginRefused, "password of"),
        ('FATAL: role "watcher" does not exist', TargetRefused, "CREATE ROLE"),
        ("fe_sendauth: no password supplied", LoginRefused, "password_file"),
        ("SSL error: certificate verify failed", TargetRefused, "ca_file"),
        ("SSL SYSCALL error: EOF detected", TargetDown, "server's log"),
        ("server closed the connection unexpectedly", TargetDown, "server's log"),
        ("could not receive data: Connection reset by peer", TargetDown, "server's log"),
        ("No route to host", TargetDown, "host of db1:5432"),
        ("Network is unreachable", TargetDown, "host of db1:5432"),
        ("could not connect: Connection timed out", TargetDown, "host of db1:5432"),
        ("Connection refused", TargetDown, "running"),
        ("something new", TargetDown, ""),
    ],
)
def test_a_failed_connection_is_sorted_whatever_the_servers_language(
    text: str, kind: type[TargetDown], remedy: str
):
    full = f'connection to server at "db1", port 5432 failed: {text}\nLOCATION:  here, there.c:1'
    error = connection_failed(full, PEER)
    assert type(error) is kind
    assert remedy in error.remedy
    assert str(error).startswith("db1:5432: ")
    assert "LOCATION" not in str(error)


@pytest.mark.parametrize(
    "text",
    [
        "P0001: hunter2\nLOCATION:  exec_stmt_raise, pl_exec.c:3923",
        "28000: hunter2\nLOCATION:  exec_stmt_raise, pl_exec.c:3923",
        "P0004: hunter2\nLOCATION:  exec_stmt_assert, pl_exec.c:3950",
        "57000: a\nLOCATION:  here, there.c:1\nhunter2\nDETAIL:  hunter2\nHINT:  hunter2\n"
        "LOCATION:  exec_stmt_raise, pl_exec.c:3923",
        "38000: hunter2 at line 1.\nLOCATION:  plperl_call_perl_func, plperl.c:2230",
        '22P02: invalid input syntax for type integer: "hunter2"\nCONTEXT:  PL/pgSQL function f()'
        " line 1 at PERFORM\nLOCATION:  pg_strtoint32_safe, numutils.c:618",
    ],
)
def test_what_a_login_trigger_says_is_not_repeated(text: str):
    full = f'connection to server at "db1", port 5432 failed: FATAL:  {text}\n'
    error = connection_failed(full, PEER)
    assert str(error) == f"db1:5432: {USER_RAISED}"
    assert error.sqlstate == text[:5]


def test_what_a_login_trigger_lacks_is_named():
    more = "CONTEXT:  PL/pgSQL function f() line 3 at IF\nLOCATION:  parserOpenTable, parse.c:1"
    said = f'connection to server at "db1" failed: FATAL:  42P01: relation "logins" is gone\n{more}'
    assert str(connection_failed(said, PEER)).endswith('relation "logins" is gone')


def test_only_the_first_line_of_a_refusal_is_kept():
    more = "DETAIL:  hunter2\nHINT:  hunter2\nSCHEMA NAME:  hunter2\nLOCATION:  here, there.c:1\n"
    said = f'connection to server at "db1" failed: FATAL:  3D000: there is no shop\n{more}'
    error = connection_failed(said, PEER)
    assert str(error) == "db1:5432: FATAL: there is no shop"


def test_what_libpq_guesses_is_not_repeated():
    guess = "\tThis probably means the server terminated abnormally\n\tbefore or while processing"
    said = (
        f'connection to server at "db1" failed: server closed the connection unexpectedly\n{guess}'
    )
    assert (
        str(connection_failed(said, PEER)) == "db1:5432: server closed the connection unexpectedly"
    )

    lost = psycopg.OperationalError(f"consuming input failed: server closed it\n{guess}")
    assert str(statement_failed(lost, alive=False)).endswith("server closed it")


@pytest.mark.parametrize("tls", ["disable", "require"])
def test_what_is_no_postgresql_is_not_told_as_a_wrong_password(tls):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        web = threading.Thread(target=answer)
        web.start()
        with pytest.raises(psycopg.OperationalError) as said:
            psycopg.connect(host="127.0.0.1", port=listener.getsockname()[1], sslmode=tls)
        web.join(10)
    error = connection_failed(str(said.value), PEER)
    assert isinstance(error, TargetRefused)
    assert "no PostgreSQL: check host and port" in error.remedy


def test_the_sqlstate_of_a_refused_connection_is_kept():
    assert connection_failed("x failed: FATAL:  3D000: nix", PEER).sqlstate == "3D000"


# --- secrets


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u:hunter2@db/x",
        "postgresql://:hunter2@db",
        "host=db password=hunter2 user=x",
        "host=db PASSWORD = 'hun\\'ter2 hunter2' user=x",
        "sslpassword=hunter2",
        "?user=x&password=hunter2&x=1",
    ],
)
def test_what_looks_like_a_password_is_scrubbed(text: str):
    assert "hunter2" not in scrubber()(text)


@given(
    before=st.text(max_size=20),
    secret=st.text(min_size=4, max_size=40).filter(lambda text: "*" not in text),
    after=st.text(max_size=20),
)
def test_a_known_secret_is_in_no_message(before: str, secret: str, after: str):
    assert secret not in scrubber([secret])(f"{before.replace(secret, '')} {secret} {after}")
