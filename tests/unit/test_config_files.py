"""The files that a configuration names: told by the check, before the start meets them."""

import os
import pwd
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pg_collector.config import rights
from pg_collector.config.files import Unreadable, expanded, read_text, readable
from pg_collector.config.load import Loaded, load
from pg_collector.config.model import Postgres
from pg_collector.config.problems import InvalidConfiguration
from pg_collector.errors import ConfigurationError, TargetDown
from pg_collector.pg.auth import password
from pg_collector.samplers import discover
from tests.support.pki import Leaf, Pki
from tests.support.rights import as_account

ME = pwd.getpwuid(os.geteuid()).pw_name

# Each `{}` is a file; the path of the key it stands under.
NAMED = [
    ("http: {{token_file: {0}}}", "http.token_file"),
    ("http: {{tls: {{cert_file: {0}, key_file: {1}}}}}", "http.tls.cert_file"),
    ("http: {{tls: {{cert_file: {1}, key_file: {0}}}}}", "http.tls.key_file"),
    ("databases: [{{name: a, postgres: {{tls: {{ca_file: {0}}}}}}}]",
     "databases[0].postgres.tls.ca_file"),
    ("databases: [{{name: a, postgres: {{tls: {{cert_file: {0}, key_file: {1}}}}}}}]",
     "databases[0].postgres.tls.cert_file"),
    ("databases: [{{name: a, postgres: {{tls: {{cert_file: {1}, key_file: {0}}}}}}}]",
     "databases[0].postgres.tls.key_file"),
    ("databases: [{{name: a, postgres: {{password_file: {0}}}}}]",
     "databases[0].postgres.password_file"),
    ("log: {{file: {0}}}", "log.file"),
]  # fmt: skip


def read(tmp_path: Path, text: str) -> Loaded:
    file = tmp_path / "config.yaml"
    if "databases:" not in text:
        text = f"databases: [{{name: a}}]\n{text}"
    file.write_text(text + "\n")
    return load(file, environ={}, samplers=discover())


def told(tmp_path: Path, text: str) -> list[str]:
    """Return the problems, without the place of the file."""
    with pytest.raises(InvalidConfiguration) as caught:
        read(tmp_path, text)
    assert all(problem.origin.line and problem.remedy for problem in caught.value.problems)
    return [f"{one.path}: {one.message}; {one.remedy}" for one in caught.value.problems]


def private(path: Path, text: str = "x\n") -> Path:
    path.touch(0o600)
    path.write_text(text)
    return path


@pytest.fixture
def leaf(tmp_path: Path) -> Leaf:
    return Pki(tmp_path / "pki").server


@pytest.mark.parametrize(("text", "path"), NAMED)
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda _: None, "does not exist"),
        (lambda file: file.mkdir(), "is a directory"),
        (os.mkfifo, "is not a regular file"),
        (lambda file: file.symlink_to("/dev/zero"), "is not a regular file"),
    ],
)
def test_a_file_that_cannot_be_used_is_told(
    tmp_path: Path, make: Callable[[Path], None], words: str, text: str, path: str
) -> None:
    file = tmp_path / "it" / "file"
    if path != "log.file" or words != "does not exist":
        file.parent.mkdir()
    if file.parent.exists():
        make(file)
    (line,) = told(tmp_path, text.format(file, private(tmp_path / "other")))
    assert line.startswith(f"{path}: "), line
    assert words in line


def test_all_files_are_told_at_once(tmp_path: Path) -> None:
    lines = told(
        tmp_path,
        "databases: [{name: a, postgres: {tls: {ca_file: /no/a}}}]\n"
        "http: {token_file: /no/b, address: nowhere}\nlog: {file: /no/c/d}",
    )
    assert [line.partition(":")[0] for line in lines] == [
        "databases[0].postgres.tls.ca_file",
        "http.token_file",
        "http.address",
        "log.file",
    ]


def test_files_that_can_be_used_are_accepted(tmp_path: Path, leaf: Leaf) -> None:
    token = private(tmp_path / "token")
    pair = f"{{cert_file: {leaf.certificate}, key_file: {leaf.key}}}"
    loaded = read(
        tmp_path,
        f"databases:\n  - {{name: a, postgres: {{tls: {pair}}}}}\n"
        f"  - {{name: b, postgres: {{tls: {{ca_file: system}}}}}}\n"
        f"http: {{token_file: {token}, tls: {pair}}}\nlog: {{file: {tmp_path / 'new.log'}}}",
    )
    assert loaded.warnings == ()
    assert not (tmp_path / "new.log").exists(), "a check makes nothing"


def test_files_of_a_database_that_is_switched_off_are_not_looked_at(tmp_path: Path) -> None:
    read(tmp_path, "databases: [{name: a, enabled: false, postgres: {tls: {ca_file: /no/a}}}]")


@pytest.mark.parametrize(
    ("mode", "owner", "refused"),
    [(0o600, 65534, False), (0o640, 65534, True), (0o604, 65534, True), (0o400, 65534, False),
     (0o640, 0, False), (0o660, 0, True), (0o644, 0, True)],
)  # fmt: skip
def test_a_key_is_refused_where_libpq_refuses_it(
    tmp_path: Path,
    leaf: Leaf,
    mode: int,
    owner: int,
    refused: bool,  # noqa: FBT001  # a case
) -> None:
    if os.geteuid() == 0:
        os.chown(leaf.key, owner, -1)
    elif owner == 0:
        pytest.skip("only root can make a file that root owns")
    leaf.key.chmod(mode)
    text = f"{{cert_file: {leaf.certificate}, key_file: {leaf.key}}}"
    text = f"databases: [{{name: a, postgres: {{tls: {text}}}}}]"
    if not refused:
        read(tmp_path, text)
        return
    (line,) = told(tmp_path, text)
    assert line.startswith("databases[0].postgres.tls.key_file: ")
    assert f"which libpq refuses (mode {mode:04o})" in line


def test_a_secret_of_the_endpoints_that_everybody_reads_is_warned_about(
    tmp_path: Path, leaf: Leaf
) -> None:
    token = private(tmp_path / "token")
    for file in (token, leaf.key):
        file.chmod(0o644)
    warnings = read(
        tmp_path,
        f"http: {{token_file: {token}, "
        f"tls: {{cert_file: {leaf.certificate}, key_file: {leaf.key}}}}}",
    ).warnings
    assert len(warnings) == 2
    assert all("(mode 0644): chmod 640 " in warning for warning in warnings)


def test_a_certificate_that_the_server_could_not_use_is_told(tmp_path: Path, leaf: Leaf) -> None:
    other = Pki(tmp_path / "other").server
    junk = private(tmp_path / "junk", "no certificate\n")
    for certificate in (junk, other.certificate):
        (line,) = told(
            tmp_path, f"http: {{tls: {{cert_file: {certificate}, key_file: {leaf.key}}}}}"
        )
        assert line.startswith(f"http.tls.cert_file: {certificate} cannot be used: ")


def test_an_empty_token_is_told(tmp_path: Path) -> None:
    (line,) = told(tmp_path, f"http: {{token_file: {private(tmp_path / 'token', ' ')}}}")
    assert "is empty" in line


def test_a_file_of_somebody_else_is_told_with_owner_mode_and_remedy() -> None:
    as_root = os.geteuid() == 0
    program = (
        "import os, sys; from pathlib import Path; from pg_collector.config.load import load\n"
        "from pg_collector.errors import ConfigurationError\n"
        "import encodings.utf_8_sig  # may lie where only root may look\n"
        f"{'os.setuid(65534)' if as_root else ''}\n"
        "try: load(Path(sys.argv[1]), environ={}, samplers={})\n"
        "except ConfigurationError as error: print(error)\n"
    )
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        mode = 0o600 if as_root else 0
        for one in ("token", "log"):
            private(directory / one).chmod(mode)
        closed = directory / "closed"
        closed.mkdir(0o755 if as_root else 0o555)
        for log in (directory / "log", closed / "log"):
            file = directory / "config.yaml"
            file.write_text(
                f"databases: [{{name: a}}]\nlog: {{file: {log}}}\n"
                f"http: {{token_file: {directory / 'token'}}}\n"
            )
            done = subprocess.run(
                [sys.executable, "-c", program, str(file)],
                capture_output=True, text=True, timeout=30, check=True,
            )  # fmt: skip
            first, second = done.stdout.splitlines()
            assert "log.file: " in first
            place = closed if log.parent == closed else log
            owner = f"owner {ME}, mode {stat.S_IMODE(place.stat().st_mode):04o}"
            assert f"({owner}); " in first, first
            assert f"(owner {ME}, mode {mode:04o}); chgrp " in second, second


@pytest.mark.root
def test_what_the_service_may_read_stays_as_it_is_and_is_read_as_the_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rights, "SERVICE", "daemon")
    group = pwd.getpwnam("daemon").pw_gid
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        closed = directory / "closed"
        closed.mkdir()
        file = private(directory / "key")
        for place, mode in ((directory, 0o755), (closed, 0o750), (file, 0o640)):
            os.chown(place, 0, group)
            place.chmod(mode)

        def remedy(path: Path) -> str:
            with as_account(), pytest.raises(Unreadable) as refused:
                read_text(path, 100)
            return refused.value.remedy_beside(directory / "config.yaml")

        for path in (file, private(closed / "key")):
            assert remedy(path) == "run pgc as the agent's user: sudo -u daemon pgc ..."
        file.chmod(0o600)
        assert "chgrp" in remedy(file)


def test_a_password_in_a_named_pipe_is_an_outage_without_waiting(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(TargetDown, match="is not a regular file") as caught:
        password.find(Postgres(password_file=pipe))
    assert caught.value.remedy
    endless = private(tmp_path / "endless", "x" * 70_000)
    with pytest.raises(TargetDown, match="larger than 64 kB"):
        password.find(Postgres(password_file=endless))


def test_a_refused_file_leaves_no_descriptor_open(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # how many
    for _ in range(3):
        with pytest.raises(ConfigurationError):
            readable(tmp_path / "pipe")
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208  # how many


def test_a_tilde_is_the_home_directory_in_every_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    private(tmp_path / "ca")
    private(tmp_path / "level", "debug")
    config = read(
        tmp_path,
        "databases: [{name: a, postgres: {password_file: ~/ca, tls: {ca_file: ~/ca}}}]\n"
        "local: {path: ~/out}\nstate_dir: '~'\nlog: {level: '${file:~/level}'}",
    ).config
    postgres = config.databases[0].postgres
    assert postgres.password_file == tmp_path / "ca"
    assert postgres.tls.ca_file == str(tmp_path / "ca")
    assert config.local.path == tmp_path / "out"
    assert config.log.level == "debug"
    environ = {"PG_CONN_STRING_FILE": "~/dsn"}
    private(tmp_path / "dsn", "host=db7")
    loaded = load(None, environ=environ, samplers=discover())
    assert loaded.config.databases[0].name == "db7"


def test_a_tilde_with_a_name_is_the_home_directory_of_that_user() -> None:
    home = Path(pwd.getpwnam(ME).pw_dir)
    assert expanded(f"~{ME}/x") == home / "x"
    assert expanded("./~x") == Path("~x")
    with pytest.raises(ConfigurationError) as caught:
        expanded("~no-such-user/hunter2")
    assert "hunter2" not in caught.value.sentence()
    assert "write the whole path" in caught.value.remedy
