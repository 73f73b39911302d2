"""Where a configuration comes from: files, drop-ins, variables, flags; and which goes first."""

import contextlib
import importlib.util
import os
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pg_collector.config.files import read_secret
from pg_collector.config.load import Loaded, find, load
from pg_collector.config.model import (
    AuthMethod,
    Config,
    Database,
    LogLevel,
    TlsMode,
)
from pg_collector.errors import ConfigurationError
from pg_collector.samplers import discover
from tests.support.rights import as_account

ONE = "databases:\n  - name: prod\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


def read(
    text: str | None,
    file: Path,
    *overrides: str,
    **environ: str,
) -> Loaded:
    """Load a text as a file of mode 0600; with None, load the environment alone."""
    if text is not None:
        file.touch(0o600)
        file.write_text(text)
    return load(
        file if text is not None else None,
        environ=environ,
        overrides=overrides,
        samplers=discover(),
    )


def conn_string(loaded: Loaded) -> str:
    return loaded.config.databases[0].postgres.conn_string.reveal()


# files


def test_what_is_absent_is_the_models_default(file: Path) -> None:
    expected = Config(databases=(Database(name="prod"),))
    assert read(ONE, file).config == expected


def test_every_kind_of_value_is_read(file: Path) -> None:
    config = read(
        "databases:\n"
        "  - name: prod\n"
        "    enabled: no\n"
        "    samplers: [activity]\n"
        "    tags: {env: prod, norway: no, version: 12}\n"
        "    postgres: {connect_timeout: 500ms, tls: {mode: require}, max_connections: 1}\n"
        "sampling: {activity: 5s, enabled: {statements: off}}\n"
        "buffers: {memory_max: 1MB}\n"
        "http: {address: off}\n"
        "log: {level: WARNING}\n",
        file,
    ).config
    database = config.databases[0]
    assert not database.enabled
    assert database.samplers == ("activity",)
    assert database.tags == {"env": "prod", "norway": "no", "version": "12"}
    assert database.postgres.connect_timeout == 0.5
    assert database.postgres.tls.mode is TlsMode.REQUIRE
    assert database.postgres.max_connections == 1
    assert config.sampling.every == {"activity": 5.0}
    assert config.sampling.enabled == {"statements": False}
    assert config.buffers.memory_max == 1024**2
    assert config.http.address == "off"
    assert config.log.level is LogLevel.WARNING


def test_a_section_keeps_the_defaults_of_its_place(file: Path) -> None:
    config = read(f"{ONE}platform:\nbreakers: {{identity: }}\n", file).config
    assert config.breakers.identity.reset == 60.0


def test_drop_ins_merge_keys_and_replace_lists_in_the_order_of_their_names(file: Path) -> None:
    directory = file.parent / "config.d"
    directory.mkdir()
    (directory / "20.yaml").write_text("sampling: {activity: 20s}\n")
    (directory / "10.yaml").write_text(
        "sampling: {activity: 10s, database: 10s}\ndatabases: [{name: other}]\n"
    )
    (directory / ".hidden.yaml").write_text("nonsense")
    (directory / "30.yml").write_text("nonsense")
    loaded = read(f"{ONE}  - name: second\nsampling: {{statements: 99s}}\n", file)
    assert loaded.config.sampling.every == {"activity": 20.0, "database": 10.0, "statements": 99.0}
    assert [database.name for database in loaded.config.databases] == ["other"]
    assert loaded.files == (file, directory / "10.yaml", directory / "20.yaml")
    assert [warning for warning in loaded.warnings if "30.yml is not read" in warning]


def test_a_fault_in_a_drop_in_is_told_at_its_place_beside_those_of_the_file(file: Path) -> None:
    directory = file.parent / "config.d"
    directory.mkdir()
    (directory / "10.yaml").write_text("log: {level: loud}\n")
    with pytest.raises(ConfigurationError) as caught:
        read(f"{ONE}zzz: 1\n", file)
    assert f"{directory / '10.yaml'}:1:14: log.level" in str(caught.value)
    assert f"{file}:3:1: zzz" in str(caught.value)


def test_anchors_and_merge_keys_share_settings(file: Path) -> None:
    config = read(
        "databases:\n"
        "  - name: a\n"
        "    postgres: &usual {query_timeout: 3s, lock_timeout: 1s}\n"
        "  - name: b\n"
        "    postgres: {<<: *usual, lock_timeout: 2s}\n",
        file,
    ).config
    assert config.databases[1].postgres.query_timeout == 3.0
    assert config.databases[1].postgres.lock_timeout == 2.0


def test_a_byte_order_mark_is_no_fault(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + ONE.encode())
    assert load(file, environ={}, samplers=discover()).config.databases


def test_find_takes_the_first_file_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    theirs = tmp_path / "xdg" / "pg-collector" / "config.yaml"
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "xdg"), "HOME": str(tmp_path)}
    assert find(environ) in (None, Path("/etc/pg-collector/config.yaml"))
    theirs.parent.mkdir(parents=True)
    theirs.touch()
    assert find(environ) == theirs
    Path("pg-collector.yaml").touch()
    assert find(environ) == Path("pg-collector.yaml")
    assert find({**environ, "PGC_CONFIG": ONE}) is None


def test_the_users_configuration_is_found_without_xdg(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    theirs = tmp_path / ".config" / "pg-collector" / "config.yaml"
    theirs.parent.mkdir(parents=True)
    theirs.touch()
    assert find({"HOME": str(tmp_path)}) == theirs


def test_a_directory_that_one_may_not_enter_holds_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `sudo -u` and `runuser -u` leave one in the home of another."""
    (tmp_path / ".config" / "pg-collector").mkdir(parents=True)
    for name in ("pg-collector.yaml", ".config/pg-collector/config.yaml"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o700 if os.geteuid() == 0 else 0)
    theirs = (None, Path("/etc/pg-collector/config.yaml"))
    try:
        with as_account() if os.geteuid() == 0 else contextlib.nullcontext():
            assert find({"HOME": str(tmp_path)}) in theirs
            assert find({"XDG_CONFIG_HOME": str(tmp_path)}) in theirs
    finally:
        tmp_path.chmod(0o700)
    assert find({}) == Path("pg-collector.yaml")


# precedence and origins


def test_flags_win_over_variables_over_drop_ins_over_the_file(file: Path) -> None:
    text = f"{ONE}log: {{level: debug}}\n"
    assert read(text, file).config.log.level is LogLevel.DEBUG
    (file.parent / "config.d").mkdir()
    (file.parent / "config.d" / "a.yaml").write_text("log: {level: info}\n")
    assert read(text, file).config.log.level is LogLevel.INFO
    assert read(text, file, LOG_LEVEL="warning").config.log.level is LogLevel.WARNING
    specific = {"LOG_LEVEL": "warning", "PG_COLLECTOR_LOG_LEVEL": "error"}
    assert read(text, file, **specific).config.log.level is LogLevel.ERROR
    generic = {**specific, "PGC__LOG__LEVEL": "info"}
    assert read(text, file, **generic).config.log.level is LogLevel.INFO
    assert read(text, file, "log.level=debug", **generic).config.log.level is LogLevel.DEBUG


def test_each_value_knows_where_it_is_from(file: Path) -> None:
    loaded = read(
        f"{ONE}    postgres: {{query_timeout: 3s}}\nsampling: {{activity: 5s}}\n",
        file,
        "log.format=console",
        HTTP_ADDRESS=":9",
        PGC__SAMPLING__DATABASE="7s",
    )
    told = {path: str(origin) for path, origin in loaded.origins.items()}
    assert told["databases[0].name"] == f"{file}:2:11"
    assert told["databases[0].postgres.query_timeout"] == f"{file}:3:31"
    assert told["databases[0].postgres.lock_timeout"] == "default"
    assert told["sampling.activity"] == f"{file}:4:22"
    assert told["sampling.database"] == "env PGC__SAMPLING__DATABASE"
    assert told["http.address"] == "env HTTP_ADDRESS"
    assert told["log.format"] == "--set"


def test_a_flag_reaches_into_a_list_and_leaves_the_rest(file: Path) -> None:
    loaded = read(
        f"{ONE}    tags: {{a: b}}\n  - name: second\n",
        file,
        "databases[0].postgres.query_timeout=3s",
        "databases.1.tags={x: y, z: off}",
        "databases[1].samplers=[activity, database]",
    )
    first, second = loaded.config.databases
    assert first.postgres.query_timeout == 3.0
    assert first.tags == {"a": "b"}
    assert second.name == "second"
    assert second.tags == {"x": "y", "z": "off"}
    assert second.samplers == ("activity", "database")


def test_a_flag_can_set_nothing(file: Path) -> None:
    loaded = read(f"{ONE}log: {{file: /x}}\n", file, "log.file=null")
    assert loaded.config.log.file is None


def test_an_empty_variable_counts_as_not_set(file: Path) -> None:
    assert read(ONE, file, LOG_LEVEL="", PGC__LOG__FORMAT="").config.log.level is LogLevel.INFO


# expansion


@pytest.mark.parametrize(
    ("written", "read_as"),
    [
        ("${A}", "one"),
        ("x${A}y${A}", "xoneyone"),
        ("${MISSING:-two}", "two"),
        ("${EMPTY:-two}", "two"),
        ("x${EMPTY}", "x"),
        ("$${A}", "${A}"),
        ("$$${A}", "$${A}"),
        ("$A $ 100$", "$A $ 100$"),
        ("${NESTED}", "${A}"),
        ("${MISSING:-a:-b}", "a:-b"),
        ("'${YAML}'", "x: {y: z}"),
    ],
)
def test_a_reference_is_replaced_once(file: Path, written: str, read_as: str) -> None:
    loaded = read(
        f"{ONE}    postgres:\n      application_name: {written}\n",
        file,
        A="one",
        EMPTY="",
        NESTED="${A}",
        YAML="x: {y: z}",
    )
    assert loaded.config.databases[0].postgres.application_name == read_as


def test_a_file_is_read_and_trimmed(file: Path, tmp_path: Path) -> None:
    (tmp_path / "level").write_text("\n  debug \n")
    loaded = read(f"{ONE}log: {{level: '${{file:{tmp_path / 'level'}}}'}}\n", file)
    assert loaded.config.log.level is LogLevel.DEBUG


def test_a_value_that_is_overridden_is_not_expanded(file: Path) -> None:
    loaded = read(f"{ONE}log: {{level: '${{MISSING}}'}}\n", file, "log.level=debug")
    assert loaded.config.log.level is LogLevel.DEBUG


def test_variables_and_flags_are_taken_as_they_are(file: Path) -> None:
    loaded = read(
        ONE,
        file,
        "databases[0].tags.b=${HOME}",
        PGC__DATABASES__0__POSTGRES__PASSWORD="a${HOME}$${b",  # noqa: S106
        HOME="/x",
    )
    password = loaded.config.databases[0].postgres.password
    assert password is not None
    assert password.reveal() == "a${HOME}$${b"
    assert loaded.config.databases[0].tags == {"b": "${HOME}"}


def test_an_expansion_cannot_grow_without_bound(file: Path) -> None:
    with pytest.raises(ConfigurationError, match="the expanded value is too long"):
        read(f"{ONE}state_dir: {'${A}' * 1000}\n", file, A="x" * 1000)


def test_an_optional_value_that_expands_to_nothing_is_none(file: Path) -> None:
    assert read(f"{ONE}api_key: ${{API:-}}\n", file).config.api_key is None


# secrets


def test_a_secret_may_be_in_a_file_of_its_own(file: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k-1\n")
    (tmp_path / "dsn").write_text("postgresql://u:p@h/db\n")
    loaded = read(
        f"{ONE}    postgres: {{conn_string_file: {tmp_path / 'dsn'}}}\n"
        f"api_key_file: {tmp_path / 'key'}\nplatform: {{url: 'https://p.example'}}\n",
        file,
    )
    assert loaded.config.api_key is not None
    assert loaded.config.api_key.reveal() == "k-1"
    assert conn_string(loaded) == "postgresql://u:p@h/db"
    assert str(loaded.origins["api_key"]) == f"{file}:4:15"


def test_a_password_file_stays_a_path_that_is_read_at_each_connection(
    file: Path, tmp_path: Path
) -> None:
    (tmp_path / "pw").write_text("p\n")
    postgres = (
        read(f"{ONE}    postgres: {{password_file: {tmp_path / 'pw'}}}\n", file)
        .config.databases[0]
        .postgres
    )
    assert postgres.password_file == tmp_path / "pw"
    assert postgres.password is None


def test_a_variable_replaces_the_files_way_to_give_the_same_secret(
    file: Path, tmp_path: Path
) -> None:
    text = f"{ONE}api_key_file: /no/such\nplatform: {{url: 'https://p.example'}}\n"
    loaded = read(text, file, API_KEY="k-2")
    assert loaded.config.api_key is not None
    assert loaded.config.api_key.reveal() == "k-2"
    (tmp_path / "key").write_text("k-3")
    loaded = read(
        text.replace("_file: /no/such", ": k-1"), file, API_KEY_FILE=str(tmp_path / "key")
    )
    assert loaded.config.api_key is not None
    assert loaded.config.api_key.reveal() == "k-3"


def test_systemd_credentials_fill_what_is_not_set(file: Path, tmp_path: Path) -> None:
    (tmp_path / "api_key").write_text("k-4\n")
    (tmp_path / "postgres_password").write_text("p-4\n")
    text = f"{ONE}api_key: ${{API_KEY:-}}\nplatform: {{url: 'https://p.example'}}\n"
    loaded = read(text, file, CREDENTIALS_DIRECTORY=str(tmp_path))
    assert loaded.config.api_key is not None
    assert loaded.config.api_key.reveal() == "k-4"
    assert loaded.config.databases[0].postgres.password_file == tmp_path / "postgres_password"
    assert str(loaded.origins["api_key"]) == "credential api_key"
    loaded = read(text, file, CREDENTIALS_DIRECTORY=str(tmp_path), API_KEY="k-5")
    assert loaded.config.api_key is not None
    assert loaded.config.api_key.reveal() == "k-5"


def test_a_blank_credential_is_none(file: Path, tmp_path: Path) -> None:
    for name in ("api_key", "postgres_password"):
        (tmp_path / name).write_text("\n")  # what the unit gives where no file is
    loaded = read(ONE, file, CREDENTIALS_DIRECTORY=str(tmp_path))
    assert loaded.config.api_key is None
    assert loaded.config.databases[0].postgres.password_file is None


def test_a_credential_is_no_second_password(file: Path, tmp_path: Path) -> None:
    (tmp_path / "postgres_password").write_text("p\n")
    for given in ("{auth_method: peer}", "{password: '${PW}'}"):
        text = f"{ONE}    postgres: {given}\n"
        loaded = read(text, file, CREDENTIALS_DIRECTORY=str(tmp_path), PW="x")
        assert loaded.config.databases[0].postgres.password_file is None


@pytest.mark.parametrize(
    ("text", "environ"),
    [
        ("conn_string: ${DSN}", {"DSN": "postgresql://u:hunter2@h/db"}),
        ("conn_string: postgresql://u:${PW}@h/db", {"PW": "hunter2"}),
        ("conn_string: host=h password=${PW} dbname=x", {"PW": "hunter2"}),
        ("conn_string: host=h port=${PORT} password=${PW}", {"PW": "hunter2", "PORT": "5"}),
        ("{}", {"PG_CONN_STRING": "host=h password=hunter2"}),
    ],
)
def test_a_password_in_a_conn_string_from_the_environment_is_warned_about(
    file: Path, text: str, environ: dict[str, str]
) -> None:
    loaded = read(f"{ONE}    postgres:\n      {text}\n", file, **environ)
    assert "hunter2" in conn_string(loaded)
    assert [warning for warning in loaded.warnings if "holds a password; move it" in warning]
    assert "hunter2" not in str(loaded.warnings)


def test_a_password_in_a_conn_string_is_accepted_in_local_mode(file: Path) -> None:
    text = f"{ONE}    postgres: {{conn_string: 'postgresql://u:p@h/db'}}\n"
    with pytest.raises(ConfigurationError, match="holds a password"):
        read(text, file)
    loaded = read(f"{text}local: {{enabled: true}}\n", file)
    assert [warning for warning in loaded.warnings if "holds a password" in warning]


def test_a_password_of_its_own_in_the_file_is_refused_with_the_remedy(file: Path) -> None:
    for given in ("hunter2", "'hunter${TWO}'", "'${NOBODY_SETS_THIS:-hunter2}'"):
        text = f"{ONE}    postgres: {{password: {given}}}\n"
        with pytest.raises(ConfigurationError, match="holds a password; move it to password_file"):
            read(text, file, TWO="2")
        assert read(f"{text}local: {{enabled: true}}\n", file, TWO="2").warnings
    text = f"{ONE}    postgres: {{password: '${{PW}}'}}\n"
    (warning,) = read(text, file, PW="hunter2").warnings
    assert "move it to password_file" in warning
    assert "hunter2" not in warning


def test_a_default_that_is_a_password_stands_in_the_file(file: Path) -> None:
    text = f"{ONE}    postgres: {{conn_string: 'host=h password=${{NOBODY:-hunter2}}'}}\n"
    with pytest.raises(ConfigurationError, match="holds a password"):
        read(text, file)
    assert read(text.replace("hunter2", ""), file).warnings == ()


def test_a_password_file_that_everybody_reads_is_warned_about(file: Path, tmp_path: Path) -> None:
    password = tmp_path / "pw"
    password.write_text("hunter2")
    text = f"{ONE}    postgres: {{password_file: {password}}}\n"
    password.chmod(0o640)
    assert read(text, file).warnings == ()
    password.chmod(0o644)
    (warning,) = read(text, file).warnings
    assert f"every user of this host may read {password} (mode 0644): chmod 640" in warning


@pytest.mark.parametrize(
    ("postgres", "warned"),
    [
        ("conn_string: host=db1 sslmode=require", True),
        ("conn_string: postgresql://db1/x?sslmode=verify-ca", True),
        ("conn_string: 'host=localhost,db2 sslmode=prefer'", True),
        ("conn_string: host=db1, tls: {mode: disable}", True),
        ("conn_string: host=db1 sslmode=verify-full, tls: {mode: disable}", False),
        ("conn_string: host=db1, tls: {mode: verify-full}", False),
        ("conn_string: host=db1", False),
        ("conn_string: host=127.0.0.1 sslmode=disable", False),
        ("conn_string: host=/run/postgresql sslmode=disable", False),
    ],
)
def test_less_than_verify_full_is_warned_about_where_there_is_a_network(
    file: Path, *, postgres: str, warned: bool
) -> None:
    warnings = read(f"{ONE}    postgres: {{{postgres}}}\n", file).warnings
    assert bool([one for one in warnings if "can take its place" in one]) is warned


@pytest.mark.parametrize(
    ("method", "module", "extra"),
    [("aws_iam", "botocore", "aws"), ("gcp_iam", "google.auth", "gcp"),
     ("azure_ad", "azure.identity", "azure")],
)  # fmt: skip
def test_a_method_whose_package_is_missing_is_refused_with_the_remedy(
    file: Path, monkeypatch: pytest.MonkeyPatch, method: str, module: str, extra: str
) -> None:
    text = f"{ONE}    postgres: {{auth_method: {method}}}\n"
    assert read(text, file).config.databases[0].postgres.auth_method == method
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == module else there(name)
    )
    with pytest.raises(ConfigurationError, match="not installed") as refused:
        read(text, file)
    assert f"pip install 'pg-collector[{extra}]'" in str(refused.value)


def test_two_passwords_are_refused(file: Path) -> None:
    with pytest.raises(ConfigurationError, match="another one beside it"):
        read(None, file, PG_CONN_STRING="postgresql://u:p@h/db", PG_PASSWORD="q")  # noqa: S106


def test_a_secret_in_a_file_that_everybody_reads_is_warned_about(file: Path) -> None:
    text = f"{ONE}api_key: hunter2\nplatform: {{url: https://in.example.test}}\n"
    assert read(text, file).warnings == ()
    file.chmod(0o644)
    (warning,) = read(text, file).warnings
    assert "mode 0644" in warning
    assert "chmod 640" in warning
    assert read(text.replace("hunter2", "'${PW}'"), file, PW="x").warnings == ()


def test_a_secret_on_the_command_line_is_warned_about(file: Path) -> None:
    (warning,) = read(ONE, file, "databases[0].postgres.password=hunter2").warnings
    assert "every user of this host can see it" in warning
    assert "hunter2" not in warning


def test_a_secret_file_must_hold_something(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text(" \n")
    with pytest.raises(ConfigurationError, match="is empty"):
        read_secret(tmp_path / "empty")


def test_a_named_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigurationError, match="is not a regular file"):
        read_secret(tmp_path / "pipe")


def test_an_unreadable_file_is_told_with_owner_mode_and_remedy() -> None:
    as_root = os.geteuid() == 0
    program = (
        "import os, sys; from pathlib import Path; from pg_collector.config.load import load\n"
        "from pg_collector.errors import ConfigurationError\n"
        f"{'os.setuid(65534)' if as_root else ''}\n"
        "try: load(Path(sys.argv[1]), environ={}, samplers={})\n"
        "except ConfigurationError as error: print(error)\n"
    )
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        file = Path(directory) / "config.yaml"
        file.write_text(ONE)
        mode = 0o600 if as_root else 0
        file.chmod(mode)
        command = [sys.executable, "-c", program, str(file)]
        told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert f"{file}: may not be read by " in told.stdout, told
    assert f"(owner {pwd.getpwuid(os.geteuid()).pw_name}, mode {mode:04o}); chgrp " in told.stdout


# the environment alone


def test_a_connection_string_is_a_whole_configuration(file: Path) -> None:
    loaded = read(None, file, PG_CONN_STRING="postgresql://u@db1.example/app")
    assert loaded.config.databases[0].name == "db1.example"
    assert conn_string(loaded) == "postgresql://u@db1.example/app"
    assert str(loaded.origins["databases[0].postgres.conn_string"]) == "env PG_CONN_STRING"


def test_every_documented_variable_works(file: Path, tmp_path: Path) -> None:
    for name in ("pw", "ca", "cert", "key"):
        (tmp_path / name).touch(0o600)
        (tmp_path / name).write_text("p")
    config = read(
        None,
        file,
        PG_NAME="shop",
        PG_HOST="db1",
        PG_PORT="5433",
        PG_USER="it's",
        PG_DB="app",
        PG_PASSWORD_FILE=str(tmp_path / "pw"),
        PG_AUTH_METHOD="password",
        PG_TLS_MODE="verify-full",
        PG_CA_FILE=str(tmp_path / "ca"),
        PG_CERT_FILE=str(tmp_path / "cert"),
        PG_KEY_FILE=str(tmp_path / "key"),
        PG_COLLECTOR_API_KEY="k",
        PGC__PLATFORM__URL="https://p.example",
        LOG_LEVEL="DEBUG",
        LOG_FORMAT="console",
        HTTP_ADDRESS=":8080",
    ).config
    (database,) = config.databases
    postgres = database.postgres
    assert database.name == "shop"
    assert postgres.conn_string.reveal() == r"dbname='app' host='db1' port='5433' user='it\'s'"
    assert postgres.password_file == tmp_path / "pw"
    assert postgres.auth_method is AuthMethod.PASSWORD
    assert postgres.tls.mode is TlsMode.VERIFY_FULL
    assert postgres.tls.ca_file == str(tmp_path / "ca")
    assert postgres.tls.cert_file == tmp_path / "cert"
    assert postgres.tls.key_file == tmp_path / "key"
    assert config.api_key is not None
    assert config.platform.url == "https://p.example"
    assert (config.log.level, config.log.format, config.http.address) == (
        "debug",
        "console",
        ":8080",
    )


@pytest.mark.parametrize(
    ("environ", "name", "text"),
    [
        ({"PGHOST": "db2"}, "db2", "dbname='postgres'"),
        ({"PGHOST": "/var/run/postgresql"}, "local", "dbname='postgres'"),
        ({"PGSERVICE": "shop"}, "shop", ""),
        ({"PGDATABASE": "app"}, "local", ""),
        ({"PG_HOST": "a,b"}, "a", "dbname='postgres' host='a,b'"),
        ({"PG_HOST": "::1"}, "1", "dbname='postgres' host='::1'"),
        ({"PG_CONN_STRING": "host=h", "PG_PORT": "6"}, "h", "host=h port='6'"),
        (
            {"PG_CONN_STRING": "postgresql://h/d", "PG_USER": "a&b"},
            "h",
            "postgresql://h/d?user=a%26b",
        ),
    ],
)
def test_the_only_database_is_named_after_its_host_and_left_to_libpq(
    file: Path, environ: dict[str, str], name: str, text: str
) -> None:
    loaded = read(None, file, **environ)
    assert loaded.config.databases[0].name == name
    assert conn_string(loaded) == text


def test_a_connection_string_may_come_from_a_file(file: Path, tmp_path: Path) -> None:
    (tmp_path / "dsn").write_text("postgresql://u:p@db3/app\n")
    loaded = read(None, file, PG_CONN_STRING_FILE=str(tmp_path / "dsn"))
    assert loaded.config.databases[0].name == "db3"
    assert conn_string(loaded) == "postgresql://u:p@db3/app"


def test_an_empty_conn_string_is_left_to_libpq(file: Path) -> None:
    loaded = read(f"{ONE}    postgres: {{conn_string: ''}}\n", file)
    assert conn_string(loaded) == ""


def test_any_key_has_a_variable(file: Path) -> None:
    config = read(
        None,
        file,
        PGHOST="db1",
        PGC__SAMPLING__ACTIVITY="5s",
        PGC__DATABASES__0__POSTGRES__QUERY_TIMEOUT="3s",
        PGC__DATABASES__0__SAMPLERS="[activity]",
        PGC__HTTP__ADDRESS="off",
    ).config
    assert config.sampling.every == {"activity": 5.0}
    assert config.databases[0].postgres.query_timeout == 3.0
    assert config.databases[0].samplers == ("activity",)
    assert config.http.address == "off"


def test_a_variable_can_hold_the_whole_configuration(file: Path) -> None:
    text = "databases: [{name: a}, {name: b}]\nlog: {level: '${L:-error}'}\n"
    loaded = read(None, file, PGC_CONFIG=text)
    assert [database.name for database in loaded.config.databases] == ["a", "b"]
    assert loaded.config.log.level is LogLevel.ERROR
    assert str(loaded.origins["databases[1].name"]) == "env PGC_CONFIG:1:31"


def test_two_whole_configurations_are_refused(file: Path) -> None:
    with pytest.raises(ConfigurationError, match="a whole configuration beside"):
        read(ONE, file, PGC_CONFIG=ONE)


def test_variables_of_a_database_apply_to_the_only_one_of_a_file(file: Path) -> None:
    loaded = read(ONE, file, PG_HOST="db1", PG_AUTH_METHOD="password")
    assert loaded.config.databases[0].postgres.auth_method is AuthMethod.PASSWORD
    assert conn_string(loaded) == "dbname='postgres' host='db1'"


def test_variables_of_a_database_are_not_guessed_among_several(file: Path) -> None:
    two = f"{ONE}  - name: b\n"
    (warning,) = read(two, file, PG_HOST="db1").warnings
    assert "env PG_HOST: not used, because there are 2 databases" in warning
    used = f"{two}    postgres: {{conn_string: 'host=${{PG_HOST}}'}}\n"
    assert read(used, file, PG_HOST="db1").warnings == ()


def test_a_misspelt_variable_is_warned_about(file: Path) -> None:
    (warning,) = read(ONE, file, PGC_SAMPLING_ACTIVITY="5s").warnings
    assert "env PGC_SAMPLING_ACTIVITY is not read" in warning


def test_a_flag_wins_over_the_parts_of_a_connection_string(file: Path) -> None:
    loaded = read(ONE, file, "databases[0].postgres.conn_string=host=x", PG_HOST="db1")
    assert conn_string(loaded) == "host=x"


# rules


def test_libpqs_complaint_is_told_without_a_part_of_the_string(file: Path) -> None:
    def refuse(text: str) -> str:
        return f'missing "=" after "{text}" in connection info'

    file.write_text(f"{ONE}    postgres: {{conn_string: 'host=hunter2 a=b'}}\n")
    with pytest.raises(ConfigurationError) as caught:
        load(file, environ={}, samplers=discover(), check_conn_string=refuse)
    assert f"{file}:3:29: databases[0].postgres.conn_string: missing (…) after (…)" in str(
        caught.value
    )
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:0",
        ":8080",
        "[::1]:8080",
        "localhost:80",
        "0.0.0.0:65535",
        "db_1.example.:1",
        "off",
    ],
)
def test_an_address_to_listen_on_is_accepted(file: Path, address: str) -> None:
    assert read(f"{ONE}http: {{address: '{address}'}}\n", file).config.http.address == address


@pytest.mark.parametrize("url", ["https://p.example/v1", "http://127.0.0.1:9", "http://[::1]:9"])
def test_a_platforms_url_is_accepted(file: Path, url: str) -> None:
    assert read(f"{ONE}platform: {{url: '{url}'}}\n", file).config.platform.url == url


def test_what_is_not_available_may_stand_at_its_default(file: Path) -> None:
    loaded = read(
        f"{ONE}    discover: {{enabled: false}}\nbreakers: {{identity: {{reset: 1m}}}}\n"
        "security: {query_masking_level: basic, audit_logging: false, ip_allowlist: }\n"
        "buffers: {durability: wal, disk_max: 500MB}\nplatform: {compression: zstd}\n",
        file,
    )
    assert loaded.config == Config(databases=(Database(name="prod"),))
