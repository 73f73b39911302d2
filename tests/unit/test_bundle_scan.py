"""What a bundle knows to be secret, finds in a text, and leaves as it was."""

import datetime as dt
import json
import tarfile
import threading
from collections import Counter
from io import BytesIO
from pathlib import Path

import pytest

from pg_collector.bundle import archive, known, log_end
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
