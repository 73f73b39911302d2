"""What a bundle knows to be secret, finds in a text, and leaves as it was."""

import datetime as dt
import json
import os
import tarfile
import threading
from collections import Counter
from io import BytesIO
from pathlib import Path

import msgspec
import pytest

from pg_collector.bundle import archive, invalid, known, log_end
from pg_collector.bundle.content import Kind, scrubbed
from pg_collector.bundle.known import Known
from pg_collector.bundle.parts import Found, LeftOut, Part, gather
from pg_collector.bundle.scan import REPLACED, Scan
from pg_collector.errors import StateError
from tests.support.hoard import forms

NOW = dt.datetime(2026, 11, 27, 12, tzinfo=dt.UTC)
TOKEN = "Zq7/tn+4vR0x-kL2m"  # noqa: S105  # nobody's
KEY = f"-----BEGIN PRIVATE KEY-----\n{'MIIEvQIBADANBgkq' * 4}\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize("form", forms(TOKEN))
def test_a_known_secret_is_found_in_every_form_and_counted_not_shown(form):
    text, hits = Scan([Known("api_key", TOKEN)]).cleaned(f"before {form} after {form}\n")
    assert text == f"before {REPLACED} after {REPLACED}\n"
    assert hits == {"api_key": 2}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (KEY, "private key"),
        ("x eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJkIn0.c2ln y", "JSON web token"),
        ("AKIAIOSFODNN7EXAMPLE", "AWS access key"),
        (f"pgc_pro_{'a1' * 16}", "platform token"),
        ("http://joe:pa55word@db1/x", "login in a URL"),
        ("host=db1 password=pa55word", "labelled value"),
        ('{"client_secret": "pa55word"}', "labelled value"),
        ("Authorization: Basic am9lOnBhNTV3b3Jk", "basic login"),
    ],
)
def test_what_has_the_shape_of_a_secret_is_replaced_though_nobody_knows_it(text, kind):
    clean, hits = Scan([]).cleaned(text)
    assert REPLACED in clean
    assert hits[kind] == 1
    assert Scan([]).cleaned(clean) == (clean, {})


@pytest.mark.parametrize(
    "text",
    [
        "password: null  # default", 'api_key: "(secret)"', "token_file: /etc/token", "password=?",
        '{"token_expires_in_s":3552.1}', 'reason="token"} 3', "https://db1:5432/x?a=b",
    ],
)  # fmt: skip
def test_what_only_speaks_of_secrets_stays(text):
    assert Scan([]).cleaned(text) == (text, {})


def test_a_short_secret_is_found_as_a_word_alone_and_a_shorter_one_is_counted():
    scan = Scan([Known("password", "cat5"), Known("password", "no")])
    assert scan.cleaned("cat5 cat55 no")[0] == f"{REPLACED} cat55 no"
    assert scan.too_short == 1


def test_secrets_are_found_in_variables_and_in_the_files_that_they_name(tmp_path: Path):
    (tmp_path / "pgpass").write_text("# x\ndb1:5432:*:joe:pa\\:ss\n")
    (tmp_path / "service").write_text("[a]\nhost=db1\npassword=from-service\n")
    (tmp_path / "google.json").write_text(json.dumps({"private_key": KEY, "client_id": "c"}))
    (tmp_path / "key").write_text("of-a-file\n")
    found = known.of_environment(
        {
            "PGPASSFILE": str(tmp_path / "pgpass"), "PGSERVICEFILE": str(tmp_path / "service"),
            "GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "google.json"),
            "API_KEY_FILE": str(tmp_path / "key"), "PG_CONN_STRING": "host=h password='a b'",
            "HTTPS_PROXY": "http://joe:pa%40ss@proxy", "AWS_SECRET_ACCESS_KEY": "ab/cd==",
            "HTTP_PROXY": "http://proxy:3128", "PATH": "/bin",
        }
    )  # fmt: skip
    texts = {one.text for one in found}
    assert texts >= {"pa:ss", "from-service", "MIIEvQIBADANBgkq" * 4, "of-a-file", "a b", "pa@ss",
                     "ab/cd=="}  # fmt: skip
    assert not {"c", "/bin", "http://proxy:3128", "host=h password='a b'"} & texts


def test_variables_that_only_sound_secret_are_not(tmp_path: Path):
    (tmp_path / "pgpass").write_text("db1:5432:*:joe:of-the-file\n")
    (tmp_path / "key").write_text("of-the-key\n")
    found = known.of_environment(
        {
            "TOKEN_TTL": "86400", "MAX_KEYS": "1000000", "SECRETS_ON": "true",
            "NO_PROXY": "localhost", "no_proxy": "db1,db2", "HTTPS_PROXY": "proxy1:3128",
            "PGPASSFILE": str(tmp_path / "pgpass"), "SIGNING_KEY": str(tmp_path / "key"),
            "CREDENTIALS_DIRECTORY": str(tmp_path / "absent"), "KEYCLOAK": str(tmp_path),
            "DB_PASSWORD": "123456", "PGC__HTTP__TOKEN": "7654321", "NUMBER_KEY": "86400864",
            "SOME_PROXY": "joe:of-the-proxy@proxy1:3128",
        }
    )  # fmt: skip
    assert {one.text for one in found} == {
        "of-the-file", "of-the-key", "123456", "7654321", "86400864", "of-the-proxy",
        "joe:of-the-proxy",
    }  # fmt: skip


def test_the_files_of_a_directory_of_credentials_are_secrets_and_what_is_no_file_is_passed_over(
    tmp_path: Path,
):
    (tmp_path / "api_key").write_text("of-a-credential\n")
    (tmp_path / "service").write_text("[a]\nhost=db1\npassword=of-a-service\n")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    found = known.of_environment({"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert {one.text for one in found} == {"of-a-credential", "of-a-service"}
    for name in ("masking.key", "device.json"):
        os.mkfifo(tmp_path / name)
    assert list(known.of_state(tmp_path)) == []


INVALID = """
api_key: of-the-key
nmae: {password: 4711}
databases:
  - name: prod
    postgres: {conn_string: 'host=db1 password=''a b''', password_file: %(home)s/password}
  - postgres: {conn_string: "postgresql://joe:of-the-url@db1/x"}
  - postgres: {conn_string: "host=${HOST} port=${PORT} passfile=%(home)s/pgpass"}
  - postgres: {conn_string: "host=db1 password=${WORD}"}
platform: {proxy: "http://joe:${file:%(home)s/proxy}@proxy1"}
"""


def test_a_configuration_that_is_not_valid_tells_its_secrets_all_the_same(tmp_path: Path):
    (tmp_path / "password").write_text("of-the-file\n")
    (tmp_path / "pgpass").write_text("*:*:*:*:of-the-pass-file\n")
    (tmp_path / "proxy").write_text("of-the-proxy\n")
    (tmp_path / "config.d").mkdir()
    (tmp_path / "config.d" / "a.yaml").write_text("api_key: of-a-drop-in\nhttp: [}\n")
    (tmp_path / "c.yaml").write_text(INVALID % {"home": tmp_path})
    environ = {"WORD": "of-a-variable", "HOST": "db1", "PORT": "5432",
               "PGC_CONFIG": "{api_key: of-all"}  # fmt: skip
    overrides = ("databases[0].postgres.password=of-a-flag",)
    found = invalid.secrets(invalid.Written(tmp_path / "c.yaml", environ, overrides))
    texts = {one.text for one in found}
    assert texts >= {
        "of-the-key", "4711", "a b", "of-the-file", "of-the-url", "of-the-pass-file",
        "of-a-variable", "of-the-proxy", "of-a-drop-in", "of-all", "of-a-flag",
    }  # fmt: skip
    assert not {"db1", "5432", "prod", "joe"} & texts


def test_what_is_structured_stays_so_when_it_is_scrubbed():
    told = {"msg": "password=geheim and more", "n": 1, "of": ["Bearer abcdefgh"]}
    shown = json.loads(scrubbed(json.dumps(told), Kind.JSON))
    assert shown == {"msg": "password=? and more", "n": 1, "of": ["Bearer ?"]}
    lines = scrubbed(f"{json.dumps(told)}\ntrace password=geheim\n", Kind.LINES).splitlines()
    assert json.loads(lines[0]) == shown
    assert lines[1] == "trace password=?"
    line = "password: null  # default"
    assert scrubbed(line, Kind.YAML) == f"{line}\n"
    sample = 'x_total{component="token:prod",y="a"} 3'
    assert scrubbed(sample, Kind.METRICS) == 'x_total{component="token:?",y="a"} 3\n'


def test_what_hangs_or_fails_is_left_out_with_the_reason():
    def fails() -> str:
        raise ValueError(TOKEN)

    def absent() -> str:
        raise LeftOut("there is none")

    held = threading.Lock()
    works = {"hangs": held.acquire, "fails": fails, "absent": absent, "well": lambda: "a text"}
    with held:
        found = gather([Part(n, "", Kind.TEXT, w) for n, w in works.items()], 0.2)  # type: ignore[arg-type]
    assert [one.why for one in found] == [
        "not done within 0.2 s", "it failed: ValueError", "there is none", "",
    ]  # fmt: skip
    bundle = archive.pack(found, Scan([]), host="h/1", now=NOW, since=60.0)
    assert [one.name for one in bundle.manifest.left_out] == ["hangs", "fails", "absent"]
    assert bundle.name == "pgc-bundle-h-1-20261127T120000Z"
    with tarfile.open(fileobj=BytesIO(archive.compressed(bundle, NOW))) as packed:
        modes = {one.name.partition("/")[2]: one.mode for one in packed}
    assert modes == {"manifest.json": 0o600, "well": 0o600}


@pytest.mark.parametrize("secret", ["86400", "host", "files", "false", "manifest"])
def test_no_secret_makes_a_manifest_unreadable_nor_is_told_by_one_that_was_changed(secret):
    found = [Found(Part("host.json", "facts of the host", Kind.TEXT, str), "a text"),
             Found(Part("log", "", Kind.TEXT, str), "", f"{secret}: no such file")]  # fmt: skip
    scan = Scan([Known("environment", secret)])
    bundle = archive.pack(found, scan, host=f"db.{secret}", now=NOW, since=86400.0)
    assert bundle.manifest.host == f"db.{REPLACED}"
    assert bundle.manifest.left_out[0].why == f"{REPLACED}: no such file"
    assert bundle.manifest.files[0].name == "host.json"
    assert bundle.name == "pgc-bundle-db.-secret--20261127T120000Z"
    written = json.loads(bundle.files["manifest.json"])
    assert written == msgspec.to_builtins(bundle.manifest)
    assert written["since_s"] == 86400.0


def test_the_word_that_secrets_are_replaced_by_may_be_one_itself():
    scan = Scan([Known("password", "secret"), Known("api_key", TOKEN)])
    found = [Found(Part("log", "", Kind.TEXT, str), f"a {TOKEN}, a secret"),
             Found(Part("b", "", Kind.TEXT, str), "", "no secret")]  # fmt: skip
    bundle = archive.pack(found, scan, host="h", now=NOW, since=1.0)
    assert bundle.files["log"].decode() == f"a {REPLACED}, a {REPLACED}"
    assert bundle.manifest.left_out[0].why == f"no {REPLACED}"


def test_where_not_all_secrets_are_known_only_what_can_hold_none_is_packed():
    found = [Found(Part("host.json", "", Kind.TEXT, str, plain=True), "a text"),
             Found(Part("log", "", Kind.TEXT, str), f"a {TOKEN}"),
             Found(Part("device.json", "", Kind.TEXT, str), "", f"no {TOKEN}")]  # fmt: skip
    why = "not searched"
    bundle = archive.pack(found, Scan([]), host="h", now=NOW, since=1.0, not_searched=why)
    assert list(bundle.files) == ["manifest.json", "host.json"]
    assert [(one.name, one.why) for one in bundle.manifest.left_out] == [
        ("log", why), ("device.json", why)]  # fmt: skip
    assert bundle.manifest.not_searched == why


class Blunt(Scan):
    """Finds a secret in every text that speaks of one, and cannot take it out."""

    def cleaned(self, text: str) -> tuple[str, Counter[str]]:
        return text, Counter({"api_key": 1}) if TOKEN in text else Counter()


def test_what_the_scan_cannot_clean_is_left_out():
    found = [Found(Part(name, "", Kind.TEXT, str), text) for name, text in
             (("stuck", f"a {TOKEN}"), ("well", "a text"))]  # fmt: skip
    bundle = archive.pack(found, Blunt([]), host="h", now=NOW, since=1.0)
    assert list(bundle.files) == ["manifest.json", "well"]
    assert bundle.manifest.left_out[0].why == "a secret would be left in it: api_key"


def test_a_file_that_is_there_is_not_replaced(tmp_path: Path):
    path = tmp_path / "b.tar.gz"
    archive.write(path, b"one")
    with pytest.raises(StateError, match="is there already"):
        archive.write(path, b"two")
    assert path.read_bytes() == b"one"
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(StateError, match="No such file"):
        archive.write(tmp_path / "missing" / "b", b"")


def test_the_end_of_a_log_goes_back_as_far_as_asked_in_either_format(tmp_path: Path):
    log = tmp_path / "log"
    ages = (90, 50, 5)
    moments = [NOW - dt.timedelta(minutes=age) for age in ages]
    log.write_text(
        "".join(
            f'{{"ts":"{at.isoformat()}","msg":"{age}"}}\n'
            for at, age in zip(moments, ages, strict=True)
        )
    )
    assert len(log_end.of_file(log, NOW, 3600.0).splitlines()) == 2
    night = dt.datetime.now(dt.UTC)
    clock = [(night - dt.timedelta(minutes=age)).strftime("%H:%M:%S.000") for age in ages]
    log.write_text(
        "".join(f"{at} INFO     x: {age}\n  more\n" for at, age in zip(clock, ages, strict=True))
    )
    said = log_end.of_file(log, night, 3600.0)
    assert said.split() == [clock[1], "INFO", "x:", "50", "more", clock[2], "INFO", "x:", "5",
                            "more"]  # fmt: skip
